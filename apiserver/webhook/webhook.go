// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package webhook calls HTTPS servers that users name, by URL or by a Service: admission webhooks and the like.
//
// A Client sends one JSON document and returns the other. Connections are kept for each server; the oldest are dropped
// when there are too many. Services are reached at a ready endpoint, so no service proxy is needed on this machine; the
// certificate must be for NAME.NAMESPACE.svc. Start with New.
package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"encoding/json"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/tracing"
)

// Bounds of the client.
const (
	maxServers  = 256
	maxResponse = 8 << 20
	maxTries    = 10
	dialTimeout = 30 * time.Second
)

// Reader reads current objects, from the server's caches; admission.Reader is one.
type Reader interface {
	Get(ctx context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error)
	List(ctx context.Context, kind *resource.Kind, namespace string, each func(resource.Object) bool) error
}

// Service names a server by the Service in front of it.
type Service struct {
	Namespace, Name, Path string
	Port                  int32
}

// Target is a server. Either URL or Service is set. Without CABundle the system's authorities are trusted.
type Target struct {
	URL      string
	Service  *Service
	CABundle []byte
}

// Client calls servers.
type Client struct {
	reader      Reader
	credentials *Credentials // nil is none

	mu      sync.Mutex
	servers map[string]*http.Client
	order   []string // of first use
}

// New returns a client that finds Services with reader.
func New(reader Reader) *Client { return &Client{reader: reader, servers: map[string]*http.Client{}} }

// WithCredentials makes a new client show what a file of credentials says.
func (c *Client) WithCredentials(credentials *Credentials) *Client {
	c.credentials = credentials
	return c
}

// Post sends body and returns the answer. query is added to the URL. Errors are those of net/http, or API errors for
// answers other than 200.
func (c *Client) Post(ctx context.Context, t *Target, query string, body []byte) ([]byte, error) {
	address := t.URL
	if s := t.Service; s != nil {
		address = "https://" + net.JoinHostPort(s.Name+"."+s.Namespace+".svc", strconv.Itoa(int(s.Port))) + "/" + strings.TrimPrefix(s.Path, "/")
	}
	if query != "" {
		address += "?" + query
	}
	server, err := c.server(t, address)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		answer, pause, err := c.once(ctx, server, address, body)
		if err == nil || pause < 0 || try > maxTries {
			return answer, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, &url.Error{Op: "Post", URL: address, Err: ctx.Err()}
		case <-timer.C:
		}
	}
}

