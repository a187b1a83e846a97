// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package authn finds out who sent a request: by client certificate or bearer token.
//
// It does not decide what they may do; that is authz.
package authn

import (
	"net/http"

	"knarr.dev/api/call"
)

// Names of built-in users and groups.
const (
	Anonymous            = "system:anonymous"
	GroupUnauthenticated = "system:unauthenticated"
	GroupAuthenticated   = "system:authenticated"
	GroupMasters         = "system:masters"
	GroupNodes           = "system:nodes"
	GroupServiceAccounts = "system:serviceaccounts"
)

// Authenticator recognises one kind of credential.
type Authenticator interface {
	// Authenticate returns who sent the request; nil if it carries no credential of this kind; an error if the credential
	// is bad, which ends in 401.
	Authenticate(r *http.Request) (*call.Identity, error)
}
