// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/admission"
)

// Services gives Services their addresses and node ports. What is taken is read from the Services themselves, so that
// nothing can leak or diverge; reservations of requests under way are kept beside them until those are over.
type services struct {
	store Store
	cidrs []netip.Prefix // one, or one of each family; the first is that of Services that do not say
	ports [2]int
	// shared are the node ports that other servers know of; nil if there are none.
	shared  *sharedPorts
	figures *Figures

	mu       sync.Mutex
	reserved map[any]bool // netip.Addr or nodePort
}

// nodePort is a port of all nodes. It belongs to one Service, whatever the protocol.
type nodePort int32

// port is a node port under one protocol.
type port struct {
	protocol corev1.Protocol
	number   int32
}

// Service returns the hook of Services. Addresses come from cidrs, one range or one of each family: the first one's first address is for
// default/kubernetes, and its family is the one of Services that name none. Node ports come from ports, both ends included. Servers that share a store agree on node ports with keys, which is nil for one alone. Figures may be nil.
func Service(store Store, keys Keys, cidrs []netip.Prefix, ports [2]int, figures *Figures) Hook {
	s := &services{store: store, ports: ports, figures: figures, reserved: map[any]bool{}}
	for _, p := range cidrs {
		s.cidrs = append(s.cidrs, p.Masked())
	}
	if keys != nil {
		s.shared = &sharedPorts{keys: keys, ports: ports}
	}
	return Hook{Kind: core.Services.Kind, BeforeCreate: s.create, BeforeUpdate: s.update, AfterDelete: s.deleted}
}

// taken is what Services and requests under way hold.
type taken map[any]bool

// allocation is one request's work on one Service.
type allocation struct {
	s       *services
	request *admission.Request
	taken   taken
	own     taken // what the Service holds already
	mine    taken // what it gets by this request
	service *corev1.Service

	ports   *big.Int // a bit for each node port that some server has taken; nil if servers don't share any
	ranges  []netip.Prefix
	chosen  []netip.Addr // the addresses that were taken for this request and are to be held
	anyFree bool         // whether another address would do as well for one of them

	static map[any]bool  // what the Service asks for by name and gets
	asked  map[port]bool // the node ports that the Service names
	dry    int32         // how many ports a dry run chose
}

func (s *services) create(ctx context.Context, r *admission.Request) error {
	service := core.Services.Cast(r.Object)
	return s.allocate(ctx, r, service, nil)
}

func (s *services) update(ctx context.Context, r *admission.Request) error {
	service, old := core.Services.Cast(r.Object), core.Services.Cast(r.Old)
	keep(service, old)
	return s.allocate(ctx, r, service, old)
}

