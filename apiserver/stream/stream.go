// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package stream answers the requests that no object answers: the log of a pod, exec, attach and port-forward, and
// requests that are passed on to pods, services and nodes.
//
// Pods' streams go to the node agent (https://NODE:PORT). The bytes of an upgraded connection, whether SPDY or
// WebSocket, pass through as they are: what runs inside is agreed on by the client and the node. Requests have been
// authenticated and authorized before. Every connection ends with the request's context, at the latest, and their
// number is bounded. Start with New.
package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/api/codec"
	"knarr.dev/apiserver/admission"
)

// Config is what a Handler needs.
type Config struct {
	// Objects reads pods, nodes, services and endpoint slices.
	Objects admission.Reader
	// KubeletTLS is how node agents are called; nil trusts the system's authorities and shows no certificate.
	KubeletTLS *tls.Config
	// NodeAddressTypes says which of a node's addresses is called: the first there is of the first type that it has.
	// NodeAddressTypes() if it is empty.
	NodeAddressTypes []corev1.NodeAddressType
	// Dial connects to nodes and pods; nil is a net.Dialer. It is given at most 30 seconds.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// MaxStreams bounds the connections at any time; 2000 if it is 0.
	MaxStreams int
	// IdleTimeout ends upgraded connections on which nothing was sent for so long, or up to twice that; 4 hours if it is 0.
	IdleTimeout time.Duration
	// Fail answers with an error, in the form that the client wants; nil answers in JSON.
	Fail func(w http.ResponseWriter, r *http.Request, err error)
	Log  *slog.Logger
}

// Bounds that nobody needs to choose.
const (
	dialTimeout   = 30 * time.Second
	answerTimeout = 2 * time.Minute // until a backend says whether it upgrades
	maxError      = 50_000          // bytes of a node's error text
)

// Handler answers requests of verb connect.
type Handler struct {
	cfg   Config
	seats chan struct{}
	// kubelet verifies nodes, blind does not; backends are pods and services, which have no certificates to verify.
	kubelet, blind, backends *http.Transport
}

// New returns a handler. It does no I/O.
func New(cfg Config) *Handler {
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	if len(cfg.NodeAddressTypes) == 0 {
		cfg.NodeAddressTypes = NodeAddressTypes()
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = 2000
	}
	if cfg.IdleTimeout <= 0 {
		cfg.IdleTimeout = 4 * time.Hour
	}
	if cfg.KubeletTLS == nil {
		cfg.KubeletTLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	h := &Handler{cfg: cfg, seats: make(chan struct{}, cfg.MaxStreams)}
	blind := cfg.KubeletTLS.Clone()
	blind.InsecureSkipVerify = true
	h.kubelet, h.blind = h.transport(cfg.KubeletTLS.Clone()), h.transport(blind)
	h.backends = h.transport(&tls.Config{InsecureSkipVerify: true})
	return h
}

// transport speaks HTTP/1.1, which can be upgraded.
func (h *Handler) transport(config *tls.Config) *http.Transport {
	config.NextProtos = []string{"http/1.1"}
	return &http.Transport{
		TLSClientConfig: config, DialContext: h.dial, TLSHandshakeTimeout: 10 * time.Second, DisableCompression: true,
		MaxIdleConns: 100, MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second, ExpectContinueTimeout: time.Second,
	}
}

func (h *Handler) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return h.cfg.Dial(ctx, network, address)
}

// Close lets go of connections that wait for another request.
func (h *Handler) Close() {
	for _, t := range []*http.Transport{h.kubelet, h.blind, h.backends} {
		t.CloseIdleConnections()
	}
}

// Connect answers one request: q says which kind, object and subresource. It returns when the stream has ended, which it
// does when r's context does.
func (h *Handler) Connect(w http.ResponseWriter, r *http.Request, _ *call.Identity, q *call.Request) {
	select {
	case h.seats <- struct{}{}:
		defer func() { <-h.seats }()
	default:
		h.fail(w, r, apierrors.NewTooManyRequests("Too many streams, please try again later.", 1))
		return
	}
	if err := h.serve(w, r, q); err != nil {
		h.cfg.Log.Debug("refused stream", "path", r.URL.Path, "err", err)
		h.fail(w, r, err)
	}
}

// serve returns an error only if it has not answered.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, q *call.Request) error {
	switch q.Subresource {
	case "log":
		return h.log(w, r, q)
	case "exec", "attach":
		return h.command(w, r, q)
	case "portforward":
		return h.portForward(w, r, q)
	case "proxy":
		return h.proxy(w, r, q)
	}
	return apierrors.NewNotFound(q.Kind.GroupResource(), q.Name)
}

// fail answers with an error. Those of the network are told as they are, with code 500 and no reason.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var api apierrors.APIStatus
	s := metav1.Status{Code: http.StatusInternalServerError, Message: err.Error()}
	if errors.As(err, &api) {
		s = api.Status()
	}
	s.TypeMeta, s.Status = metav1.TypeMeta{}, metav1.StatusFailure
	if h.cfg.Fail != nil {
		h.cfg.Fail(w, r, &apierrors.StatusError{ErrStatus: s})
		return
	}
	writeStatus(w, s)
}

func writeStatus(w http.ResponseWriter, s metav1.Status) {
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(s.Details.RetryAfterSeconds)))
	}
	b, err := codec.EncodeJSON(schema.GroupVersionKind{Version: "v1", Kind: "Status"}, &s)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", codec.JSON)
	w.WriteHeader(int(s.Code))
	_, _ = w.Write(append(b, '\n')) // a client that went away needs no answer
}
