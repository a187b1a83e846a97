// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/api/authentication"
	"knarr.dev/api/authorization"
	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/rbac"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/authz"
)

// reviewed is a small store.
type reviewed map[*resource.Kind][]resource.Object

func (s reviewed) Get(_ context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error) {
	for _, o := range s[kind] {
		if o.GetNamespace() == namespace && o.GetName() == name {
			return o, nil
		}
	}
	return nil, apierrors.NewNotFound(kind.GroupResource(), name)
}

func (s reviewed) List(_ context.Context, kind *resource.Kind, namespace string, each func(resource.Object) bool) error {
	for _, o := range s[kind] {
		if (namespace == "" || o.GetNamespace() == namespace) && !each(o) {
			break
		}
	}
	return nil
}

func named(namespace, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}
}

func security(t *testing.T, s reviewed) func(kind *resource.Kind, subresource, name string, body resource.Object) (resource.Object, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }
	issuer, err := authn.NewIssuer(authn.IssuerConfig{Key: key, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	bind := &authn.Objects{}
	bind.Bind(s)
	list := Security(SecurityDeps{
		Reader: s, Authorizer: authz.New(s), Issuer: issuer, Tokens: authn.NewTokens(authn.Config{Issuer: issuer, Objects: bind, Now: now}), Now: now,
	})
	return func(kind *resource.Kind, subresource, name string, body resource.Object) (resource.Object, error) {
		at := slices.IndexFunc(list, func(h Hook) bool { return h.Kind == kind && h.Subresource == subresource })
		return list[at].Create(t.Context(), &call.Identity{Name: "jane", Groups: []string{"system:authenticated"}},
			&call.Request{Verb: "create", Kind: kind, Namespace: "n", Name: name, Subresource: subresource, Object: body})
	}
}

func TestTokenRequest(t *testing.T) {
	s := reviewed{
		core.ServiceAccounts.Kind: {&corev1.ServiceAccount{ObjectMeta: named("n", "sa", "u")}, &corev1.ServiceAccount{ObjectMeta: named("n", "default", "d")}},
		core.Pods.Kind:            {&corev1.Pod{ObjectMeta: named("n", "p", "pu"), Spec: corev1.PodSpec{ServiceAccountName: "sa", NodeName: "n1"}}},
		core.Nodes.Kind:           {&corev1.Node{ObjectMeta: named("", "n1", "nu")}},
	}
	do := security(t, s)
	ref := func(kind, name, uid string) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}
	}
	for _, test := range []struct {
		account, name string
		spec          authenticationv1.TokenRequestSpec
		want          string
	}{
		{"sa", "", authenticationv1.TokenRequestSpec{}, ""},
		{"sa", "other", authenticationv1.TokenRequestSpec{}, `TokenRequest.authentication.k8s.io "sa" is invalid: metadata.name: Invalid value: "other": must match the service account name if specified`},
		{"sa", "", authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](5)},
			`TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes`},
		{"sa", "", authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](4294967297)},
			`TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds`},
		{"missing", "", authenticationv1.TokenRequestSpec{}, `serviceaccounts "missing" not found`},
		{"sa", "", authenticationv1.TokenRequestSpec{BoundObjectRef: ref("Pod", "none", "")}, `pods "none" not found`},
		{"sa", "", authenticationv1.TokenRequestSpec{BoundObjectRef: ref("Odd", "x", "")}, `cannot bind token to object of type /v1, Kind=Odd`},
		{"sa", "", authenticationv1.TokenRequestSpec{BoundObjectRef: ref("Pod", "p", "1")},
			`Operation cannot be fulfilled on Pod "p": the UID in the bound object reference (1) does not match the UID in record. The object might have been deleted and then recreated`},
		{"default", "", authenticationv1.TokenRequestSpec{BoundObjectRef: ref("Pod", "p", "")},
			`cannot bind token for serviceaccount "default" to pod running with different serviceaccount name.`},
		{"sa", "", authenticationv1.TokenRequestSpec{BoundObjectRef: ref("Pod", "p", "pu"), ExpirationSeconds: ptr.To[int64](3607)}, ""},
	} {
		out, err := do(core.ServiceAccounts.Kind, "token", test.account, &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Name: test.name}, Spec: test.spec})
		if err != nil || test.want != "" {
			if err == nil || err.Error() != test.want {
				t.Errorf("got %v\nwant %s", err, test.want)
			}
			continue
		}
		request := out.(*authenticationv1.TokenRequest)
		if request.Name != "sa" || request.Namespace != "n" || request.UID == "" || request.Spec.Audiences[0] != authn.DefaultIssuer || request.Spec.ExpirationSeconds == nil {
			t.Errorf("%+v", request)
		}
		out, err = do(authentication.TokenReviews.Kind, "", "", &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: request.Status.Token}})
		if err != nil {
			t.Fatal(err)
		}
		status := out.(*authenticationv1.TokenReview).Status
		if !status.Authenticated || status.User.Username != "system:serviceaccount:n:sa" || !slices.Contains(status.User.Groups, "system:authenticated") || status.Audiences[0] != authn.DefaultIssuer {
			t.Errorf("%+v", status)
		}
	}
	s[core.ServiceAccounts.Kind] = nil
	out, err := do(authentication.TokenReviews.Kind, "", "", &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "x"}})
	if err != nil || out.(*authenticationv1.TokenReview).Status.Error != "invalid bearer token" {
		t.Errorf("%v %v", out, err)
	}
}

