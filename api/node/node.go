// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package node describes the kinds of node.k8s.io/v1, one file each.
//
// The structs come from k8s.io/api/node/v1; here are their defaults, rules and columns, as Kubernetes v1.36 has them.
package node
