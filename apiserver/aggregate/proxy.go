// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/tracing"
)

// maxDiscovery bounds what another server says about itself.
const maxDiscovery = 4 << 20

// connect makes the way to the server of an APIService. It does no I/O.
func (h *Handler) connect(a *apiregistrationv1.APIService) *remote {
	s := a.Spec.Service
	name := s.Name + "." + s.Namespace + ".svc"
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if h.cfg.ClientTLS != nil {
		config = h.cfg.ClientTLS.Clone()
	}
	config.ServerName, config.RootCAs, config.InsecureSkipVerify, config.VerifyPeerCertificate = name, nil, a.Spec.InsecureSkipTLSVerify, nil
	if len(a.Spec.CABundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(a.Spec.CABundle)
	}
	r := &remote{service: a, host: net.JoinHostPort(name, strconv.Itoa(int(port(s))))}
	r.transport = &http.Transport{
		TLSClientConfig: config, ForceAttemptHTTP2: true, TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: 90 * time.Second,
		MaxIdleConnsPerHost: 25,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			address, err := h.resolve(ctx, s)
			if err != nil {
				return nil, err
			}
			d := net.Dialer{Timeout: dialTimeout}
			return d.DialContext(ctx, network, address)
		},
	}
	return r
}

func port(s *apiregistrationv1.ServiceReference) int32 {
	if s.Port == nil {
		return 443
	}
	return *s.Port
}

// resolve chooses one of the ready endpoints of a Service. Its errors say what is missing.
func (h *Handler) resolve(ctx context.Context, s *apiregistrationv1.ServiceReference) (string, error) {
	missing := func(reason, format string, args ...any) (string, error) {
		return "", &unavailable{reason, fmt.Sprintf(format, args...)}
	}
	where := fmt.Sprintf("service/%s in %q", s.Name, s.Namespace)
	obj, err := h.cfg.Server.Get(ctx, core.Services.Kind, s.Namespace, s.Name)
	if err != nil {
		return missing("ServiceNotFound", "%s is not present", where)
	}
	service := core.Services.Cast(obj)
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return net.JoinHostPort(service.Spec.ExternalName, strconv.Itoa(int(port(s)))), nil
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port(s) })
	if i < 0 {
		return missing("ServicePortError", "%s is not listening on port %d", where, port(s))
	}
	name, found := service.Spec.Ports[i].Name, false
	var addresses []string
	err = h.cfg.Server.List(ctx, discovery.EndpointSlices.Kind, s.Namespace, func(obj resource.Object) bool {
		slice := discovery.EndpointSlices.Cast(obj)
		if slice.Labels[discoveryv1.LabelServiceName] != s.Name {
			return true
		}
		found = true
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name != nil && *p.Name != name || p.Name == nil && name != "" {
				continue
			}
			for _, e := range slice.Endpoints {
				if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					addresses = append(addresses, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
		return true
	})
	switch {
	case err != nil:
		return "", err
	case !found:
		return missing("EndpointsNotFound", "cannot find endpointslices for %s", where)
	case len(addresses) == 0:
		return missing("MissingEndpoints", "endpointslices for %s have no addresses with port name %q", where, name)
	}
	return addresses[rand.IntN(len(addresses))], nil
}

// check asks the server for what it serves, and remembers it.
func (h *Handler) check(ctx context.Context, r *remote) error {
	address, err := h.resolve(ctx, r.service.Spec.Service)
	if err != nil {
		return err
	}
	path := "/apis/" + r.service.Spec.Group + "/" + r.service.Spec.Version
	failed := func(err error) error {
		return &unavailable{"FailedDiscoveryCheck", fmt.Sprintf("failing or missing response from https://%s%s: %v", address, path, err)}
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	body, err := r.ask(ctx, path, address)
	if err != nil {
		h.failed(err)
		return failed(err)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err == nil && !equality.Semantic.DeepEqual(r.resources.Load(), &list) {
		r.resources.Store(&list)
	}
	r.describe(ctx)
	r.findOpenAPI(ctx, strings.TrimPrefix(path, "/"))
	r.readSchemas(ctx)
	return nil
}

// get asks the server for a document, as this server itself. The body, which may be compressed, is the caller's to close.
func (r *remote) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.host+path, nil)
	if err != nil {
		return nil, err
	}
	maps.Copy(request.Header, header)
	if request.Header.Get("Accept") == "" {
		request.Header.Set("Accept", "application/json")
	}
	setUser(request.Header, &call.Identity{Name: "system:kube-aggregator", Groups: []string{"system:masters"}})
	return r.transport.RoundTrip(request)
}

// ask reads a document of the server, which errors call by address.
func (r *remote) ask(ctx context.Context, path, address string) ([]byte, error) {
	at := "https://" + address + path
	response, err := r.get(ctx, path, nil)
	if err != nil {
		return nil, &url.Error{Op: "Get", URL: at, Err: err}
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, fmt.Errorf("bad status from %s: %d", at, response.StatusCode)
	}
	return io.ReadAll(io.LimitReader(response.Body, maxDiscovery))
}

// findOpenAPI looks up where the server's own index of OpenAPI v3 has the document of the version.
func (r *remote) findOpenAPI(ctx context.Context, name string) {
	var index struct {
		Paths map[string]struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	body, err := r.ask(ctx, "/openapi/v3", r.host)
	if err != nil || json.Unmarshal(body, &index) != nil {
		return
	}
	if at := index.Paths[name].ServerRelativeURL; strings.HasPrefix(at, "/openapi/v3/"+name+"?") {
		r.openapi.Store(&at)
	}
}

// ServeHTTP passes a request on to the server of its group and version in the name of user. One that lasts ends when the server does.
func (h *Handler) ServeHTTP(w http.ResponseWriter, q *http.Request, gv schema.GroupVersion, user *call.Identity, lasts bool) {
	r := (*h.remotes.Load())[gv]
	if r == nil {
		http.NotFound(w, q)
		return
	}
	if !r.available.Load() {
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	auditID := w.Header().Get(auditIDHeader)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = &url.URL{Scheme: "https", Host: r.host, Path: p.In.URL.Path, RawPath: p.In.URL.RawPath, RawQuery: p.In.URL.RawQuery}
			p.Out.Host = r.host
			if auditID != "" {
				p.Out.Header.Set(auditIDHeader, auditID)
			}
			p.Out.Header.Set("X-Forwarded-Uri", p.In.URL.Path)
			p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			p.SetXForwarded()
			setUser(p.Out.Header, user)
			tracing.Pass(p.Out.Context(), p.Out.Header)
		},
		Transport: r.transport, FlushInterval: -1, // watches are seen event by event
		ModifyResponse: func(answer *http.Response) error { return check(q, answer) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			var odd *oddAnswer
			if errors.As(err, &odd) {
				odd.write(w)
				return
			}
			h.failed(err)
			http.Error(w, "error trying to reach service: "+err.Error(), http.StatusServiceUnavailable)
		},
		ErrorLog: slog.NewLogLogger(h.cfg.Log.Handler(), slog.LevelDebug),
	}
	if lasts && h.cfg.Ending.Began != nil {
		followed, modify, done := h.cfg.Ending.follow(q)
		defer done()
		q = followed
		proxy.ModifyResponse = func(answer *http.Response) error {
			if err := check(q, answer); err != nil {
				return err
			}
			return modify(answer)
		}
	}
	proxy.ServeHTTP(w, q)
}

const auditIDHeader = "Audit-Id"

// oddAnswer is an answer that is not passed on.
type oddAnswer struct {
	code int
	text string
}

func (o *oddAnswer) Error() string { return o.text }

func (o *oddAnswer) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(o.code)
	_, _ = io.WriteString(w, o.text)
}

