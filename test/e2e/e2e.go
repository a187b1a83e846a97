// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the built program from outside: stock kubectl and client-go against real processes, on real
// containers in real network namespaces. Its tests need root, containerd, CNI plugins and nftables (`make deps`).
package e2e
