// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"

	"knarr.dev/apiserver/watchcache"
)

// writeTable answers with a Table.
func (s *Server) writeTable(w http.ResponseWriter, r *http.Request, reg *registry, form accepted, code int, a *answer) error {
	return notAcceptable(representations)
}

// appendTable appends the Table of one watch event.
func (s *Server) appendTable(dst []byte, reg *registry, form accepted, e *watchcache.Entry, columns bool) ([]byte, error) {
	return dst, notAcceptable(representations)
}
