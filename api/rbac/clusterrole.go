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

// ClusterRoles allow things, cluster-wide or wherever a RoleBinding puts them.
var ClusterRoles = resource.WithList(resource.Define(resource.Definition[rbacv1.ClusterRole]{
	Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole", Resource: "clusterroles",
	Scope:          resource.Cluster,
	Name:           path.ValidatePathSegmentName,
	CreateOnUpdate: true,
	PrepareCreate:  func(r *rbacv1.ClusterRole) { r.Rules = noneIfEmpty(r.Rules) },
	PrepareUpdate:  func(r, _ *rbacv1.ClusterRole) { r.Rules = noneIfEmpty(r.Rules) },
	Validate: func(r *rbacv1.ClusterRole) field.ErrorList {
		return append(validateRules(r.Rules, false), validateAggregation(r.AggregationRule, field.NewPath("aggregationRule"))...)
	},
	Columns: []resource.Column[rbacv1.ClusterRole]{
		{Name: "Created At", Type: "date", Value: func(r *rbacv1.ClusterRole, _ time.Time) any { return r.CreationTimestamp.UTC().Format(time.RFC3339) }},
	},
	StoragePath: "clusterroles",
}), func() runtime.Object { return new(rbacv1.ClusterRoleList) })
