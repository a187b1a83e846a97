// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import "testing"

// FuzzPorts reads what other servers may have stored.
func FuzzPorts(f *testing.F) {
	f.Add([]byte(recordedPorts))
	f.Add([]byte("k8s\x00"))
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decodeRange(value)
		if err != nil {
			return
		}
		again, err := encodeRange(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeRange(again); err != nil {
			t.Errorf("%q became %q: %v", value, again, err)
		}
	})
}