func (s *services) allocate(ctx context.Context, r *admission.Request, service, old *corev1.Service) error {
	if err := s.settle(service, old); err != nil {
		return err
	}
	if old != nil {
		r.Finally(func() { s.releaseUnused(ctx, old) })
	}
	began := time.Now()
	took := taken{} // the ports of earlier attempts
	ip, ips := service.Spec.ClusterIP, service.Spec.ClusterIPs
	for attempt := 1; ; attempt++ {
		a := &allocation{s: s, request: r, taken: taken{}, own: maps.Clone(took), mine: taken{}, static: map[any]bool{}, asked: map[port]bool{}, service: service}
		if err := s.allocateLocked(ctx, a, old); err != nil || r.DryRun {
			return err
		}
		a.countPorts()
		if len(a.chosen) == 0 {
			return nil
		}
		lost, err := a.hold(ctx)
		switch {
		case err != nil:
			return err
		case !lost.IsValid():
			a.countAddresses(time.Since(began))
			return nil
		case !a.anyFree || attempt == addressAttempts:
			s.figures.noAddress(a.rangeOf(lost), a.static[lost])
			return a.invalid(field.NewPath("spec", "clusterIPs"), service.Spec.ClusterIPs,
				fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", lost))
		}
		service.Spec.ClusterIP, service.Spec.ClusterIPs = ip, ips // another server was faster
		for what := range a.mine {
			if port, ok := what.(nodePort); ok {
				took[port] = true
			}
		}
	}
}

// countAddresses counts the addresses that the Service got.
func (a *allocation) countAddresses(took time.Duration) {
	for _, addr := range a.chosen {
		a.s.figures.address(a.rangeOf(addr), a.static[addr], took)
	}
}

// countPorts counts the node ports that the Service got.
func (a *allocation) countPorts() {
	var n [2]int // chosen, named
	for what := range a.mine {
		if _, ok := what.(nodePort); !ok || a.own[what] {
			continue
		}
		if a.static[what] {
			n[1]++
		} else {
			n[0]++
		}
	}
	a.s.figures.gotPorts(false, n[0])
	a.s.figures.gotPorts(true, n[1])
}

// rangeOf is the range that an address belongs to.
func (a *allocation) rangeOf(addr netip.Addr) netip.Prefix {
	for _, p := range a.ranges {
		if p.Contains(addr) {
			return p
		}
	}
	return netip.Prefix{}
}

// hold holds the addresses that were taken, all or none; lost is one that somebody else holds.
func (a *allocation) hold(ctx context.Context) (lost netip.Addr, err error) {
	s, service := a.s, a.service
	for i, addr := range a.chosen {
		err := s.hold(ctx, addr, service.Namespace, service.Name)
		if err == nil {
			continue
		}
		for _, held := range a.chosen[:i] {
			s.release(ctx, held, service.Namespace, service.Name)
		}
		if apierrors.IsAlreadyExists(err) {
			return addr, nil
		}
		return netip.Addr{}, err
	}
	a.request.Undo(func() {
		for _, addr := range a.chosen {
			s.release(ctx, addr, service.Namespace, service.Name)
		}
	})
	return netip.Addr{}, nil
}

// addressAttempts bounds how often one request looks for an address that other servers take before it.
const addressAttempts = 16

// releaseUnused releases what a Service had and has no longer.
func (s *services) releaseUnused(ctx context.Context, old *corev1.Service) {
	has, ports := map[netip.Addr]bool{}, map[int32]bool{}
	if o, err := s.store.Get(ctx, core.Services.Kind, old.Namespace, old.Name); err == nil {
		for _, addr := range addressesOf(core.Services.Cast(o)) {
			has[addr] = true
		}
		for _, number := range portsOf(core.Services.Cast(o)) {
			ports[number] = true
		}
	} else if !apierrors.IsNotFound(err) {
		return
	}
	for _, addr := range addressesOf(old) {
		if !has[addr] {
			s.release(ctx, addr, old.Namespace, old.Name)
		}
	}
	if unused := slices.DeleteFunc(portsOf(old), func(number int32) bool { return ports[number] }); s.shared != nil && len(unused) > 0 {
		s.shared.release(ctx, unused)
	}
}

func (s *services) allocateLocked(ctx context.Context, a *allocation, old *corev1.Service) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.addressesTaken(ctx, a.taken)
	if err == nil {
		a.ranges, err = s.ranges(ctx)
	}
	if err != nil {
		return err
	}
	err = s.store.List(ctx, core.Services.Kind, "", func(o resource.Object) bool {
		a.taken.add(core.Services.Cast(o), s.shared == nil)
		return true
	})
	if err != nil {
		return err
	}
	if old != nil {
		a.own.add(old, true)
	}
	if err := a.addresses(old); err != nil {
		return err
	}
	return a.takePorts(ctx)
}

// add adds what a Service has; without its ports where servers agree on those otherwise.
func (t taken) add(s *corev1.Service, ports bool) {
	for _, ip := range s.Spec.ClusterIPs {
		if addr, err := netip.ParseAddr(ip); err == nil {
			t[addr] = true
		}
	}
	if !ports {
		return
	}
	for _, number := range portsOf(s) {
		t[nodePort(number)] = true
	}
}

