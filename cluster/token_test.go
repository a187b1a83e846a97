// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"reflect"
	"testing"
	"time"
)

func TestTokens(t *testing.T) {
	made := NewToken()
	if parsed, err := ParseToken(made.String()); err != nil || parsed.ID != made.ID || parsed.Secret != made.Secret {
		t.Errorf("%s: %+v, %v", made, parsed, err)
	}
	if other := NewToken(); other.ID == made.ID && other.Secret == made.Secret {
		t.Error("two tokens are the same")
	}
	for _, bad := range []string{"", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef "} {
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	made.Description, made.Expires = "for a test", time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	made.Usages, made.Groups = []string{"authentication", "signing"}, []string{joinGroup}
	if back := tokenOf(made.secret()); !reflect.DeepEqual(back, made) {
		t.Errorf("got %+v, want %+v", back, made)
	}
}
