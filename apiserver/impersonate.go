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
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

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
		r, span := s.step(r, "constrainedimpersonation")
		defer span.End()
		as, groups, err := impersonation(r.Header)
		if err != nil {
			writeForbidden(w, r, err)
			return
		}
		if as == nil {
			next.ServeHTTP(w, r)
			return
		}
		sc := scopeOf(r)
		began := time.Now()
		mode, err := s.mayImpersonate(r.Context(), sc, as, groups)
		s.metrics.impersonation.all.count(mode, err, time.Since(began))
		if err != nil {
			writeForbidden(w, r, err)
			return
		}
		sc.user = impersonated(as, groups, mode)
		constraint := ""
		if mode != "" {
			constraint = "impersonate:" + mode
		}
		sc.record.Impersonated(sc.user, constraint)
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
// returns the constraint. The way that worked last is tried first; the error is that of the first way tried.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/.
func (s *Server) mayImpersonate(ctx context.Context, sc *scope, as *call.Identity, groups []string) (mode string, err error) {
	modes := append(impersonationModes(sc.user, as, groups), "")
	if last, ok := s.impersonations.Get(sc.user.Name); ok {
		if i := slices.Index(modes, last); i > 0 {
			modes = append([]string{last}, slices.Delete(modes, i, i+1)...)
		}
	}
	for _, mode := range modes {
		var refused error
		if mode == "" {
			refused = s.mayBe(ctx, sc.user, "impersonate", as, groups, "")
		} else {
			refused = s.mayConstrained(ctx, sc, mode, as, groups)
		}
		if refused == nil {
			s.impersonations.Put(sc.user.Name, mode)
			return mode, nil
		}
		if err == nil {
			err = refused
		}
	}
	return "", err
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
func (s *Server) mayConstrained(ctx context.Context, sc *scope, mode string, as *call.Identity, groups []string) error {
	on := sc.info.attributes()
	on.User, on.Verb = sc.user, "impersonate-on:"+mode+":"+on.Verb
	if err := s.mayActAs(ctx, on, mode); err != nil {
		return err
	}
	return s.mayBe(ctx, sc.user, "impersonate:"+mode, as, groups, mode)
}

// mayBe asks for verb on everything that as consists of. mode is empty for unconstrained impersonation.
func (s *Server) mayBe(ctx context.Context, user *call.Identity, verb string, as *call.Identity, groups []string, mode string) error {
	apiGroup := impersonateGroup
	if mode == "" {
		apiGroup = ""
	}
	about := func(group, resource, namespace, name, sub string) *authz.Attributes {
		return &authz.Attributes{
			User: user, Verb: verb, Group: group, Version: "v1", Resource: resource, Namespace: namespace, Name: name, Subresource: sub,
		}
	}
	namespace, account, isAccount := serviceAccount(as.Name)
	var wanted []*authz.Attributes
	switch {
	case mode == "associated-node":
		wanted = append(wanted, about(apiGroup, "nodes", "", "*", ""))
	case mode == "arbitrary-node":
		wanted = append(wanted, about(apiGroup, "nodes", "", strings.TrimPrefix(as.Name, nodeUserPrefix), ""))
	case isAccount:
		wanted = append(wanted, about(apiGroup, "serviceaccounts", namespace, account, ""))
	default:
		wanted = append(wanted, about(apiGroup, "users", "", as.Name, ""))
	}
	if as.UID != "" {
		wanted = append(wanted, about(impersonateGroup, "uids", "", as.UID, ""))
	}
	for _, g := range groups {
		wanted = append(wanted, about(apiGroup, "groups", "", g, ""))
	}
	for _, key := range slices.Sorted(maps.Keys(as.Extra)) {
		for _, v := range as.Extra[key] {
			wanted = append(wanted, about(impersonateGroup, "userextras", "", v, key))
		}
	}
	for _, a := range wanted {
		if mode != "" {
			if err := neverConstrained(a); err != nil {
				return err
			}
		}
		if err := s.mayActAs(ctx, a, mode); err != nil {
			return err
		}
	}
	return nil
}

// mayActAs asks for one right of impersonation, and counts that.
func (s *Server) mayActAs(ctx context.Context, a *authz.Attributes, mode string) error {
	began := time.Now()
	err := s.authorize(ctx, a)
	s.metrics.impersonation.checks.countIn(modeName(mode), err, time.Since(began))
	return err
}

// neverConstrained refuses what constrained impersonation cannot give.
func neverConstrained(a *authz.Attributes) error {
	switch a.Resource {
	case "groups":
		if a.Name == authn.GroupMasters {
			return authz.Forbidden(a, "impersonating the system:masters group is not allowed")
		}
	case "userextras":
		if domain, path, ok := strings.Cut(a.Subresource, "/"); !ok || domain == "" || path == "" {
			problem := field.Invalid(field.NewPath("extra", "key"), a.Subresource, `must be a domain-prefixed path (such as "acme.io/foo")`)
			bare := *a
			bare.Subresource, bare.Name = "", ""
			return authz.Forbidden(&bare, "impersonating an invalid key in extra is not allowed: "+problem.Error())
		}
	}
	return nil
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

// serviceAccount splits a service account's user name; a name that no account can have is not one.
func serviceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && len(validation.NameIsDNSLabel(namespace, false)) == 0 && len(validation.NameIsDNSSubdomain(name, false)) == 0
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
