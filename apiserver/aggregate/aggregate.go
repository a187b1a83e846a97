// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package aggregate joins other API servers to this one.
//
// An APIService says that a group and version are served by a server behind a Service. A Handler follows the APIServices: it
// keeps those of the server's own groups, sees which others answer, passes requests on in the name of the user who made
// them (over the front proxy's certificate, which the other server trusts), and merges what they say about themselves into
// discovery. Requests come authenticated and authorized. Start with New and Run.
package aggregate

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	documents "knarr.dev/apiserver/discovery"
)

// Times of the checks.
const (
	checkEvery   = 30 * time.Second
	checkSoon    = time.Second // after a failure
	checkTimeout = 5 * time.Second
	dialTimeout  = 5 * time.Second
)

// Server is what the handler needs of the server that it belongs to.
type Server interface {
	// Get and List read current objects; Do writes as the server itself.
	Get(ctx context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error)
	List(ctx context.Context, kind *resource.Kind, namespace string, each func(resource.Object) bool) error
	Do(ctx context.Context, r *call.Request) (*call.Result, error)
}

// Config is what a handler leans on.
type Config struct {
	Server Server
	// ClientTLS has the certificate by which other servers know this one as a front proxy.
	ClientTLS *tls.Config
	// Changed is told when what discovery says of other servers may have changed; may be nil.
	Changed func()
	// Unavailable is told of an APIService that is not available any more; Failed of connections that came to nothing. May be nil.
	Unavailable func(name, reason string)
	Failed      func(error)
	// Ending says when watches that were passed on end.
	Ending Ending
	Log    *slog.Logger
}

// Handler sends requests on to other servers.
type Handler struct {
	cfg     Config
	remotes atomic.Pointer[map[schema.GroupVersion]*remote]

	mu    sync.Mutex
	dirty map[string]bool
	busy  map[string]bool // being reconciled
	wake  chan struct{}
}

// remote is one group and version of another server.
type remote struct {
	service   *apiregistrationv1.APIService
	transport *http.Transport
	host      string // NAME.NAMESPACE.svc:PORT
	available atomic.Bool
	resources atomic.Pointer[metav1.APIResourceList] // as it said last
	openapi   atomic.Pointer[string]                 // where its document is
	schemas   atomic.Pointer[schemas]                // its document of v2
	described atomic.Pointer[described]              // what its aggregated discovery says; nil if it has none
}

// New returns a handler that knows no servers yet.
func New(cfg Config) *Handler {
	h := &Handler{cfg: cfg, dirty: map[string]bool{}, busy: map[string]bool{}, wake: make(chan struct{}, 1)}
	h.remotes.Store(&map[schema.GroupVersion]*remote{})
	return h
}

// Run follows the APIServices of a view until ctx ends.
func (h *Handler) Run(ctx context.Context, services call.View) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer h.closeAll()
	wg.Go(func() {
		_ = services.Subscribe(ctx, func(obj, old resource.Object) { // it ends with ctx
			if obj == nil {
				obj = old
			}
			h.mark(obj.GetName())
		}, func() {})
	})
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		for _, name := range h.take() {
			wg.Go(func() {
				again := h.reconcile(ctx, services, name)
				h.mu.Lock()
				delete(h.busy, name)
				h.mu.Unlock()
				h.markAfter(ctx, name, again)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		case <-ticker.C:
			for _, r := range *h.remotes.Load() {
				h.mark(r.service.Name)
			}
		}
	}
}

func (h *Handler) mark(name string) {
	h.mu.Lock()
	h.dirty[name] = true
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *Handler) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for name := range h.dirty {
		if !h.busy[name] {
			names = append(names, name)
			h.busy[name] = true
			delete(h.dirty, name)
		}
	}
	return names
}

