// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"

	"knarr.dev/api/resource"
)

// TokenReviews ask who a token is.
var TokenReviews = resource.Define(resource.Definition[authenticationv1.TokenReview]{
	Group: "authentication.k8s.io", Version: "v1", Kind: "TokenReview", Resource: "tokenreviews",
	Scope:   resource.Cluster,
	Virtual: true,
	Verbs:   []string{"create"},
})
