// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package client

// Break ends the watches of all views, as a broken connection does.
func (h *HTTP) Break() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.views {
		if end := v.end.Load(); end != nil {
			(*end)()
		}
	}
}
