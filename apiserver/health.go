// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"knarr.dev/store"
)

// check is one named part of health.
type check struct {
	name string
	run  func(context.Context) error
}

// healthKinds are the paths of health, with different checks each.
func healthKinds() []string { return []string{"healthz", "livez", "readyz"} }

// healthTimeout is how long a check of health may take.
const healthTimeout = 2 * time.Second

// startChecks are the names that Kubernetes has for the steps of its start, which clients may ask for one by one, and what each waits for here:
// the caches, the first objects, custom resources, aggregated servers.
func (s *Server) startChecks() []check {
	caches := func(ctx context.Context) error { return s.cachesFilled(ctx) }
	made := func(context.Context) error {
		if !s.isReady.Load() {
			return errNotFinished
		}
		return nil
	}
	custom := func(context.Context) error {
		if s.custom == nil {
			return nil
		}
		select {
		case <-s.custom.ready:
			return nil
		default:
			return errNotFinished
		}
	}
	var all []check
	for _, one := range []struct {
		run   func(context.Context) error
		names []string
	}{
		{caches, []string{"start-apiserver-admission-initializer", "generic-apiserver-start-informers", "priority-and-fairness-config-consumer",
			"priority-and-fairness-filter", "storage-object-count-tracker-hook"}},
		{custom, []string{"start-apiextensions-informers", "start-apiextensions-controllers", "crd-informer-synced"}},
		{made, []string{"start-system-namespaces-controller", "peer-endpoint-reconciler-controller", "start-cluster-authentication-info-controller",
			"start-kube-apiserver-identity-lease-controller", "start-kube-apiserver-identity-lease-garbage-collector"}},
		{caches, []string{"storage-readiness"}},
		{made, []string{"start-legacy-token-tracking-controller", "start-service-ip-repair-controllers", "rbac/bootstrap-roles",
			"scheduling/bootstrap-system-priority-classes", "priority-and-fairness-config-producer", "bootstrap-controller",
			"start-kubernetes-service-cidr-controller", "start-kube-aggregator-informers",
			"apiservice-status-local-available-controller", "apiservice-status-remote-available-controller", "apiservice-registration-controller",
			"apiservice-discovery-controller", "kube-apiserver-autoregistration"}},
		{made, []string{"autoregister-completion"}},
		{made, []string{"apiservice-openapi-controller", "apiservice-openapiv3-controller"}},
	} {
		for _, name := range one.names {
			if name != "autoregister-completion" {
				name = "poststarthook/" + name
			}
			all = append(all, check{name, one.run})
		}
	}
	return all
}

var errNotFinished = errors.New("not finished")

// checks are the checks of a path of health, in order.
func (s *Server) checks(path string) []check {
	fine := func(context.Context) error { return nil }
	stored := func(ctx context.Context) error {
		if _, err := s.cfg.Store.Read(ctx, store.Query{Key: "/registry/health"}); err != nil {
			return fmt.Errorf("error getting data from etcd: %w", err)
		}
		return nil
	}
	all := []check{{"ping", fine}, {"log", fine}}
	if path == "readyz" {
		all = append(all, check{"etcd", stored}, check{"etcd-readiness", stored}, check{"informer-sync", s.cachesFilled})
	} else {
		all = append(all, check{"loopback-serving-certificate", fine}, check{"etcd", stored})
	}
	all = append(all, s.startChecks()...)
	if path == "readyz" {
		all = append(all, check{"shutdown", func(context.Context) error {
			if s.stopping() {
				return errors.New("process is shutting down")
			}
			return nil
		}})
	}
	return all
}

func (s *Server) cachesFilled(context.Context) error {
	for _, c := range s.served.Load().caches {
		if c.Newest() == nil {
			return fmt.Errorf("%s is not in the cache yet", c.Kind().Kind)
		}
	}
	return nil
}

// serveHealth answers a path of health, or with the name of a check below it, that check alone.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request, path, one string) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	all := s.checks(path)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if one != "" {
		i := slices.IndexFunc(all, func(c check) bool { return c.name == one })
		if i < 0 {
			http.NotFound(w, r)
			return
		}
		if err := all[i].run(ctx); err != nil {
			http.Error(w, "internal server error: "+err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, "ok")
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	out, failed := s.runChecks(ctx, all, path, r.URL.Query()["exclude"])
	switch {
	case failed:
		http.Error(w, fmt.Sprintf("%s%s check failed", out, path), http.StatusInternalServerError)
	case r.URL.Query().Has("verbose"):
		fmt.Fprintf(w, "%s%s check passed\n", out, path)
	default:
		fmt.Fprint(w, "ok")
	}
}

// runChecks runs checks and tells the outcome of each in a line.
func (s *Server) runChecks(ctx context.Context, all []check, path string, excluded []string) (told string, failed bool) {
	var out strings.Builder
	unknown := slices.Clone(excluded)
	for _, c := range all {
		if slices.Contains(excluded, c.name) {
			unknown = slices.DeleteFunc(unknown, func(name string) bool { return name == c.name })
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := c.run(ctx); err != nil {
			failed = true
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.name)
			s.cfg.Log.Info("health check failed", "path", path, "check", c.name, "err", err)
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.name)
	}
	if len(unknown) > 0 {
		for i, name := range unknown {
			unknown[i] = fmt.Sprintf("%q", name)
		}
		fmt.Fprintf(&out, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(unknown, ","))
	}
	return out.String(), failed
}
