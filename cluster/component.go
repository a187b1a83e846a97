// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"

	"knarr.dev/api"
	"knarr.dev/api/core"
	"knarr.dev/api/networking"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/cluster/internal/nodenet"
	"knarr.dev/controller"
	"knarr.dev/controllers"
	"knarr.dev/proxy"
	"knarr.dev/scheduler"
)

// ComponentConfig says how one part of a cluster runs alone, against any Kubernetes API server.
type ComponentConfig struct {
	// Kubeconfig is the file that says where the API server is, and who asks; Context is the one in it that counts, the current
	// one if it is empty.
	Kubeconfig string `yaml:"kubeconfig"`
	Context    string `yaml:"context"`
	// LeaderElect lets control loops and the scheduler act only while they hold the lease that Kubernetes' own ones compete for.
	// Default true.
	LeaderElect *bool `yaml:"leaderElect"`
	// LogLevel is how much the program says of itself: debug, info, warn or error. Default warn.
	LogLevel string `yaml:"logLevel"`

	// Controllers are the control loops that run: see Config.Controllers.
	Controllers []string `yaml:"controllers"`
	// RootCAFile has the authority of the API server that pods get. Default: that of the kubeconfig.
	RootCAFile string `yaml:"rootCAFile"`
	// PodCIDR is the range of pods: nodes get parts of it, if it is given, and proxies need it.
	PodCIDR string `yaml:"podCIDR"`

	// SchedulerName is the schedulerName of the pods that the scheduler is for. Default default-scheduler.
	SchedulerName string `yaml:"schedulerName"`

	// NodeName is the node that a proxy is for. Default: the host name.
	NodeName string `yaml:"nodeName"`
	// NodeIP is its address. Default: the internal one that the Node has.
	NodeIP string `yaml:"nodeIP"`
	// ServiceCIDR is the range of addresses of Services. Default: what the API server says.
	ServiceCIDR string `yaml:"serviceCIDR"`
}

// component is a part that is connected to its API server.
type component struct {
	config ComponentConfig
	log    *slog.Logger
	http   client.HTTPConfig
	client *client.Client
	close  func()
	// kinds are those that the server has.
	kinds []*resource.Kind
}

// connect reaches the API server and asks what it has.
func (c ComponentConfig) connect(log *slog.Logger) (*component, error) {
	if c.Kubeconfig == "" {
		return nil, errors.New("kubeconfig: must be given")
	}
	config, err := client.Kubeconfig(c.Kubeconfig, c.Context)
	if err != nil {
		return nil, err
	}
	config.UserAgent, config.Log = "knarr", log
	transport, err := client.NewHTTP(config)
	if err != nil {
		return nil, err
	}
	out := &component{config: c, log: log, http: config, client: client.New(transport), close: transport.Close}
	if out.kinds, err = c.servedKinds(); err != nil {
		transport.Close()
		return nil, fmt.Errorf("ask %s what it has: %w", config.Server, err)
	}
	return out, nil
}

// servedKinds are the built-in kinds that the API server has: another one may lack some.
func (c ComponentConfig) servedKinds() ([]*resource.Kind, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context}).ClientConfig()
	if err != nil {
		return nil, err
	}
	asker, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	_, lists, err := asker.ServerGroupsAndResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) { // groups of other servers may be away
		return nil, err
	}
	served := map[schema.GroupVersionResource]bool{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			served[gv.WithResource(r.Name)] = true
		}
	}
	return slices.DeleteFunc(api.Kinds(), func(k *resource.Kind) bool { return !served[k.GroupVersionResource()] }), nil
}

// lead runs tasks while this process holds a lease, or at once if nobody else can be there.
func (c *component) lead(ctx context.Context, lease string, tasks []task) error {
	if on := c.config.LeaderElect; on != nil && !*on {
		return ended(ctx, runAll(ctx, tasks))
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	election := client.Election{
		Lease: client.Key{Namespace: "kube-system", Name: lease}, Identity: host + "_" + string(uuid.NewUUID()), Log: c.log,
		Lead: func(ctx context.Context, _ int32) error { return runAll(ctx, tasks) },
	}
	return ended(ctx, election.Run(ctx, c.client))
}

// ended is no error if it is that ctx ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// RunControllerManager runs control loops until ctx ends, all of them as the user of the kubeconfig. It calls started, which may be nil,
// with the server's address once it has been reached. Nothing is signed: neither certificates nor tokens of Secrets.
func RunControllerManager(ctx context.Context, config ComponentConfig, started func(server string), log *slog.Logger) error {
	c, err := config.connect(log)
	if err != nil {
		return err
	}
	defer c.close()
	tasks, err := c.loops()
	if err != nil {
		return err
	}
	if started != nil {
		started(c.http.Server)
	}
	return c.lead(ctx, "kube-controller-manager", tasks)
}

// loops are the control loops that are wanted and whose kinds the API server has.
func (c *component) loops() ([]task, error) {
	settings := controllers.Config{Kinds: c.kinds, CA: c.http.CA, Reader: c.client}
	var err error
	if file := c.config.RootCAFile; file != "" {
		if settings.CA, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("rootCAFile: %w", err)
		}
	}
	if text := c.config.PodCIDR; text != "" {
		if settings.PodCIDR, err = netip.ParsePrefix(text); err != nil {
			return nil, fmt.Errorf("podCIDR: %w", err)
		}
	}
	var names []string
	for _, l := range controllers.All() {
		names = append(names, l.Name)
	}
	patterns := c.config.Controllers
	if len(patterns) == 0 {
		patterns = []string{"*"}
	}
	wanted, err := selected(names, patterns)
	if err != nil {
		return nil, err
	}
	var tasks []task
	for _, l := range controllers.All() {
		if !slices.Contains(wanted, l.Name) {
			continue
		}
		if lacks := c.lacks(l.New(c.client, settings)); lacks != nil {
			c.log.Info("the API server lacks a kind that a control loop is for", "loop", l.Name, "kind", lacks.Kind)
			continue
		}
		tasks = append(tasks, task{"control loop " + l.Name, func(ctx context.Context) error {
			return controller.Run(ctx, c.client, l.New(c.client, settings), controller.Options{Log: c.log})
		}})
	}
	return tasks, nil
}