// reserve keeps what was chosen from others until the request is over; s.mu is held. Ports on which servers agree need none:
// they are taken before s.mu is given up, or not at all.
func (a *allocation) reserve(what any) {
	a.mine[what] = true
	_, isPort := what.(nodePort)
	if a.own[what] || a.request.DryRun || isPort && a.s.shared != nil {
		return
	}
	a.s.reserved[what] = true
	a.request.Finally(func() {
		a.s.mu.Lock()
		defer a.s.mu.Unlock()
		delete(a.s.reserved, what)
	})
}

func (a *allocation) free(what any) bool {
	if a.own[what] || a.mine[what] {
		return true
	}
	if number, ok := what.(nodePort); ok && a.ports != nil && a.s.shared.has(int32(number)) {
		return a.ports.Bit(int(number)-a.s.shared.ports[0]) == 0
	}
	return !a.taken[what] && !a.s.reserved[what]
}

func hasAddress(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

func hasNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeLoadBalancer && (s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts)
}

func hasHealthPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// invalid is what a request gets that asks for what cannot be had.
func (a *allocation) invalid(path *field.Path, value any, detail string) error {
	return apierrors.NewInvalid(core.Services.GroupVersionKind.GroupKind(), a.service.Name, field.ErrorList{field.Invalid(path, value, detail)})
}

// addresses takes an address of each family for a Service that has none yet.
func (a *allocation) addresses(old *corev1.Service) error {
	spec := &a.service.Spec
	if !hasAddress(a.service) || spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	ips := slices.Clone(spec.ClusterIPs)
	for i, f := range spec.IPFamilies {
		if i >= len(ips) {
			addr, ok := a.choose(f)
			if !ok {
				for _, p := range a.ranges {
					if familyOf(p.Addr()) == f {
						a.s.figures.noAddress(p, false)
					}
				}
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: range is full"))
			}
			a.reserve(addr)
			a.chosen, a.anyFree = append(a.chosen, addr), true
			ips = append(ips, addr.String())
			continue
		}
		if i == 0 && old != nil && hasAddress(old) { // validation sees that it stays
			continue
		}
		if err := a.named(ips[i], f); err != nil {
			return err
		}
	}
	spec.ClusterIP, spec.ClusterIPs = ips[0], ips
	return nil
}

