// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/resource"
)

// ServiceAccounts are the identities of programs.
var ServiceAccounts = resource.WithList(resource.Define(resource.Definition[corev1.ServiceAccount]{
	Group: "", Version: "v1", Kind: "ServiceAccount", Resource: "serviceaccounts",
	ShortNames:    []string{"sa"},
	Scope:         resource.Namespaced,
	PrepareCreate: func(s *corev1.ServiceAccount) { s.Secrets = onlyNames(s.Secrets) },
	PrepareUpdate: func(s, _ *corev1.ServiceAccount) { s.Secrets = onlyNames(s.Secrets) },
	Subresources: resource.Subresources[corev1.ServiceAccount]{Others: []resource.Subresource{
		{Name: "token", Kind: schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest"}, Verbs: []string{"create"}},
	}},
}), func() runtime.Object { return new(corev1.ServiceAccountList) })

// onlyNames leaves of references to secrets what counts.
func onlyNames(secrets []corev1.ObjectReference) []corev1.ObjectReference {
	for i := range secrets {
		secrets[i] = corev1.ObjectReference{Name: secrets[i].Name}
	}
	return secrets
}
