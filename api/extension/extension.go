// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package extension has the kinds that extend the API: those of apiextensions.k8s.io and apiregistration.k8s.io.
//
// Kinds turns a CustomResourceDefinition into kinds for components that need the names of custom resources and nothing of their
// schemas: the server, which checks and converts them, has its own in apiserver/crd.
package extension
