// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/resource"
)

// unroutable says that err is that of a form which no handler has, as opposed to one that the resource has not.
func unroutable(err error) bool {
	var status *apierrors.StatusError
	return errors.As(err, &status) && status.ErrStatus.Code == http.StatusNotAcceptable && status.ErrStatus.Details != nil
}

func notFoundPath() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
	}}
}

func notAllowed() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: "the server does not allow this method on the requested resource", Details: &metav1.StatusDetails{},
	}}
}

// reachable refuses paths and methods that the resource does not have.
func (s *Server) reachable(reg *registry, i *requestInfo, method string) error {
	k := reg.kind
	namespaced := k.Scope == resource.Namespaced
	named := i.name != "" && pathHasName(i)
	if k.Custom != nil {
		if err := customPath(k, i, named); err != nil {
			return err
		}
	}
	if i.subresource != "" && (!s.hasSubresource(reg, i.subresource) || i.rest != "" && i.subresource != "proxy") {
		if k.Custom != nil {
			return apierrors.NewNotFound(k.GroupResource(), i.name)
		}
		return notFoundPath()
	}
	if strings.Contains(i.path, "/watch/") && i.verb == "watch" && (i.subresource != "" || k.Virtual) {
		return notFoundPath()
	}
	if !namespaced && i.namespace != "" && k.Resource != "namespaces" || namespaced && i.namespace == "" && (named || k.Virtual) {
		return notFoundPath()
	}
	if k.Custom != nil {
		switch {
		case !named && (i.verb == "update" || i.verb == "patch"):
			return apierrors.NewBadRequest("name must be provided")
		case i.subresource != "" && !s.subresourceHas(reg, i.subresource, i.verb) && (i.verb == "create" || i.verb == "delete"):
			return apierrors.NewMethodNotSupported(k.GroupResource(), i.verb)
		}
	}
	if named && k.Virtual && i.subresource == "" && !slices.Contains(k.Verbs, "get") {
		return notFoundPath()
	}
	if isConnect(k, i.subresource) {
		if !connectHas(i.subresource, method) {
			return notAllowed()
		}
		return segment(i)
	}
	verb := i.verb
	if method == http.MethodHead || verb == "watch" && method != http.MethodGet {
		return notAllowed()
	}
	if k.Virtual && k.Verbs == nil && (verb != "create" || named) || named && verb == "create" && i.subresource == "" && k.Custom == nil {
		return notAllowed()
	}
	if namespaced && i.namespace == "" && (verb == "create" || verb == "deletecollection") && !named && i.subresource == "" {
		return notAllowed()
	}
	if i.subresource != "" && !s.subresourceHas(reg, i.subresource, verb) || verb == "deletecollection" && k.Resource == "namespaces" && k.Group == "" {
		return notAllowed()
	}
	unserved := i.subresource == "" && k.Verbs != nil && !slices.Contains(k.Verbs, verb) && (verb != "watch" || !slices.Contains(k.Verbs, "list"))
	if !named && (verb == "update" || verb == "patch") || unserved {
		return notAllowed()
	}
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return segment(i)
	}
	return notAllowed()
}

// segment refuses names that cannot be part of a path.
func segment(i *requestInfo) error {
	if i.name == "" && i.subresource != "" && i.resource != "bindings" {
		return apierrors.NewBadRequest("name must be provided")
	}
	if problems := path.IsValidPathSegmentName(i.name); i.name != "" && i.verb != "list" && i.verb != "watch" && i.verb != "deletecollection" && len(problems) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("Name parameter invalid: %q: %s", i.name, strings.Join(problems, ";")))
	}
	return nil
}

// errNoPage says that a path means nothing, not even to clients of the API.
var errNoPage = errors.New("no such page")

// customPath refuses paths of the wrong scope as Kubernetes does for custom resources.
func customPath(k *resource.Kind, i *requestInfo, named bool) error {
	across := !named && (i.verb == "list" || i.verb == "watch")
	if bool(k.Scope) == (i.namespace != "") || bool(k.Scope) && across {
		return nil
	}
	return errNoPage
}

// pathHasName tells a name in the path from one in a field selector.
func pathHasName(i *requestInfo) bool {
	return i.subresource != "" || strings.HasSuffix(strings.TrimSuffix(i.path, "/"), "/"+i.name) &&
		!strings.HasSuffix(strings.TrimSuffix(i.path, "/"), "/"+i.resource) || i.verb == "get" || i.verb == "update" || i.verb == "patch"
}

func (s *Server) hasSubresource(reg *registry, name string) bool {
	switch {
	case name == "status":
		return reg.kind.Status != nil
	case name == "scale":
		return reg.kind.Scale != nil
	case isConnect(reg.kind, name):
		return true
	}
	return reg.hook(name) != nil
}

// subresourceHas says whether a subresource answers a verb.
func (s *Server) subresourceHas(reg *registry, name, verb string) bool {
	if name == "status" || name == "scale" {
		return verb == "get" || verb == "update" || verb == "patch"
	}
	h := reg.hook(name)
	if verb == "create" {
		return h.Create != nil
	}
	return h.Update != nil && (verb == "update" || (verb == "get" || verb == "patch") && name != "finalize")
}

// isConnect says that a subresource is a stream or proxy, which does not answer with an object.
func isConnect(k *resource.Kind, sub string) bool {
	if k.Group != "" {
		return false
	}
	switch k.Resource {
	case "pods":
		return sub == "exec" || sub == "attach" || sub == "portforward" || sub == "log" || sub == "proxy"
	case "services", "nodes":
		return sub == "proxy"
	}
	return false
}

// connectHas says whether a stream or proxy answers a method.
func connectHas(sub, method string) bool {
	switch method {
	case http.MethodGet:
		return true
	case http.MethodPost:
		return sub != "log"
	case http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return sub == "proxy"
	}
	return false
}