// markAfter marks a name after a while, or at once if it was marked while it was busy.
func (h *Handler) markAfter(ctx context.Context, name string, wait time.Duration) {
	h.mu.Lock()
	again := h.dirty[name]
	h.mu.Unlock()
	if !again {
		if wait == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	h.mark(name)
}

// set replaces or removes what serves a group and version.
func (h *Handler) set(gv schema.GroupVersion, r *remote) {
	h.mu.Lock()
	old := (*h.remotes.Load())[gv]
	next := maps.Clone(*h.remotes.Load())
	if r == nil {
		delete(next, gv)
	} else {
		next[gv] = r
	}
	h.remotes.Store(&next)
	h.mu.Unlock()
	if old != nil && old != r {
		old.transport.CloseIdleConnections()
	}
}

func (h *Handler) closeAll() {
	for _, r := range *h.remotes.Load() {
		r.transport.CloseIdleConnections()
	}
}

// Remotes are the versions that other servers serve, for discovery.
func (h *Handler) Remotes() []documents.Remote {
	var out []documents.Remote
	for gv, r := range *h.remotes.Load() {
		address, v2, version := "", []byte(nil), (*apidiscoveryv2.APIVersionDiscovery)(nil)
		if at := r.openapi.Load(); at != nil {
			address = *at
		}
		if s := r.schemas.Load(); s != nil {
			v2 = s.compressed
		}
		if d := r.described.Load(); d != nil {
			version = d.version
		}
		out = append(out, documents.Remote{
			OpenAPI: address, OpenAPI2: v2, Described: version,
			Group: gv.Group, Version: gv.Version, GroupPriority: r.service.Spec.GroupPriorityMinimum,
			VersionPriority: r.service.Spec.VersionPriority, Available: r.available.Load(), Resources: r.resources.Load(),
		})
	}
	slices.SortFunc(out, func(a, b documents.Remote) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Version, b.Version))
	})
	return out
}

// Serves says whether another server serves a group and version.
func (h *Handler) Serves(gv schema.GroupVersion) bool { return (*h.remotes.Load())[gv] != nil }

// reconcile brings the handler in step with one APIService, and its condition in step with the world.
// A duration above 0 asks to be called again after it.
func (h *Handler) reconcile(ctx context.Context, services call.View, name string) time.Duration {
	obj, ok := services.Get("", name)
	if !ok {
		h.forget(name)
		return 0
	}
	a := extension.APIServices.Cast(obj)
	gv := schema.GroupVersion{Group: a.Spec.Group, Version: a.Spec.Version}
	if a.Spec.Service == nil {
		if (*h.remotes.Load())[gv] != nil {
			h.forget(name)
		}
		return 0
	}
	r := (*h.remotes.Load())[gv]
	fresh := r == nil || r.service.UID != a.UID || !sameSpec(r.service, a)
	if fresh {
		r = h.connect(a)
		h.set(gv, r)
		h.changed() // the group is there even if its server never answers
	}
	was, said := r.available.Load(), r.description()
	problem := h.check(ctx, r)
	if ctx.Err() != nil {
		return 0
	}
	r.available.Store(problem == nil)
	if err := h.report(ctx, a, problem); err != nil {
		h.cfg.Log.Warn("availability of an API service not written", "name", name, "err", err)
	}
	if was != r.available.Load() || said != r.description() {
		h.changed()
	}
	if problem != nil {
		return checkSoon
	}
	return 0
}

func (h *Handler) forget(name string) {
	for gv, r := range *h.remotes.Load() {
		if r.service.Name == name {
			h.set(gv, nil)
			h.changed()
		}
	}
}

func (h *Handler) changed() {
	if h.cfg.Changed != nil {
		h.cfg.Changed()
	}
}

func sameSpec(a, b *apiregistrationv1.APIService) bool {
	return equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

// unavailable is why a server is not sent requests.
type unavailable struct{ reason, message string }

func (u *unavailable) Error() string { return u.message }

// report writes the condition of an APIService if it is another than before.
func (h *Handler) report(ctx context.Context, a *apiregistrationv1.APIService, problem error) error {
	c := apiregistrationv1.APIServiceCondition{
		Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, Reason: "Passed", Message: "all checks passed",
		LastTransitionTime: metav1.Now().Rfc3339Copy(),
	}
	var why *unavailable
	if errors.As(problem, &why) {
		c.Status, c.Reason, c.Message = apiregistrationv1.ConditionFalse, why.reason, why.message
	}
	next, was := a.DeepCopy(), apiregistrationv1.ConditionUnknown
	for i, old := range next.Status.Conditions {
		if old.Type != c.Type {
			continue
		}
		was = old.Status
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		if old == c {
			return nil
		}
		next.Status.Conditions = slices.Delete(next.Status.Conditions, i, i+1)
		break
	}
	if why != nil && was != apiregistrationv1.ConditionFalse && h.cfg.Unavailable != nil {
		h.cfg.Unavailable(a.Name, why.reason)
	}
	next.Status.Conditions = append(next.Status.Conditions, c)
	_, err := h.cfg.Server.Do(ctx, &call.Request{
		Verb: "update", Kind: extension.APIServices.Kind, Name: a.Name, Subresource: "status", Object: next,
	})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) { // a change brings the handler here again
		return nil
	}
	return err
}
