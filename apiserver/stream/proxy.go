// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	rewrite "k8s.io/apimachinery/pkg/util/proxy"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/api/resource"
)

// target is where a request for a proxy goes.
type target struct {
	url       *url.URL
	transport *http.Transport
}

// proxy passes any HTTP request on to a pod, a service or a node.
func (h *Handler) proxy(w http.ResponseWriter, r *http.Request, q *call.Request) error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(q.Name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", strings.TrimSuffix(q.Kind.Resource, "s"), q.Name))
	}
	var to *target
	var err error
	switch q.Kind.Resource {
	case "pods":
		to, err = h.podTarget(r.Context(), scheme, q.Namespace, name, port)
	case "services":
		to, err = h.serviceTarget(r.Context(), q, scheme, name, port)
	default:
		to, err = h.nodeTarget(r.Context(), scheme, name, port)
	}
	if err != nil {
		return err
	}
	if to.url.Scheme == "" {
		to.url.Scheme = "http"
	}
	prefix, rest, raw := splitProxyPath(r.URL, q)
	to.url.Path, to.url.RawPath, to.url.RawQuery = rest, raw, r.URL.RawQuery
	if isUpgrade(r) {
		return h.upgrade(w, r, to.url, to.transport)
	}
	if rest == "" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		// Relative links of a page work only below a path that ends in "/".
		location := r.URL.EscapedPath() + "/"
		if r.URL.RawQuery != "" {
			location += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusMovedPermanently)
		return nil
	}
	h.pass(w, r, to, prefix)
	return nil
}

// splitProxyPath divides the path of a request behind "/proxy". rest is decoded and clean; raw keeps the client's
// escapes and is empty where they make no difference.
func splitProxyPath(u *url.URL, q *call.Request) (prefix, rest, raw string) {
	prefix = "/api/v1/" + q.Kind.Resource + "/" + q.Name + "/proxy"
	if q.Kind.Scope == resource.Namespaced {
		prefix = "/api/v1/namespaces/" + q.Namespace + "/" + q.Kind.Resource + "/" + q.Name + "/proxy"
	}
	rest, ok := strings.CutPrefix(u.Path, prefix)
	if !ok || rest == "" {
		return prefix, "", ""
	}
	if clean := utilnet.JoinPreservingTrailingSlash("/", rest); clean != rest {
		return prefix, clean, ""
	}
	raw, ok = strings.CutPrefix(u.EscapedPath(), prefix)
	if !ok || raw != path.Clean(raw) && raw != path.Clean(raw)+"/" {
		return prefix, rest, ""
	}
	return prefix, rest, raw
}

// pass sends a request without upgrade and hands the answer on, with the links in it rewritten to this server.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, to *target, prefix string) {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = to.url
			p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			p.SetXForwarded()
			p.Out.Header.Del("X-Forwarded-Host") // links are made without a host, so nobody needs to know this one
			p.Out.Header.Del("X-Forwarded-Proto")
			cleanHeader(p.Out.Header)
		},
		Transport: &rewrite.Transport{PathPrepend: prefix, RoundTripper: to.transport},
		ModifyResponse: func(answer *http.Response) error {
			for _, name := range []string{"Credentials", "Headers", "Methods", "Origin"} {
				answer.Header.Del("Access-Control-Allow-" + name) // the backend does not speak for this server
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { h.fail(w, r, err) },
		ErrorLog:     slog.NewLogLogger(h.cfg.Log.Handler(), slog.LevelDebug),
	}
	proxy.ServeHTTP(w, r)
}

// allowed refuses addresses that are not those of other machines, such as this machine's own loopback.
func allowed(address string) error {
	if ip := net.ParseIP(address); ip == nil || !ip.IsGlobalUnicast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

func (h *Handler) nodeTarget(ctx context.Context, scheme, name, port string) (*target, error) {
	u, err := h.nodeURL(ctx, name)
	if err != nil {
		return nil, err
	}
	host := u.Hostname()
	if net.ParseIP(host) != nil {
		err = allowed(host)
	} else {
		err = h.resolves(ctx, host)
	}
	if err != nil {
		return nil, err
	}
	if port == "" || port == u.Port() {
		return &target{u, h.kubelet}, nil
	}
	return &target{&url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}, h.backends}, nil
}

