// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import "k8s.io/apimachinery/pkg/util/validation/field"

// Rules are asked without a path first, since paths take longer than the rules. These build paths, of which there are none under nil.

func under(at *field.Path, name string, more ...string) *field.Path {
	if at == nil {
		return nil
	}
	return at.Child(name, more...)
}

func nth(at *field.Path, i int) *field.Path {
	if at == nil {
		return nil
	}
	return at.Index(i)
}

func keyed(at *field.Path, key string) *field.Path {
	if at == nil {
		return nil
	}
	return at.Key(key)
}
