// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"slices"
	"strconv"
	"strings"
)

// choose tells whether a client prefers protobuf, of the given media type, to JSON; ok is false if it takes neither.
// Older clients write the media type with an "@", which mime.ParseMediaType refuses.
func choose(headers []string, protoMedia string) (proto, ok bool) {
	header := strings.Join(headers, ",")
	if strings.TrimSpace(header) == "" {
		return false, true
	}
	type clause struct {
		proto bool
		q     float64
	}
	var clauses []clause
	for part := range strings.SplitSeq(header, ",") {
		media, params, _ := strings.Cut(part, ";")
		c := clause{q: 1}
		switch strings.ToLower(strings.ReplaceAll(strings.TrimSpace(media), "@", ".")) {
		case jsonMedia, "application/*", "*/*":
		case protoMedia:
			c.proto = true
		default:
			continue
		}
		for param := range strings.SplitSeq(params, ";") {
			if v, is := strings.CutPrefix(strings.TrimSpace(param), "q="); is {
				if q, err := strconv.ParseFloat(v, 64); err == nil {
					c.q = q
				}
			}
		}
		if c.q > 0 {
			clauses = append(clauses, c)
		}
	}
	if len(clauses) == 0 {
		return false, false
	}
	slices.SortStableFunc(clauses, func(a, b clause) int {
		switch {
		case a.q > b.q:
			return -1
		case a.q < b.q:
			return 1
		}
		return 0
	})
	return clauses[0].proto, true
}
