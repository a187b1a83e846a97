// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/clientcmd"

	"knarr.dev/api/call"
	"knarr.dev/api/codec"
)

// HTTPConfig says how to reach an API server, and as whom.
type HTTPConfig struct {
	// Server is the address, such as https://192.0.2.1:6443; a path in it goes before those of the API.
	Server string
	// CA holds the certificates, in PEM, that the server's must be signed by; the system's if it is empty.
	CA []byte
	// ServerName is the name that the server's certificate must be for; the one in Server if it is empty.
	ServerName string
	// Insecure accepts any server: for reading what is then verified in another way.
	Insecure bool

	// CertFile and KeyFile are the client's certificate. They are read again when they change, and new requests then
	// go over new connections.
	CertFile, KeyFile string
	// Cert and Key are the same as PEM, if there are no files.
	Cert, Key []byte
	// TokenFile holds a bearer token, and is read again as it changes. Token is the token itself.
	TokenFile, Token string

	// UserAgent is sent with each request; its part before "/" is the field manager of writes that name none. "knarr" if empty.
	UserAgent string
	// Log gets what goes wrong between requests; nothing is logged if it is nil.
	Log *slog.Logger
}

// Kubeconfig reads how to reach a server from a kubeconfig file; an empty context means the current one.
func Kubeconfig(file, context string) (HTTPConfig, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: file}
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return HTTPConfig{}, fmt.Errorf("kubeconfig %s: %w", file, err)
	}
	if c.ExecProvider != nil || c.AuthProvider != nil || c.Username != "" {
		return HTTPConfig{}, fmt.Errorf("kubeconfig %s: only client certificates and tokens are supported, not programs or passwords", file)
	}
	if err := loadCA(&c.TLSClientConfig.CAData, c.TLSClientConfig.CAFile); err != nil {
		return HTTPConfig{}, fmt.Errorf("kubeconfig %s: %w", file, err)
	}
	return HTTPConfig{
		Server: c.Host, CA: c.CAData, ServerName: c.TLSClientConfig.ServerName, Insecure: c.Insecure,
		CertFile: c.CertFile, KeyFile: c.KeyFile, Cert: c.CertData, Key: c.KeyData,
		Token: c.BearerToken, TokenFile: c.BearerTokenFile, UserAgent: c.UserAgent,
	}, nil
}

// Bounds of what one request may take.
const (
	maxTries     = 10          // of a request that the server is too busy for
	maxBusyWait  = time.Minute // between two of them
	maxObject    = 64 << 20    // bytes of an answer that is no list, and of a watch event
	maxList      = 2 << 30     // bytes of a list
	pingAfter    = 30 * time.Second
	pingPatience = 15 * time.Second
)

// HTTP is a call.Transport over HTTPS: HTTP/2 on one connection, protobuf for the kinds that have it.
//
// It means what the API server's in-process transport means. In particular a write is visible in the transport's own
// views when it returns. Close ends its watches and views.
type HTTP struct {
	cfg     HTTPConfig
	base    *url.URL
	log     *slog.Logger
	manager string
	login   *login

	ctx    context.Context // of views and watches
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	views  map[viewKey]*view
}

// NewHTTP returns a transport. It reads the credentials but does not connect.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	if !strings.Contains(cfg.Server, "://") {
		cfg.Server = "https://" + cfg.Server
	}
	base, err := url.Parse(cfg.Server)
	if err != nil {
		return nil, fmt.Errorf("server address: %w", err)
	}
	if base.Scheme != "https" && base.Scheme != "http" || base.Host == "" {
		return nil, fmt.Errorf("server address %q is no https URL", cfg.Server)
	}
	base.Path = strings.TrimSuffix(base.Path, "/")
	if cfg.UserAgent == "" {
		cfg.UserAgent = "knarr"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName, InsecureSkipVerify: cfg.Insecure}
	if len(cfg.CA) > 0 {
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(cfg.CA) {
			return nil, errors.New("the CA holds no certificate in PEM")
		}
	}
	l, err := newLogin(cfg, tlsConfig)
	if err != nil {
		return nil, err
	}
	manager, _, _ := strings.Cut(cfg.UserAgent, "/")
	h := &HTTP{cfg: cfg, base: base, log: cfg.Log, manager: manager, login: l, views: map[viewKey]*view{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h, nil
}

// Close ends all watches and views, and waits for them.
func (h *HTTP) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	h.work.Wait()
	h.login.close()
}

// spawn runs f until it ends; false if the transport is closed.
func (h *HTTP) spawn(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.work.Go(f)
	return true
}

