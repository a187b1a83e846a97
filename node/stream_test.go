// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"knarr.dev/node/server"
	"knarr.dev/test/images"
)

// serve runs the agent's server without TLS and returns its URL.
func (w *world) serve(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	s := server.New(server.Config{Pods: w.agent.pods, CRI: w.agent.cri, Dial: w.agent.dialer.DialContext, Log: w.agent.log})
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + listener.Addr().String()
}

func (w *world) testStreams(t *testing.T) {
	w.t = t
	p := w.apply(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "stream"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{
			box("box", "while read line; do echo got $line; done; sleep 1000"),
			{Name: "web", Image: images.WebRef, ImagePullPolicy: corev1.PullNever},
		}},
	})
	p.Spec.Containers[0].Stdin = true
	w.until("ready", p, ready)
	base := w.serve(t)
	config := &rest.Config{Host: base}
	for name, executor := range map[string]func(u *url.URL) (remotecommand.Executor, error){
		"SPDY": func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(config, "POST", u)
		},
		"WebSocket": func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(config, "GET", u.String())
		},
	} {
		t.Run("exec over "+name, func(t *testing.T) {
			u, err := url.Parse(base + "/exec/default/stream/box?" + url.Values{
				"command": {"sh", "-c", "cat; echo problem >&2; exit 7"}, "input": {"1"}, "output": {"1"}, "error": {"1"},
			}.Encode())
			if err != nil {
				t.Fatal(err)
			}
			e, err := executor(u)
			if err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			in := strings.Repeat("0123456789abcdef", 1<<16)
			err = e.StreamWithContext(w.ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(in), Stdout: &stdout, Stderr: &stderr})
			var code exec.CodeExitError
			if !errors.As(err, &code) || code.Code != 7 {
				t.Errorf("ended with %v", err)
			}
			if stdout.String() != in || stderr.String() != "problem\n" {
				t.Errorf("%d bytes of output, want %d; errors %q", stdout.Len(), len(in), stderr.String())
			}
		})
	}
	t.Run("a terminal without input over WebSocket of the fourth version", func(t *testing.T) { terminal(t, w.ctx, config, base) })
	roundTripper, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(base + "/portForward/default/stream")
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, config)
	if err != nil {
		t.Fatal(err)
	}
	for name, dialer := range map[string]httpstream.Dialer{
		"SPDY": spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: roundTripper}, "POST", u), "WebSocket": tunnel,
	} {
		t.Run("port-forward over "+name, func(t *testing.T) { forward(t, dialer) })
	}
	w.remove(p, 1)
	w.until("gone", p, isGone)
}

// terminal looks whether the output of a short command comes each time.
func terminal(t *testing.T, ctx context.Context, config *rest.Config, base string) {
	command := url.Values{"command": {"echo", "shown"}, "output": {"1"}, "tty": {"1"}}
	for range 5 {
		e, err := remotecommand.NewWebSocketExecutorForProtocols(config, "GET", base+"/exec/default/stream/box?"+command.Encode(), "v4.channel.k8s.io")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Tty: true}); err != nil || out.String() != "shown\r\n" {
			t.Errorf("got %q, %v", out.String(), err)
		}
	}
}

// forward asks the web server in the pod through a forwarded port, twice.
func forward(t *testing.T, dialer httpstream.Dialer) {
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	f, err := portforward.NewForStreaming(dialer, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- f.ForwardPorts() }()
	defer func() { <-ended }()
	defer close(stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/hostname", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || string(raw) != "stream\n" {
			t.Errorf("answer %q %v", raw, err)
		}
	}
}
