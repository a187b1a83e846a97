// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// common are names of header fields that clients and handlers use, as they are on the wire. Others work too, and cost an allocation.
var common = [...]string{
	"accept", "accept-charset", "accept-encoding", "accept-language", "accept-ranges", "age", "access-control-allow-origin", "allow",
	"audit-id", "authorization", "cache-control", "content-disposition", "content-encoding", "content-language", "content-length",
	"content-location", "content-range", "content-type", "cookie", "date", "etag", "expect", "expires", "forwarded", "from", "host",
	"if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "impersonate-group", "impersonate-uid",
	"impersonate-user", "kubectl-command", "kubectl-session", "last-modified", "link", "location", "max-forwards", "origin",
	"proxy-authenticate", "proxy-authorization", "range", "referer", "refresh", "retry-after", "server", "set-cookie",
	"strict-transport-security", "te", "traceparent", "tracestate", "trailer", "transfer-encoding", "user-agent", "vary", "via", "warning",
	"www-authenticate", "x-content-type-options", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-kubernetes-pf-flowschema-uid",
	"x-kubernetes-pf-prioritylevel-uid", "x-remote-group", "x-remote-uid", "x-remote-user", "x-request-id", "x-stream-protocol-version",
}

// canonicals and wires are the two forms of common.
var canonicals, wires = func() (canonicals, wires map[string]string) {
	canonicals, wires = make(map[string]string, len(common)), make(map[string]string, len(common))
	for _, name := range common {
		k := http.CanonicalHeaderKey(name)
		canonicals[name], wires[k] = k, name
	}
	return canonicals, wires
}()

// canonical is the form of a name in http.Header.
func canonical(name string) string {
	if k, ok := canonicals[name]; ok {
		return k
	}
	return http.CanonicalHeaderKey(name)
}

// wireName is the form of a name of http.Header on the wire; empty if it is no name.
func wireName(k string) string {
	if name, ok := wires[k]; ok {
		return name
	}
	if !httpguts.ValidHeaderFieldName(k) {
		return ""
	}
	return strings.ToLower(k)
}

// validName says whether a name is one that a client may send: a token without upper-case letters.
func validName(name string) bool {
	if _, ok := canonicals[name]; ok {
		return true
	}
	for i := range len(name) {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return httpguts.ValidHeaderFieldName(name)
}

// volatile says of a header of answers that its values seldom come again: they would push others out of the client's table.
func volatile(name string) bool {
	switch name {
	case "audit-id", "content-length", "etag", "last-modified", "location", "set-cookie":
		return true
	}
	return false
}

// ofConnection says whether a header is about the connection, which HTTP/2 has no place for (RFC 9113, section 8.2.2).
func ofConnection(k string) bool {
	switch k {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}
