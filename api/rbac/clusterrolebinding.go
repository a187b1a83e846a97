// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// ClusterRoleBindings give a cluster role to subjects everywhere.
var ClusterRoleBindings = resource.WithList(resource.Define(resource.Definition[rbacv1.ClusterRoleBinding]{
	Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding", Resource: "clusterrolebindings",
	Scope:       resource.Cluster,
	StoragePath: "clusterrolebindings",
}), func() runtime.Object { return new(rbacv1.ClusterRoleBindingList) })
