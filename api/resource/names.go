// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package resource

import "strings"

// The forms of names that nearly all names have, told without regular expressions. What is not of the form is for
// k8s.io/apimachinery/pkg/util/validation, which says why.

// Longest names.
const (
	labelMax     = 63
	subdomainMax = 253
)

// IsLabel says whether a name is a DNS label as of RFC 1123.
func IsLabel(s string) bool { return len(s) <= labelMax && isLabel(s) }

func isLabel(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// IsSubdomain says whether a name is a DNS subdomain as of RFC 1123: labels of any length with dots between them.
func IsSubdomain(s string) bool {
	if len(s) > subdomainMax {
		return false
	}
	for {
		label, rest, more := strings.Cut(s, ".")
		if !isLabel(label) {
			return false
		}
		if !more {
			return true
		}
		s = rest
	}
}

// IsQualifiedName says whether a name may be the key of a label: a name with an optional subdomain and slash in front.
func IsQualifiedName(s string) bool {
	if i := strings.IndexByte(s, '/'); i >= 0 {
		if !IsSubdomain(s[:i]) {
			return false
		}
		s = s[i+1:]
	}
	return s != "" && IsLabelValue(s)
}

// IsAnnotationName is IsQualifiedName for the keys of annotations, in which capital letters are as small ones.
func IsAnnotationName(s string) bool {
	return IsQualifiedName(s) || IsQualifiedName(strings.ToLower(s))
}

// IsLabelValue says whether a text may be the value of a label.
func IsLabelValue(s string) bool {
	if s == "" {
		return true
	}
	if len(s) > labelMax || !alphanumeric(s[0]) || !alphanumeric(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z'
}
