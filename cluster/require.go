// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// canRunNodes says what this machine lacks to be a node; runtime is the socket of a running container runtime, or empty.
func canRunNodes(runtime string) error {
	var problems []string
	if os.Geteuid() != 0 {
		problems = append(problems, "root (run as root)")
	}
	programs := []struct{ name, from string }{{"nft", "nftables"}, {"nsenter", "util-linux"}}
	if runtime == "" {
		programs = append(programs, struct{ name, from string }{"containerd", "containerd"})
	} else if _, err := os.Stat(strings.TrimPrefix(runtime, "unix://")); err != nil {
		problems = append(problems, fmt.Sprintf("the container runtime (%v)", err))
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p.name); err != nil {
			problems = append(problems, fmt.Sprintf("the program %s (install the package %s)", p.name, p.from))
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return errors.New("a node with real containers needs " + strings.Join(problems, " and "))
}
