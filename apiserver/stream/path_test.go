// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"net/url"
	"strings"
	"testing"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
)

const proxyPrefix = "/api/v1/namespaces/ns/services/http:web:80/proxy"

var proxied = &call.Request{Kind: core.Services.Kind, Namespace: "ns", Name: "http:web:80"}

func TestProxyPath(t *testing.T) {
	for _, c := range []struct{ path, rest, raw string }{
		{"", "", ""},
		{"/", "/", "/"},
		{"/a/b/", "/a/b/", "/a/b/"},
		{"/a%20b", "/a b", "/a%20b"},
		{"/a%2Fb", "/a/b", "/a%2Fb"},
		{"//a", "/a", ""},
		{"/../../../../pods/x", "/pods/x", ""},
		{"/a/%2e%2e/b", "/b", ""},
		{"/a/..%2f..%2f..%2fb", "/b", ""},
		{"/a/.", "/a", ""},
	} {
		u, err := url.Parse("https://server" + proxyPrefix + c.path)
		if err != nil {
			t.Fatal(err)
		}
		prefix, rest, raw := splitProxyPath(u, proxied)
		if prefix != proxyPrefix || rest != c.rest || raw != c.raw {
			t.Errorf("%s: %q %q %q, want %q %q", c.path, prefix, rest, raw, c.rest, c.raw)
		}
	}
}

func FuzzProxyPath(f *testing.F) {
	f.Add("/a/..%2f..%2fb/")
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.Parse("https://server" + proxyPrefix + path)
		if err != nil {
			return
		}
		_, rest, raw := splitProxyPath(u, proxied)
		if rest != "" && !strings.HasPrefix(rest, "/") {
			t.Errorf("%q is not absolute", rest)
		}
		for part := range strings.SplitSeq(rest, "/") {
			if part == ".." || part == "." {
				t.Errorf("%q leads out of itself", rest)
			}
		}
		if decoded, err := url.PathUnescape(raw); raw != "" && (err != nil || decoded != rest) {
			t.Errorf("%q is not %q: %v", raw, rest, err)
		}
	})
}