// named takes an address that a Service asks for.
func (a *allocation) named(text string, f corev1.IPFamily) error {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return nil // validation says it better
	}
	ips := a.service.Spec.ClusterIPs
	path, outside := field.NewPath("spec", "clusterIPs"), "the provided IP (%s) is not in the valid range. The range of valid IPs is %s"
	within := slices.IndexFunc(a.ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
	switch {
	case a.own[addr]:
	case within < 0 && a.request.DryRun: // for which Kubernetes looks at the configured range alone
		return a.invalid(path, ips, fmt.Sprintf("failed to allocate IP %s: "+outside, addr, addr, a.s.cidr(f)))
	case within < 0:
		return a.invalid(path, ips, fmt.Sprintf("failed to allocate IP %s: the provided network does not match the current range", addr))
	case !usable(a.ranges[within], addr):
		a.s.figures.noAddress(a.ranges[within], true)
		return a.invalid(path, ips, fmt.Sprintf("failed to allocate IP %s: "+outside, addr, addr, a.ranges[within]))
	case a.request.DryRun:
	case !a.free(addr):
		a.s.figures.noAddress(a.ranges[within], true)
		return a.invalid(path, ips, fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", addr))
	default:
		a.chosen, a.static[addr] = append(a.chosen, addr), true
	}
	a.reserve(addr)
	return nil
}

// usable tells whether an address of a range may be one of a Service: that of the network is not, and with IPv4 not the last one.
func usable(cidr netip.Prefix, addr netip.Addr) bool {
	return addr != cidr.Masked().Addr() && (addr.Is6() || cidr.Contains(addr.Next()))
}

// choose takes a free address: one of the upper part of the range at random first, so that the lower part is left for
// those who name theirs.
func (a *allocation) choose(f corev1.IPFamily) (netip.Addr, bool) {
	if a.request.DryRun { // nothing is taken: like Kubernetes, show the range
		return a.s.cidr(f).Addr(), true
	}
	for _, cidr := range a.ranges {
		if familyOf(cidr.Addr()) != f {
			continue
		}
		if addr, ok := a.chooseFrom(cidr); ok {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func (a *allocation) chooseFrom(cidr netip.Prefix) (netip.Addr, bool) {
	size := uint64(1) << min(cidr.Addr().BitLen()-cidr.Bits(), 24)
	if size <= 2 {
		return netip.Addr{}, false
	}
	static := min(max(size/16, 16), 256)
	if static >= size-2 {
		static = 0
	}
	if addr, ok := a.scan(cidr, static+1, size-1); ok {
		return addr, true
	}
	return a.scan(cidr, 1, static+1)
}

// scan tries the addresses at offsets from low to high, not included, starting somewhere between.
func (a *allocation) scan(cidr netip.Prefix, low, high uint64) (netip.Addr, bool) {
	if high <= low {
		return netip.Addr{}, false
	}
	n := high - low
	start := rand.Uint64N(n)
	for i := range n {
		addr := offset(cidr.Addr(), low+(start+i)%n)
		if a.free(addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// offset is the address n after base.
func offset(base netip.Addr, n uint64) netip.Addr {
	b := base.As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+n)
	addr := netip.AddrFrom16(b)
	if base.Is4() {
		return addr.Unmap()
	}
	return addr
}

func (a *allocation) nodePorts() error {
	spec := &a.service.Spec
	for i := range spec.Ports {
		p := &spec.Ports[i]
		path := field.NewPath("spec", "ports").Index(i).Child("nodePort")
		if p.NodePort != 0 {
			if err := a.portAsked(p.Protocol, p.NodePort, path); err != nil {
				return err
			}
			continue
		}
		if !hasNodePorts(a.service) {
			continue
		}
		port, ok := a.sibling(i)
		if !ok {
			port, ok = a.choosePort()
		}
		if !ok {
			a.s.figures.noPort(false)
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: range is full"))
		}
		p.NodePort = port
		a.reserve(nodePort(port))
	}
	if !hasHealthPort(a.service) {
		return nil
	}
	if spec.HealthCheckNodePort != 0 {
		return a.portAsked(corev1.ProtocolTCP, spec.HealthCheckNodePort, field.NewPath("spec", "healthCheckNodePort"))
	}
	port, ok := a.choosePort()
	if !ok {
		a.s.figures.noPort(false)
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a healthCheckNodePort: range is full"))
	}
	spec.HealthCheckNodePort = port
	a.reserve(nodePort(port))
	return nil
}

func (a *allocation) portAsked(protocol corev1.Protocol, number int32, path *field.Path) error {
	what, asked := nodePort(number), port{protocol, number}
	twice := a.asked[asked]
	a.asked[asked] = true
	switch {
	case a.own[what]:
		return nil
	case twice:
		return a.invalid(path, number, "provided port is already allocated")
	case a.request.DryRun:
		return nil
	}
	if int(number) < a.s.ports[0] || int(number) > a.s.ports[1] {
		a.s.figures.noPort(true)
		return a.invalid(path, number, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", a.s.ports[0], a.s.ports[1]))
	}
	if !a.free(what) {
		a.s.figures.noPort(true)
		return a.invalid(path, number, "provided port is already allocated")
	}
	a.static[what] = true
	a.reserve(what)
	return nil
}

// sibling is the node port of the same port under another protocol, if it is free for this one too.
func (a *allocation) sibling(i int) (int32, bool) {
	p := a.service.Spec.Ports[i]
	for j, other := range a.service.Spec.Ports {
		if j != i && other.Port == p.Port && other.NodePort != 0 && other.Protocol != p.Protocol && !a.asked[port{p.Protocol, other.NodePort}] && a.free(nodePort(other.NodePort)) {
			return other.NodePort, true
		}
	}
	return 0, false
}

func (a *allocation) choosePort() (int32, bool) {
	if a.request.DryRun { // nothing is taken: like Kubernetes, number on behind the range
		a.dry++
		return int32(a.s.ports[1]) + 1 + a.dry, true
	}
	n := a.s.ports[1] - a.s.ports[0] + 1
	start := rand.IntN(n)
	for i := range n {
		port := int32(a.s.ports[0] + (start+i)%n)
		mine := false
		for _, p := range a.service.Spec.Ports {
			mine = mine || p.NodePort == port
		}
		if !mine && a.free(nodePort(port)) {
			return port, true
		}
	}
	return 0, false
}

// keep carries over what an update leaves out, and drops what the new type does not have.
func keep(s, old *corev1.Service) {
	switch {
	case !hasAddress(s):
		keepNoAddress(s, old)
	case hasAddress(old):
		switch {
		case s.Spec.ClusterIP == "" && (len(s.Spec.ClusterIPs) == 0 || s.Spec.ClusterIPs[0] == old.Spec.ClusterIP):
			s.Spec.ClusterIP, s.Spec.ClusterIPs = old.Spec.ClusterIP, old.Spec.ClusterIPs
		case s.Spec.ClusterIP == old.Spec.ClusterIP && len(s.Spec.ClusterIPs) == 0:
			s.Spec.ClusterIPs = old.Spec.ClusterIPs
		case s.Spec.ClusterIP != old.Spec.ClusterIP && len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == old.Spec.ClusterIP:
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
		if len(s.Spec.IPFamilies) == 0 {
			s.Spec.IPFamilies = old.Spec.IPFamilies
		}
		if s.Spec.IPFamilyPolicy == nil {
			s.Spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
		}
	}
	keepPorts(s, old)
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer || s.Spec.Type == old.Spec.Type {
		return
	}
	s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	if equality.Semantic.DeepEqual(s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts) {
		s.Spec.AllocateLoadBalancerNodePorts = nil
	}
	if equality.Semantic.DeepEqual(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		s.Spec.LoadBalancerClass = nil
	}
	if !hasNodePorts(s) && len(s.Spec.ExternalIPs) == 0 && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
}

// keepNoAddress drops from a Service that has become a name alone what it left as it was.
func keepNoAddress(s, old *corev1.Service) {
	if !hasAddress(old) {
		return
	}
	if s.Spec.ClusterIP == old.Spec.ClusterIP {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
	}
	if slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
		s.Spec.IPFamilies = nil
	}
	if equality.Semantic.DeepEqual(s.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy) {
		s.Spec.IPFamilyPolicy = nil
	}
	if equality.Semantic.DeepEqual(s.Spec.InternalTrafficPolicy, old.Spec.InternalTrafficPolicy) {
		s.Spec.InternalTrafficPolicy = nil
	}
}

func keepPorts(s, old *corev1.Service) {
	if hasNodePorts(old) && hasNodePorts(s) {
		had, used := map[string]int32{}, map[int32]bool{}
		for _, p := range old.Spec.Ports {
			had[p.Name] = p.NodePort
		}
		for _, p := range s.Spec.Ports {
			used[p.NodePort] = true
		}
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			if was := had[p.Name]; p.NodePort == 0 && was != 0 && !used[was] {
				p.NodePort = was
				used[was] = true
			}
		}
	}
	if hasHealthPort(old) && hasHealthPort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
	if hasNodePorts(old) && !hasNodePorts(s) && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		was := map[int32]bool{}
		for _, p := range old.Spec.Ports {
			was[p.NodePort] = true
		}
		for i := range s.Spec.Ports {
			if was[s.Spec.Ports[i].NodePort] {
				s.Spec.Ports[i].NodePort = 0
			}
		}
	}
	if hasHealthPort(old) && !hasHealthPort(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
}
