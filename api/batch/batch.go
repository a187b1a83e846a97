// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package batch describes the kinds of batch/v1, one file each, and the schedules of cron jobs.
//
// The structs come from k8s.io/api/batch/v1; here are their defaults, rules and columns, as Kubernetes v1.36 has them.
package batch
