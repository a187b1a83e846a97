// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"path/filepath"

	"knarr.dev/node"
	"knarr.dev/node/image"
)

// RuntimeSockets returns the sockets of the containerds of a data directory's nodes.
func RuntimeSockets(dataDir string) ([]string, error) {
	nodes, err := filepath.Glob(filepath.Join(dataDir, "nodes", "*"))
	if err != nil {
		return nil, err
	}
	var sockets []string
	for _, n := range nodes {
		sockets = append(sockets, node.RuntimeSocket(n))
	}
	if len(sockets) == 0 {
		return nil, fmt.Errorf("%s has no nodes: is a cluster with this data directory running?", dataDir)
	}
	return sockets, nil
}

// ImportImage imports an image archive into a containerd.
func ImportImage(ctx context.Context, socket, file string) error {
	return image.Import(ctx, socket, file)
}
