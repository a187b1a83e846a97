// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package server answers what the API server asks of a node: logs, exec, attach, port-forward, and the pods it runs.
//
// Streams are the container runtime's: the server asks it for an address and passes the bytes of an upgraded connection
// on. Only the newest WebSocket protocols, which runtimes do not speak, are translated. Who may connect is decided by
// the TLS configuration of the listener.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/node/cri"
)

// Config is what a server needs.
type Config struct {
	// Pods lists the pods of the node.
	Pods func() []*corev1.Pod
	CRI  *cri.Client
	// Dial connects in the node's network, where the runtime's streaming server is.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// LogDir has the logs of containers: NAMESPACE_POD_UID/CONTAINER/ATTEMPT.log.
	LogDir string
	Log    *slog.Logger
}

// Server answers the API server.
type Server struct {
	config Config
	mux    *http.ServeMux
	// streams counts the connections that were taken over.
	streams sync.WaitGroup
}

// New returns a server that Run starts.
func New(config Config) *Server {
	s := &Server{config: config, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	s.mux.HandleFunc("GET /pods", s.pods)
	s.mux.HandleFunc("GET /pods/", s.pods)
	s.mux.HandleFunc("GET /runningpods/", s.pods)
	s.mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, verb := range []string{"exec", "attach"} {
		s.mux.HandleFunc("/"+verb+"/{namespace}/{pod}/{container}", s.command(verb))
		s.mux.HandleFunc("/"+verb+"/{namespace}/{pod}/{uid}/{container}", s.command(verb))
	}
	s.mux.HandleFunc("/portForward/{namespace}/{pod}", s.portForward)
	s.mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", s.portForward)
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// shutdownTimeout is how long requests may go on after the end.
const shutdownTimeout = 2 * time.Second

// Run serves until ctx ends, and waits for streams to end.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	below, cancel := context.WithCancel(ctx)
	defer cancel()
	h := &http.Server{
		Handler: s, ReadHeaderTimeout: 30 * time.Second, BaseContext: func(net.Listener) context.Context { return below },
		ErrorLog: slog.NewLogLogger(s.config.Log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve the API server: %w", err)
	case <-ctx.Done():
	}
	stopping, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer stop()
	if h.Shutdown(stopping) != nil {
		_ = h.Close()
	}
	<-ended
	s.streams.Wait()
	return nil
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []corev1.Pod{}}
	for _, p := range s.config.Pods() {
		list.Items = append(list.Items, *p)
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(&list); err != nil {
		s.config.Log.Debug("cannot send pods", "error", err)
	}
}

// problem is an answer other than success.
type problem struct {
	code int
	text string
}

func (p *problem) Error() string { return p.text }

func fail(w http.ResponseWriter, err error) {
	var p *problem
	if errors.As(err, &p) {
		http.Error(w, p.text, p.code)
		return
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// find returns the pod that a request names.
func (s *Server) find(r *http.Request) (*corev1.Pod, error) {
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	var found *corev1.Pod
	for _, p := range s.config.Pods() {
		if p.Namespace == namespace && p.Name == name && (uid == "" || uid == string(p.UID)) &&
			(found == nil || found.CreationTimestamp.Before(&p.CreationTimestamp)) {
			found = p
		}
	}
	if found == nil {
		return nil, &problem{http.StatusNotFound, fmt.Sprintf("pod %q not found", name)}
	}
	return found, nil
}

// containers returns the containers of a name in a pod, newest first.
func (s *Server) containers(ctx context.Context, p *corev1.Pod, name string) ([]*runtimeapi.Container, error) {
	answer, err := s.config.CRI.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(p.UID), "io.kubernetes.container.name": name},
	}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	list := answer.Containers
	sortNewest(list)
	return list, nil
}

// running returns the ID of the running container that a request names.
func (s *Server) running(r *http.Request) (string, error) {
	p, err := s.find(r)
	if err != nil {
		return "", err
	}
	name := r.PathValue("container")
	list, err := s.containers(r.Context(), p, name)
	if err != nil {
		return "", err
	}
	for _, c := range list {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			return c.Id, nil
		}
	}
	return "", &problem{http.StatusNotFound, fmt.Sprintf("container not found (%q)", name)}
}
