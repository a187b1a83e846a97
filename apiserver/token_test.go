// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/base64"
	"encoding/json"
	"testing"
)

// TestContinueWithAKey: a token that names the key to go on with stands just before it, whatever its last byte is.
func TestContinueWithAKey(t *testing.T) {
	const prefix = "/registry/pods/"
	for _, c := range []struct{ start, before string }{{"b", "a"}, {"n/b", "n/a"}, {"n/\u00e9", "n/\u00e8"}} {
		raw, err := json.Marshal(continueToken{Version: continueVersion, Revision: 5, Start: c.start})
		if err != nil {
			t.Fatal(err)
		}
		after, revision, err := decodeContinue(base64.RawURLEncoding.EncodeToString(raw), prefix)
		if err != nil || revision != 5 || after >= prefix+c.start || after < prefix+c.before {
			t.Errorf("%q: after %q at %d, %v", c.start, after, revision, err)
		}
	}
}
