// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package apiserver is the Kubernetes API: it takes requests, over HTTPS or from components of the same process, and
// answers them from the watch caches and the store.
//
// Every request, however it came, is authorized, admitted, validated and stored by the same code: pipeline.go lists the
// steps of HTTP, transport.go those in the process, and both end in registry.go. The package knows kinds only through
// resource.Kind. Start with New and Run.
package apiserver

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"knarr.dev/api/call"
	"knarr.dev/api/coordination"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/admission"
	"knarr.dev/apiserver/audit"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/authz"
	"knarr.dev/apiserver/discovery"
	"knarr.dev/apiserver/fieldmanager"
	apf "knarr.dev/apiserver/flowcontrol"
	"knarr.dev/apiserver/hooks"
	"knarr.dev/apiserver/merge"
	"knarr.dev/apiserver/tracing"
	"knarr.dev/store"
)

// Config says what a server serves and what it leans on.
type Config struct {
	Store store.Store
	// Shared says that other servers write to the store too.
	Shared bool
	// Hostname is what the machine calls itself, by which the server's Lease in kube-system names it; none is held if it is empty.
	Hostname string
	// StoreSize is how many bytes the store takes on disk; nil is unknown.
	StoreSize func(context.Context) (int64, error)
	// Flags are what the process was started with, by name, as /flagz tells them; nil is nothing.
	Flags map[string]string
	Kinds []*resource.Kind

	// Authenticators are asked in order; a request that none recognises is anonymous.
	Authenticators []authn.Authenticator
	// Anonymous says for which paths requests without credentials are served; nil is all.
	Anonymous func(path string) bool
	// Stale says whether a stored object should be written again though nothing changed, because of how it is encrypted; nil is never.
	Stale func(ctx context.Context, key string) (bool, error)
	// Audit records requests; nil records nothing.
	Audit *audit.Auditor
	// Authorizer is built once with the server's caches; nil allows everything.
	Authorizer func(admission.Reader) authz.Authorizer
	// Steps lists the admission steps in order.
	Steps func(admission.Reader, admission.Writer) []admission.Step
	// Hooks lists behaviour of kinds beside that which this package brings.
	Hooks func(hooks.Store) []hooks.Hook
	// Policy is what RBAC has from the start, such as authz.Bootstrap's; nil is nothing.
	Policy *authz.Policy
	// Bootstrap lists objects that the server creates at start if they are missing, and updates with Reconcile.
	Bootstrap []Bootstrap
	// Paths are handlers of other paths (discovery, OpenAPI, streams): longest prefix first if it ends in "/".
	Paths map[string]http.Handler
	// FrontProxyTLS has the certificate that aggregated API servers know this one by.
	FrontProxyTLS *tls.Config
	// RemotesChanged is told the versions that aggregated API servers serve whenever that changes.
	RemotesChanged func([]discovery.Remote)
	// KindsChanged is told all kinds that are served whenever that changes while the server runs, one call at a time.
	KindsChanged func([]*resource.Kind)
	// Connect answers requests of verb connect: exec, attach, log, portforward and proxy; nil refuses them.
	Connect func(w http.ResponseWriter, r *http.Request, user *call.Identity, q *call.Request)

	// TLS and Listener serve HTTPS; without a listener the server is reachable by Handler and Transport only.
	TLS      *tls.Config
	Listener net.Listener
	// ServiceCIDR is where service addresses come from; 10.43.0.0/16 if it is zero. SecondaryServiceCIDR, of the other family, is
	// where Services for both get their second address from; there are none if it is zero.
	ServiceCIDR, SecondaryServiceCIDR netip.Prefix
	// NodePorts is the range of node ports; 30000-32767 if it is zero.
	NodePorts [2]int
	// AdvertiseIP and AdvertisePort are the endpoint of the service default/kubernetes; none is written without an
	// address, or for one on loopback.
	AdvertiseIP   netip.Addr
	AdvertisePort int

	// Shutdown says how the server ends.
	Shutdown Shutdown
	// LastingPaths are paths of Paths whose requests last as long as their users like.
	LastingPaths []string
	// Tracer tells a collector what requests do; nil tells nobody. The server does not close it.
	Tracer *tracing.Tracer
	// NoProfiling serves no profiles of the process.
	NoProfiling bool
	// BodyTimeout is how long the body of a request may take to arrive; a minute if 0.
	BodyTimeout time.Duration

	Log *slog.Logger
	// Level is the log's, changed at /debug/flags/v; nil cannot be changed.
	Level   *slog.LevelVar
	Metrics *prometheus.Registry
	// Components are parts of the control plane beside the store whose health ComponentStatuses tell.
	Components []hooks.Component
	// MaxInFlight and MaxMutatingInFlight bound the requests that are carried out at once, beside watches; 400 and 200 if 0. With
	// priority and fairness only their sum counts; without, a negative one is no bound.
	MaxInFlight, MaxMutatingInFlight int
	// Unfair turns priority and fairness off.
	Unfair bool
	// RequestTimeout is how long a request may take that does not stream; a minute if 0.
	RequestTimeout time.Duration
	// MinWatchTimeout is how long a watch lasts if its client does not say, at random up to twice that; 30 minutes if 0.
	MinWatchTimeout time.Duration
	// MaxStreams bounds the requests of one HTTP/2 connection; 1000 if 0.
	MaxStreams int
	// GoawayChance is the fraction of HTTP/2 requests whose connection is ended, so that clients spread over several servers.
	GoawayChance float64
}

