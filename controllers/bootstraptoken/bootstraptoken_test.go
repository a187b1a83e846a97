// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package bootstraptoken

import (
	"maps"
	"slices"
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
}

func TestDetachedIsAsKubernetesMakesIt(t *testing.T) {
	got, err := detached([]byte("content"), "signer", []byte("0123456789abcdef"))
	// What the bootstrapsigner of Kubernetes v1.36 was seen to write.
	const want = "eyJhbGciOiJIUzI1NiIsImtpZCI6InNpZ25lciJ9..hA-DKVaa8d6ktLwkBlyPOKAvryO4c212MpdMX0KpvY8"
	if err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}
