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
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/go-jose/go-jose/v4/jwt"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/admission"
	"knarr.dev/apiserver/audit"
	"knarr.dev/apiserver/authn"
)

const (
	tokenDefaultSeconds = int64(3600)
	tokenMinSeconds     = int64(10 * 60)
	tokenMaxSeconds     = int64(1) << 32
	// Tokens of this lifetime are those that every pod mounts: clients that do not read theirs again keep working, and a warning
	// tells of them.
	mountedTokenSeconds  = int64(3607)
	mountedTokenLifetime = 365 * 24 * time.Hour
)

// tokens answers serviceaccounts/token.
type tokens struct {
	reader admission.Reader
	issuer *authn.Issuer
	now    func() time.Time
}

func (t *tokens) create(ctx context.Context, _ *call.Identity, r *call.Request) (resource.Object, error) {
	request, ok := r.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot handle a %T as a TokenRequest", r.Object))
	}
	if err := checkTokenRequestName(request, r); err != nil {
		return nil, err
	}
	o, err := t.reader.Get(ctx, core.ServiceAccounts.Kind, r.Namespace, r.Name)
	if err != nil {
		return nil, err
	}
	t.fill(request)
	if err := checkTokenRequest(request); err != nil {
		return nil, err
	}
	account := core.ServiceAccounts.Cast(o)
	if request.UID != "" && request.UID != account.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: authenticationv1.GroupName, Resource: "TokenRequest"}, r.Name, fmt.Errorf(
			"the UID in the token request (%s) does not match the UID of the service account (%s)", request.UID, account.UID))
	}
	bound := &authn.Bound{Namespace: r.Namespace, Account: authn.Reference{Name: account.Name, UID: string(account.UID)}}
	if err := t.bind(ctx, bound, account, request.Spec.BoundObjectRef); err != nil {
		return nil, err
	}
	now := t.now()
	asked := time.Duration(*request.Spec.ExpirationSeconds) * time.Second
	if most := t.issuer.MaxLifetime(); most > 0 && asked > most {
		asked = most
	}
	lifetime := asked
	if t.issuer.Extends() && bound.Pod != nil && *request.Spec.ExpirationSeconds == mountedTokenSeconds && isOwnAudience(t.issuer, request.Spec.Audiences) {
		lifetime = mountedTokenLifetime
		bound.WarnAfter = jwt.NewNumericDate(now.Add(asked))
	}
	token, id, err := t.issuer.Issue(bound, request.Spec.Audiences, lifetime)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	audit.Annotate(ctx, "authentication.kubernetes.io/issued-credential-id", "JTI="+id)
	request.Name, request.Namespace = account.Name, account.Namespace
	request.UID, request.CreationTimestamp = account.UID, metav1.NewTime(now.Truncate(time.Second))
	request.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(now.Add(asked).Truncate(time.Second))}
	return request, nil
}

func (t *tokens) fill(request *authenticationv1.TokenRequest) {
	if len(request.Spec.Audiences) == 0 {
		request.Spec.Audiences = append([]string(nil), t.issuer.Audiences()...)
	}
	if request.Spec.ExpirationSeconds == nil {
		seconds := tokenDefaultSeconds
		request.Spec.ExpirationSeconds = &seconds
	}
}

func isOwnAudience(issuer *authn.Issuer, audiences []string) bool {
	own := issuer.Audiences()
	return len(audiences) == 1 && len(own) > 0 && audiences[0] == own[0]
}

var tokenRequestKind = schema.GroupKind{Group: authenticationv1.GroupName, Kind: "TokenRequest"}

func checkTokenRequestName(request *authenticationv1.TokenRequest, r *call.Request) error {
	if request.Name != "" && request.Name != r.Name {
		return apierrors.NewInvalid(tokenRequestKind, r.Name, field.ErrorList{
			field.Invalid(field.NewPath("metadata").Child("name"), request.Name, "must match the service account name if specified"),
		})
	}
	return nil
}

