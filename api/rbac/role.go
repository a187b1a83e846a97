// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// Roles allow things in one namespace.
var Roles = resource.WithList(resource.Define(resource.Definition[rbacv1.Role]{
	Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role", Resource: "roles",
	Scope:          resource.Namespaced,
	Name:           path.ValidatePathSegmentName,
	CreateOnUpdate: true,
	PrepareCreate:  func(r *rbacv1.Role) { r.Rules = noneIfEmpty(r.Rules) },
	PrepareUpdate:  func(r, _ *rbacv1.Role) { r.Rules = noneIfEmpty(r.Rules) },
	Validate:       func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) },
	Columns: []resource.Column[rbacv1.Role]{
		{Name: "Created At", Type: "date", Value: func(r *rbacv1.Role, _ time.Time) any { return r.CreationTimestamp.UTC().Format(time.RFC3339) }},
	},
	StoragePath: "roles",
}), func() runtime.Object { return new(rbacv1.RoleList) })
