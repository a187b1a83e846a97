// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/authentication"
	"knarr.dev/api/authorization"
	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/admission"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/authz"
)

// SecurityDeps is what the hooks about identities and rights lean on.
type SecurityDeps struct {
	Reader     admission.Reader
	Authorizer authz.Authorizer
	Issuer     *authn.Issuer
	Tokens     *authn.Tokens
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Security returns the reviews of authentication.k8s.io and authorization.k8s.io, and serviceaccounts/token.
func Security(deps SecurityDeps) []Hook {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	reviews := &reviews{authorizer: deps.Authorizer, rbac: authz.NewRBAC(deps.Reader), now: deps.Now}
	return []Hook{
		{Kind: core.ServiceAccounts.Kind, Subresource: "token", Create: (&tokens{reader: deps.Reader, issuer: deps.Issuer, now: deps.Now}).create},
		{Kind: authentication.TokenReviews.Kind, Create: reviewToken(deps.Tokens, deps.Issuer)},
		{Kind: authentication.SelfSubjectReviews.Kind, Create: reviews.self},
		{Kind: authorization.SubjectAccessReviews.Kind, Create: reviews.subjectAccess},
		{Kind: authorization.SelfSubjectAccessReviews.Kind, Create: reviews.selfAccess},
		{Kind: authorization.LocalSubjectAccessReviews.Kind, Create: reviews.localAccess},
		{Kind: authorization.SelfSubjectRulesReviews.Kind, Create: reviews.rules},
	}
}

type reviews struct {
	authorizer authz.Authorizer
	rbac       *authz.RBAC
	now        func() time.Time
}

func (v *reviews) self(_ context.Context, user *call.Identity, r *call.Request) (resource.Object, error) {
	review, ok := r.Object.(*authenticationv1.SelfSubjectReview)
	if !ok {
		return nil, wrongBody(r)
	}
	review.ObjectMeta = metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(v.now().Truncate(time.Second))}
	review.Status.UserInfo = user.UserInfo()
	return review, nil
}

// asNew takes from the metadata of a review what no new cluster-scoped object says itself.
func asNew(m *metav1.ObjectMeta) {
	m.Namespace, m.UID, m.SelfLink, m.CreationTimestamp = "", "", "", metav1.Time{}
	m.DeletionTimestamp, m.DeletionGracePeriodSeconds = nil, nil
}

func wrongBody(r *call.Request) error {
	return apierrors.NewBadRequest(fmt.Sprintf("not a %s: %T", r.Kind.Kind, r.Object))
}

// invalidReview leaves the kind out of the message, as Kubernetes does.
func invalidReview(problems field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: authorizationv1.GroupName}, "", problems)
}

