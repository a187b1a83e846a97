// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// TestSelectedNames tells which requests are about one object by their field selectors: the errors for those who may not make them name
// it, but not beside options that are malformed.
func TestSelectedNames(t *testing.T) {
	for _, c := range []struct{ do, verb, name string }{
		{"GET ?fieldSelector=metadata.name=a", "list", "a"},
		{"GET ?fieldSelector=metadata.name==a", "list", "a"},
		{"GET ?fieldSelector=spec.x=1,metadata.name=a", "list", "a"},
		{"GET ?fieldSelector=metadata.name=a&watch=1", "watch", "a"},
		{"GET ?fieldSelector=metadata.name!=a", "list", ""},
		{"GET ?fieldSelector=metadata.name", "list", ""},
		{"GET ?fieldSelector=metadata.name=a,metadata.name=b", "list", "a"},
		{"GET ?fieldSelector=metadata.name=a/b", "list", ""},
		{"GET ?fieldSelector=metadata.name=a,x", "list", ""},
		{"GET ?fieldSelector=metadata.name=a&limit=x", "list", ""},
		{"GET ?fieldSelector=metadata.name=a&timeoutSeconds=x", "list", ""},
		{"GET ?fieldSelector=metadata.name=a&labelSelector=a%20b", "list", ""},
		{"GET ?fieldSelector=metadata.name=a&limit=x&watch=1", "watch", ""},
		{"DELETE ?fieldSelector=metadata.name=a", "deletecollection", ""},
	} {
		method, query, _ := strings.Cut(c.do, " ")
		i := parseRequest(httptest.NewRequest(method, "/api/v1/namespaces/default/configmaps"+query, nil))
		if i.verb != c.verb || i.name != c.name {
			t.Errorf("%s: %s %q, want %s %q", c.do, i.verb, i.name, c.verb, c.name)
		}
	}
}
