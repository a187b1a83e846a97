// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"knarr.dev/api/resource"
)

// SelfSubjectAccessReviews ask what the asker may do.
var SelfSubjectAccessReviews = resource.Define(resource.Definition[authorizationv1.SelfSubjectAccessReview]{
	Group: "authorization.k8s.io", Version: "v1", Kind: "SelfSubjectAccessReview", Resource: "selfsubjectaccessreviews",
	Scope:   resource.Cluster,
	Virtual: true,
	Verbs:   []string{"create"},
})
