// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cluster puts the components together: the only package that knows all of them.
//
// Start is the table of contents of a running cluster: store, certificates, network, API server, control loops,
// scheduler, nodes, DNS, each a part with an owner, started in order and stopped in reverse. Components never meet here:
// each gets a client with an identity of its own and talks to the API server. Several clusters may run in one process.
package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"knarr.dev/api/call"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/encryption"
	"knarr.dev/apiserver/measure"
	"knarr.dev/client"
	"knarr.dev/cluster/internal/nodenet"
	"knarr.dev/pki"
	"knarr.dev/store"
)

// KubernetesVersion is the version whose API is served.
const KubernetesVersion = "v1.36.3"

// Cluster is a running cluster.
type Cluster struct {
	config  Config
	log     *slog.Logger
	parts   *supervisor
	metrics *prometheus.Registry
	figures *measure.Set // a part of metrics

	store store.Store
	// storeSize is how many bytes the store takes on disk.
	storeSize func(context.Context) (int64, error)
	pki       *pki.Set
	network   nodenet.Plan
	listener  net.Listener
	server    *apiserver.Server
	issuer    *authn.Issuer
	// unauthorized is what is wrong with the configuration of authorization.
	unauthorized error
	// anonymousRules are those of the authentication configuration, nil for none.
	anonymousRules atomic.Pointer[apiserverv1.AnonymousAuthConfig]
	encrypted      *encryption.Store
	encryption     *encryption.Config
	// loopsBegun and schedulerBegun tell that this process runs them, or waits for its turn to.
	loopsBegun, schedulerBegun atomic.Bool
}

