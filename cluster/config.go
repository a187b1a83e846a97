// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"knarr.dev/node/simulated"
)

// Role says which parts of a cluster this process runs.
type Role string

// The roles.
const (
	// RoleAll is a whole cluster: the default.
	RoleAll Role = "all"
	// RoleServer is the control plane without nodes.
	RoleServer Role = "server"
	// RoleAPIServer is the API server and its store alone; nothing else writes to it.
	RoleAPIServer Role = "apiserver"
)

// Forms of the log.
const (
	LogText = "text"
	LogJSON = "json"
)

// Config is everything that can be set. Its zero value is the documented default; keys in files are the yaml names.
type Config struct {
	Role Role `yaml:"role"`
	// DataDir holds all state. Default: /var/lib/knarr as root, else $XDG_DATA_HOME/knarr.
	DataDir string `yaml:"dataDir"`
	// Listen is the API server's address. Default 127.0.0.1:6443.
	Listen string `yaml:"listen"`
	// Kubeconfig is where the administrator's kubeconfig is written. Default: DataDir/admin.kubeconfig.
	Kubeconfig string `yaml:"kubeconfig"`

	// PodCIDR is divided into a /24 a node. Default 10.42.0.0/16.
	PodCIDR string `yaml:"podCIDR"`
	// ServiceCIDR is the range of Service addresses. Default 10.43.0.0/16. For the roles server and apiserver an IPv6 range may follow,
	// after a comma: then Services can have addresses of both families.
	ServiceCIDR string `yaml:"serviceCIDR"`
	// NodeCIDR is the range of addresses of this machine's nodes and its API endpoint towards pods. Default 10.44.0.0/16.
	NodeCIDR string `yaml:"nodeCIDR"`
	// ClusterDNS is the Service address of DNS. Default: the tenth of ServiceCIDR.
	ClusterDNS string `yaml:"clusterDNS"`
	// ClusterDomain is the DNS domain. Default cluster.local.
	ClusterDomain string `yaml:"clusterDomain"`

	// Nodes is how many real nodes this machine is. Default 1, or 0 if SimulatedNodes is set.
	Nodes int `yaml:"nodes"`
	// SimulatedNodes is how many nodes only pretend to run pods. Default 0.
	SimulatedNodes int `yaml:"simulatedNodes"`
	// NodeName is the name of the first node; further ones get a number. Default: the host name.
	NodeName string `yaml:"nodeName"`
	// KubeletPort is the port of node agents. Default 10250.
	KubeletPort int `yaml:"kubeletPort"`
	// Images are archives that are imported into every node before it is ready.
	Images []string `yaml:"images"`
	// ContainerRuntimeEndpoint is the socket of a running containerd; by default one is started for each node.
	ContainerRuntimeEndpoint string `yaml:"containerRuntimeEndpoint"`
	// KeepPods leaves containers running when the process stops; the next start adopts them.
	KeepPods bool `yaml:"keepPods"`
	// EvictionHard is what must be left of memory and disk: a node with less reports pressure and gets no new pods. Default:
	// DefaultEvictionHard.
	EvictionHard string `yaml:"evictionHard"`
	// LogLevel is how much the program says of itself: debug, info, warn or error. Default warn.
	LogLevel string `yaml:"logLevel"`
	// LogFormat is text or json. Default text.
	LogFormat string `yaml:"logFormat"`
	// Verbosity lets more through than LogLevel, by Kubernetes' numbers: 1 is info, 3 shows each request, 4 is debug. Default 0.
	Verbosity int `yaml:"verbosity"`

	// Controllers selects control loops: "*" all, "name" one, "-name" not that one. Default "*".
	Controllers []string `yaml:"controllers"`
	// TokenFile holds static bearer tokens, a line each: token,user,uid,"group1,group2". For development.
	TokenFile string `yaml:"tokenFile"`
	// Etcd says which etcd holds the objects instead of DataDir.
	Etcd EtcdConfig `yaml:",inline"`
	// Security says who is recognised and what they may do.
	Security SecurityConfig `yaml:",inline"`
	// Admission says which admission plug-ins act, and how.
	Admission AdmissionConfig `yaml:",inline"`
	// Requests bounds what requests may take.
	Requests RequestConfig `yaml:",inline"`
	// Audit says what is recorded, and where.
	Audit AuditConfig `yaml:",inline"`
	// Serving says how the API server ends.
	Serving ServingConfig `yaml:",inline"`

	// What follows is for programs that embed a cluster and for package clustertest; files cannot set it.

	// Level is that of the log, so that it can be changed while the cluster runs (/debug/flags/v); nil cannot.
	Level *slog.LevelVar `yaml:"-"`
	// Flags are what the program was started with, by name; /flagz tells them.
	Flags map[string]string `yaml:"-"`
	// InMemory keeps all objects in memory. DataDir then holds certificates alone.
	InMemory bool `yaml:"-"`
	// NoSockets serves clients in the same process only.
	NoSockets bool `yaml:"-"`
	// NoScheduler starts no scheduler: pods wait until something binds them.
	NoScheduler bool `yaml:"-"`
	// SimulatedDelays are how long things take on simulated nodes; they happen at once by default.
	SimulatedDelays simulated.Delays `yaml:"-"`
}

