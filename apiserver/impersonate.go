// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/authz"
)

const (
	nodeUserPrefix       = "system:node:"
	nodeNameExtra        = "authentication.kubernetes.io/node-name"
	impersonateGroup     = "authentication.k8s.io"
	impersonateHeader    = "Impersonate-"
	impersonateExtra     = "Impersonate-Extra-"
	impersonateUser      = "Impersonate-User"
	impersonateGroupName = "Impersonate-Group"
	impersonateUID       = "Impersonate-Uid"
)

// withImpersonation lets users act as others if they may.
func (s *Server) withImpersonation(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		as, groups, err := impersonation(r.Header)
		if err != nil {
			writeError(w, r, err)
			return
		}
		if as == nil {
			next.ServeHTTP(w, r)
			return
		}
		sc := scopeOf(r)
		mode, err := s.mayImpersonate(r.Context(), sc, as, groups)
		if err != nil {
			writeError(w, r, err)
			return
		}
		sc.user = impersonated(as, groups, mode)
		sc.record.Impersonated(sc.user)
		for name := range r.Header {
			if strings.HasPrefix(name, impersonateHeader) {
				delete(r.Header, name)
			}
		}
		next.ServeHTTP(w, r)
	})
}

// impersonation reads the headers; nil if there are none.
func impersonation(h http.Header) (as *call.Identity, groups []string, err error) {
	as = &call.Identity{Name: h.Get(impersonateUser), UID: h.Get(impersonateUID)}
	groups = h.Values(impersonateGroupName)
	for name, values := range h {
		key, ok := strings.CutPrefix(name, impersonateExtra)
		if !ok {
			continue
		}
		if as.Extra == nil {
			as.Extra = map[string][]string{}
		}
		as.Extra[unescapeExtra(strings.ToLower(key))] = values
	}
	switch {
	case as.Name != "":
		return as, groups, nil
	case len(groups) > 0 || as.UID != "" || len(as.Extra) > 0:
		return nil, nil, apierrors.NewBadRequest(withoutUser(groups, as))
	}
	return nil, nil, nil
}

// mayImpersonate asks for the right to be somebody, constrained to what the request does or, if that is refused, without bounds. It
// returns the constraint.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/.
func (s *Server) mayImpersonate(ctx context.Context, sc *scope, as *call.Identity, groups []string) (mode string, err error) {
	for _, mode := range impersonationModes(sc.user, as, groups) {
		if s.mayConstrained(ctx, sc, mode, as, groups) {
			return mode, nil
		}
	}
	return "", s.mayBe(ctx, sc.user, "impersonate", as, groups, "")
}

// impersonationModes are the ways in which a request may be constrained, narrowest first.
func impersonationModes(user, as *call.Identity, groups []string) []string {
	_, _, isAccount := serviceAccount(as.Name)
	node, isNode := strings.CutPrefix(as.Name, nodeUserPrefix)
	plain := len(groups) == 0 && as.UID == "" && len(as.Extra) == 0
	switch {
	case isNode && !plain, isAccount && !plain:
		return nil
	case isNode:
		if on := user.Extra[nodeNameExtra]; len(on) == 1 && on[0] == node && strings.HasPrefix(user.Name, "system:serviceaccount:") {
			return []string{"associated-node", "arbitrary-node"}
		}
		return []string{"arbitrary-node"}
	case isAccount:
		return []string{"serviceaccount"}
	}
	return []string{"user-info"}
}

// mayConstrained asks for both rights of a mode: to be somebody, and to do as them what the request does.
func (s *Server) mayConstrained(ctx context.Context, sc *scope, mode string, as *call.Identity, groups []string) bool {
	on := sc.info.attributes()
	on.User, on.Verb = sc.user, "impersonate-on:"+mode+":"+on.Verb
	return s.authorize(ctx, on) == nil && s.mayBe(ctx, sc.user, "impersonate:"+mode, as, groups, mode) == nil
}

// mayBe asks for verb on everything that as consists of. mode is empty for unconstrained impersonation.
func (s *Server) mayBe(ctx context.Context, user *call.Identity, verb string, as *call.Identity, groups []string, mode string) error {
	apiGroup := impersonateGroup
	if mode == "" {
		apiGroup = ""
	}
	ask := func(group, resource, namespace, name, sub string) error {
		return s.authorize(ctx, &authz.Attributes{
			User: user, Verb: verb, Group: group, Version: "v1", Resource: resource, Namespace: namespace, Name: name, Subresource: sub,
		})
	}
	namespace, account, isAccount := serviceAccount(as.Name)
	var err error
	switch {
	case mode == "associated-node":
		err = ask(apiGroup, "nodes", "", "*", "")
	case mode == "arbitrary-node":
		err = ask(apiGroup, "nodes", "", strings.TrimPrefix(as.Name, nodeUserPrefix), "")
	case isAccount:
		err = ask(apiGroup, "serviceaccounts", namespace, account, "")
	default:
		err = ask(apiGroup, "users", "", as.Name, "")
	}
	for _, g := range groups {
		if err == nil {
			err = ask(apiGroup, "groups", "", g, "")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(as.Extra)) {
		for _, v := range as.Extra[key] {
			if err == nil {
				err = ask(impersonateGroup, "userextras", "", v, key)
			}
		}
	}
	if as.UID != "" && err == nil {
		err = ask(impersonateGroup, "uids", "", as.UID, "")
	}
	return err
}

// impersonated completes an identity with the groups that go without saying.
func impersonated(as *call.Identity, groups []string, mode string) *call.Identity {
	as.Groups = slices.Clone(groups)
	if namespace, _, ok := serviceAccount(as.Name); ok && len(groups) == 0 {
		as.Groups = []string{authn.GroupServiceAccounts, authn.GroupServiceAccounts + ":" + namespace}
	}
	if strings.HasSuffix(mode, "-node") {
		as.Groups = []string{authn.GroupNodes}
	}
	if slices.Contains(as.Groups, authn.GroupUnauthenticated) {
		return as
	}
	if as.Name == authn.Anonymous {
		return withGroup(as, authn.GroupUnauthenticated)
	}
	return withGroup(as, authn.GroupAuthenticated)
}

// serviceAccount splits a service account's user name.
func serviceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, ":")
}

func unescapeExtra(key string) string {
	if k, err := url.PathUnescape(key); err == nil {
		return k
	}
	return key
}

// withoutUser is Kubernetes' sentence for impersonation headers without a user.
func withoutUser(groups []string, as *call.Identity) string {
	return fmt.Sprintf("requested &user.DefaultInfo{Name:%q, UID:%q, Groups:%#v, Extra:%#v} without impersonating a user name", as.Name, as.UID, groups, as.Extra)
}

func gvrOf(i *requestInfo) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: i.group, Version: i.version, Resource: i.resource}
}
