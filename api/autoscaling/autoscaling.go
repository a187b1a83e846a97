// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package autoscaling describes HorizontalPodAutoscaler in its two served versions.
//
// autoscaling/v2 is the stored form. autoscaling/v1 shows the same objects: what it has no fields for is in annotations, as
// Kubernetes v1.36 has it. The structs come from k8s.io/api; here are their defaults, rules, columns and conversions.
package autoscaling
