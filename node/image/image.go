// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package image brings container images to a node: it imports archives, pulls by policy, and carries the sandbox image.
//
// Start at Import for archives and at Puller for pods.
package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Namespace is where containerd keeps what Kubernetes uses.
const Namespace = "k8s.io"

// Import loads an archive, as package oci, docker save or an OCI layout has it, into the containerd that listens on
// the unix socket. It uses containerd's own client program, ctr.
func Import(ctx context.Context, socket, file string) error {
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("import image: %w", err)
	}
	out, err := exec.CommandContext(ctx, "ctr", "-a", socket, "-n", Namespace, "images", "import", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("import image %s: %w: %s", file, err, strings.TrimSpace(string(out)))
	}
	return nil
}
