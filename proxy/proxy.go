// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package proxy makes a node carry out Services: traffic to cluster addresses, node ports, external and load balancer
// addresses reaches endpoints.
//
// Rules is pure and says what nftables should hold; package nft makes the kernel match it. Run follows Services and
// EndpointSlices and changes only what a change touches, in one transaction. It also lets pods reach the world outside the cluster:
// their addresses are translated to the node's. IPv4 only.
//
// A connection keeps the endpoint it got, whatever becomes of the Service; new ones, and all of UDP, go where the Service says now.
// It needs the programs nft and nsenter.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/client"
	"knarr.dev/proxy/nft"
)

// Config says whose traffic is handled.
type Config struct {
	// NodeName is the node; NodeIPs are its addresses, on which node ports answer. Without a name it is no node but a machine that
	// reaches the cluster's addresses all the same: no endpoint is its own.
	NodeName string
	NodeIPs  []netip.Addr
	// PodCIDR, NodeCIDR and ServiceCIDR are the cluster's ranges.
	PodCIDR, NodeCIDR, ServiceCIDR netip.Prefix
	// NetNS is the file of the node's network namespace; empty is that of this process.
	NetNS string
	// Table is the name of the nftables table; it should start with knarr-proxy, which is the default.
	Table string
	// Keep leaves the table in place when Run ends.
	Keep bool
}

// tablePrefix is what the names of all proxies' tables start with.
const tablePrefix = "knarr-proxy"

// Proxy is the service proxy of one node.
type Proxy struct {
	config Config
	node   Node
	client *client.Client
	log    *slog.Logger
	netns  nft.Namespace
	host   *nft.Host
	health *health
	wake   chan struct{} // holds one token while there is work
	ready  chan struct{}

	mu       sync.Mutex
	services map[client.Key]*corev1.Service
	slices   map[client.Key]map[string]*discoveryv1.EndpointSlice // by Service, then by name
	dirty    map[client.Key]bool
}

// New returns a proxy that follows the API through c.
func New(config Config, c *client.Client, log *slog.Logger) *Proxy {
	if config.Table == "" {
		config.Table = tablePrefix
	}
	netns := nft.Namespace{Path: config.NetNS}
	return &Proxy{
		config: config, client: c, log: log, netns: netns,
		node: Node{
			Name: config.NodeName, Addresses: config.NodeIPs,
			Pods: config.PodCIDR, Nodes: config.NodeCIDR, Services: config.ServiceCIDR,
		},
		health:   newHealth(netns, log),
		host:     nft.NewHost(config.Table, netns, log),
		wake:     make(chan struct{}, 1),
		ready:    make(chan struct{}),
		services: map[client.Key]*corev1.Service{},
		slices:   map[client.Key]map[string]*discoveryv1.EndpointSlice{},
		dirty:    map[client.Key]bool{},
	}
}

