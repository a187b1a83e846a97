// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"knarr.dev/cluster"
)

func imageCommand() *cobra.Command {
	dir, socket := "", ""
	images := &cobra.Command{Use: "image", Short: "Work with the images of this machine's node(s)"}
	load := &cobra.Command{
		Use:   "import FILE...",
		Short: "Import image archives (OCI or docker save) into the containerd of every node of this machine",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, files []string) error {
			sockets := []string{socket}
			if socket == "" {
				var err error
				if sockets, err = cluster.RuntimeSockets(dir); err != nil {
					return err
				}
			}
			for _, s := range sockets {
				for _, f := range files {
					if err := cluster.ImportImage(c.Context(), s, f); err != nil {
						return err
					}
					fmt.Fprintf(c.OutOrStdout(), "imported %s into %s\n", filepath.Base(f), s)
				}
			}
			return nil
		},
	}
	load.Flags().StringVar(&dir, "data-dir", cluster.DefaultDataDir(), "directory of the cluster's state")
	load.Flags().StringVar(&socket, "container-runtime-endpoint", "", "`SOCKET` of one containerd instead")
	images.AddCommand(load)
	return images
}
