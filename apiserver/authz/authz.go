// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package authz decides whether somebody may do something.
package authz

import (
	"context"

	"knarr.dev/api/call"
)

// Attributes are what a decision depends on.
type Attributes struct {
	User *call.Identity
	Verb string
	// Path is set, and the rest empty, for requests that name no resource (/healthz).
	Path                                                   string
	Group, Version, Resource, Subresource, Namespace, Name string
}

// Authorizer decides. The reason is for the log and, when refused, for the client.
type Authorizer interface {
	Authorize(ctx context.Context, a *Attributes) (allowed bool, reason string, err error)
}
