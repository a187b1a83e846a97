// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Command kubectl132 is the stock kubectl of Kubernetes 1.32, the oldest that is tested against this server.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
		os.Exit(1)
	}
}
