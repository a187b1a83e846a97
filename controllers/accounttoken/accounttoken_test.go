// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package accounttoken

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func secret(uid string, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s", Annotations: map[string]string{corev1.ServiceAccountUIDKey: uid}},
		Type:       corev1.SecretTypeServiceAccountToken, Data: data,
	}
}

func TestPlan(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "sa", UID: "u"}}
	full := map[string][]byte{"token": []byte("t"), "ca.crt": []byte("ca"), "namespace": []byte("n")}
	for name, test := range map[string]struct {
		account *corev1.ServiceAccount
		secret  *corev1.Secret
		want    steps
	}{
		"new":                  {account, secret("", nil), steps{fill: true, token: true}},
		"full":                 {account, secret("u", full), steps{}},
		"old authority":        {account, secret("u", map[string][]byte{"token": []byte("t"), "ca.crt": []byte("x"), "namespace": []byte("n")}), steps{fill: true}},
		"account gone":         {nil, secret("u", full), steps{remove: true}},
		"of another account":   {account, secret("v", full), steps{remove: true}},
		"never had an account": {nil, secret("", nil), steps{remove: true}},
	} {
		if got := plan(test.account, test.secret, []byte("ca")); got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	tracked := now.AddDate(-3, 0, 0)
	account := &corev1.ServiceAccount{Secrets: []corev1.ObjectReference{{Name: "s"}}}
	for name, test := range map[string]struct {
		account *corev1.ServiceAccount
		labels  map[string]string
		created time.Time
		want    verdict
	}{
		"never used":        {account, nil, tracked, invalidate},
		"used lately":       {account, map[string]string{lastUsed: "2029-12-01"}, tracked, keep},
		"used long ago":     {account, map[string]string{lastUsed: "2028-01-01"}, tracked, invalidate},
		"invalid for long":  {account, map[string]string{invalidSince: "2028-06-01"}, tracked, remove},
		"invalid since now": {account, map[string]string{invalidSince: "2029-12-31"}, tracked, keep},
		"young":             {account, nil, now, keep},
		"made by somebody":  {&corev1.ServiceAccount{}, nil, tracked, keep},
	} {
		s := secret("u", nil)
		s.Labels, s.CreationTimestamp = test.labels, metav1.NewTime(test.created)
		if got := age(s, test.account, tracked, now); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
