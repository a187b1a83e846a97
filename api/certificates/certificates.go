// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package certificates describes the kinds of certificates.k8s.io/v1, one file each.
//
// The structs come from k8s.io/api/certificates/v1; here are their defaults, rules and columns, as Kubernetes v1.36 has them.
// Who made a request, and who may approve and sign one, is the matter of an admission step.
package certificates