// check refuses answers that would lead a client, or what comes with its credentials, elsewhere, and takes from the others what the
// server may not say for this one.
func check(q *http.Request, answer *http.Response) error {
	switch code := answer.StatusCode; {
	case code >= 300 && code <= 399 && answer.Header.Get("Location") != "":
		return &oddAnswer{http.StatusBadGateway, "the backend attempted to redirect this request, which is not permitted"}
	case code < 400 && code != http.StatusSwitchingProtocols && q.Header.Get("Upgrade") != "":
		return &oddAnswer{http.StatusServiceUnavailable, fmt.Sprintf("invalid upgrade response: status code %d\n", code)}
	}
	for _, name := range []string{"Credentials", "Headers", "Methods", "Origin"} {
		answer.Header.Del("Access-Control-Allow-" + name)
	}
	return nil
}

// failed tells of a connection that came to nothing.
func (h *Handler) failed(err error) {
	if h.cfg.Failed != nil {
		h.cfg.Failed(err)
	}
}

// setUser says who makes a request, and takes away whatever the client said about that.
func setUser(header http.Header, user *call.Identity) {
	for name := range header {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "x-remote-") || strings.HasPrefix(lower, "impersonate-") || lower == "authorization" {
			header.Del(name)
		}
	}
	header.Set("X-Remote-User", user.Name)
	if user.UID != "" {
		header.Set("X-Remote-Uid", user.UID)
	}
	for _, g := range user.Groups {
		header.Add("X-Remote-Group", g)
	}
	for key, values := range user.Extra {
		for _, v := range values {
			header.Add("X-Remote-Extra-"+escapeKey(key), v)
		}
	}
}

// escapeKey makes a key fit for the name of a header.
func escapeKey(key string) string {
	var out strings.Builder
	for _, c := range []byte(key) {
		if c == '-' || c == '_' || c == '.' || c == '~' || c == '!' || c == '#' || c == '$' || c == '&' || c == '\'' || c == '*' || c == '+' || c == '^' || c == '`' || c == '|' ||
			c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}
