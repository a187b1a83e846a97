// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package probe asks containers how they are: by HTTP, TCP, gRPC or a command inside.
//
// Run asks once. Thresholds, periods and what follows are the caller's. The texts are those that Kubernetes puts into
// its Unhealthy events.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// UserAgent is what HTTP probes call themselves.
const UserAgent = "kube-probe/1.36"

// maxOutput is how much of an answer is read, in bytes.
const maxOutput = 10 << 10

// Prober asks containers.
type Prober struct {
	// Dial connects from the node; nil uses the network of the process.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Exec runs a command in a container. It returns what the command printed and its exit code.
	Exec func(ctx context.Context, container string, command []string, timeout time.Duration) (string, int32, error)
}

// Target is the container to ask.
type Target struct {
	ID, PodIP string
	Spec      *corev1.Container
}

// Run asks once and returns nil if the container is well. Its error text is meant for users.
func (r *Prober) Run(ctx context.Context, t Target, handler *corev1.ProbeHandler, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case handler.Exec != nil:
		out, code, err := r.Exec(ctx, t.ID, handler.Exec.Command, timeout)
		if err != nil {
			return err
		}
		if code != 0 {
			return errors.New(strings.TrimRight(out, "\n"))
		}
		return nil
	case handler.HTTPGet != nil:
		return r.HTTP(ctx, t, handler.HTTPGet)
	case handler.TCPSocket != nil:
		port, err := Port(handler.TCPSocket.Port, t.Spec)
		if err != nil {
			return err
		}
		conn, err := r.dial(ctx, "tcp", net.JoinHostPort(host(handler.TCPSocket.Host, t.PodIP), port))
		if err != nil {
			return err
		}
		return conn.Close()
	case handler.GRPC != nil:
		return r.grpc(ctx, t, handler.GRPC, timeout)
	}
	return errors.New("missing probe handler")
}

func (r *Prober) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if r.Dial != nil {
		return r.Dial(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

func host(own, podIP string) string {
	if own != "" {
		return own
	}
	return podIP
}

// Port resolves a port by number or by the name of a container's port.
func Port(port intstr.IntOrString, c *corev1.Container) (string, error) {
	if port.Type == intstr.Int {
		return strconv.Itoa(port.IntValue()), nil
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			return strconv.Itoa(int(p.ContainerPort)), nil
		}
	}
	if n, err := strconv.Atoi(port.StrVal); err == nil {
		return strconv.Itoa(n), nil
	}
	return "", fmt.Errorf("port %q not found", port.StrVal)
}

// HTTP asks by an HTTP request; any status from 200 to 399 is well.
func (r *Prober) HTTP(ctx context.Context, t Target, get *corev1.HTTPGetAction) error {
	port, err := Port(get.Port, t.Spec)
	if err != nil {
		return err
	}
	target, err := url.Parse(get.Path)
	if err != nil {
		target = &url.URL{Path: get.Path}
	}
	target.Scheme, target.Host = "http", net.JoinHostPort(host(get.Host, t.PodIP), port)
	if get.Scheme != "" {
		target.Scheme = strings.ToLower(string(get.Scheme))
	}
	if target.Path == "" {
		target.Path = "/"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", UserAgent)
	request.Header.Set("Accept", "*/*")
	for _, h := range get.HTTPHeaders {
		if strings.EqualFold(h.Name, "host") {
			request.Host = h.Value
		}
		request.Header.Set(h.Name, h.Value)
	}
	client := http.Client{
		Transport: &http.Transport{
			DialContext: r.dial, DisableKeepAlives: true, DisableCompression: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // probes do not check certificates
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(answer.Body, maxOutput)); err != nil {
		return err
	}
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", answer.StatusCode)
	}
	return nil
}

func (r *Prober) grpc(ctx context.Context, t Target, action *corev1.GRPCAction, timeout time.Duration) error {
	address := net.JoinHostPort(t.PodIP, strconv.Itoa(int(action.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithUserAgent(UserAgent),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return r.dial(ctx, "tcp", address) }))
	if err != nil {
		return err
	}
	defer conn.Close()
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return fmt.Errorf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("timeout: failed to connect service %q within %v: context deadline exceeded", address, timeout)
	default:
		return fmt.Errorf("error: health rpc probe failed: %w", err)
	}
	if answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("service unhealthy (responded with %q)", answer.Status)
	}
	return nil
}
