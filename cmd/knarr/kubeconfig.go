// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"knarr.dev/cluster"
)

func kubeconfigCommand() *cobra.Command {
	dir, file, name, merge := "", "", "", false
	c := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the administrator's kubeconfig, or merge it into ~/.kube/config",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				file = filepath.Join(dir, "admin.kubeconfig")
			}
			admin, err := clientcmd.LoadFromFile(file)
			if err != nil {
				return fmt.Errorf("the administrator's kubeconfig: %w; has the cluster started, with this --data-dir and no other --kubeconfig?", err)
			}
			if !merge {
				data, err := clientcmd.Write(*admin)
				if err != nil {
					return err
				}
				_, err = c.OutOrStdout().Write(data)
				return err
			}
			return mergeKubeconfig(c, admin, name)
		},
	}
	c.Flags().StringVar(&dir, "data-dir", cluster.DefaultDataDir(), "directory of the cluster's state")
	c.Flags().StringVar(&file, "kubeconfig", "", "the administrator's kubeconfig, if the cluster writes it to another `FILE` than DATA-DIR/admin.kubeconfig")
	c.Flags().StringVar(&name, "context", "knarr", "name of the context to write with --merge")
	c.Flags().BoolVar(&merge, "merge", false, "add a context to $KUBECONFIG or ~/.kube/config and make it the current one")
	return c
}

// mergeKubeconfig adds admin's cluster and user under one name; everything else in the file stays.
func mergeKubeconfig(c *cobra.Command, admin *clientcmdapi.Config, name string) error {
	current := admin.Contexts[admin.CurrentContext]
	if current == nil {
		return fmt.Errorf("the kubeconfig has no current context")
	}
	paths := clientcmd.NewDefaultPathOptions()
	config, err := paths.GetStartingConfig()
	if err != nil {
		return err
	}
	server, user := admin.Clusters[current.Cluster], admin.AuthInfos[current.AuthInfo]
	server.LocationOfOrigin, user.LocationOfOrigin = "", ""
	config.Clusters[name], config.AuthInfos[name] = server, user
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	if err := clientcmd.ModifyConfig(paths, *config, false); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "context %q is in %s and current\n", name, paths.GetDefaultFilename())
	return err
}