// Ready is closed when the rules hold all Services there were.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Run keeps the node's rules until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	services, err := client.Of(p.client, core.Services).View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	endpoints, err := client.Of(p.client, discovery.EndpointSlices).View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	first, second := make(chan struct{}), make(chan struct{})
	group.Go(func() { cancel(services.Subscribe(ctx, p.service, func() { close(first) })) })
	group.Go(func() { cancel(endpoints.Subscribe(ctx, p.slice, func() { close(second) })) })
	for _, synced := range []chan struct{}{first, second} {
		select {
		case <-synced:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	undo := p.prepare(ctx)
	p.loop(ctx)
	p.health.stop()
	if !p.config.Keep {
		clean, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer done()
		if err := errors.Join(p.host.Remove(clean), undo(clean)); err != nil {
			p.log.Warn("service rules stay behind", "err", err)
		}
	}
	return context.Cause(ctx)
}

// prepare makes the kernel settings that the rules count on. undo takes back what would be wrong without them.
func (p *Proxy) prepare(ctx context.Context) (undo func(context.Context) error) {
	// Pods of one bridge answer each other directly unless bridged packets pass the rules too.
	if err := p.netns.FilterBridges(ctx); err != nil {
		p.log.Warn("pods see Services of their own node under the node's address: the kernel lacks br_netfilter", "err", err)
		p.node.Unbridged = true
	}
	if _, err := p.netns.Set("net/ipv4/ip_forward", "1"); err != nil {
		p.log.Warn("traffic to Services is not forwarded", "err", err)
	}
	route, loopback := p.route(), p.routeLoopback()
	return func(ctx context.Context) error { return errors.Join(route(), loopback(ctx)) }
}

// route lets programs on the node reach Services even if it has no default route.
func (p *Proxy) route() (undo func() error) {
	undo = func() error { return nil }
	at := slices.IndexFunc(p.node.Addresses, func(a netip.Addr) bool { return !a.IsLoopback() })
	if at < 0 || !p.node.Services.IsValid() {
		return undo
	}
	back, err := p.netns.Route(p.node.Services, p.node.Addresses[at])
	if err != nil {
		p.log.Warn("programs on the node reach Services only by a default route", "err", err)
		return undo
	}
	return back
}

// routeLocalnet lets packets to loopback addresses come from elsewhere.
const routeLocalnet = "net/ipv4/conf/all/route_localnet"

// routeLoopback lets node ports answer on loopback addresses.
func (p *Proxy) routeLoopback() (undo func(context.Context) error) {
	undo = func(context.Context) error { return nil }
	if !p.node.Loopback() {
		return undo
	}
	was, err := p.netns.Set(routeLocalnet, "1")
	if err != nil {
		p.log.Warn("node ports do not answer on loopback addresses", "err", err)
	}
	if err != nil || was == "1" {
		return undo
	}
	return func(ctx context.Context) error {
		tables, err := p.netns.Tables(ctx)
		if err != nil || slices.ContainsFunc(tables, func(name string) bool { return strings.HasPrefix(name, tablePrefix) }) {
			return err // another proxy still guards and needs it
		}
		_, err = p.netns.Set(routeLocalnet, was)
		return err
	}
}

// loop applies changes until ctx ends; those that come while one is applied are applied together. After an error everything is
// synced anew, after a pause.
func (p *Proxy) loop(ctx context.Context) {
	const shortest, longest = time.Second, time.Minute
	pause := shortest
	ready := sync.OnceFunc(func() { close(p.ready) })
	for whole := true; ; {
		err := p.apply(ctx, whole)
		if ctx.Err() != nil {
			return
		}
		var again <-chan time.Time
		if whole = err != nil; whole {
			p.log.Error("service rules not applied", "err", err, "again", pause)
			again = time.After(pause)
			pause = min(2*pause, longest)
		} else {
			pause = shortest
			ready()
		}
		wake := p.wake
		if whole {
			wake = nil // the pause holds; the sync takes everything in
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-again:
		}
	}
}

// apply carries out what changed, or everything.
func (p *Proxy) apply(ctx context.Context, whole bool) error {
	p.mu.Lock()
	changed := p.dirty
	p.dirty = map[client.Key]bool{}
	var table nft.Table
	parts := map[string]nft.Part{}
	for key := range changed {
		p.health.set(ctx, key, p.healthPort(key), readyHere(p.endpoints(key), p.node.Name))
		if !whole {
			parts[key.String()] = partOf(p.services[key], p.endpoints(key), p.node)
		}
	}
	if whole {
		table = p.everything()
	}
	p.mu.Unlock()
	if whole {
		return p.host.Sync(ctx, table)
	}
	return p.host.Update(ctx, parts)
}

// everything returns the whole table; p.mu is held.
func (p *Proxy) everything() nft.Table {
	var services []*corev1.Service
	var endpoints []*discoveryv1.EndpointSlice
	for key, s := range p.services {
		services = append(services, s)
		endpoints = append(endpoints, p.endpoints(key)...)
	}
	return Rules(services, endpoints, p.node)
}

// endpoints returns the slices of a Service; p.mu is held.
func (p *Proxy) endpoints(key client.Key) []*discoveryv1.EndpointSlice {
	return slices.Collect(maps.Values(p.slices[key]))
}

// healthPort is where the health of a Service is told, on nodes; p.mu is held.
func (p *Proxy) healthPort(key client.Key) int32 {
	if p.node.Name == "" {
		return 0
	}
	return healthPort(p.services[key])
}

func (p *Proxy) service(obj, old *corev1.Service) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if obj == nil {
		key := client.KeyOf(old)
		delete(p.services, key)
		p.mark(key)
		return
	}
	key := client.KeyOf(obj)
	p.services[key] = obj
	p.mark(key)
}

func (p *Proxy) slice(obj, old *discoveryv1.EndpointSlice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old != nil {
		key := serviceOf(old)
		delete(p.slices[key], old.Name)
		if len(p.slices[key]) == 0 {
			delete(p.slices, key)
		}
		p.mark(key)
	}
	if obj == nil {
		return
	}
	key := serviceOf(obj)
	if key.Name == "" {
		return
	}
	if p.slices[key] == nil {
		p.slices[key] = map[string]*discoveryv1.EndpointSlice{}
	}
	p.slices[key][obj.Name] = obj
	p.mark(key)
}

// mark notes that a Service is to be looked at; p.mu is held.
func (p *Proxy) mark(key client.Key) {
	p.dirty[key] = true
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