// newConnections is the HTTP client of one set of credentials.
func newConnections(tlsConfig *tls.Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig, Protocols: protocols,
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 25,
		// A peer that is gone without a word is noticed, or watches would hang.
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingPatience},
	}
}

// Do implements call.Transport.
func (h *HTTP) Do(ctx context.Context, q *call.Request) (*call.Result, error) {
	w, err := h.encode(q)
	if err != nil {
		return nil, err
	}
	res, err := h.send(ctx, w)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	limit := int64(maxObject)
	if q.Verb == "list" || q.Verb == "deletecollection" {
		limit = maxList
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, h.unreachable(ctx, w, err)
	}
	if int64(len(body)) > limit {
		return nil, apierrors.NewInternalError(fmt.Errorf("the answer to %s %s is longer than %d bytes", w.method, w.url.Path, limit))
	}
	out, err := decodeResult(q, res, body)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("decode the answer to %s %s: %w", w.method, w.url.Path, err))
	}
	h.wrote(ctx, q, out)
	return out, nil
}

// send sends a request, again if the server was too busy, and returns a successful answer.
func (h *HTTP) send(ctx context.Context, w *wireRequest) (*http.Response, error) {
	again := w.method == http.MethodGet // reads whose connection broke are tried once more
	refreshed := false
	for try := 1; ; try++ {
		res, err := h.once(ctx, w)
		if err != nil {
			if again && ctx.Err() == nil && h.ctx.Err() == nil && !errors.As(err, new(*net.OpError)) {
				again = false
				continue
			}
			return nil, h.unreachable(ctx, w, err)
		}
		if res.StatusCode < 300 {
			return res, nil
		}
		failure := readFailure(res, w)
		if res.StatusCode == http.StatusUnauthorized && !refreshed && h.login.refresh(true) {
			refreshed = true
			continue
		}
		wait, busy := retryAfter(res)
		if !busy || try == maxTries {
			return nil, failure
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, failure
		}
	}
}

func (h *HTTP) once(ctx context.Context, w *wireRequest) (*http.Response, error) {
	var body io.Reader
	if w.body != nil {
		body = bytes.NewReader(w.body)
	}
	r, err := http.NewRequestWithContext(ctx, w.method, w.url.String(), body)
	if err != nil {
		return nil, err
	}
	if w.contentType != "" {
		r.Header.Set("Content-Type", w.contentType)
	}
	r.Header.Set("Accept", w.accept)
	r.Header.Set("User-Agent", h.cfg.UserAgent)
	h.login.refresh(false)
	connections, token := h.login.current()
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return connections.RoundTrip(r)
}

// retryAfter says how long the server wants to be left alone before the same request; false if it does not say so.
func retryAfter(res *http.Response) (time.Duration, bool) {
	if res.StatusCode != http.StatusTooManyRequests && res.StatusCode < 500 {
		return 0, false
	}
	seconds, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0, false
	}
	wait := min(time.Duration(seconds)*time.Second, maxBusyWait)
	return wait + rand.N(wait/4+50*time.Millisecond), true
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unreachable is the error for a server that gave no answer: both an API error and what went wrong.
func (h *HTTP) unreachable(ctx context.Context, w *wireRequest, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	text := fmt.Sprintf("%s %s%s: %v", w.method, h.base.Host, w.url.Path, err)
	return fmt.Errorf("%w (%w)", apierrors.NewServiceUnavailable(text), hidden{err})
}

// hidden is an error that errors.Is finds and nobody reads twice.
type hidden struct{ error }

func (h hidden) Error() string { return "no answer" }
func (h hidden) Unwrap() error { return h.error }

// Watch implements call.Transport. ctx bounds the opening alone; the stream lasts until it is closed, or the transport is.
func (h *HTTP) Watch(ctx context.Context, q *call.Request) (call.Stream, error) {
	q.Verb = "watch"
	w, err := h.encode(q)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(h.ctx)
	stop := context.AfterFunc(ctx, cancel)
	res, err := h.send(life, w)
	if !stop() && err == nil {
		res.Body.Close()
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	s := &httpStream{
		kind: q.Kind, cancel: cancel, body: res.Body, events: make(chan watchItem, streamBuffer), done: life.Done(),
		frames: codec.NewFrames(res.Header.Get("Content-Type"), res.Body, maxObject),
	}
	if !h.spawn(func() { s.read(life) }) {
		s.Close()
		res.Body.Close()
		return nil, apierrors.NewServiceUnavailable("the client is closed")
	}
	return s, nil
}
