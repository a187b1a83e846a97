// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// firstStatic is the index of common[0] in the static table of RFC 7541, appendix A; lastStatic is its last.
const (
	firstStatic = 15
	lastStatic  = 61
)

// common are names of header fields that clients and handlers use, as they are on the wire: those of the static table, in its order, and
// more. Others work too, and cost an allocation.
var common = [...]string{
	"accept-charset", "accept-encoding", "accept-language", "accept-ranges", "accept", "access-control-allow-origin", "age", "allow",
	"authorization", "cache-control", "content-disposition", "content-encoding", "content-language", "content-length", "content-location",
	"content-range", "content-type", "cookie", "date", "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since",
	"if-none-match", "if-range", "if-unmodified-since", "last-modified", "link", "location", "max-forwards", "proxy-authenticate",
	"proxy-authorization", "range", "referer", "refresh", "retry-after", "server", "set-cookie", "strict-transport-security",
	"transfer-encoding", "user-agent", "vary", "via", "www-authenticate",

	"audit-id", "connection", "forwarded", "impersonate-group", "impersonate-uid", "impersonate-user", "keep-alive", "kubectl-command",
	"kubectl-session", "origin", "proxy-connection", "te", "traceparent", "tracestate", "trailer", "upgrade", "warning",
	"x-content-type-options", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-kubernetes-pf-flowschema-uid",
	"x-kubernetes-pf-prioritylevel-uid", "x-remote-group", "x-remote-uid", "x-remote-user", "x-request-id", "x-stream-protocol-version",
}

// role is what a header means to the server.
type role uint8

const (
	plain     role = iota
	lengthOf       // Content-Length
	typeOf         // Content-Type
	codingOf       // Content-Encoding
	dateOf         // Date
	trailerOf      // Trailer
	leaveOf        // Connection
	forbidden      // another one that is about the connection
)

// name is the name of a header of answers.
type name struct {
	wire     string
	static   uint8 // its index in the static table; 0 if it has none
	volatile bool  // values seldom come again: they would push others out of the client's table
	role     role
}

// canonicals are the forms in http.Header of names on the wire, names the other way round.
var canonicals, names = func() (map[string]string, map[string]*name) {
	canonicals, names := make(map[string]string, len(common)), make(map[string]*name, len(common))
	all := make([]name, len(common))
	for i, wire := range common {
		k := http.CanonicalHeaderKey(wire)
		all[i] = name{wire: wire, static: staticName(wire), role: roleOf(k)}
		switch wire {
		case "audit-id", "content-length", "etag", "last-modified", "location", "set-cookie":
			all[i].volatile = true
		}
		canonicals[wire], names[k] = k, &all[i]
	}
	return canonicals, names
}()

// staticName is the index of a name in the static table; 0 if it has none.
func staticName(wire string) uint8 {
	if wire == ":status" {
		return 8
	}
	for i, other := range common[:lastStatic-firstStatic+1] {
		if other == wire {
			return uint8(firstStatic + i)
		}
	}
	return 0
}

func roleOf(k string) role {
	switch k {
	case "Content-Length":
		return lengthOf
	case "Content-Type":
		return typeOf
	case "Content-Encoding":
		return codingOf
	case "Date":
		return dateOf
	case "Trailer":
		return trailerOf
	case "Connection":
		return leaveOf
	}
	if ofConnection(k) {
		return forbidden
	}
	return plain
}

// canonical is the form of a name in http.Header.
func canonical(wire string) string {
	if k, ok := canonicals[wire]; ok {
		return k
	}
	return http.CanonicalHeaderKey(wire)
}

// nameOf is the name of a header of an answer; nil if it is none, or one that makes trailers.
func nameOf(k string) *name {
	if n := names[k]; n != nil {
		return n
	}
	if !httpguts.ValidHeaderFieldName(k) {
		return nil
	}
	return &name{wire: strings.ToLower(k), role: roleOf(http.CanonicalHeaderKey(k))}
}

// validName says whether a name is one that a client may send: a token without upper-case letters.
func validName(wire string) bool {
	if _, ok := canonicals[wire]; ok {
		return true
	}
	for i := range len(wire) {
		if c := wire[i]; 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return httpguts.ValidHeaderFieldName(wire)
}

// ofConnection says whether a header is about the connection, which HTTP/2 has no place for (RFC 9113, section 8.2.2).
func ofConnection(k string) bool {
	switch k {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}