// Bootstrap is an object that exists from the start.
type Bootstrap struct {
	Kind   *resource.Kind
	Object resource.Object
	// Reconcile, if set, brings an object that exists up to date; it gets a copy and says whether it changed it.
	Reconcile func(existing resource.Object) bool
}

// Server serves the API.
type Server struct {
	cfg    Config
	served atomic.Pointer[kinds]
	custom *customKinds // nil if there are no CustomResourceDefinitions
	others *aggregated  // nil if there are no APIServices
	// repairs is nil before the start, and without Services.
	repairs *hooks.Repairs

	authorizer authz.Authorizer
	steps      steps
	hooks      map[hookKey]*hooks.Hook
	fields     *fieldmanager.Fields
	patcher    merge.Patcher
	// answers has buffers for answers, chunks those for parts of lists, values those for what is stored, bodies those for requests.
	answers, chunks, values, bodies sync.Pool
	// memory compares objects.
	memory   resource.Comparers
	handler  http.Handler
	metrics  *metrics
	flows    *apf.Controller // nil without priority and fairness
	inFlight *inFlight       // instead
	retry    apf.Retry
	watchers watchers
	slow     rate

	began   time.Time
	ready   chan struct{}
	isReady atomic.Bool
	stopped chan struct{}
	// draining is when the end began, in Unix nanoseconds, or 0; refusing says that new requests are refused.
	draining       atomic.Int64
	refusing       atomic.Bool
	brief, lasting *inflight // requests that are bounded in time, and those that are not
	farewells      farewells
	views          sync.Map // viewKey -> *watchcache.View
	// impersonations are the ways in which users last impersonated.
	impersonations authn.Memory[string, string]
	// connects is held for reading by each request of verb connect; whoever gets it for writing has seen the last of them.
	connects sync.RWMutex
}

type hookKey struct {
	kind        *resource.Kind
	subresource string
}

// New returns a server that is not running. It does no I/O.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Log == nil {
		return nil, errors.New("apiserver: config lacks a store or a log")
	}
	if !cfg.ServiceCIDR.IsValid() {
		cfg.ServiceCIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 43, 0, 0}), 16)
	}
	if cfg.NodePorts == [2]int{} {
		cfg.NodePorts = [2]int{30000, 32767}
	}
	if cfg.BodyTimeout <= 0 {
		cfg.BodyTimeout = time.Minute
	}
	cfg.MaxInFlight, cfg.MaxMutatingInFlight = cmp.Or(cfg.MaxInFlight, defaultInFlight), cmp.Or(cfg.MaxMutatingInFlight, defaultMutatingInFlight)
	cfg.MinWatchTimeout, cfg.MaxStreams = cmp.Or(cfg.MinWatchTimeout, defaultWatchTimeout), cmp.Or(cfg.MaxStreams, defaultStreams)
	cfg.RequestTimeout = cmp.Or(cfg.RequestTimeout, defaultRequestTimeout)
	if cfg.Metrics == nil {
		cfg.Metrics = prometheus.NewRegistry()
	}
	s := &Server{
		cfg: cfg, hooks: map[hookKey]*hooks.Hook{},
		brief: newInflight(), lasting: newInflight(),
		began: time.Now(), ready: make(chan struct{}), stopped: make(chan struct{}),
		fields: fieldmanager.New(cfg.Kinds),
	}
	s.metrics = newMetrics(s)
	s.cfg.Store = measureStore(cfg.Store, s.metrics.set, cfg.Kinds)
	if err := cfg.Metrics.Register(s.metrics.set); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	s.startFlows()
	if err := s.addKinds(cfg.Kinds); err != nil {
		return nil, err
	}
	if cfg.Authorizer != nil {
		s.authorizer = cfg.Authorizer(s.objects())
	}
	if cfg.Steps != nil {
		s.steps = newSteps(cfg.Steps(s.objects(), s.objects()))
	}
	all := s.builtinHooks()
	if cfg.Hooks != nil {
		all = append(all, cfg.Hooks(s.objects())...)
	}
	for i := range all {
		h := &all[i]
		key := hookKey{h.Kind, h.Subresource}
		if s.hooks[key] != nil {
			return nil, fmt.Errorf("apiserver: two hooks for %s %q", h.Kind.Kind, h.Subresource)
		}
		s.hooks[key] = h
	}
	s.handler = s.pipeline()
	s.custom, s.others = newCustomKinds(s), newAggregated(s)
	return s, nil
}

