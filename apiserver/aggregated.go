// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/aggregate"
	"knarr.dev/apiserver/measure"
	"knarr.dev/apiserver/watchcache"
	"knarr.dev/apiserver/webhook"
)

// aggregated sends requests for groups that other servers serve on to them.
type aggregated struct {
	server  *Server
	handler *aggregate.Handler
	changed chan struct{} // the kinds of this server changed; has room for one
}

// newAggregated returns nil if there are no APIServices.
func newAggregated(s *Server) *aggregated {
	if s.registry(extension.APIServices.Kind) == nil {
		return nil
	}
	a := &aggregated{server: s, changed: make(chan struct{}, 1)}
	unavailable, failed := a.figures(s.metrics.set)
	a.handler = aggregate.New(aggregate.Config{
		Server: s.objects(), ClientTLS: s.cfg.FrontProxyTLS, Changed: a.tell, Unavailable: unavailable, Failed: failed, Log: s.cfg.Log,
		Ending: aggregate.Ending{Began: s.stopped, Turn: func() time.Duration { return s.farewells.turn(s.cfg.Shutdown.WatchGrace) }},
	})
	return a
}

// figures adds those of other servers to a set, and returns what counts them.
func (a *aggregated) figures(set *measure.Set) (unavailable func(name, reason string), failed func(error)) {
	set.Read("aggregator_unavailable_apiservice", "[ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.", []string{"name"},
		func(tell func(float64, ...string)) {
			s := a.server.registry(extension.APIServices.Kind).cache.Newest()
			if s == nil {
				return
			}
			s.Range("", "", func(e *watchcache.Entry) bool {
				v := 0.0
				for _, c := range extension.APIServices.Cast(e.Object).Status.Conditions {
					if c.Type == apiregistrationv1.Available && c.Status == apiregistrationv1.ConditionFalse {
						v = 1
					}
				}
				tell(v, e.Object.GetName())
				return true
			})
		})
	total := set.Counters("aggregator_unavailable_apiservice_total",
		"[ALPHA] A counter of APIServices which are marked as unavailable broken down by APIService name and reason.", "name", "reason")
	noNames := set.Counters("apiserver_kube_aggregator_x509_missing_san_total",
		"[ALPHA] Counts the number of requests to servers missing SAN extension in their serving certificate OR the number of connection failures due to the lack of x509 certificate SAN extension missing (either/or, based on the runtime environment)").With()
	sha1 := set.Counters("apiserver_kube_aggregator_x509_insecure_sha1_total",
		"[ALPHA] Counts the number of requests to servers with insecure SHA1 signatures in their serving certificate OR the number of connection failures due to the insecure SHA1 signatures (either/or, based on the runtime environment)").With()
	unavailable = func(name, reason string) { total.With(name, reason).Inc() }
	failed = func(err error) {
		switch unnamed, weak := webhook.Outdated(err); {
		case unnamed:
			noNames.Inc()
		case weak:
			sha1.Inc()
		}
	}
	return unavailable, failed
}

func (a *aggregated) tell() {
	if f := a.server.cfg.RemotesChanged; f != nil {
		f(a.handler.Remotes())
	}
}

// kindsChanged makes the APIServices follow the kinds.
func (a *aggregated) kindsChanged() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// run follows the APIServices until ctx ends.
func (a *aggregated) run(ctx context.Context) {
	kind := extension.APIServices.Kind
	cache := a.server.registry(kind).cache
	select {
	case <-cache.Ready():
	case <-ctx.Done():
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { a.handler.Run(ctx, cache.View(kind, nil)) })
	select {
	case <-a.server.ready: // the APIServices of the first kinds are made by then
	case <-ctx.Done():
		return
	}
	a.kindsChanged()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.changed:
		}
		if err := a.handler.SyncCustom(ctx, a.server.served.Load().all); err != nil && ctx.Err() == nil {
			a.server.cfg.Log.Warn("API services of custom resources", "err", err)
			wg.Go(func() {
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
					a.kindsChanged()
				}
			})
		}
	}
}

// serves answers a request if its path is of a group and version of another server.
func (a *aggregated) serves(w http.ResponseWriter, r *http.Request) bool {
	parts := strings.SplitN(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/openapi/v3"), "/"), "/", 4)
	if len(parts) < 3 || parts[0] != "apis" {
		return false
	}
	gv := schema.GroupVersion{Group: parts[1], Version: parts[2]}
	if !a.handler.Serves(gv) {
		return false
	}
	sc := scopeOf(r)
	lasts := sc.info.verb == "watch"
	if lasts {
		sc.begun() // when it has begun there only the other server knows
	}
	a.handler.ServeHTTP(w, r, gv, sc.user, lasts)
	return true
}

// localServices are the APIServices of the kinds that the server has from the start.
func (s *Server) localServices(add func(*resource.Kind, resource.Object, func(resource.Object) bool)) {
	for _, service := range aggregate.Local(s.cfg.Kinds) {
		add(extension.APIServices.Kind, service, nil)
	}
}
