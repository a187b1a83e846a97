// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"cmp"
	"strconv"
	"strings"
)

// The elements of a path in managedFields, as the keys of their JSON show them: f:NAME, k:{\"KEY\":VALUE}, v:VALUE.

// plain says whether a text stands in an element as it is. The others are left to the library.
func plain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}

func encodeText(s string) (string, bool) { return `\"` + s + `\"`, plain(s) }

func encodeInteger(n int64) string { return strconv.FormatInt(n, 10) }

// order compares two elements: fields before keys before values, each by their meaning.
func order(a, b string) int {
	if a == b {
		return 0
	}
	if c := cmp.Compare(rank(a), rank(b)); c != 0 || len(a) < 2 || len(b) < 2 {
		return c
	}
	kind := a[0]
	a, b = a[2:], b[2:]
	switch kind {
	case 'f':
		return strings.Compare(a, b)
	case 'v':
		c, _, _ := orderScalars(a, b)
		return c
	case 'k':
		return orderKeys(a, b)
	}
	return strings.Compare(a, b)
}

func rank(elem string) int {
	if len(elem) < 2 {
		return -1
	}
	return strings.IndexByte("fkvi", elem[0])
}

// orderKeys compares {\"NAME\":VALUE,...} in the order of names.
func orderKeys(a, b string) int {
	a, b = strings.TrimPrefix(a, "{"), strings.TrimPrefix(b, "{")
	for {
		if a == "" || b == "" || a == "}" || b == "}" {
			return cmp.Compare(len(a), len(b))
		}
		nameA, restA, okA := strings.Cut(a, `\":`)
		nameB, restB, okB := strings.Cut(b, `\":`)
		if c := strings.Compare(nameA, nameB); c != 0 || !okA || !okB {
			return c
		}
		c, endA, endB := orderScalars(restA, restB)
		if c != 0 {
			return c
		}
		a, b = strings.TrimPrefix(restA[endA:], ","), strings.TrimPrefix(restB[endB:], ",")
	}
}

// orderScalars compares the values that two texts begin with, numbers before strings, and tells where they end.
func orderScalars(a, b string) (c, endA, endB int) {
	valueA, endA, textA := scalarOf(a)
	valueB, endB, textB := scalarOf(b)
	switch {
	case textA && textB:
		return strings.Compare(valueA, valueB), endA, endB
	case textA:
		return 1, endA, endB
	case textB:
		return -1, endA, endB
	}
	x, errA := strconv.ParseInt(valueA, 10, 64)
	y, errB := strconv.ParseInt(valueB, 10, 64)
	if errA != nil || errB != nil {
		return strings.Compare(valueA, valueB), endA, endB
	}
	return cmp.Compare(x, y), endA, endB
}

func scalarOf(s string) (value string, end int, text bool) {
	if rest, ok := strings.CutPrefix(s, `\"`); ok {
		value, _, _ = strings.Cut(rest, `\"`)
		return value, min(len(value)+4, len(s)), true
	}
	if end = strings.IndexAny(s, ",}"); end < 0 {
		end = len(s)
	}
	return s[:end], end, false
}
