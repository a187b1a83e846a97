// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package bootstraptoken

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestSigned(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	token := func(id, signs, expiration string) *corev1.Secret {
		return &corev1.Secret{Data: map[string][]byte{
			"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-signing": []byte(signs), "expiration": []byte(expiration),
		}}
	}
	data := map[string]string{"kubeconfig": "content", "jws-kubeconfig-oldold": "x", "other": "y"}
	got, again, err := signed(data, []*corev1.Secret{
		token("always", "true", ""), token("soonso", "true", "2030-01-02T03:05:05Z"), token("laterl", "true", "2030-01-02T04:04:05Z"),
		token("expire", "true", "2030-01-02T03:04:05Z"), token("silent", "false", ""), token("broken", "true", "tomorrow"),
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"jws-kubeconfig-always", "jws-kubeconfig-laterl", "jws-kubeconfig-soonso", "kubeconfig", "other"}
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, want) {
		t.Errorf("got %v, want %v", keys, want)
	}
	if again != time.Minute {
		t.Errorf("again in %v, want a minute", again)
	}
	// As Kubernetes' documentation of bootstrap tokens has it: header, nothing, HMAC of header and payload.
	parts := strings.Split(got["jws-kubeconfig-always"], ".")
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil || string(header) != `{"alg":"HS256","kid":"always"}` || len(parts) != 3 || parts[1] != "" {
		t.Errorf("signature %q, header %s: %v", parts, header, err)
	}
	mac := hmac.New(sha256.New, []byte("0123456789abcdef"))
	mac.Write([]byte(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte("content"))))
	if want := base64.RawURLEncoding.EncodeToString(mac.Sum(nil)); parts[2] != want {
		t.Errorf("got %s, want %s", parts[2], want)
	}
}
