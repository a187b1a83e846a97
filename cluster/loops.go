// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"net/netip"

	"knarr.dev/apiserver/authz"
)

// extend gives the program's own loops their roles.
func (c *Cluster) extend(*authz.Policy) {}

func (c *Cluster) startLoops(context.Context) error     { return nil }
func (c *Cluster) startScheduler(context.Context) error { return nil }
func (c *Cluster) startSimulated(context.Context) error { return nil }
func (c *Cluster) startDNS(context.Context) error       { return nil }

func (c *Cluster) startProxy(string, netip.Addr, string) error { return nil }
