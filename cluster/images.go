// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"knarr.dev/node"
	"knarr.dev/node/image"
)

// RuntimeSockets returns the sockets of the containerds of a data directory's nodes that run now.
func RuntimeSockets(dataDir string) ([]string, error) {
	nodes, err := filepath.Glob(filepath.Join(dataDir, "nodes", "*"))
	if err != nil {
		return nil, err
	}
	var sockets []string
	for _, n := range nodes { // some may be of an earlier run with more nodes
		socket := node.RuntimeSocket(n)
		conn, err := net.Dial("unix", socket)
		if err != nil {
			continue
		}
		conn.Close()
		sockets = append(sockets, socket)
	}
	if len(sockets) == 0 {
		return nil, fmt.Errorf("no node with data directory %s runs on this machine", dataDir)
	}
	return sockets, nil
}

// ImportImage imports an image archive into a containerd.
func ImportImage(ctx context.Context, socket, file string) error {
	return image.Import(ctx, socket, file)
}
