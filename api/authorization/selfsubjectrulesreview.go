// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"knarr.dev/api/resource"
)

// SelfSubjectRulesReviews list what the asker may do in a namespace.
var SelfSubjectRulesReviews = resource.Define(resource.Definition[authorizationv1.SelfSubjectRulesReview]{
	Group: "authorization.k8s.io", Version: "v1", Kind: "SelfSubjectRulesReview", Resource: "selfsubjectrulesreviews",
	Scope:   resource.Cluster,
	Virtual: true,
	Verbs:   []string{"create"},
})