// lacks is a kind that a loop is about and the API server does not have; nil if there is none.
func (c *component) lacks(loop controller.Controller) *resource.Kind {
	var about []*resource.Kind
	if loop.For != nil {
		about = append(about, loop.For)
	}
	for _, w := range loop.Watches {
		about = append(about, w.Kind)
	}
	for _, k := range about {
		if k.Custom == nil && !slices.Contains(c.kinds, k) {
			return k
		}
	}
	return nil
}

// RunScheduler runs the scheduler until ctx ends; started is as for RunControllerManager.
func RunScheduler(ctx context.Context, config ComponentConfig, started func(server string), log *slog.Logger) error {
	c, err := config.connect(log)
	if err != nil {
		return err
	}
	defer c.close()
	if started != nil {
		started(c.http.Server)
	}
	return c.lead(ctx, "kube-scheduler", []task{{"scheduler", func(ctx context.Context) error {
		return scheduler.New(scheduler.Config{Name: config.SchedulerName}, c.client, log).Run(ctx)
	}}})
}

// RunProxy runs the service proxy of this machine, as a node, until ctx ends; started is as for RunControllerManager. It needs root.
func RunProxy(ctx context.Context, config ComponentConfig, started func(server string), log *slog.Logger) error {
	if os.Geteuid() != 0 {
		return errors.New("a service proxy needs root (run as root)")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return errors.New("a service proxy needs the program nft (install the package nftables)")
	}
	c, err := config.connect(log)
	if err != nil {
		return err
	}
	defer c.close()
	settings, err := c.proxyConfig(ctx)
	if err != nil {
		return err
	}
	p := proxy.New(settings, c.client, log)
	if started != nil {
		started(c.http.Server)
	}
	return ended(ctx, p.Run(ctx))
}

// proxyConfig completes what the configuration says by what the API server knows.
func (c *component) proxyConfig(ctx context.Context) (out proxy.Config, err error) {
	host, err := os.Hostname()
	if err != nil {
		return out, err
	}
	out.NodeName = cmp.Or(c.config.NodeName, host)
	if out.PodCIDR, err = netip.ParsePrefix(c.config.PodCIDR); err != nil {
		return out, fmt.Errorf("podCIDR: must be the range of pods: %w", err)
	}
	address, err := c.nodeAddress(ctx, out.NodeName)
	if err != nil {
		return out, err
	}
	out.NodeIPs, out.NodeCIDR = []netip.Addr{address, loopback()}, netip.PrefixFrom(address, 32)
	if out.ServiceCIDR, err = c.serviceRange(ctx); err != nil {
		return out, err
	}
	out.Table = "knarr-proxy-" + nodenet.ID(c.http.Server+" "+out.NodeName)
	return out, nil
}

func (c *component) nodeAddress(ctx context.Context, name string) (netip.Addr, error) {
	text := c.config.NodeIP
	if text == "" {
		n, err := client.Of(c.client, core.Nodes).Get(ctx, client.Key{Name: name})
		if err != nil {
			return netip.Addr{}, fmt.Errorf("node %s: %w", name, err)
		}
		for _, a := range n.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Is4() && a.Type == corev1.NodeInternalIP {
				text = a.Address
				break
			}
		}
	}
	address, err := netip.ParseAddr(text)
	if err != nil || !address.Is4() {
		return netip.Addr{}, fmt.Errorf("nodeIP: node %s has no internal IPv4 address, got %q", name, text)
	}
	return address, nil
}

func (c *component) serviceRange(ctx context.Context) (netip.Prefix, error) {
	if text := c.config.ServiceCIDR; text != "" {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return p, fmt.Errorf("serviceCIDR: %w", err)
		}
		return p, nil
	}
	s, err := client.Of(c.client, networking.ServiceCIDRs).Get(ctx, client.Key{Name: "kubernetes"})
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("serviceCIDR: not given, and the API server does not tell: %w", err)
	}
	for _, text := range s.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("serviceCIDR: none of %v is a range of IPv4 addresses", s.Spec.CIDRs)
}
