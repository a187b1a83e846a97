// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"knarr.dev/api/resource"
)

// SubjectAccessReviews ask what somebody may do.
var SubjectAccessReviews = resource.Define(resource.Definition[authorizationv1.SubjectAccessReview]{
	Group: "authorization.k8s.io", Version: "v1", Kind: "SubjectAccessReview", Resource: "subjectaccessreviews",
	Scope:   resource.Cluster,
	Virtual: true,
	Verbs:   []string{"create"},
})
