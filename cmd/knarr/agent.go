// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"knarr.dev/cluster"
)

func agentCommand() *cobra.Command {
	config, file := cluster.AgentConfig{}, ""
	c := &cobra.Command{
		Use:   "agent",
		Short: "Make this machine a node of a cluster, in the foreground",
		Long: "Make this machine a node of a cluster, in the foreground.\n\n" +
			"The first start needs --server and --token; `knarr token create --print-join-command` on the server prints the whole\n" +
			"command. Later starts need neither: the node's certificate is in the data directory, and renews itself.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := loadAgent(c, file, &config); err != nil {
				return err
			}
			log, _, err := logger(config.LogLevel, cluster.LogText, 0)
			if err != nil {
				return err
			}
			begin := time.Now()
			a, err := cluster.StartAgent(c.Context(), config, log)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "knarr ready in %v  node %s of %s\n", time.Since(begin).Round(time.Millisecond), a.Node(), a.Server())
			go keepSmall(c.Context())
			<-a.Done() // ctx ended or something failed
			return a.Close()
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration `FILE`; flags win over it")
	f.StringVar(&config.Server, "server", "", "`URL` of the API server")
	f.StringVar(&config.Token, "token", "", "token of knarr token create; only to join")
	f.StringVar(&config.CAHash, "ca-hash", "", "hash of the cluster's CA, sha256:..., to join no other cluster than that")
	f.StringVar(&config.DataDir, "data-dir", "", "directory of all state (default "+cluster.DefaultDataDir()+")")
	f.StringVar(&config.NodeName, "node-name", "", "name of the node (default the host name)")
	f.StringVar(&config.NodeIP, "node-ip", "", "IPv4 `ADDRESS` of the node (default the one used towards the server)")
	f.StringVar(&config.ContainerRuntimeEndpoint, "container-runtime-endpoint", "", "`SOCKET` of a running containerd (default: start one)")
	f.BoolVar(&config.KeepPods, "keep-pods", false, "leave containers running at the end; the next start adopts them")
	evictionFlag(f, &config.EvictionHard)
	f.StringVar(&config.LogLevel, "log-level", "", "debug, info, warn or error (default warn)")
	return c
}

// evictionFlag adds --eviction-hard, which all commands with nodes have.
func evictionFlag(f *pflag.FlagSet, value *string) {
	f.StringVar(value, "eviction-hard", "", "`THRESHOLDS` of a node: with less left it gets no new pods (default "+cluster.DefaultEvictionHard+")")
}

// loadAgent merges a configuration file with the flags, which win.
func loadAgent(c *cobra.Command, file string, config *cluster.AgentConfig) error {
	if file == "" {
		return nil
	}
	flags := *config
	*config = cluster.AgentConfig{}
	if err := cluster.LoadConfig(file, config); err != nil {
		return err
	}
	for _, m := range []struct {
		flag     string
		to, from *string
	}{
		{"server", &config.Server, &flags.Server}, {"token", &config.Token, &flags.Token}, {"ca-hash", &config.CAHash, &flags.CAHash},
		{"data-dir", &config.DataDir, &flags.DataDir}, {"node-name", &config.NodeName, &flags.NodeName},
		{"node-ip", &config.NodeIP, &flags.NodeIP}, {"eviction-hard", &config.EvictionHard, &flags.EvictionHard}, {"log-level", &config.LogLevel, &flags.LogLevel},
		{"container-runtime-endpoint", &config.ContainerRuntimeEndpoint, &flags.ContainerRuntimeEndpoint},
	} {
		if c.Flags().Changed(m.flag) {
			*m.to = *m.from
		}
	}
	if c.Flags().Changed("keep-pods") {
		config.KeepPods = flags.KeepPods
	}
	return nil
}
