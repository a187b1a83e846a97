// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/client"
	"knarr.dev/proxy/nft"
)

// health tells load balancers whether this node has endpoints of a Service, on the Service's healthCheckNodePort. It is for one
// goroutine.
type health struct {
	netns   nft.Namespace
	log     *slog.Logger
	servers map[client.Key]*healthServer
}

type healthServer struct {
	port   int32
	local  atomic.Int64
	server *http.Server // nil if the port is taken
	done   chan struct{}
}

func newHealth(netns nft.Namespace, log *slog.Logger) *health {
	return &health{netns: netns, log: log, servers: map[client.Key]*healthServer{}}
}

// healthPort is the port of a Service that has one.
func healthPort(s *corev1.Service) int32 {
	if s == nil || s.Spec.Type != corev1.ServiceTypeLoadBalancer || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return 0
	}
	return s.Spec.HealthCheckNodePort
}

// readyHere counts the ready endpoints of this node.
func readyHere(endpoints []*discoveryv1.EndpointSlice, node string) int {
	found := map[netip.Addr]bool{}
	for _, s := range endpoints {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.NodeName == nil || *e.NodeName != node || e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
				continue
			}
			if ip, err := netip.ParseAddr(e.Addresses[0]); err == nil {
				found[ip] = true
			}
		}
	}
	return len(found)
}

// set says that a Service has a number of endpoints here, to whom asks on port; port 0 ends that.
func (h *health) set(ctx context.Context, key client.Key, port int32, local int) {
	s := h.servers[key]
	if s != nil && s.port != port {
		s.stop()
		delete(h.servers, key)
		s = nil
	}
	if port == 0 {
		return
	}
	if s == nil {
		s = h.start(ctx, key, port)
		h.servers[key] = s
	}
	s.local.Store(int64(local))
}

func (h *health) start(ctx context.Context, key client.Key, port int32) *healthServer {
	s := &healthServer{port: port, done: make(chan struct{})}
	l, err := h.netns.Listen(ctx, fmt.Sprintf(":%d", port))
	if err != nil {
		h.log.Error("health of a Service is not served", "service", key, "port", port, "err", err)
		close(s.done)
		return s
	}
	s.server = &http.Server{
		ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 1 << 14,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.answer(w, key) }),
	}
	go func() {
		defer close(s.done)
		if err := s.server.Serve(l); err != http.ErrServerClosed {
			h.log.Error("health of a Service is not served", "service", key, "port", port, "err", err)
		}
	}()
	return s
}

func (s *healthServer) answer(w http.ResponseWriter, key client.Key) {
	type service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	local := s.local.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(local, 10))
	if local == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(struct {
		Service        service `json:"service"`
		LocalEndpoints int64   `json:"localEndpoints"`
		Healthy        bool    `json:"serviceProxyHealthy"`
	}{service{key.Namespace, key.Name}, local, true})
}

func (s *healthServer) stop() {
	if s.server != nil {
		s.server.Close()
	}
	<-s.done
}

// stop ends all servers.
func (h *health) stop() {
	for key, s := range h.servers {
		s.stop()
		delete(h.servers, key)
	}
}