// LoadConfig reads a configuration file into c. Unknown keys are errors that name their line.
func LoadConfig[T Config | AgentConfig | ComponentConfig](file string, c *T) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// complete returns c with its defaults.
func (c Config) complete() Config {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	if c.Role == "" {
		c.Role = RoleAll
	}
	set(&c.DataDir, DefaultDataDir())
	if abs, err := filepath.Abs(c.DataDir); err == nil {
		c.DataDir = abs
	}
	set(&c.Listen, "127.0.0.1:6443")
	set(&c.Kubeconfig, filepath.Join(c.DataDir, "admin.kubeconfig"))
	set(&c.PodCIDR, "10.42.0.0/16")
	set(&c.ServiceCIDR, "10.43.0.0/16")
	set(&c.NodeCIDR, "10.44.0.0/16")
	if p, err := netip.ParsePrefix(c.serviceRanges()[0]); err == nil {
		set(&c.ClusterDNS, nth(p, 10).String())
	}
	set(&c.ClusterDomain, "cluster.local")
	if host, err := os.Hostname(); err == nil {
		set(&c.NodeName, strings.ToLower(host))
	}
	if c.Nodes == 0 && c.SimulatedNodes == 0 && c.Role == RoleAll {
		c.Nodes = 1
	}
	if c.KubeletPort == 0 {
		c.KubeletPort = 10250
	}
	if len(c.Controllers) == 0 {
		c.Controllers = []string{"*"}
	}
	return c
}

// DefaultDataDir is where state goes unless told otherwise.
func DefaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/knarr"
	}
	base := os.Getenv("XDG_DATA_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = os.TempDir()
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "knarr")
}

// Validate returns every problem of a configuration, with its key.
func (c Config) Validate() error {
	c = c.complete()
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	switch c.Role {
	case RoleAll, RoleServer, RoleAPIServer:
	default:
		bad("role", "%q is none of all, server, apiserver", c.Role)
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		bad("listen", "%v", err)
	}
	if (c.Security.TLSCertFile == "") != (c.Security.TLSPrivateKeyFile == "") {
		bad("tlsCertFile", "a certificate and its key go together")
	}
	if c.Security.TLSCertFile != "" && c.Role != RoleAPIServer {
		bad("tlsCertFile", "only for the role apiserver: other parts of a cluster trust its own authority")
	}
	c.Etcd.validate(bad)
	ranges := map[string]netip.Prefix{}
	for _, r := range []struct {
		key, value string
		max        int
	}{{"podCIDR", c.PodCIDR, 24}, {"serviceCIDR", c.serviceRanges()[0], 28}, {"nodeCIDR", c.NodeCIDR, 28}} {
		p, err := netip.ParsePrefix(r.value)
		switch {
		case err != nil:
			bad(r.key, "%v", err)
		case !p.Addr().Is4():
			bad(r.key, "%s is not an IPv4 range", p)
		case p.Bits() > r.max:
			bad(r.key, "%s is too small: /%d at most", p, r.max)
		default:
			for other, q := range ranges {
				if q.Overlaps(p) {
					bad(r.key, "%s overlaps %s %s", p, other, q)
				}
			}
			ranges[r.key] = p
		}
	}
	c.validateSecondRange(bad)
	if dns, err := netip.ParseAddr(c.ClusterDNS); err != nil {
		bad("clusterDNS", "%v", err)
	} else if p, ok := ranges["serviceCIDR"]; ok && !p.Contains(dns) {
		bad("clusterDNS", "%s is not in serviceCIDR %s", dns, p)
	}
	if c.Nodes < 0 || c.Nodes > 100 {
		bad("nodes", "%d is not between 0 and 100", c.Nodes)
	}
	if c.SimulatedNodes < 0 || c.SimulatedNodes > 10000 {
		bad("simulatedNodes", "%d is not between 0 and 10000", c.SimulatedNodes)
	}
	if c.LogFormat != "" && c.LogFormat != LogText && c.LogFormat != LogJSON {
		bad("logFormat", "%q is neither text nor json", c.LogFormat)
	}
	if c.Verbosity < 0 {
		bad("verbosity", "%d is negative", c.Verbosity)
	}
	if c.KubeletPort < 0 || c.KubeletPort > 65535 {
		bad("kubeletPort", "%d is not a port", c.KubeletPort)
	}
	c.Security.validate(bad)
	c.Admission.validate(bad)
	c.Requests.validate(bad)
	c.Audit.validate(bad)
	c.Serving.validate(bad)
	if c.ContainerRuntimeEndpoint != "" && c.Nodes > 1 {
		bad("containerRuntimeEndpoint", "one runtime serves one node, not %d", c.Nodes)
	}
	return errors.Join(problems...)
}

// serviceRanges are the parts of ServiceCIDR.
func (c *Config) serviceRanges() []string { return strings.Split(c.ServiceCIDR, ",") }

// validateSecondRange checks the IPv6 range of Services, if there is one.
func (c *Config) validateSecondRange(bad func(key, format string, args ...any)) {
	all := c.serviceRanges()
	if len(all) == 1 {
		return
	}
	p, err := netip.ParsePrefix(all[1])
	switch {
	case len(all) > 2:
		bad("serviceCIDR", "%d ranges are too many: one, or one of each family", len(all))
	case err != nil:
		bad("serviceCIDR", "%v", err)
	case !p.Addr().Is6():
		bad("serviceCIDR", "%s is not an IPv6 range", p)
	case p.Bits() < 64 || p.Bits() > 124:
		bad("serviceCIDR", "%s is not between /64 and /124", p)
	case c.Role == RoleAll:
		bad("serviceCIDR", "%s: only for the roles server and apiserver, for the proxy of this program's nodes knows IPv4 alone", p)
	}
}

// nth is the address number n of a range.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// podRange is the /24 of node number i.
func podRange(p netip.Prefix, i int) netip.Prefix {
	b := p.Masked().Addr().As4()
	third := int(b[2]) + i
	b[1] += byte(third >> 8)
	b[2] = byte(third)
	return netip.PrefixFrom(netip.AddrFrom4(b), 24)
}
