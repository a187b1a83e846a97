// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/authz"
)

// requestInfo is what path and method say.
type requestInfo struct {
	// resource is set for paths that may name a resource; the rest is empty for others.
	isResource               bool
	group, version, resource string
	namespace, name          string
	// pathName is the name in the path: name may be from a field selector.
	pathName    string
	subresource string
	// rest is what follows the subresource (proxy paths).
	rest string
	verb string
	path string
	// aimless is set for a watch, in the old form, of nothing.
	aimless bool
	// fields is the field selector of the query; nil if it is malformed.
	fields fields.Selector
	// labels is the label selector; nil if there is none or it is malformed.
	labels labels.Selector
	// query is that of requests for collections; nil for others.
	query url.Values
	// parsed is the whole query, of which raw is the text; nobody modifies it.
	parsed url.Values
	raw    string
}

// queryOf is the query of a request, parsed once.
func queryOf(r *http.Request) url.Values {
	if sc, ok := r.Context().Value(scopeKey{}).(*scope); ok {
		return sc.info.queryOf(r)
	}
	return r.URL.Query()
}

func (i *requestInfo) queryOf(r *http.Request) url.Values {
	if r.URL.RawQuery == "" {
		return nil
	}
	if i.raw != r.URL.RawQuery {
		i.raw, i.parsed = r.URL.RawQuery, r.URL.Query()
	}
	return i.parsed
}

// parseRequest reads /api/v1/..., /apis/GROUP/VERSION/... and the verb that method and query mean.
func parseRequest(r *http.Request) *requestInfo {
	i := &requestInfo{path: r.URL.Path, verb: strings.ToLower(r.Method)}
	parts := strings.Split(strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/"), "/")
	switch {
	case parts[0] == "api" && len(parts) >= 3:
		i.version, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) >= 4:
		i.group, i.version, parts = parts[1], parts[2], parts[3:]
	default:
		return i
	}
	i.isResource = true
	i.verb = methodVerb(r.Method)
	i.aimless = parts[0] == "watch" && len(parts) == 1
	if parts[0] == "watch" && len(parts) > 1 { // the old form of watches
		parts = parts[1:]
		i.verb = "watch"
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		i.namespace = parts[1]
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			parts = parts[2:]
		}
	}
	i.resource = parts[0]
	if len(parts) > 1 {
		i.name, i.pathName = parts[1], parts[1]
	}
	if len(parts) > 2 {
		i.subresource = parts[2]
	}
	if len(parts) > 3 {
		i.rest = strings.Join(parts[3:], "/")
	}
	i.collectionVerb(i.queryOf(r))
	return i
}

func methodVerb(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodGet, http.MethodHead:
		return "get"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return strings.ToLower(method)
}

func (i *requestInfo) collectionVerb(query url.Values) {
	if i.name != "" && i.verb != "watch" {
		return
	}
	i.query = query
	i.fields, _ = fields.ParseSelector(query.Get("fieldSelector")) // refused later if it is malformed
	if s := query.Get("labelSelector"); s != "" {
		i.labels, _ = labels.Parse(s)
	}
	switch i.verb {
	case "get":
		i.verb = "list"
		if flagged(query, "watch") {
			i.verb = "watch"
		}
		i.name = i.selected()
	case "delete":
		i.verb = "deletecollection"
	}
}

// selected is the name that a field selector asks for, empty if there is none or the options of the list are malformed.
func (i *requestInfo) selected() string {
	if i.fields == nil {
		return ""
	}
	name, ok := i.fields.RequiresExactMatch("metadata.name")
	if !ok || len(path.IsValidPathSegmentName(name)) > 0 || listOptions(&call.Request{}, i.query) != nil {
		return ""
	}
	return name
}

// attributes are what the decision about the request depends on, but for the user.
func (i *requestInfo) attributes() *authz.Attributes {
	if !i.isResource {
		return &authz.Attributes{Verb: i.verb, Path: i.path}
	}
	return &authz.Attributes{
		Verb: i.verb, Group: i.group, Version: i.version, Resource: i.resource, Subresource: i.subresource,
		Namespace: i.namespace, Name: i.name, Fields: i.fields, Labels: i.labels,
	}
}
