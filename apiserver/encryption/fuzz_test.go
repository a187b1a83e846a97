// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"encoding/base64"
	"testing"

	"knarr.dev/api"
	"knarr.dev/store"
)

// FuzzStored decrypts what was never encrypted.
func FuzzStored(f *testing.F) {
	for _, text := range append([]string{observedElsewhere}, observedKMS) {
		value, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	for _, s := range []string{"k8s:enc:aescbc:v1:k:", "k8s:enc:secretbox:v1:k:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "k8s:enc:", ""} {
		f.Add([]byte(s))
	}
	c := NewConfig(api.Kinds())
	providers := "[{aesgcm: {keys: [{name: k, secret: " + secret(1) + "}]}}, {aescbc: {keys: [{name: k, secret: " + secret(2) + "}]}}, {secretbox: {keys: [{name: k, secret: " + secret(3) + "}]}}, {identity: {}}]"
	if err := c.Set(configuration("- {resources: [secrets], providers: "+providers+"}"), silent); err != nil {
		f.Fatal(err)
	}
	s := Wrap(nil, c)
	f.Fuzz(func(t *testing.T, value []byte) {
		_ = s.open(t.Context(), &store.Record{Key: "/registry/secrets/n/s", Value: value})
		var e encrypted
		_ = e.unmarshal(value)
	})
}

// FuzzConfiguration reads files.
func FuzzConfiguration(f *testing.F) {
	f.Add(configuration("- {resources: ['*.apps', secrets], providers: [{kms: {apiVersion: v2, name: a, endpoint: 'unix:///x'}}, {identity: {}}]}"))
	f.Add([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		c := NewConfig(api.Kinds())
		_ = c.Set(data, silent)
	})
}