// resolves checks all addresses of a name.
func (h *Handler) resolves(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	for _, a := range addresses {
		if err := allowed(a.IP.String()); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) podTarget(ctx context.Context, scheme, namespace, name, port string) (*target, error) {
	obj, err := h.cfg.Objects.Get(ctx, core.Pods.Kind, namespace, name)
	if err != nil {
		return nil, err
	}
	p := core.Pods.Cast(obj)
	if port == "" {
		for _, c := range p.Spec.Containers {
			if len(c.Ports) > 0 {
				port = strconv.Itoa(int(c.Ports[0].ContainerPort))
				break
			}
		}
	}
	ip := p.Status.PodIP
	if ip == "" && len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	if err := allowed(ip); err != nil {
		return nil, err
	}
	u := &url.URL{Scheme: scheme, Host: net.JoinHostPort(ip, port)}
	if port == "" {
		u.Host = strings.TrimSuffix(u.Host, ":")
	}
	return &target{u, h.backends}, nil
}

// serviceTarget chooses one of the ready endpoints of a service by chance.
func (h *Handler) serviceTarget(ctx context.Context, q *call.Request, scheme, name, port string) (*target, error) {
	obj, err := h.cfg.Objects.Get(ctx, core.Services.Kind, q.Namespace, name)
	if err != nil {
		return nil, err
	}
	if number, err := strconv.Atoi(port); err == nil {
		ports := core.Services.Cast(obj).Spec.Ports
		i := slices.IndexFunc(ports, func(p corev1.ServicePort) bool { return int(p.Port) == number })
		if i < 0 {
			return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, name))
		}
		port = ports[i].Name
	}
	addresses, state, err := h.endpoints(ctx, q.Namespace, name, port)
	switch {
	case err != nil:
		return nil, err
	case state == noSlices: // Kubernetes looks for Endpoints, which come and go with the slices, and takes theirs for the Service's name
		return nil, apierrors.NewNotFound(core.Services.Kind.GroupResource(), name)
	case state == noEndpoints:
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
	case len(addresses) == 0:
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", q.Name))
	}
	return &target{&url.URL{Scheme: scheme, Host: addresses[rand.IntN(len(addresses))]}, h.backends}, nil
}

// What there is of a service's endpoints, whatever port they are for and whether they are ready.
const (
	noSlices = iota
	noEndpoints
	someEndpoints
)

// endpoints lists the addresses behind a port of a service.
func (h *Handler) endpoints(ctx context.Context, namespace, service, port string) (addresses []string, state int, err error) {
	var slicesOf []*discoveryv1.EndpointSlice
	err = h.cfg.Objects.List(ctx, discovery.EndpointSlices.Kind, namespace, func(obj resource.Object) bool {
		s := discovery.EndpointSlices.Cast(obj)
		if s.Labels[discoveryv1.LabelServiceName] == service && s.AddressType != discoveryv1.AddressTypeFQDN {
			slicesOf = append(slicesOf, s)
		}
		return true
	})
	for _, s := range slicesOf {
		state = max(state, noEndpoints)
		if len(s.Endpoints) > 0 {
			state = someEndpoints
		}
		i := slices.IndexFunc(s.Ports, func(p discoveryv1.EndpointPort) bool {
			return p.Port != nil && (p.Name == nil && port == "" || p.Name != nil && *p.Name == port)
		})
		if i < 0 {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
				continue
			}
			if err := h.isPod(ctx, namespace, &e); err != nil {
				h.cfg.Log.Debug("left out endpoint", "service", service, "namespace", namespace, "err", err)
				continue
			}
			addresses = append(addresses, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*s.Ports[i].Port))))
		}
	}
	return addresses, state, err
}

// isPod checks that an endpoint is the pod that it says, so that who may write endpoints cannot reach whatever this
// server can.
func (h *Handler) isPod(ctx context.Context, namespace string, e *discoveryv1.Endpoint) error {
	ref := e.TargetRef
	if ref == nil || ref.Namespace != namespace {
		return errors.New("it is no pod of the service's namespace")
	}
	obj, err := h.cfg.Objects.Get(ctx, core.Pods.Kind, namespace, ref.Name)
	if err != nil {
		return err
	}
	for _, ip := range core.Pods.Cast(obj).Status.PodIPs {
		if ip.IP == e.Addresses[0] {
			return allowed(ip.IP)
		}
	}
	return errors.New("the pod has another address")
}
