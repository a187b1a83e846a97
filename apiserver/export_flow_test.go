// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import "context"

// MaintainFlows looks after the objects of priority and fairness now.
func (s *Server) MaintainFlows(ctx context.Context) error { return s.maintainFlows(ctx) }
