// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"knarr.dev/cluster"
)

// kubeAPIServerName is a name of this program: a link of that name, first in a directory that envtest is given, takes the place of
// Kubernetes' API server.
const kubeAPIServerName = "kube-apiserver"

// kubeAPIServer is apiserver with the flags that Kubernetes' own has for where it listens and keeps its files.
type kubeAPIServer struct {
	serving
	certDir, bindAddress, serviceRange string
	securePort                         int
}

func kubeAPIServerCommand() *cobra.Command {
	s := &kubeAPIServer{}
	s.config.Role = cluster.RoleAPIServer
	c := &cobra.Command{
		Use:    kubeAPIServerName,
		Short:  "Run the API server as tools start Kubernetes' own",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			s.translate()
			return s.loadAndRun(c)
		},
	}
	s.bind(c)
	f := c.Flags()
	f.StringVar(&s.certDir, "cert-dir", "/var/run/kubernetes", "directory of apiserver.crt and apiserver.key, if they exist, and of all state")
	f.StringVar(&s.bindAddress, "bind-address", "0.0.0.0", "address to listen on")
	f.IntVar(&s.securePort, "secure-port", 6443, "port to listen on")
	f.StringVar(&s.serviceRange, "service-cluster-ip-range", "", "range of Service addresses (default 10.43.0.0/16)")
	f.Bool("allow-privileged", true, "privileged containers are allowed in any case")
	return c
}

// translate sets what the flags of this name say, unless apiserver's own flags do.
func (s *kubeAPIServer) translate() {
	set := func(to *string, value string) {
		if *to == "" {
			*to = value
		}
	}
	set(&s.config.DataDir, filepath.Join(s.certDir, "knarr"))
	set(&s.config.Listen, net.JoinHostPort(s.bindAddress, strconv.Itoa(s.securePort)))
	set(&s.config.ServiceCIDR, s.serviceRange)
	certificate, key := filepath.Join(s.certDir, "apiserver.crt"), filepath.Join(s.certDir, "apiserver.key")
	if _, err := os.Stat(certificate); err == nil && s.config.Security.TLSCertFile == "" {
		s.config.Security.TLSCertFile, s.config.Security.TLSPrivateKeyFile = certificate, key
	}
}
