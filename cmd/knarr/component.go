// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"knarr.dev/cluster"
)

// componentRun runs one part of a cluster until its context ends.
type componentRun func(ctx context.Context, config cluster.ComponentConfig, started func(server string), log *slog.Logger) error

func controllerManagerCommand() *cobra.Command {
	return componentCommand("controller-manager", "Run the control loops against any Kubernetes API server", cluster.RunControllerManager,
		func(c *cluster.ComponentConfig) []flag {
			return []flag{
				electFlag(c),
				{"controllers", "control loops: *, NAME or -NAME (default *)", &c.Controllers},
				{"root-ca-file", "`FILE` of the API server's authority, which pods get (default that of the kubeconfig)", &c.RootCAFile},
				{"pod-cidr", "range that nodes get parts of for their pods (default: they get none)", &c.PodCIDR},
			}
		})
}

func schedulerCommand() *cobra.Command {
	return componentCommand("scheduler", "Run the scheduler against any Kubernetes API server", cluster.RunScheduler,
		func(c *cluster.ComponentConfig) []flag {
			return []flag{
				electFlag(c),
				{"scheduler-name", "schedulerName of the pods to schedule (default default-scheduler)", &c.SchedulerName},
			}
		})
}

func proxyCommand() *cobra.Command {
	return componentCommand("proxy", "Run the service proxy of this machine against any Kubernetes API server", cluster.RunProxy,
		func(c *cluster.ComponentConfig) []flag {
			return []flag{
				{"pod-cidr", "range of pod addresses", &c.PodCIDR},
				{"service-cidr", "range of Service addresses (default what the API server says)", &c.ServiceCIDR},
				{"node-name", "name of the node (default the host name)", &c.NodeName},
				{"node-ip", "IPv4 `ADDRESS` of the node (default the one that the Node has)", &c.NodeIP},
			}
		})
}

func electFlag(c *cluster.ComponentConfig) flag {
	return flag{"leader-elect", "act only while holding the lease that Kubernetes' own competes for (default true)", &c.LeaderElect}
}

// componentCommand is a command for one part of a cluster; flags are those that are its own.
func componentCommand(name, short string, run componentRun, own func(*cluster.ComponentConfig) []flag) *cobra.Command {
	config, file := cluster.ComponentConfig{}, ""
	flags := func(c *cluster.ComponentConfig) []flag {
		return append([]flag{
			{"kubeconfig", "kubeconfig `FILE` that says where the API server is, and who asks", &c.Kubeconfig},
			{"context", "context of that file (default the current one)", &c.Context},
			{"log-level", "debug, info, warn or error (default warn)", &c.LogLevel},
		}, own(c)...)
	}
	c := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if file != "" {
				given := config
				config = cluster.ComponentConfig{}
				if err := cluster.LoadConfig(file, &config); err != nil {
					return err
				}
				overrideFlags(flags(&config), flags(&given), c.Flags().Changed)
			}
			log, _, err := logger(config.LogLevel, cluster.LogText, 0)
			if err != nil {
				return err
			}
			go keepSmall(c.Context())
			return run(c.Context(), config, func(server string) {
				fmt.Fprintf(c.OutOrStdout(), "knarr %s runs against %s\n", name, server)
			}, log)
		},
	}
	c.Flags().StringVar(&file, "config", "", "configuration `FILE`; flags win over it")
	bindFlags(c.Flags(), flags(&config))
	return c
}
