// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Applier is what a Host drives: the kernel, or a recorder in tests.
type Applier interface {
	// Apply carries out an nft script as one transaction.
	Apply(ctx context.Context, script string) error
	// Forget ends the tracked connections of a flow; an empty endpoint means those that were not sent on.
	Forget(ctx context.Context, flow Flow) error
}

// Host keeps one table of a Linux network namespace. It is for one goroutine.
type Host struct {
	table   string
	applier Applier
	state   *state
}

// NewHost returns the keeper of the named table, which must belong to nobody else. Nothing is known of it: Sync first.
func NewHost(table string, applier Applier) *Host {
	return &Host{table: table, applier: applier, state: newState()}
}

// Sync replaces the table as a whole.
func (h *Host) Sync(ctx context.Context, t Table) error {
	fresh := newState()
	c := fresh.update(h.table, t.Parts)
	script := h.remove() + "table ip " + h.table + " {\n" + t.Base + "}\n" + c.script()
	if err := h.applier.Apply(ctx, script); err != nil {
		return err
	}
	h.state = fresh
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
	var problems []error
	for _, f := range c.flows {
		problems = append(problems, h.applier.Forget(ctx, f))
	}
	return errors.Join(problems...)
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

// Namespace applies scripts with nft in a network namespace.
type Namespace struct {
	// Path is the namespace's file; empty is the namespace of this process.
	Path string
}

// Apply runs nft.
func (n Namespace) Apply(ctx context.Context, script string) error {
	return n.run(ctx, script, "nft", "-f", "-")
}

// Forget runs conntrack, if the node has it.
func (n Namespace) Forget(ctx context.Context, f Flow) error {
	args := []string{"conntrack", "-D", "-p", "udp", "--orig-dst", f.Address, "--orig-port-dst", fmt.Sprint(f.Port)}
	if f.Endpoint != "" {
		args = append(args, "--reply-src", f.Endpoint)
	} else {
		args = append(args, "--reply-src", f.Address)
	}
	err := n.run(ctx, "", args...)
	if err == nil || errors.Is(err, exec.ErrNotFound) || strings.Contains(err.Error(), "0 flow entries have been deleted") {
		return nil
	}
	return err
}

func (n Namespace) run(ctx context.Context, input string, args ...string) error {
	name := args[0]
	if n.Path != "" {
		args = append([]string{"nsenter", "--net=" + n.Path, "--"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		text := output.String()
		if len(text) > 2000 {
			text = text[:2000] + "..."
		}
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(text))
	}
	return nil
}
