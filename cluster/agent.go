// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/cluster/internal/enroll"
	"knarr.dev/cluster/internal/nodenet"
	"knarr.dev/node"
	"knarr.dev/proxy"
)

// DefaultEvictionHard is the default of EvictionHard of Config and AgentConfig.
const DefaultEvictionHard = node.DefaultEvictionHard

// AgentConfig says which cluster this machine joins, and as what. Only Server and Token must be given, and neither on a machine that
// has joined before.
type AgentConfig struct {
	// Server is the URL of the API server.
	Server string `yaml:"server"`
	// Token is a bootstrap token: see CreateToken.
	Token string `yaml:"token"`
	// CAHash pins the cluster's authority: see CAHash. Without it the server shows by a signature that it knows the token.
	CAHash string `yaml:"caHash"`
	// DataDir holds all state. Default: as for Config.
	DataDir string `yaml:"dataDir"`
	// NodeName is the name of the node. Default: the host name.
	NodeName string `yaml:"nodeName"`
	// NodeIP is the node's IPv4 address. Default: the one that this machine uses towards the server.
	NodeIP string `yaml:"nodeIP"`
	// ContainerRuntimeEndpoint is the socket of a running containerd; by default one is started.
	ContainerRuntimeEndpoint string `yaml:"containerRuntimeEndpoint"`
	// KubeletPort is the port at which the API server asks for logs and streams. Default 10250.
	KubeletPort int `yaml:"kubeletPort"`
	// KeepPods leaves containers running when the process stops; the next start adopts them.
	KeepPods bool `yaml:"keepPods"`
	// EvictionHard is what must be left of memory and disk: a node with less reports pressure and gets no new pods. Default:
	// DefaultEvictionHard.
	EvictionHard string `yaml:"evictionHard"`
	// LogLevel is how much the program says of itself: debug, info, warn or error. Default warn.
	LogLevel string `yaml:"logLevel"`
}

// complete returns c with its defaults.
func (c AgentConfig) complete() AgentConfig {
	if c.DataDir == "" {
		c.DataDir = DefaultDataDir()
	}
	if abs, err := filepath.Abs(c.DataDir); err == nil {
		c.DataDir = abs
	}
	if c.Server != "" && !strings.Contains(c.Server, "://") {
		c.Server = "https://" + c.Server
	}
	c.Server = strings.TrimSuffix(c.Server, "/")
	c.NodeName = strings.ToLower(c.NodeName)
	if c.KubeletPort == 0 {
		c.KubeletPort = 10250
	}
	return c
}

// Validate returns every problem of a configuration, with its key.
func (c AgentConfig) Validate() error {
	c = c.complete()
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	if c.Server != "" {
		if u, err := url.Parse(c.Server); err != nil || u.Scheme != "https" || u.Hostname() == "" {
			bad("server", "%q is no https URL", c.Server)
		}
	}
	if c.Token != "" {
		if _, err := ParseToken(c.Token); err != nil {
			bad("token", "%v", err)
		}
	}
	if c.NodeName != "" {
		for _, problem := range validation.IsDNS1123Subdomain(c.NodeName) {
			bad("nodeName", "%q: %s", c.NodeName, problem)
		}
	}
	if c.NodeIP != "" {
		if ip, err := netip.ParseAddr(c.NodeIP); err != nil || !ip.Is4() || ip.IsUnspecified() || ip.IsLoopback() {
			bad("nodeIP", "%q is no IPv4 address of this machine", c.NodeIP)
		}
	}
	if c.KubeletPort < 1 || c.KubeletPort > 65535 {
		bad("kubeletPort", "%d is not a port", c.KubeletPort)
	}
	return errors.Join(problems...)
}

// Agent is a node of a cluster whose control plane is elsewhere.
type Agent struct {
	config  AgentConfig
	log     *slog.Logger
	parts   *supervisor
	joined  membership
	address netip.Addr

	login *enroll.Certificate // as the node
	api   *client.Client      // with login
}

// StartAgent makes this machine a node: it joins the cluster unless it has done so before, and returns when the node is
// ready. It stops by itself when ctx ends; Close must be called in any case.
func StartAgent(ctx context.Context, config AgentConfig, log *slog.Logger) (*Agent, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	a := &Agent{config: config.complete(), log: log, parts: newSupervisor()}
	stop := context.AfterFunc(ctx, a.parts.end)
	a.parts.onStop("context", func() error { stop(); return nil })
	steps, cancel := context.WithCancel(ctx) // until a part fails
	defer cancel()
	go func() {
		select {
		case <-a.parts.done:
			cancel()
		case <-steps.Done():
		}
	}()
	for _, step := range []func(context.Context) error{
		a.open, a.join, a.learn, a.startRoutesAndProxy, a.startNode,
	} {
		err := step(steps)
		if err == nil {
			continue
		}
		failed := a.parts.stop()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, context.Canceled) && failed != nil {
			err = failed
		}
		return nil, err
	}
	return a, nil
}