// Ready is closed when the caches are filled, the first objects made and the server answers.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Routes are the paths that are served beside those of resources, in order; one that ends in "/" stands for all below it.
func (s *Server) Routes() []string {
	paths := []string{"/healthz", "/livez", "/readyz", "/version", "/metrics", "/statusz", "/flagz", "/debug/pprof/"}
	for path := range s.cfg.Paths {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

// Handler is the whole HTTP pipeline.
func (s *Server) Handler() http.Handler { return s.handler }

// Run fills the caches, makes the first objects and serves until ctx ends; then it ends as Config.Shutdown says, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	// Caches and loops go on until the last request is finished.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	caches := s.served.Load().caches
	failed := make(chan error, len(caches)+1)
	for _, c := range caches {
		wg.Go(func() {
			if err := c.Run(work); err != nil && work.Err() == nil {
				failed <- err
			}
		})
	}
	wg.Go(func() { s.tidy(work) })
	defer cancel() // before wg.Wait
	var server *http.Server
	if s.cfg.Listener != nil {
		server = s.httpServer()
		wg.Go(func() {
			if err := serve(server, s.cfg.Listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", s.cfg.Listener.Addr(), err)
			}
		})
	}
	defer s.end(server, failed)
	if s.custom != nil {
		wg.Go(func() { s.custom.run(work) })
	}
	if s.others != nil {
		wg.Go(func() { s.others.run(work) })
	}
	if err := s.start(ctx, failed); err != nil {
		return err
	}
	wg.Go(func() { s.keepFlows(work) })
	if s.flows != nil {
		wg.Go(func() { s.flows.Run(work) })
	}
	if s.repairs != nil {
		wg.Go(func() {
			s.repairs.Run(ctx, func(err error) { s.cfg.Log.Warn("addresses of Services could not be checked", "err", err) })
		})
	}
	if s.cfg.Hostname != "" && s.registry(coordination.Leases.Kind) != nil {
		wg.Go(func() { s.keepIdentity(work) })
	}
	if s.cfg.Shared && s.advertised() {
		wg.Go(func() { s.keepEndpoints(ctx) }) // nobody is led here from the moment on that the end begins
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// tidyInterval is how often caches drop what nobody reads.
const tidyInterval = 5 * time.Second

// tidy keeps the caches small until ctx ends.
func (s *Server) tidy(ctx context.Context) {
	tick := time.NewTicker(tidyInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for c := range s.served.Load().stored() {
				c.Tidy(now)
				c.Pack(now)
			}
		}
	}
}

// start waits for the caches and makes the first objects.
func (s *Server) start(ctx context.Context, failed <-chan error) error {
	waits := make([]<-chan struct{}, 0, len(s.served.Load().caches)+1)
	for _, c := range s.served.Load().caches {
		waits = append(waits, c.Ready())
	}
	if s.custom != nil {
		waits = append(waits, s.custom.ready)
	}
	for _, ready := range waits {
		select {
		case <-ready:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
	if err := s.bootstrap(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("make the first objects: %w", err)
	}
	s.configureFlows()
	s.isReady.Store(true)
	close(s.ready)
	return nil
}
