// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/client"
)

// version is that of the specification, which clients can ask for.
const version = "1.1.0"

// zone knows the names of the cluster. A question is one look into a map; a change of a Service changes its own names only.
type zone struct {
	domain string // ends with a dot
	pods   string // what the names of pods end with, with a dot before it
	serial atomic.Uint32

	names struct {
		sync.RWMutex
		of map[string]*entry
	}

	mu       sync.Mutex // taken before names
	services map[client.Key]*corev1.Service
	slices   map[client.Key]map[string]*discoveryv1.EndpointSlice // by Service, then by name
	owned    map[string]map[string]records                        // by owner, then by name
}

// entry is one name. Most have one owner.
type entry struct {
	records
	owners map[string]records // only if there are several
	owner  string             // only if there is one
}

func newZone(domain string) *zone {
	domain = dns.CanonicalName(domain)
	z := &zone{
		domain: domain, pods: ".pod." + domain,
		services: map[client.Key]*corev1.Service{},
		slices:   map[client.Key]map[string]*discoveryv1.EndpointSlice{},
		owned:    map[string]map[string]records{},
	}
	z.names.of = map[string]*entry{}
	z.set("zone", map[string]records{
		domain: {}, "svc." + domain: {}, "pod." + domain: {}, "dns-version." + domain: {txt: []string{version}},
	})
	return z
}

// follow keeps the zone as the API says until ctx ends, in functions that it gives to start. synced is closed when all names are known.
func (z *zone) follow(ctx context.Context, c *client.Client, start func(func() error)) (synced <-chan struct{}, err error) {
	namespaces, err := client.Of(c, core.Namespaces).View(ctx, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	services, err := client.Of(c, core.Services).View(ctx, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	endpoints, err := client.Of(c, discovery.EndpointSlices).View(ctx, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	all := make(chan struct{})
	var missing atomic.Int32
	missing.Store(3)
	one := func() {
		if missing.Add(-1) == 0 {
			close(all)
		}
	}
	start(func() error { return namespaces.Subscribe(ctx, z.namespace, one) })
	start(func() error { return services.Subscribe(ctx, z.service, one) })
	start(func() error { return endpoints.Subscribe(ctx, z.slice, one) })
	return all, nil
}

// lookup returns the records of a name in lower case, and whether the name exists.
func (z *zone) lookup(name string) (records, bool) {
	z.names.RLock()
	e := z.names.of[name]
	z.names.RUnlock()
	if e != nil {
		return e.records, true
	}
	return z.pod(name)
}

// pod answers for names of pods, a-b-c-d.NAMESPACE.pod.DOMAIN: the address is in the name, whether there is a pod or not.
func (z *zone) pod(name string) (records, bool) {
	rest, ok := strings.CutSuffix(name, z.pods)
	if !ok {
		return records{}, false
	}
	address, _, ok := strings.Cut(rest, ".")
	if !ok || strings.Count(address, "-") != 3 {
		return records{}, false
	}
	ip, err := netip.ParseAddr(strings.ReplaceAll(address, "-", "."))
	if err != nil {
		return records{}, false
	}
	z.names.RLock()
	_, exists := z.names.of[name[len(address)+1:]]
	z.names.RUnlock()
	return records{a: []netip.Addr{ip}}, exists
}

func (z *zone) namespace(obj, old *corev1.Namespace) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if obj == nil {
		z.set("namespace "+old.Name, nil)
		return
	}
	name := strings.ToLower(obj.Name)
	z.set("namespace "+obj.Name, map[string]records{name + ".svc." + z.domain: {}, name + z.pods: {}})
}

func (z *zone) service(obj, old *corev1.Service) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if obj == nil {
		delete(z.services, client.KeyOf(old))
		z.update(client.KeyOf(old))
		return
	}
	z.services[client.KeyOf(obj)] = obj
	z.update(client.KeyOf(obj))
}

func (z *zone) slice(obj, old *discoveryv1.EndpointSlice) {
	z.mu.Lock()
	defer z.mu.Unlock()
	var before, after client.Key
	if old != nil {
		before = serviceOf(old)
		delete(z.slices[before], old.Name)
		if len(z.slices[before]) == 0 {
			delete(z.slices, before)
		}
	}
	if obj != nil {
		after = serviceOf(obj)
		if z.slices[after] == nil {
			z.slices[after] = map[string]*discoveryv1.EndpointSlice{}
		}
		z.slices[after][obj.Name] = obj
		if s := z.services[after]; s != nil && headless(s) {
			z.update(after)
		}
	}
	if s := z.services[before]; s != nil && before != after && headless(s) {
		z.update(before)
	}
}

func serviceOf(s *discoveryv1.EndpointSlice) client.Key {
	return client.Key{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}

// update looks at a Service again; z.mu is held.
func (z *zone) update(key client.Key) {
	owner := "service " + key.String()
	s := z.services[key]
	if s == nil {
		z.set(owner, nil)
		return
	}
	var endpoints []*discoveryv1.EndpointSlice
	if headless(s) {
		for _, e := range z.slices[key] {
			endpoints = append(endpoints, e)
		}
	}
	z.set(owner, recordsOf(s, endpoints, z.domain))
}

// set makes the names of an owner those given; z.mu is held, or nobody else knows z.
func (z *zone) set(owner string, will map[string]records) {
	was := z.owned[owner]
	z.names.Lock()
	defer z.names.Unlock()
	changed := false
	for name := range was {
		if _, stays := will[name]; !stays {
			z.release(owner, name)
			changed = true
		}
	}
	for name, r := range will {
		if before, stood := was[name]; !stood || !r.equal(before) {
			z.claim(owner, name, r)
			changed = true
		}
	}
	if changed {
		z.serial.Add(1)
	}
	if len(will) == 0 {
		delete(z.owned, owner)
	} else {
		z.owned[owner] = will
	}
}

// claim and release replace entries, never change them: readers hold them without a lock. z.names is held.
func (z *zone) claim(owner, name string, r records) {
	e := z.names.of[name]
	switch {
	case e == nil || e.owners == nil && e.owner == owner:
		z.names.of[name] = &entry{records: r, owner: owner}
	default:
		z.names.of[name] = shared(e, func(owners map[string]records) { owners[owner] = r })
	}
}

func (z *zone) release(owner, name string) {
	e := z.names.of[name]
	if e.owners == nil {
		delete(z.names.of, name)
		return
	}
	z.names.of[name] = shared(e, func(owners map[string]records) { delete(owners, owner) })
}

// shared returns e with other owners.
func shared(e *entry, change func(map[string]records)) *entry {
	owners := map[string]records{}
	for o, r := range e.owners {
		owners[o] = r
	}
	if e.owners == nil {
		owners[e.owner] = e.records
	}
	change(owners)
	out := &entry{owners: owners}
	for o, r := range owners {
		out.owner = o
		out.records = out.records.merge(r)
	}
	if len(owners) == 1 {
		out.owners = nil
	}
	return out
}
