// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/version"

	"knarr.dev/store"
)

// Version is the Kubernetes version whose API is served, as /version tells it.
func Version() version.Info {
	return version.Info{
		Major: "1", Minor: "36", EmulationMajor: "1", EmulationMinor: "36", MinCompatibilityMajor: "1", MinCompatibilityMinor: "35",
		GitVersion: "v1.36.3+knarr", GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// check is one named part of health.
type check struct {
	name string
	run  func(context.Context) error
}

// healthKinds are the paths of health, with different checks each.
func healthKinds() []string { return []string{"healthz", "livez", "readyz"} }

// startChecks are the names that Kubernetes has for the steps of its start, which clients may ask for one by one. Here they are one step:
// all caches are filled and the first objects made.
func startChecks() []string {
	return []string{
		"poststarthook/start-apiserver-admission-initializer", "poststarthook/generic-apiserver-start-informers",
		"poststarthook/priority-and-fairness-config-consumer", "poststarthook/priority-and-fairness-filter",
		"poststarthook/storage-object-count-tracker-hook", "poststarthook/start-apiextensions-informers",
		"poststarthook/start-apiextensions-controllers", "poststarthook/crd-informer-synced",
		"poststarthook/start-system-namespaces-controller", "poststarthook/peer-endpoint-reconciler-controller",
		"poststarthook/start-cluster-authentication-info-controller", "poststarthook/start-kube-apiserver-identity-lease-controller",
		"poststarthook/start-kube-apiserver-identity-lease-garbage-collector", "poststarthook/storage-readiness",
		"poststarthook/start-legacy-token-tracking-controller", "poststarthook/start-service-ip-repair-controllers",
		"poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes",
		"poststarthook/priority-and-fairness-config-producer", "poststarthook/bootstrap-controller",
		"poststarthook/start-kubernetes-service-cidr-controller", "poststarthook/start-kube-aggregator-informers",
		"poststarthook/apiservice-status-local-available-controller", "poststarthook/apiservice-status-remote-available-controller",
		"poststarthook/apiservice-registration-controller", "poststarthook/apiservice-discovery-controller",
		"poststarthook/kube-apiserver-autoregistration", "autoregister-completion",
		"poststarthook/apiservice-openapi-controller", "poststarthook/apiservice-openapiv3-controller",
	}
}

// checks are the checks of a path of health, in order.
func (s *Server) checks(path string) []check {
	fine := func(context.Context) error { return nil }
	stored := func(ctx context.Context) error {
		_, err := s.cfg.Store.Read(ctx, store.Query{Key: "/registry/health"})
		return err
	}
	all := []check{{"ping", fine}, {"log", fine}}
	if path == "readyz" {
		all = append(all, check{"etcd", stored}, check{"etcd-readiness", stored}, check{"informer-sync", s.cachesFilled})
	} else {
		all = append(all, check{"loopback-serving-certificate", fine}, check{"etcd", stored})
	}
	for _, name := range startChecks() {
		all = append(all, check{name, func(context.Context) error {
			if !s.isReady.Load() {
				return errors.New("not finished")
			}
			return nil
		}})
	}
	if path == "readyz" {
		all = append(all, check{"shutdown", func(context.Context) error {
			select {
			case <-s.stopped:
				return errors.New("process is shutting down")
			default:
				return nil
			}
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

func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request, kind, one string) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	var out strings.Builder
	excluded := r.URL.Query()["exclude"]
	failed, found := false, one == ""
	for _, c := range s.checks(kind) {
		if one != "" && c.name != one {
			continue
		}
		found = true
		if contains(excluded, c.name) {
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := c.run(ctx); err != nil {
			failed = true
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.name)
			s.cfg.Log.Debug("health check failed", "check", c.name, "err", err)
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.name)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch {
	case !found:
		http.NotFound(w, r)
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", out.String(), kind)
	case one == "" && r.URL.Query().Has("verbose"):
		fmt.Fprintf(w, "%s%s check passed\n", out.String(), kind)
	default:
		fmt.Fprint(w, "ok")
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
