// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// ClusterRoles allow things, cluster-wide or wherever a RoleBinding puts them.
var ClusterRoles = resource.WithList(resource.Define(resource.Definition[rbacv1.ClusterRole]{
	Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole", Resource: "clusterroles",
	Scope:       resource.Cluster,
	StoragePath: "clusterroles",
}), func() runtime.Object { return new(rbacv1.ClusterRoleList) })
