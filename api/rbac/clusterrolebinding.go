// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// ClusterRoleBindings give a cluster role to subjects everywhere.
var ClusterRoleBindings = resource.WithList(resource.Define(resource.Definition[rbacv1.ClusterRoleBinding]{
	Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding", Resource: "clusterrolebindings",
	Scope:          resource.Cluster,
	Name:           path.ValidatePathSegmentName,
	CreateOnUpdate: true,
	Default:        func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	ValidateUpdate: func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList { return sameRole(b.RoleRef, old.RoleRef) },
	Validate: func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
		return validateBinding(&b.RoleRef, b.Subjects, "ClusterRole")
	},
	Columns: []resource.Column[rbacv1.ClusterRoleBinding]{
		{Name: "Role", Value: func(b *rbacv1.ClusterRoleBinding, _ time.Time) any { return b.RoleRef.Kind + "/" + b.RoleRef.Name }},
		{Name: "Age", Value: func(b *rbacv1.ClusterRoleBinding, now time.Time) any {
			return duration.HumanDuration(now.Sub(b.CreationTimestamp.Time))
		}},
		{Name: "Users", Wide: true, Value: func(b *rbacv1.ClusterRoleBinding, _ time.Time) any { return subjects(b.Subjects, rbacv1.UserKind) }},
		{Name: "Groups", Wide: true, Value: func(b *rbacv1.ClusterRoleBinding, _ time.Time) any { return subjects(b.Subjects, rbacv1.GroupKind) }},
		{Name: "ServiceAccounts", Wide: true, Value: func(b *rbacv1.ClusterRoleBinding, _ time.Time) any {
			return subjects(b.Subjects, rbacv1.ServiceAccountKind)
		}},
	},
	StoragePath: "clusterrolebindings",
}), func() runtime.Object { return new(rbacv1.ClusterRoleBindingList) })
