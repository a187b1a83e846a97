// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"knarr.dev/api/resource"
)

// LocalSubjectAccessReviews ask what somebody may do in one namespace.
var LocalSubjectAccessReviews = resource.Define(resource.Definition[authorizationv1.LocalSubjectAccessReview]{
	Group: "authorization.k8s.io", Version: "v1", Kind: "LocalSubjectAccessReview", Resource: "localsubjectaccessreviews",
	Scope:   resource.Namespaced,
	Virtual: true,
	Verbs:   []string{"create"},
})
