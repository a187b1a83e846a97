// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"

	"knarr.dev/api/resource"
)

// SelfSubjectReviews ask who the asker is.
var SelfSubjectReviews = resource.Define(resource.Definition[authenticationv1.SelfSubjectReview]{
	Group: "authentication.k8s.io", Version: "v1", Kind: "SelfSubjectReview", Resource: "selfsubjectreviews",
	Scope:   resource.Cluster,
	Virtual: true,
	Verbs:   []string{"create"},
})