// Start starts what config says and returns when it is ready: the API answers, and the nodes of this process are
// registered. It stops by itself when ctx ends; Close must be called in any case.
func Start(ctx context.Context, config Config, log *slog.Logger) (*Cluster, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c := &Cluster{config: config.complete(), log: log, parts: newSupervisor(), metrics: prometheus.NewRegistry(), figures: &measure.Set{}}
	c.metrics.MustRegister(c.figures)
	for _, step := range []struct {
		name string
		do   func(context.Context) error
		when bool
	}{
		{"data directory", c.lockDataDir, true},
		{"store", c.openStore, true},
		{"encryption", c.encryptStore, c.config.Security.EncryptionProviderConfig != ""},
		{"certificates", c.openPKI, true},
		{"network", c.makeNetwork, c.config.Nodes > 0},
		{"listener", c.listen, !c.config.NoSockets},
		{"API server", c.startServer, true},
		{"control loops", c.startLoops, c.config.Role != RoleAPIServer},
		{"scheduler", c.startScheduler, c.config.Role != RoleAPIServer && !c.config.NoScheduler},
		{"simulated nodes", c.startSimulated, c.config.SimulatedNodes > 0},
		{"service proxies", c.startProxies, c.config.Nodes > 0},
		{"DNS", c.startDNS, c.config.Role != RoleAPIServer},
		{"routes", c.startRoutes, c.joinable() && c.config.Nodes < 2},
		{"nodes", c.startNodes, c.config.Nodes > 0},
	} {
		if !step.when {
			continue
		}
		if err := step.do(ctx); err != nil {
			c.parts.stop()
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	stop := context.AfterFunc(ctx, c.parts.end)
	c.parts.onStop("context", func() error { stop(); return nil })
	return c, nil
}

// Done is closed when the context of Start ended or a part failed; Close tells which.
func (c *Cluster) Done() <-chan struct{} { return c.parts.done }

// Close stops everything and returns what went wrong since the start.
func (c *Cluster) Close() error {
	if c.server != nil {
		c.server.Drain() // what is started after it stops before it
	}
	return c.parts.stop()
}

// URL is the address of the API server; empty without sockets.
func (c *Cluster) URL() string {
	if c.listener == nil {
		return ""
	}
	return "https://" + c.address()
}

// address is HOST:PORT of the API server; empty without sockets.
func (c *Cluster) address() string {
	if c.listener == nil {
		return ""
	}
	bound := c.listener.Addr().(*net.TCPAddr).AddrPort()
	if !bound.Addr().IsUnspecified() {
		return bound.String()
	}
	if ip, ok := c.outside(); ok {
		return netip.AddrPortFrom(ip, bound.Port()).String()
	}
	return netip.AddrPortFrom(loopback(), bound.Port()).String()
}

// outside is the address at which other machines reach the API server; false if it listens to this machine alone.
func (c *Cluster) outside() (netip.Addr, bool) {
	if c.listener == nil {
		return netip.Addr{}, false
	}
	ip := c.listener.Addr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if ip.IsUnspecified() {
		return MachineAddress("")
	}
	return ip, !ip.IsLoopback()
}

// KubeconfigFile is where the administrator's kubeconfig is.
func (c *Cluster) KubeconfigFile() string { return c.config.Kubeconfig }

// Server is the API server, for programs that embed a cluster.
func (c *Cluster) Server() *apiserver.Server { return c.server }

// Client returns an in-process client under an identity.
func (c *Cluster) Client(identity call.Identity) *client.Client {
	return client.New(c.server.Transport(identity))
}

// Administrator is the identity that may do everything.
func Administrator() call.Identity {
	return call.Identity{Name: "admin", Groups: []string{"system:masters", "system:authenticated"}}
}

func (c *Cluster) openPKI(context.Context) error {
	set, err := pki.Open(filepath.Join(c.config.DataDir, "pki"), pki.Options{Log: c.log})
	if err != nil {
		return err
	}
	c.pki = set
	if !c.config.NoSockets {
		c.parts.run("certificate renewal", set.Run)
	}
	return nil
}

// makeNetwork makes the bridge and, with several nodes, their network namespaces.
func (c *Cluster) makeNetwork(context.Context) error {
	if err := canRunNodes(c.config.ContainerRuntimeEndpoint); err != nil {
		return fmt.Errorf("%w; or use --simulated-nodes N, which needs none of that", err)
	}
	c.network = nodenet.Plan{
		ID:     nodenet.ID(c.config.DataDir),
		Nodes:  netip.MustParsePrefix(c.config.NodeCIDR),
		Pods:   netip.MustParsePrefix(c.config.PodCIDR),
		RunDir: filepath.Join(c.config.DataDir, "run"),
	}
	if c.config.Nodes > 1 {
		for i := range c.config.Nodes {
			c.network.Namespaced = append(c.network.Namespaced, nodenet.Node{
				Name:    c.nodeName(i),
				Address: nth(c.network.Nodes, 11+i),
				Pods:    podRange(c.network.Pods, i),
			})
		}
	}
	left, err := c.leaves()
	if err != nil {
		return err
	}
	if err := left.save(c.config.DataDir); err != nil {
		return err
	}
	c.parts.onStop("network", func() error {
		if c.config.KeepPods {
			return nil
		}
		return errors.Join(c.network.Down(), forgetLeft(c.config.DataDir))
	})
	return c.network.Up()
}

// nodeName is the name of real node number i.
func (c *Cluster) nodeName(i int) string {
	if c.config.Nodes == 1 {
		return c.config.NodeName
	}
	return c.config.NodeName + "-" + strconv.Itoa(i+1)
}

// listen opens the API server's address and, for pods, the same port on the bridge.
func (c *Cluster) listen(context.Context) error {
	first, err := net.Listen("tcp", c.config.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	all := []net.Listener{first}
	if c.config.Nodes > 0 && !first.Addr().(*net.TCPAddr).IP.IsUnspecified() {
		port := strconv.Itoa(first.Addr().(*net.TCPAddr).Port)
		bridge, err := net.Listen("tcp", net.JoinHostPort(c.network.Gateway().String(), port))
		if err != nil {
			first.Close()
			return fmt.Errorf("listen towards pods: %w", err)
		}
		all = append(all, bridge)
	}
	c.listener = listenAll(all...)
	return nil
}

// serverTLS is the API server's side of TLS: its certificate renews itself, client certificates are optional.
func (c *Cluster) serverTLS() (*tls.Config, error) {
	names, ips := pki.HostNames()
	names = append(names, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc."+c.config.ClusterDomain, "localhost")
	ips = append(ips, net.IPv4(127, 0, 0, 1), net.IPv6loopback, c.serviceRange().Masked().Addr().Next().AsSlice())
	if c.config.Nodes > 0 {
		ips = append(ips, c.network.Gateway().AsSlice())
	}
	if host, _, err := net.SplitHostPort(c.config.Listen); err == nil {
		if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
			ips = append(ips, ip)
		} else if ip == nil && host != "" {
			names = append(names, host)
		}
	}
	certificate, err := c.pki.Server(names, ips)
	if err != nil {
		return nil, err
	}
	if s := c.config.Security; s.TLSCertFile != "" {
		given, err := tls.LoadX509KeyPair(s.TLSCertFile, s.TLSPrivateKeyFile)
		if err != nil {
			return nil, fmt.Errorf("tlsCertFile: %w", err)
		}
		certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &given, nil }
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: certificate,
		ClientAuth:     tls.RequestClientCert, // verified by authn, so that a bad one is a 401 and not a broken connection
		ClientCAs:      c.acceptedCAs(),
		NextProtos:     []string{"h2", "http/1.1"},
	}, nil
}

func (c *Cluster) serviceRange() netip.Prefix {
	return netip.MustParsePrefix(c.config.serviceRanges()[0])
}

// secondServiceRange is the IPv6 range of Services; not valid if there is none.
func (c *Cluster) secondServiceRange() netip.Prefix {
	if all := c.config.serviceRanges(); len(all) > 1 {
		return netip.MustParsePrefix(all[1])
	}
	return netip.Prefix{}
}