// Done is closed when the context of StartAgent ended or a part failed; Close tells which.
func (a *Agent) Done() <-chan struct{} { return a.parts.done }

// Close stops the node and returns what went wrong since the start.
func (a *Agent) Close() error { return a.parts.stop() }

// Node is the name of the node.
func (a *Agent) Node() string { return a.joined.Node }

// Server is the URL of the API server.
func (a *Agent) Server() string { return a.joined.Server }

// open takes the data directory and looks whether this machine can be a node.
func (a *Agent) open(context.Context) error {
	if err := canRunNodes(a.config.ContainerRuntimeEndpoint); err != nil {
		return err
	}
	unlock, err := lockDir(a.config.DataDir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	a.parts.onStop("data directory", unlock)
	return nil
}

// dir has the node's certificates and what it knows of its cluster.
func (a *Agent) dir() string { return filepath.Join(a.config.DataDir, "agent") }

// nodeDir has what the node needs to run pods.
func (a *Agent) nodeDir() string { return filepath.Join(a.config.DataDir, "nodes", a.joined.Node) }

// dial returns a client of the API server that shows a certificate.
func (a *Agent) dial(c *enroll.Certificate) (*client.Client, error) {
	transport, err := client.NewHTTP(client.HTTPConfig{
		Server: a.joined.Server, CA: []byte(a.joined.CA), CertFile: c.CertFile(), KeyFile: c.KeyFile(), UserAgent: "knarr", Log: a.log,
	})
	if err != nil {
		return nil, err
	}
	a.parts.onStop("connection", func() error { transport.Close(); return nil })
	return client.New(transport), nil
}

// learn reads what the node needs to know of its cluster, or takes what it knew if the server does not answer.
func (a *Agent) learn(ctx context.Context) error {
	m, err := client.Of(a.api, core.ConfigMaps).Get(ctx, client.Key{Namespace: metav1.NamespaceSystem, Name: agentInfo})
	switch {
	case err == nil:
		if a.joined.Settings, err = readSettings(m.Data); err != nil {
			return err
		}
		return a.joined.save(a.dir())
	case ctx.Err() != nil:
		return ctx.Err()
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s does not know this node's certificate any more; to join anew, remove %s and give a --token", a.joined.Server, a.dir())
	case apierrors.IsServiceUnavailable(err) && a.joined.Settings.ClientCA != "":
		explained := enroll.Explain(a.joined.Server, err)
		if errors.As(err, new(x509.UnknownAuthorityError)) {
			return fmt.Errorf("%w; to join another cluster, remove %s", explained, a.dir())
		}
		a.log.Warn("the API server does not answer; the node goes on and waits for it", "err", explained)
		return nil
	}
	return fmt.Errorf("read the cluster's settings: %w", enroll.Explain(a.joined.Server, err))
}

// proxyCertificate is the identity of the node's service proxy.
func (a *Agent) proxyCertificate() *enroll.Certificate {
	return &enroll.Certificate{
		Dir: a.dir(), Name: "proxy", Node: a.joined.Node, Signer: certificatesv1.KubeAPIServerClientSignerName,
		Usage: certificatesv1.UsageClientAuth, CommonName: "system:kube-proxy",
	}
}

// servingCertificate is what the node shows the API server.
func (a *Agent) servingCertificate() *enroll.Certificate {
	return &enroll.Certificate{
		Dir: a.dir(), Name: "serving", Node: a.joined.Node, Signer: certificatesv1.KubeletServingSignerName,
		Usage: certificatesv1.UsageServerAuth, CommonName: nodeUser(a.joined.Node), Organizations: []string{"system:nodes"},
		Names: []string{a.joined.Node}, IPs: []net.IP{a.address.AsSlice()},
	}
}

// retry repeats f until it succeeds: the server may be away for a while.
func (a *Agent) retry(ctx context.Context, what string, f func(context.Context) error) error {
	const shortest, longest = time.Second, 30 * time.Second
	for pause := shortest; ; pause = min(2*pause, longest) {
		err := f(ctx)
		if err == nil || ctx.Err() != nil {
			return errors.Join(ctx.Err())
		}
		if !apierrors.IsServiceUnavailable(err) && !apierrors.IsInternalError(err) && !apierrors.IsTimeout(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		a.log.Warn("waiting for the API server", "to", what, "err", enroll.Explain(a.joined.Server, err), "again", pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// startRoutesAndProxy makes pods of other nodes, and Services, reachable from here.
func (a *Agent) startRoutesAndProxy(ctx context.Context) error {
	certificate := a.proxyCertificate()
	err := a.retry(ctx, "get the service proxy's certificate", func(ctx context.Context) error { return certificate.Ensure(ctx, a.api) })
	if err != nil {
		return err
	}
	caller, err := a.dial(certificate)
	if err != nil {
		return err
	}
	a.parts.run("certificate of the service proxy", func(ctx context.Context) error { return certificate.Keep(ctx, a.api, a.log) })
	s := a.joined.Settings
	pods, nodes := netip.MustParsePrefix(s.PodCIDR), netip.MustParsePrefix(s.NodeCIDR)
	config := proxy.Config{
		NodeName: a.joined.Node, NodeIPs: []netip.Addr{a.address, loopback()}, PodCIDR: pods, NodeCIDR: nodes,
		ServiceCIDR: netip.MustParsePrefix(s.ServiceCIDR), Table: "knarr-proxy-" + nodenet.ID(a.config.DataDir), Keep: a.config.KeepPods,
	}
	if err := a.begin(config); err != nil {
		return err
	}
	r := &router{client: caller, log: a.log, self: a.joined.Node, pods: pods, local: nodes, keep: a.config.KeepPods}
	a.parts.run("routes", r.run)
	p := proxy.New(config, caller, a.log)
	a.parts.run("service proxy", p.Run)
	return nil
}

// begin checks that nobody else has addresses of pods, and notes what the node will leave behind if it is killed.
func (a *Agent) begin(p proxy.Config) error {
	if err := nodenet.Free(nodenet.ID(a.config.DataDir), map[string]netip.Prefix{"pod": p.PodCIDR}); err != nil {
		return err
	}
	left := &left{Pods: p.PodCIDR, Proxies: []proxy.Config{p}, Nodes: []leftNode{{
		DataDir: a.nodeDir(), Bridge: a.bridge(), PodCIDR: p.PodCIDR, Runtime: a.runtimeSocket(),
	}}}
	if err := left.save(a.config.DataDir); err != nil {
		return err
	}
	a.parts.onStop("notes", func() error {
		if a.config.KeepPods {
			return nil
		}
		return forgetLeft(a.config.DataDir)
	})
	return nil
}

// bridge is the link of the node's pods.
func (a *Agent) bridge() string { return "kp" + nodenet.ID(a.config.DataDir) + "-0" }

// runtimeSocket is the socket of the container runtime; empty if the node runs its own.
func (a *Agent) runtimeSocket() string {
	return strings.TrimPrefix(a.config.ContainerRuntimeEndpoint, "unix://")
}

// startNode starts the node agent and waits until the API server can ask it.
func (a *Agent) startNode(ctx context.Context) error {
	pods, err := a.podRange(ctx)
	if err != nil {
		return err
	}
	callers := x509.NewCertPool()
	if !callers.AppendCertsFromPEM([]byte(a.joined.Settings.ClientCA)) {
		return errors.New("settings of the cluster: the client CA is no PEM")
	}
	serving := a.servingCertificate()
	if err := serving.Load(time.Now()); err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Info("the node needs a new certificate", "err", err)
	}
	config := node.Config{
		Name: a.joined.Node, DataDir: a.nodeDir(), NodeIP: a.address.String(), PodCIDR: pods,
		Bridge: a.bridge(), ContainerdSocket: a.runtimeSocket(),
		ClusterDNS: a.joined.Settings.ClusterDNS, ClusterDomain: a.joined.Settings.ClusterDomain,
		Serving: &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: serving.TLS, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: callers,
		},
		Port: a.config.KubeletPort, KeepPods: a.config.KeepPods, EvictionHard: a.config.EvictionHard, Version: KubernetesVersion,
	}
	agent, err := node.New(config, a.api, a.log.With("node", a.joined.Node))
	if err != nil {
		return err
	}
	a.parts.run("node "+a.joined.Node, agent.Run)
	select {
	case <-agent.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	// The cluster signs this one only now: for addresses that the Node has.
	err = a.retry(ctx, "get the node's serving certificate", func(ctx context.Context) error { return serving.Ensure(ctx, a.api) })
	if err != nil {
		return err
	}
	a.parts.run("serving certificate", func(ctx context.Context) error { return serving.Keep(ctx, a.api, a.log) })
	a.parts.run("certificate of the node", func(ctx context.Context) error { return a.login.Keep(ctx, a.api, a.log) })
	return nil
}

// podRange makes the Node if it is not there and waits until the cluster has given it a range of pod addresses.
func (a *Agent) podRange(ctx context.Context) (pods netip.Prefix, err error) {
	nodes, key := client.Of(a.api, core.Nodes), client.Key{Name: a.joined.Node}
	warned := time.Now().Add(10 * time.Second)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		var text string
		err := a.retry(ctx, "read the Node", func(ctx context.Context) error {
			n, err := nodes.Get(ctx, key)
			if apierrors.IsNotFound(err) {
				n, err = nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
					Name: key.Name, Labels: map[string]string{corev1.LabelHostname: key.Name},
				}})
			}
			if err == nil {
				text = n.Spec.PodCIDR
			}
			return err
		})
		if err != nil {
			return pods, err
		}
		if text != "" {
			return netip.ParsePrefix(text)
		}
		if time.Now().After(warned) {
			a.log.Warn("the cluster gives this node no range of pod addresses: does the control loop nodeipam run?")
			warned = time.Now().Add(time.Minute)
		}
		select {
		case <-ctx.Done():
			return pods, ctx.Err()
		case <-time.After(pause):
		}
	}
}
