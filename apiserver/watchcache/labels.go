// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// Labels is a set of labels as a Bloom filter of 64 bits: each label sets two of them.
type Labels uint64

// Required is what a selector demands of every object that matches it; 0 if that is nothing in particular.
func Required(selector labels.Selector) Labels {
	var all Labels
	if selector == nil {
		return 0
	}
	requirements, selectable := selector.Requirements()
	if !selectable {
		return 0
	}
	for _, r := range requirements {
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			if values := r.ValuesUnsorted(); len(values) == 1 {
				all |= bits(r.Key(), values[0])
			}
		}
	}
	return all
}

func labelsOf(m map[string]string) Labels {
	var all Labels
	for k, v := range m {
		all |= bits(k, v)
	}
	return all
}

// bits hashes a label with FNV-1a.
func bits(key, value string) Labels {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * prime
	}
	h = (h ^ '=') * prime
	for i := range len(value) {
		h = (h ^ uint64(value[i])) * prime
	}
	h ^= h >> 29
	return 1<<(h&63) | 1<<(h>>6&63)
}
