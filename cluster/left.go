// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"knarr.dev/cluster/internal/enroll"
	"knarr.dev/cluster/internal/nodenet"
	"knarr.dev/node"
	"knarr.dev/proxy"
)

// left is what stays on the machine when a process is killed. It is noted before any of it is made, and forgotten when all of it is
// gone.
type left struct {
	// Network is what lies under nodes; without ID there is none.
	Network nodenet.Plan `json:"network"`
	// Pods is the range of all pods, to which there may be routes.
	Pods netip.Prefix `json:"pods"`
	// Proxies are those of this machine; Nodes are its real nodes.
	Proxies []proxy.Config `json:"proxies"`
	Nodes   []leftNode     `json:"nodes"`
}

// leftNode is what node.Clear needs to know.
type leftNode struct {
	DataDir string       `json:"dataDir"`
	NetNS   string       `json:"netNS,omitempty"`
	PodCIDR netip.Prefix `json:"podCIDR"`
	Bridge  string       `json:"bridge"`
	Runtime string       `json:"runtime,omitempty"` // empty: its own
}

// ErrNothingLeft says that Clear found no cluster that was killed.
var ErrNothingLeft = errors.New("nothing is left of a cluster that was killed")

// leftFile is where a data directory has what would be left.
func leftFile(dataDir string) string { return filepath.Join(dataDir, "run", "left.json") }

func (l *left) save(dataDir string) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	name := leftFile(dataDir)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return enroll.WriteFile(name, data, 0o600)
}

func readLeft(dataDir string) (*left, error) {
	name := leftFile(dataDir)
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	l := &left{}
	if err := json.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}

func forgetLeft(dataDir string) error {
	err := os.Remove(leftFile(dataDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// leaves is what this process will have left if it is killed.
func (c *Cluster) leaves() (*left, error) {
	l := &left{Network: c.network, Pods: c.network.Pods}
	var err error
	if l.Proxies, err = c.proxyConfigs(); err != nil {
		return nil, err
	}
	for i := range c.config.Nodes {
		n, err := c.nodeConfig(i)
		if err != nil {
			return nil, err
		}
		l.Nodes = append(l.Nodes, leftNode{DataDir: n.DataDir, NetNS: n.NetNS, PodCIDR: n.PodCIDR, Bridge: n.Bridge, Runtime: n.ContainerdSocket})
	}
	return l, nil
}

// Clear ends what the cluster or agent of a data directory left on this machine when it was killed, or kept when it was told to: containers
// and their runtimes, mounts, control groups, links, rules and routes. The data stay, so that it can be started again. It returns
// ErrNothingLeft if there is nothing, and an error if the directory is in use.
func Clear(ctx context.Context, dataDir string, log *slog.Logger) error {
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(leftFile(dataDir)); errors.Is(err, os.ErrNotExist) {
		return ErrNothingLeft // nor is a directory made for the lock
	}
	unlock, err := lockDir(dataDir)
	if err != nil {
		return err
	}
	l, err := readLeft(dataDir)
	if err != nil {
		return errors.Join(err, unlock())
	}
	err = l.clear(ctx, log)
	if err == nil {
		err = forgetLeft(dataDir)
	}
	return errors.Join(err, unlock())
}

func (l *left) clear(ctx context.Context, log *slog.Logger) error {
	runtime := ""
	if len(l.Nodes) > 0 {
		runtime = l.Nodes[0].Runtime
	}
	if err := canRunNodes(runtime); err != nil {
		return err
	}
	var problems []error
	for _, n := range l.Nodes {
		if n.NetNS != "" && !isNamespace(n.NetNS) {
			continue // the machine was started anew: nothing runs there
		}
		config := node.Config{DataDir: n.DataDir, NetNS: n.NetNS, PodCIDR: n.PodCIDR, Bridge: n.Bridge, ContainerdSocket: n.Runtime}
		if err := node.Clear(ctx, config, log); err != nil {
			problems = append(problems, fmt.Errorf("pods below %s: %w", n.DataDir, err))
		}
	}
	for _, p := range l.Proxies {
		if p.NetNS != "" {
			continue // goes with its namespace
		}
		if err := proxy.Clear(ctx, p, log); err != nil {
			problems = append(problems, fmt.Errorf("service rules: %w", err))
		}
	}
	if l.Pods.IsValid() {
		problems = append(problems, nodenet.Routes(l.Pods, nil))
	}
	if l.Network.ID != "" {
		problems = append(problems, l.Network.Down())
	}
	return errors.Join(problems...)
}

// isNamespace tells whether a file stands for a network namespace.
func isNamespace(file string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(file, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}