func (v *reviews) subjectAccess(ctx context.Context, _ *call.Identity, r *call.Request) (resource.Object, error) {
	review, ok := r.Object.(*authorizationv1.SubjectAccessReview)
	if !ok {
		return nil, wrongBody(r)
	}
	asNew(&review.ObjectMeta)
	problems := append(checkAccess(&review.Spec), checkMeta(review.ObjectMeta)...)
	if len(problems) > 0 {
		return nil, invalidReview(problems)
	}
	review.Status = v.decide(ctx, subject(&review.Spec), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return review, nil
}

func (v *reviews) selfAccess(ctx context.Context, user *call.Identity, r *call.Request) (resource.Object, error) {
	review, ok := r.Object.(*authorizationv1.SelfSubjectAccessReview)
	if !ok {
		return nil, wrongBody(r)
	}
	asNew(&review.ObjectMeta)
	about := review.Spec.ResourceAttributes
	problems := append(checkWhat(about, review.Spec.NonResourceAttributes), checkSelectors(about)...)
	problems = append(problems, checkMeta(review.ObjectMeta)...)
	if len(problems) > 0 {
		return nil, invalidReview(problems)
	}
	review.Status = v.decide(ctx, user, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return review, nil
}

func (v *reviews) localAccess(ctx context.Context, _ *call.Identity, r *call.Request) (resource.Object, error) {
	review, ok := r.Object.(*authorizationv1.LocalSubjectAccessReview)
	if !ok {
		return nil, wrongBody(r)
	}
	if review.Namespace != "" && review.Namespace != r.Namespace {
		return nil, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	review.Namespace = r.Namespace
	spec, about := field.NewPath("spec"), review.Spec.ResourceAttributes
	problems := checkAccess(&review.Spec)
	meta, said := review.ObjectMeta, review.ObjectMeta
	said.ManagedFields, said.Namespace = nil, ""
	if !equality.Semantic.DeepEqual(said, metav1.ObjectMeta{}) {
		problems = append(problems, field.Invalid(field.NewPath("metadata"), meta, "must be empty except for namespace"))
	}
	if about != nil && about.Namespace != review.Namespace {
		problems = append(problems, field.Invalid(spec.Child("resourceAttributes", "namespace"), about.Namespace, "must match metadata.namespace"))
	}
	if review.Spec.NonResourceAttributes != nil {
		problems = append(problems, field.Invalid(spec.Child("nonResourceAttributes"), shownPath(review.Spec.NonResourceAttributes), "disallowed on this kind of request"))
	}
	if len(problems) > 0 {
		return nil, invalidReview(problems)
	}
	review.Status = v.decide(ctx, subject(&review.Spec), review.Spec.ResourceAttributes, nil)
	return review, nil
}

func checkWhat(about *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (problems field.ErrorList) {
	spec := field.NewPath("spec")
	switch {
	case about != nil && path != nil:
		problems = append(problems, field.Invalid(spec.Child("nonResourceAttributes"), shownPath(path), "cannot be specified in combination with resourceAttributes"))
	case about == nil && path == nil:
		problems = append(problems, field.Invalid(spec.Child("resourceAttributes"), path, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	return problems
}

// checkAccess checks what a review asks, about whom, and how it selects.
func checkAccess(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	problems := append(checkWhat(s.ResourceAttributes, s.NonResourceAttributes), checkWho(s)...)
	return append(problems, checkSelectors(s.ResourceAttributes)...)
}

// shownPath is how Kubernetes quotes a path: with the names of Go's fields.
func shownPath(path *authorizationv1.NonResourceAttributes) any {
	return struct{ Path, Verb string }{path.Path, path.Verb}
}

// checkSelectors checks the form of selectors; what does not parse is no error, it limits nothing.
func checkSelectors(about *authorizationv1.ResourceAttributes) (problems field.ErrorList) {
	if about == nil {
		return nil
	}
	at := field.NewPath("spec", "resourceAttributes")
	form := func(at *field.Path, raw string, requirements int) {
		switch {
		case raw != "" && requirements > 0:
			problems = append(problems, field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements"))
		case raw == "" && requirements == 0:
			problems = append(problems, field.Required(at.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", at)))
		}
	}
	if f := about.FieldSelector; f != nil {
		at := at.Child("fieldSelector")
		form(at, f.RawSelector, len(f.Requirements))
		for i := range f.Requirements {
			problems = append(problems, checkFieldRequirement(&f.Requirements[i], at.Child("requirements").Index(i))...)
		}
	}
	if l := about.LabelSelector; l != nil {
		at := at.Child("labelSelector")
		form(at, l.RawSelector, len(l.Requirements))
		for i := range l.Requirements {
			problems = append(problems, metavalidation.ValidateLabelSelectorRequirement(
				l.Requirements[i], metavalidation.LabelSelectorValidationOptions{}, at.Child("requirements").Index(i))...)
		}
	}
	return problems
}

func checkFieldRequirement(q *metav1.FieldSelectorRequirement, at *field.Path) (problems field.ErrorList) {
	if q.Key == "" {
		problems = append(problems, field.Required(at.Child("key"), "must be specified"))
	}
	switch q.Operator {
	case metav1.FieldSelectorOpIn, metav1.FieldSelectorOpNotIn:
		if len(q.Values) == 0 {
			problems = append(problems, field.Required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case metav1.FieldSelectorOpExists, metav1.FieldSelectorOpDoesNotExist:
		if len(q.Values) > 0 {
			problems = append(problems, field.Forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	}
	return problems
}

// checkMeta refuses metadata: reviews are not stored.
func checkMeta(meta metav1.ObjectMeta) field.ErrorList {
	said := meta
	said.ManagedFields = nil
	if equality.Semantic.DeepEqual(said, metav1.ObjectMeta{}) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), meta, "must be empty")}
}

func checkWho(spec *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	if spec.User == "" && len(spec.Groups) == 0 {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "user"), spec.User, "at least one of user or group must be specified")}
	}
	return nil
}

func subject(spec *authorizationv1.SubjectAccessReviewSpec) *call.Identity {
	user := &call.Identity{Name: spec.User, UID: spec.UID, Groups: spec.Groups}
	for key, values := range spec.Extra {
		if user.Extra == nil {
			user.Extra = map[string][]string{}
		}
		user.Extra[strings.ToLower(key)] = values
	}
	return user
}

func (v *reviews) decide(ctx context.Context, user *call.Identity, about *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	a := &authz.Attributes{User: user}
	var problems []error
	if about != nil {
		a.Verb, a.Group, a.Version, a.Resource = about.Verb, about.Group, about.Version, about.Resource
		a.Subresource, a.Namespace, a.Name = about.Subresource, about.Namespace, about.Name
		var ok bool
		if a.Fields, ok = fieldsOf(about.FieldSelector); !ok {
			problems = append(problems, errors.New("spec.resourceAttributes.fieldSelector ignored due to parse error"))
		}
		if a.Labels, ok = labelsOf(about.LabelSelector); !ok {
			problems = append(problems, errors.New("spec.resourceAttributes.labelSelector ignored due to parse error"))
		}
	} else {
		a.Verb, a.Path = path.Verb, path.Path
	}
	decision, reason, err := authz.Decide(ctx, v.authorizer, a)
	status := authorizationv1.SubjectAccessReviewStatus{Allowed: decision == authz.Allow, Denied: decision == authz.Deny, Reason: reason}
	if err != nil {
		problems = append([]error{err}, problems...)
	}
	if len(problems) > 0 {
		status.EvaluationError = utilerrors.NewAggregate(problems).Error()
	}
	return status
}

// fieldsOf reads the equalities of a selector; the rest limits nothing. It is false if the selector makes no sense.
func fieldsOf(f *authorizationv1.FieldSelectorAttributes) (fields.Selector, bool) {
	if f == nil {
		return fields.Everything(), true
	}
	if f.RawSelector != "" {
		selector, err := fields.ParseSelector(f.RawSelector)
		if err != nil {
			return fields.Everything(), false
		}
		return selector, true
	}
	var terms []fields.Selector
	known := true
	for _, r := range f.Requirements {
		switch r.Operator {
		case metav1.FieldSelectorOpIn, metav1.FieldSelectorOpNotIn, metav1.FieldSelectorOpExists, metav1.FieldSelectorOpDoesNotExist:
		default:
			known = false
		}
		known = known && (r.Operator != metav1.FieldSelectorOpIn || len(r.Values) == 1) // no selector of fields has several values
		if r.Operator == metav1.FieldSelectorOpIn && len(r.Values) == 1 {
			terms = append(terms, fields.OneTermEqualSelector(r.Key, r.Values[0]))
		}
	}
	return fields.AndSelectors(terms...), known
}

// labelsOf reads a selector; what it cannot read limits nothing.
func labelsOf(l *authorizationv1.LabelSelectorAttributes) (labels.Selector, bool) {
	if l == nil {
		return nil, true
	}
	if l.RawSelector != "" {
		selector, err := labels.Parse(l.RawSelector)
		if err != nil {
			return nil, false
		}
		return selector, true
	}
	selector, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: l.Requirements})
	if err != nil {
		return nil, false
	}
	return selector, true
}

func (v *reviews) rules(ctx context.Context, user *call.Identity, r *call.Request) (resource.Object, error) {
	review, ok := r.Object.(*authorizationv1.SelfSubjectRulesReview)
	if !ok {
		return nil, wrongBody(r)
	}
	review.ObjectMeta = metav1.ObjectMeta{}
	if review.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	held, missing, err := v.rbac.Rules(ctx, user, review.Spec.Namespace)
	if err != nil {
		return nil, err
	}
	missing = append(missing, authz.Unresolved(v.authorizer, user)...)
	review.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: len(missing) > 0,
	}
	for i := range held {
		rule := &held[i]
		if len(rule.Resources) > 0 {
			review.Status.ResourceRules = append(review.Status.ResourceRules, authorizationv1.ResourceRule{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			review.Status.NonResourceRules = append(review.Status.NonResourceRules, authorizationv1.NonResourceRule{
				Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs,
			})
		}
	}
	if len(missing) > 0 {
		review.Status.EvaluationError = utilerrors.NewAggregate(missing).Error()
	}
	review.Spec = authorizationv1.SelfSubjectRulesReviewSpec{} // Kubernetes does not repeat it
	return review, nil
}
