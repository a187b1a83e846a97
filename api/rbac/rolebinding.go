// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// RoleBindings give a role to subjects in one namespace.
var RoleBindings = resource.WithList(resource.Define(resource.Definition[rbacv1.RoleBinding]{
	Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding", Resource: "rolebindings",
	Scope:       resource.Namespaced,
	StoragePath: "rolebindings",
}), func() runtime.Object { return new(rbacv1.RoleBindingList) })
