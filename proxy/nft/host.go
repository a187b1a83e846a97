// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
)

// Applier is what a Host drives: the kernel, or a recorder in tests.
type Applier interface {
	// Apply carries out an nft script as one transaction.
	Apply(ctx context.Context, script string) error
	// Forget ends the tracked UDP connections that are stale.
	Forget(stale func(front, endpoint netip.AddrPort) bool) error
}

// Host keeps one table of a Linux network namespace. It is for one goroutine.
type Host struct {
	table   string
	applier Applier
	log     *slog.Logger
	state   *state
	told    bool // that connections cannot be forgotten
}

// NewHost returns the keeper of the named table, which must belong to nobody else. Nothing is known of it: Sync first.
func NewHost(table string, applier Applier, log *slog.Logger) *Host {
	return &Host{table: table, applier: applier, log: log, state: newState()}
}

// Sync replaces the table as a whole, in one transaction: no packet sees it missing.
func (h *Host) Sync(ctx context.Context, t Table) error {
	fresh := newState()
	c := fresh.update(h.table, t.Parts)
	for owner, was := range h.state.parts {
		if _, stays := t.Parts[owner]; !stays {
			c.flows(was, Part{})
		}
	}
	script := h.remove() + "table ip " + h.table + " {\n" + t.Base + "}\n" + c.script()
	if err := h.applier.Apply(ctx, script); err != nil {
		return err
	}
	h.state = fresh
	h.forget(c.fronts)
	return nil
}

// Update changes the given parts, empty ones go, and leaves the others. After an error the table is as before,
// but Sync must come next.
func (h *Host) Update(ctx context.Context, parts map[string]Part) error {
	c := h.state.update(h.table, parts)
	if script := c.script(); script != "" {
		if err := h.applier.Apply(ctx, script); err != nil {
			return err
		}
	}
	h.forget(c.fronts)
	return nil
}

// forget comes after the rules, or the next packet would bring the entry back. A kernel that cannot do it costs UDP clients of a
// removed endpoint a timeout, no more, so it is said once.
func (h *Host) forget(fronts Fronts) {
	if len(fronts) == 0 {
		return
	}
	if err := h.applier.Forget(fronts.Stale); err != nil && !h.told {
		h.told = true
		h.log.Warn("UDP connections to removed endpoints end by timeout only", "err", err)
	}
}

// Remove removes the table.
func (h *Host) Remove(ctx context.Context) error {
	h.state = newState()
	return h.applier.Apply(ctx, h.remove())
}

// remove removes the table, whether it exists or not.
func (h *Host) remove() string {
	return fmt.Sprintf("table ip %s\ndelete table ip %s\n", h.table, h.table)
}