func checkTokenRequest(request *authenticationv1.TokenRequest) error {
	at := field.NewPath("spec", "expirationSeconds")
	switch seconds := *request.Spec.ExpirationSeconds; {
	case seconds < tokenMinSeconds:
		return apierrors.NewInvalid(tokenRequestKind, "", field.ErrorList{field.Invalid(at, seconds, "may not specify a duration less than 10 minutes")})
	case seconds > tokenMaxSeconds:
		return apierrors.NewInvalid(tokenRequestKind, "", field.ErrorList{field.Invalid(at, seconds, "may not specify a duration larger than 2^32 seconds")})
	}
	return nil
}

// bind writes into the token on what it shall depend.
func (t *tokens) bind(ctx context.Context, b *authn.Bound, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) error {
	if ref == nil {
		return nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	kind, namespace := (*resource.Kind)(nil), account.Namespace
	switch {
	case gvk.Group != "": // whatever the version is
	case gvk.Kind == "Pod":
		kind = core.Pods.Kind
	case gvk.Kind == "Secret":
		kind = core.Secrets.Kind
	case gvk.Kind == "Node":
		kind, namespace = core.Nodes.Kind, ""
	}
	if kind == nil {
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	if ref.Name == "" {
		return apierrors.NewBadRequest("Name parameter required.")
	}
	if bad := path.IsValidPathSegmentName(ref.Name); len(bad) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("Name parameter invalid: %q: %s", ref.Name, strings.Join(bad, ";")))
	}
	o, err := t.reader.Get(ctx, kind, namespace, ref.Name)
	if err != nil {
		return err
	}
	if ref.UID != "" && ref.UID != o.GetUID() {
		return apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name, fmt.Errorf(
			"the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	to := &authn.Reference{Name: o.GetName(), UID: string(o.GetUID())}
	switch kind {
	case core.Secrets.Kind:
		b.Secret = to
	case core.Nodes.Kind:
		b.Node = to
	case core.Pods.Kind:
		pod := core.Pods.Cast(o)
		if pod.Spec.ServiceAccountName != account.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		b.Pod = to
		if pod.Spec.NodeName != "" {
			b.Node = &authn.Reference{Name: pod.Spec.NodeName}
			if n, err := t.reader.Get(ctx, core.Nodes.Kind, "", pod.Spec.NodeName); err == nil {
				b.Node.UID = string(n.GetUID())
			}
		}
	}
	return nil
}

// reviewToken answers TokenReview.
func reviewToken(tokens *authn.Tokens, issuer *authn.Issuer) func(context.Context, *call.Identity, *call.Request) (resource.Object, error) {
	return func(ctx context.Context, _ *call.Identity, r *call.Request) (resource.Object, error) {
		review, ok := r.Object.(*authenticationv1.TokenReview)
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenReview: %T", r.Object))
		}
		asNew(&review.ObjectMeta)
		if review.Spec.Token == "" {
			return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
		}
		review.Status = authenticationv1.TokenReviewStatus{}
		found, err := tokens.Review(ctx, review.Spec.Token, review.Spec.Audiences)
		if err != nil {
			var status apierrors.APIStatus
			if errors.As(err, &status) {
				return nil, err
			}
			review.Status.Error = err.Error()
			return review, nil
		}
		review.Status.Authenticated = true
		review.Status.User = withAuthenticated(found.Identity).UserInfo()
		review.Status.Audiences = found.Audiences
		if len(found.Audiences) == 0 && issuer != nil {
			review.Status.Audiences = issuer.Audiences()
		}
		return review, nil
	}
}

func withAuthenticated(user *call.Identity) *call.Identity {
	for _, group := range user.Groups {
		if group == authn.GroupAuthenticated {
			return user
		}
	}
	u := *user
	u.Groups = append(u.Groups[:len(u.Groups):len(u.Groups)], authn.GroupAuthenticated)
	return &u
}