// once sends body. pause is after how long the server wants to be asked again, or -1.
func (c *Client) once(ctx context.Context, server *http.Client, address string, body []byte) (answer []byte, pause time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, -1, err
	}
	// The path without empty steps, as client-go asks for it: envtest writes URLs such as https://127.0.0.1:9443//mutate.
	request.URL.Path, request.URL.RawPath = path.Join("/", request.URL.Path), ""
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, */*")
	request.Header.Set("User-Agent", "kube-apiserver-admission")
	if err := c.credentials.of(request.URL.Host).show(request); err != nil {
		return nil, -1, err
	}
	request, span := tracing.Call(request)
	response, err := server.Do(request)
	if err != nil {
		span.Answered(0, err)
		return nil, -1, err
	}
	defer func() { span.Answered(response.StatusCode, nil) }()
	defer response.Body.Close()
	if answer, err = io.ReadAll(io.LimitReader(response.Body, maxResponse+1)); err != nil {
		return nil, -1, fmt.Errorf("unexpected error when reading response body. Please retry. Original error: %w", err)
	}
	if len(answer) > maxResponse {
		return nil, -1, fmt.Errorf("answer is over %d bytes", maxResponse)
	}
	if response.StatusCode < 200 || response.StatusCode > 206 {
		return nil, retryAfter(response), refusal(response, answer)
	}
	if len(answer) == 0 {
		return nil, -1, fmt.Errorf("0-length response with status code: %d and content type: %s", response.StatusCode, response.Header.Get("Content-Type"))
	}
	return answer, -1, nil
}

// retryAfter is when a server that is busy or broken wants to be asked again; -1 if it does not say.
func retryAfter(response *http.Response) time.Duration {
	if response.StatusCode != http.StatusTooManyRequests && response.StatusCode < http.StatusInternalServerError {
		return -1
	}
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return -1
	}
	return time.Duration(seconds) * time.Second
}

// Outdated says whether a connection failed because the server's certificate has no names of hosts, or is signed with SHA-1.
func Outdated(err error) (noNames, sha1 bool) {
	var host x509.HostnameError
	var signed x509.InsecureAlgorithmError
	switch {
	case errors.As(err, &host) && host.Certificate != nil:
		c := host.Certificate
		return len(c.DNSNames)+len(c.IPAddresses)+len(c.URIs)+len(c.EmailAddresses) == 0, false
	case errors.As(err, &signed):
		return false, strings.Contains(signed.Error(), "SHA1")
	}
	return false, false
}

// refusal is the API error of an answer that is none.
func refusal(response *http.Response, answer []byte) error {
	var status metav1.Status
	if json.Unmarshal(answer, &status) == nil && status.Kind == "Status" && status.Status != metav1.StatusSuccess {
		return &apierrors.StatusError{ErrStatus: status}
	}
	text := "unknown"
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/") {
		text = strings.TrimSpace(string(answer[:min(len(answer), 2048)]))
	}
	return apierrors.NewGenericServerResponse(response.StatusCode, http.MethodPost, schema.GroupResource{}, "", text, 0, true)
}

// server is the HTTP client of a target, made at its first use.
func (c *Client) server(t *Target, address string) (*http.Client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(t.CABundle)
	key := u.Host + " " + strconv.FormatBool(t.Service != nil) + " " + string(sum[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.servers[key]; s != nil {
		return s, nil
	}
	secured := &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	if shown := c.credentials.of(u.Host); shown != nil {
		secured.Certificates = shown.certificates
	}
	if len(t.CABundle) > 0 {
		secured.RootCAs = x509.NewCertPool()
		if !secured.RootCAs.AppendCertsFromPEM(t.CABundle) {
			return nil, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	transport := &http.Transport{
		TLSClientConfig: secured, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, Proxy: http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
	}
	if s := t.Service; s != nil {
		service := *s
		dial := transport.DialContext
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != u.Host { // to where the service redirected
				return dial(ctx, network, address)
			}
			endpoint, err := c.endpoint(ctx, &service)
			if err != nil {
				return nil, err
			}
			return dial(ctx, network, endpoint)
		}
	}
	s := &http.Client{Transport: transport}
	if len(c.order) == maxServers {
		c.servers[c.order[0]].CloseIdleConnections()
		delete(c.servers, c.order[0])
		c.order = append(c.order[:0], c.order[1:]...)
	}
	c.servers[key], c.order = s, append(c.order, key)
	return s, nil
}

// Close drops idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.servers {
		s.CloseIdleConnections()
	}
}

// endpoint chooses one of the ready addresses behind a port of a Service by chance.
func (c *Client) endpoint(ctx context.Context, s *Service) (string, error) {
	o, err := c.reader.Get(ctx, core.Services.Kind, s.Namespace, s.Name)
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("service %q not found", s.Name)
	}
	if err != nil {
		return "", err
	}
	service := core.Services.Cast(o)
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return net.JoinHostPort(service.Spec.ExternalName, strconv.Itoa(int(s.Port))), nil
	}
	var port *corev1.ServicePort
	for i := range service.Spec.Ports {
		if service.Spec.Ports[i].Port == s.Port {
			port = &service.Spec.Ports[i]
		}
	}
	if port == nil {
		return "", fmt.Errorf("no service port %d found for service %q", s.Port, s.Name)
	}
	var ready []string
	err = c.reader.List(ctx, discovery.EndpointSlices.Kind, s.Namespace, func(o resource.Object) bool {
		slice := discovery.EndpointSlices.Cast(o)
		if slice.Labels[discoveryv1.LabelServiceName] == s.Name {
			ready = append(ready, addresses(slice, port)...)
		}
		return true
	})
	if err != nil {
		return "", err
	}
	if len(ready) == 0 {
		if ip := service.Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone && service.Spec.Selector == nil {
			return net.JoinHostPort(ip, strconv.Itoa(int(s.Port))), nil // endpoints may be known to others only
		}
		return "", fmt.Errorf("no endpoints available for service %q", s.Name)
	}
	return ready[rand.IntN(len(ready))], nil
}

func addresses(slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) []string {
	number := ""
	for _, p := range slice.Ports {
		if p.Name != nil && *p.Name == port.Name && p.Port != nil {
			number = strconv.Itoa(int(*p.Port))
		}
	}
	if number == "" && len(slice.Ports) == 0 && port.TargetPort.Type == intstr.Int {
		number = port.TargetPort.String()
	}
	if number == "" {
		return nil
	}
	var out []string
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
			out = append(out, net.JoinHostPort(e.Addresses[0], number))
		}
	}
	return out
}