func TestAccessReviews(t *testing.T) {
	s := reviewed{
		rbac.Roles.Kind: {&rbacv1.Role{ObjectMeta: named("n", "r", ""), Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}},
		rbac.RoleBindings.Kind: {&rbacv1.RoleBinding{ObjectMeta: named("n", "b", ""), RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "r"},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: "jane"}}}},
	}
	do := security(t, s)
	pods := func(namespace string) *authorizationv1.ResourceAttributes {
		return &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Resource: "pods"}
	}
	out, err := do(authorization.SelfSubjectAccessReviews.Kind, "", "", &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: pods("n")}})
	if err != nil || !out.(*authorizationv1.SelfSubjectAccessReview).Status.Allowed {
		t.Errorf("%+v %v", out, err)
	}
	out, err = do(authorization.SubjectAccessReviews.Kind, "", "", &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "bob", ResourceAttributes: pods("n")}})
	if err != nil || out.(*authorizationv1.SubjectAccessReview).Status != (authorizationv1.SubjectAccessReviewStatus{}) {
		t.Errorf("%+v %v", out, err)
	}
	for _, test := range []struct {
		spec authorizationv1.SubjectAccessReviewSpec
		want string
	}{
		{authorizationv1.SubjectAccessReviewSpec{User: "x", ResourceAttributes: pods("other")}, `spec.resourceAttributes.namespace: Invalid value: "other": must match metadata.namespace`},
		{authorizationv1.SubjectAccessReviewSpec{User: "x", NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/", Verb: "get"}},
			`spec.nonResourceAttributes: Invalid value: {"Path":"/","Verb":"get"}: disallowed on this kind of request`},
	} {
		_, err := do(authorization.LocalSubjectAccessReviews.Kind, "", "", &authorizationv1.LocalSubjectAccessReview{Spec: test.spec})
		if err == nil || err.Error() != `.authorization.k8s.io "" is invalid: `+test.want {
			t.Errorf("got %v\nwant %s", err, test.want)
		}
	}
	out, err = do(authorization.SelfSubjectRulesReviews.Kind, "", "", &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "n"}})
	if err != nil || len(out.(*authorizationv1.SelfSubjectRulesReview).Status.ResourceRules) != 1 {
		t.Errorf("%+v %v", out, err)
	}
	if _, err = do(authorization.SelfSubjectRulesReviews.Kind, "", "", &authorizationv1.SelfSubjectRulesReview{}); err == nil || err.Error() != "no namespace on request" {
		t.Error(err)
	}
}
