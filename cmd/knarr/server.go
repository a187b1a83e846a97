// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"knarr.dev/cluster"
)

func serverCommand() *cobra.Command {
	s := &serving{}
	s.config.Role = cluster.RoleServer
	c := &cobra.Command{
		Use:   "server",
		Short: "Run a control plane without nodes",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return s.loadAndRun(c) },
	}
	s.bind(c)
	c.Flags().StringVar(&s.config.PodCIDR, "pod-cidr", "", "range of pod addresses (default 10.42.0.0/16)")
	c.Flags().StringVar(&s.config.NodeCIDR, "node-cidr", "", "range of node addresses of one machine (default 10.44.0.0/16)")
	c.Flags().StringSliceVar(&s.config.Controllers, "controllers", nil, "control loops: *, NAME or -NAME (default *)")
	return c
}

func apiserverCommand() *cobra.Command {
	s := &serving{}
	s.config.Role = cluster.RoleAPIServer
	c := &cobra.Command{
		Use:   "apiserver",
		Short: "Run the API server and its store alone",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return s.loadAndRun(c) },
	}
	s.bind(c)
	return c
}

func (s *serving) loadAndRun(c *cobra.Command) error {
	if err := s.load(c); err != nil {
		return err
	}
	return s.run(c.Context(), c.OutOrStdout())
}

// etcdFlags are named as those of kube-apiserver.
func etcdFlags(c *cluster.EtcdConfig) []flag {
	return []flag{
		{"etcd-servers", "URLs of an etcd cluster that holds the objects (default: they are in the data directory)", &c.Servers},
		{"etcd-cafile", "`FILE` of the authorities of etcd's certificates", &c.CAFile},
		{"etcd-certfile", "`FILE` of the certificate for etcd", &c.CertFile},
		{"etcd-keyfile", "`FILE` of the key of that certificate", &c.KeyFile},
		{"etcd-prefix", "how keys in etcd begin (default /registry)", &c.Prefix},
		{"etcd-compaction-interval", "how often history in etcd that is older is dropped (default 5m; negative never)", &c.CompactionInterval},
	}
}

// servingFlags are named as those of kube-apiserver.
func servingFlags(c *cluster.ServingConfig) []flag {
	return []flag{
		{"shutdown-delay-duration", "how long to go on with everything but /readyz when told to end", &c.ShutdownDelayDuration},
		{"shutdown-send-retry-after", "while the last requests finish, keep listening and tell new ones to try again", &c.ShutdownSendRetryAfter},
		{"shutdown-watch-termination-grace-period", "time over which watches are ended", &c.ShutdownWatchTerminationGracePeriod},
		{"profiling", "serve profiles at /debug/pprof (default true)", &c.Profiling},
		{"tracing-config-file", "`FILE` that says which requests are traced, and the collector of traces (apiserver.config.k8s.io TracingConfiguration)", &c.TracingConfigFile},
		{"kubelet-preferred-address-types", "types of node addresses to call nodes at, the most wanted first (default Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP; with up and server InternalIP first)", &c.KubeletPreferredAddressTypes},
	}
}
