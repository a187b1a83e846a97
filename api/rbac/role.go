// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Roles allow things in one namespace.
var Roles = resource.WithList(resource.Define(resource.Definition[rbacv1.Role]{
	Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role", Resource: "roles",
	Scope:       resource.Namespaced,
	StoragePath: "roles",
}), func() runtime.Object { return new(rbacv1.RoleList) })
