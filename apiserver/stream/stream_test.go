// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/utils/ptr"

	"knarr.dev/api"
	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/admission"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/authz"
	"knarr.dev/apiserver/hooks"
	"knarr.dev/apiserver/stream"
	"knarr.dev/store/pebble"
)

// identities believes the header User.
type identities struct{}

func (identities) Authenticate(r *http.Request) (*call.Identity, error) {
	if name := r.Header.Get("User"); name != "" {
		return &call.Identity{Name: name}, nil
	}
	return &call.Identity{Name: "admin"}, nil
}

// readers lets user "reader" get everything and change nothing.
type readers struct{}

func (readers) Authorize(_ context.Context, a *authz.Attributes) (bool, string, error) {
	return a.User.Name != "reader" || a.Verb == "get", "", nil
}

// world is an API server over HTTPS with a node, whose agent is a kubelet of this test, and pods on it.
type world struct {
	t       *testing.T
	kubelet *kubelet
	backend *httptest.Server
	config  *rest.Config
	tr      call.Transport
	// streams counts requests of verb connect.
	streams sync.WaitGroup
	stop    func()
}

const (
	nodeIP = "10.99.0.1"
	podIP  = "10.99.1.1"
)

func newWorld(t *testing.T, change func(*stream.Config)) *world {
	t.Helper()
	w := &world{t: t, kubelet: &kubelet{t: t, lines: make(chan string)}}
	w.backend = httptest.NewUnstartedServer(w.kubelet)
	w.backend.Listener = &conns{Listener: w.backend.Listener}
	w.kubelet.drop = w.backend.Listener.(*conns).drop
	w.backend.StartTLS()
	t.Cleanup(w.backend.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.backend.Certificate().Raw})
	w.config = &rest.Config{Host: "https://" + listener.Addr().String(), TLSClientConfig: rest.TLSClientConfig{CAData: ca}}
	pool := x509.NewCertPool()
	pool.AddCert(w.backend.Certificate())
	log := slog.New(slog.DiscardHandler)
	streams := stream.Config{
		KubeletTLS: &tls.Config{RootCAs: pool, ServerName: "example.com"}, Log: log, NodeAddressTypes: []corev1.NodeAddressType{corev1.NodeInternalIP},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if host, _, _ := net.SplitHostPort(address); host != nodeIP && host != podIP {
				return nil, fmt.Errorf("dial %s: no route", address)
			}
			return new(net.Dialer).DialContext(ctx, network, w.backend.Listener.Addr().String())
		},
	}
	if change != nil {
		change(&streams)
	}
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	var handler *stream.Handler
	s, err := apiserver.New(apiserver.Config{
		Store: st, Kinds: api.Kinds(), Log: log, Authenticators: []authn.Authenticator{identities{}},
		Authorizer: func(admission.Reader) authz.Authorizer { return readers{} },
		Hooks: func(objects hooks.Store) []hooks.Hook {
			streams.Objects = objects
			handler = stream.New(streams)
			return nil
		},
		Connect: func(rw http.ResponseWriter, r *http.Request, user *call.Identity, q *call.Request) {
			w.streams.Add(1)
			defer w.streams.Done()
			handler.Connect(rw, r, user, q)
		},
		Listener: listener, TLS: &tls.Config{Certificates: w.backend.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		handler.Close()
		if err := st.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	t.Cleanup(w.stop)
	<-s.Ready()
	w.tr = s.Transport(call.Identity{Name: "admin"})
	w.fill()
	return w
}

// fill makes the node and the pods.
func (w *world) fill() {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: nodeIP}}
	w.create(core.Nodes.Kind, node)
	gone := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}
	gone.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.99.0.9"}}
	w.create(core.Nodes.Kind, gone)
	pod := func(name, node string, containers ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": name}}}
		p.Spec.NodeName = node
		for _, c := range containers {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c, Image: "image", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}})
		}
		return p
	}
	w.create(core.Pods.Kind, pod("one", "n1", "a"))
	several := pod("web", "n1", "a", "waiting", "lost", "odd", "denied", "silent")
	several.Spec.InitContainers = []corev1.Container{{Name: "setup", Image: "image"}}
	several.Status.PodIP, several.Status.PodIPs = podIP, []corev1.PodIP{{IP: podIP}}
	w.create(core.Pods.Kind, several)
	w.create(core.Pods.Kind, pod("away", "gone", "a"))
	w.create(core.Pods.Kind, pod("new", "", "a"))
}

// create makes an object, and writes its status if it has one.
func (w *world) create(kind *resource.Kind, obj resource.Object) {
	w.t.Helper()
	whole := obj.DeepCopyObject().(resource.Object)
	q := &call.Request{Verb: "create", Kind: kind, Namespace: obj.GetNamespace(), Object: obj}
	res, err := w.tr.Do(w.t.Context(), q)
	if err != nil {
		w.t.Fatalf("create %s %s: %v", kind.Kind, obj.GetName(), err)
	}
	if kind.Status == nil {
		return
	}
	whole.SetUID(res.Object.GetUID())
	q = &call.Request{Verb: "update", Kind: kind, Namespace: whole.GetNamespace(), Name: whole.GetName(), Subresource: "status", Object: whole}
	if _, err := w.tr.Do(w.t.Context(), q); err != nil {
		w.t.Fatalf("update status of %s %s: %v", kind.Kind, whole.GetName(), err)
	}
}

// do sends a request and returns the answer's code and body.
func (w *world) do(method, path string, header http.Header) (*http.Response, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.config.Host+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	config := rest.CopyConfig(w.config)
	if header.Get("Upgrade") != "" {
		config.NextProtos = []string{"http/1.1"}
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		w.t.Fatal(err)
	}
	defer utilnet.CloseIdleConnectionsFor(transport)
	answer, err := transport.RoundTrip(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer, string(raw)
}

func TestAnswers(t *testing.T) {
	w := newWorld(t, nil)
	const pods = "/api/v1/namespaces/default/pods/"
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}}
	for _, c := range []struct {
		method, path string
		header       http.Header
		code         int
		want         string // the Status' message, or the body
	}{
		{"GET", pods + "one/log", nil, 200, "a \n"},
		{"GET", pods + "one/log?tailLines=3&timestamps=true&sinceTime=2024-01-02T03:04:05Z&limitBytes=9&previous=x", nil, 200,
			"a limitBytes=9&previous=true&sinceTime=2024-01-02T03%3A04%3A05Z&tailLines=3&timestamps=true\n"},
		{"GET", pods + "one/log?stream=All", nil, 422, `PodLogOptions "one" is invalid: stream: Forbidden: may not be specified`},
		{"GET", pods + "new/log", nil, 204, ""},
		{"GET", pods + "none/log", nil, 404, `pods "none" not found`},
		{"POST", pods + "one/log", nil, 405, "the server does not allow this method on the requested resource"},
		{"GET", pods + "one/log?container=x", nil, 400, "container x is not valid for pod one"},
		{"GET", pods + "web/log", nil, 400, "a container name must be specified for pod web, choose one of: [setup a waiting lost odd denied silent]"},
		{"GET", pods + "web/log?container=setup", nil, 200, "setup \n"},
		{"GET", pods + "web/log?container=waiting", nil, 400, `container "waiting" in pod "web" is waiting to start: ContainerCreating`},
		{"GET", pods + "web/log?container=lost", nil, 500, "Internal error occurred: container is lost"},
		{"GET", pods + "web/log?container=odd", nil, 404, "the server could not find the requested resource ( pods/log web)"},
		{"GET", pods + "one/log?tailLines=-1", nil, 422, `PodLogOptions "one" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0`},
		{"GET", pods + "one/log?tailLines=x", nil, 400, `strconv.ParseInt: parsing "x": invalid syntax`},
		{"GET", pods + "one/log?sinceSeconds=0", nil, 422, `PodLogOptions "one" is invalid: sinceSeconds: Invalid value: 0: must be greater than 0`},
		{"GET", pods + "one/log?sinceSeconds=5&sinceTime=2024-01-02T03:04:05Z", nil, 422,
			"PodLogOptions \"one\" is invalid: []: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"},
		{"GET", pods + "one/log?stream=Odd", nil, 422, `PodLogOptions "one" is invalid: stream: Forbidden: may not be specified`},
		{"GET", pods + "away/log", nil, 500, `Get "https://10.99.0.9:10250/containerLogs/default/away/a": dial 10.99.0.9:10250: no route`},
		{"POST", pods + "away/exec", upgrade, 500, "error dialing backend: dial 10.99.0.9:10250: no route"},
		{"POST", pods + "one/exec", nil, 400, "Upgrade request required"},
		{"GET", pods + "new/exec", nil, 400, "pod new does not have a host assigned"},
		{"PUT", pods + "one/exec", nil, 405, "the server does not allow this method on the requested resource"},
		{"POST", pods + "new/portforward", upgrade, 400, "pod new does not have a host assigned"},
		{"POST", pods + "none/portforward?ports=99999", upgrade, 400, `cannot convert to []int32: strconv.ParseUint: parsing "99999": value out of range`},
		{"GET", pods + "none/portforward?ports=80,-1", nil, 400, `cannot convert to []int32: strconv.ParseUint: parsing "-1": invalid syntax`},
		{"POST", pods + "web/attach?container=lost", upgrade, 404, "container not found (\"lost\")\n"},
		{"GET", pods + "one/exec", http.Header{"User": {"reader"}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, 403,
			`pods "one" is forbidden: User "reader" cannot create resource "pods/exec" in API group "" in the namespace "default"`},
		{"GET", pods + "new/proxy/", nil, 400, "address not allowed"},
		{"GET", "/api/v1/namespaces/default/services/none/proxy/", nil, 404, `services "none" not found`},
		{"GET", "/api/v1/nodes/n1:2:3:4/proxy/", nil, 400, `invalid node request "n1:2:3:4"`},
		{"GET", "/api/v1/nodes/gone/proxy/pods", nil, 503, "error trying to reach service: dial 10.99.0.9:10250: no route"},
	} {
		answer, body := w.do(c.method, c.path, c.header)
		var status metav1.Status
		if answer.Header.Get("Content-Type") == "application/json" && json.Unmarshal([]byte(body), &status) == nil {
			body = status.Message
		}
		if answer.StatusCode != c.code || body != c.want {
			t.Errorf("%s %s: %d %s\nwant %d %s", c.method, c.path, answer.StatusCode, body, c.code, c.want)
		}
	}
}

// TestNodeAddressTypes calls a node that has a name and an address.
func TestNodeAddressTypes(t *testing.T) {
	for _, c := range []struct {
		types []corev1.NodeAddressType
		code  int
		want  string
	}{
		{nil, 500, "dial n1:10250: no route"}, // Kubernetes takes the name first
		{[]corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP, corev1.NodeHostName}, 200, "a "},
		{[]corev1.NodeAddressType{corev1.NodeExternalDNS}, 500, "no preferred addresses found; known addresses: [{Hostname n1} {InternalIP 10.99.0.1}]"},
	} {
		w := newWorld(t, func(s *stream.Config) { s.NodeAddressTypes = c.types })
		if answer, body := w.do("GET", "/api/v1/namespaces/default/pods/one/log", nil); answer.StatusCode != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%v: %d %s\nwant %d %s", c.types, answer.StatusCode, body, c.code, c.want)
		}
	}
}

func TestTrust(t *testing.T) {
	w := newWorld(t, func(c *stream.Config) {
		c.KubeletTLS = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "example.com"}
	})
	const path = "/api/v1/namespaces/default/pods/one/"
	for _, c := range []struct {
		path string
		code int
	}{{"log", 500}, {"log?insecureSkipTLSVerifyBackend=true", 200}, {"exec", 500}} {
		answer, body := w.do("GET", path+c.path, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}})
		if answer.StatusCode != c.code || c.code == 500 && !strings.Contains(body, "x509: certificate signed by unknown authority") {
			t.Errorf("%s: %d %s", c.path, answer.StatusCode, body)
		}
	}
}

func TestFollow(t *testing.T) {
	w := newWorld(t, nil)
	client, err := kubernetes.NewForConfig(w.config)
	if err != nil {
		t.Fatal(err)
	}
	body, err := client.CoreV1().Pods("default").GetLogs("one", &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(body)
	for _, line := range []string{"first", "second"} { // each arrives before the next is written
		w.kubelet.lines <- line
		if got, err := in.ReadString('\n'); err != nil || got != line+"\n" {
			t.Fatalf("got %q %v", got, err)
		}
	}
	body.Close() // the end of a client ends the request to the node
	w.streams.Wait()

	if body, err = client.CoreV1().Pods("default").GetLogs("one", &corev1.PodLogOptions{Follow: true}).Stream(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(w.kubelet.lines)
	if rest, err := io.ReadAll(body); err != nil || len(rest) > 0 {
		t.Errorf("got %q %v", rest, err)
	}
	body.Close()
}

func (w *world) executor(kind, path string) remotecommand.Executor {
	w.t.Helper()
	u, err := url.Parse(w.config.Host + path)
	if err != nil {
		w.t.Fatal(err)
	}
	var e remotecommand.Executor
	if kind == "SPDY" {
		e, err = remotecommand.NewSPDYExecutor(w.config, "POST", u)
	} else {
		e, err = remotecommand.NewWebSocketExecutor(w.config, "GET", u.String())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

const streams = "stdin=true&stdout=true&stderr=true"

func TestCommands(t *testing.T) {
	w := newWorld(t, nil)
	in := strings.Repeat("0123456789abcdef", 1<<16)
	for _, kind := range []string{"SPDY", "WebSocket"} {
		for _, path := range []string{"one/exec?command=cat&" + streams, "web/attach?container=a&" + streams} {
			var stdout, stderr bytes.Buffer
			err := w.executor(kind, "/api/v1/namespaces/default/pods/"+path).StreamWithContext(t.Context(), remotecommand.StreamOptions{
				Stdin: strings.NewReader(in), Stdout: &stdout, Stderr: &stderr,
			})
			var code exec.CodeExitError
			if !errors.As(err, &code) || code.Code != 7 {
				t.Errorf("%s %s: ended with %v", kind, path, err)
			}
			if stdout.String() != in || stderr.String() != "problem\n" {
				t.Errorf("%s %s: %d bytes of output, want %d; errors %q", kind, path, stdout.Len(), len(in), stderr.String())
			}
		}
	}
	w.streams.Wait()
}

// TestCutOff loses a node in the middle of streams.
func TestCutOff(t *testing.T) {
	w := newWorld(t, nil)
	client, err := kubernetes.NewForConfig(w.config)
	if err != nil {
		t.Fatal(err)
	}
	body, err := client.CoreV1().Pods("default").GetLogs("one", &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	in, out := io.Pipe()
	defer out.Close()
	e, started, ended := w.executor("WebSocket", "/api/v1/namespaces/default/pods/one/exec?command=wait&"+streams), make(signals, 1), make(chan error, 1)
	go func() {
		ended <- e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: started, Stderr: io.Discard})
	}()
	<-started
	w.kubelet.drop()
	if err := <-ended; err == nil {
		t.Error("a command that was cut off ended well")
	}
	if text, err := io.ReadAll(body); err == nil {
		t.Errorf("a log that was cut off ended well: %q", text)
	}
	w.streams.Wait()
}

// signals gets one value for each write.
type signals chan struct{}

func (s signals) Write(b []byte) (int, error) {
	s <- struct{}{}
	return len(b), nil
}

// TestManyCommands opens many connections and ends them from each side.
func TestManyCommands(t *testing.T) {
	const many = 40
	w := newWorld(t, func(c *stream.Config) { c.MaxStreams = many })
	open := func(ctx context.Context) *sync.WaitGroup {
		var clients sync.WaitGroup
		started := make(signals, many)
		for i := range many {
			e := w.executor([]string{"SPDY", "WebSocket"}[i%2], "/api/v1/namespaces/default/pods/one/exec?command=wait&"+streams)
			clients.Go(func() {
				in, out := io.Pipe()
				defer out.Close()
				// Over SPDY this is no error: the client takes a missing status for success.
				_ = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: started, Stderr: io.Discard})
			})
		}
		for range many {
			<-started
		}
		return &clients
	}
	ctx, cancel := context.WithCancel(t.Context())
	clients := open(ctx)
	if answer, body := w.do("GET", "/api/v1/namespaces/default/pods/one/log", nil); answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Retry-After") != "1" {
		t.Errorf("one stream too many: %d %s", answer.StatusCode, body)
	}
	cancel() // the clients go away
	clients.Wait()
	w.streams.Wait()

	clients = open(t.Context())
	w.stop() // the server goes away, and waits for its streams
	clients.Wait()
	w.streams.Wait()
}

func TestIdle(t *testing.T) {
	w := newWorld(t, func(c *stream.Config) { c.IdleTimeout = time.Millisecond })
	in, out := io.Pipe()
	defer out.Close()
	err := w.executor("WebSocket", "/api/v1/namespaces/default/pods/one/exec?command=wait&"+streams).StreamWithContext(t.Context(),
		remotecommand.StreamOptions{Stdin: in, Stdout: io.Discard, Stderr: io.Discard})
	if err == nil {
		t.Error("an idle connection ended well")
	}
}

func TestPortForward(t *testing.T) {
	w := newWorld(t, nil)
	u, err := url.Parse(w.config.Host + "/api/v1/namespaces/default/pods/one/portforward")
	if err != nil {
		t.Fatal(err)
	}
	roundTripper, upgrader, err := spdy.RoundTripperFor(w.config)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, w.config)
	if err != nil {
		t.Fatal(err)
	}
	for name, dialer := range map[string]httpstream.Dialer{
		"SPDY": spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: roundTripper}, "POST", u), "WebSocket": tunnel,
	} {
		t.Run(name, func(t *testing.T) { forward(t, dialer) })
	}
	w.streams.Wait()
}

// forward sends text through a forwarded port, several connections at once.
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
	var clients sync.WaitGroup
	for i := range 5 {
		clients.Go(func() {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			text := strings.Repeat(fmt.Sprint(i), 100_000)
			go func() {
				_, _ = io.WriteString(conn, text)
				_ = conn.(*net.TCPConn).CloseWrite()
			}()
			if raw, err := io.ReadAll(conn); err != nil || string(raw) != text {
				t.Errorf("%d bytes came back, want %d: %v", len(raw), len(text), err)
			}
		})
	}
	clients.Wait()
}

func TestProxy(t *testing.T) {
	w := newWorld(t, nil)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, ClusterIP: "None",
		Ports: []corev1.ServicePort{{Name: "main", Port: 443}, {Name: "empty", Port: 81}},
	}}
	w.create(core.Services.Kind, service)
	w.create(discovery.EndpointSlices.Kind, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "web-1", Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To("main"), Port: ptr.To[int32](8443)}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{podIP}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"}},
			{Addresses: []string{"10.99.7.7"}}, // no pod
			{Addresses: []string{"10.99.7.8"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"}},
			{Addresses: []string{"10.99.7.9"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
		},
	})
	for _, name := range []string{"idle", "alone"} {
		w.create(core.Services.Kind, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.ServiceSpec{
			ClusterIP: "None", Ports: []corev1.ServicePort{{Port: 80}},
		}})
	}
	w.create(discovery.EndpointSlices.Kind, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "idle-1", Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "idle"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{},
	})
	const pods, services, nodes = "/api/v1/namespaces/default/pods/", "/api/v1/namespaces/default/services/", "/api/v1/nodes/"
	for _, c := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", nodes + "n1/proxy/stats/summary?a=b", 200, "GET /stats/summary?a=b forwarded=/api/v1/nodes/n1/proxy/stats/summary"},
		{"PUT", nodes + "https:n1:10250/proxy/x/", 200, "PUT /x/ forwarded=/api/v1/nodes/https:n1:10250/proxy/x/"},
		{"DELETE", pods + "https:web:8443/proxy/a%20b%2Fc", 200, "DELETE /a%20b%2Fc forwarded=" + pods + "https:web:8443/proxy/a%20b%2Fc"},
		{"OPTIONS", services + "https:web:main/proxy/", 200, "OPTIONS / forwarded=" + services + "https:web:main/proxy/"},
		{"GET", services + "https:web:443/proxy/../x", 200, "GET /x forwarded=" + services + "https:web:443/proxy/x"},
		{"GET", services + "web:444/proxy/", 503, `no service port 444 found for service "web"`},
		{"GET", services + "web:81/proxy/", 503, `no endpoints available for service "web:81"`},
		{"GET", services + "http:idle:80/proxy/", 503, `no endpoints available for service "idle"`},
		{"GET", services + "alone/proxy/", 404, `services "alone" not found`},
		{"GET", nodes + "n1/proxy/moved", 301, nodes + "n1/proxy/elsewhere?a=b"},
		{"GET", services + "https:web:443/proxy?q=1", 301, services + "https:web:443/proxy/?q=1"},
	} {
		answer, body := w.do(c.method, c.path, nil)
		var status metav1.Status
		switch {
		case answer.StatusCode == http.StatusMovedPermanently:
			body = answer.Header.Get("Location")
		case answer.Header.Get("Content-Type") == "application/json" && json.Unmarshal([]byte(body), &status) == nil:
			body = status.Message
		}
		if answer.StatusCode != c.code || body != c.want {
			t.Errorf("%s %s: %d %s\nwant %d %s", c.method, c.path, answer.StatusCode, body, c.code, c.want)
		}
	}
	// Streams may be asked of the node itself too.
	var stdout bytes.Buffer
	err := w.executor("SPDY", nodes+"n1/proxy/exec/default/one/a?command=cat&input=1&output=1&error=1").StreamWithContext(t.Context(),
		remotecommand.StreamOptions{Stdin: strings.NewReader("text"), Stdout: &stdout, Stderr: io.Discard})
	var code exec.CodeExitError
	if !errors.As(err, &code) || stdout.String() != "text" {
		t.Errorf("exec through nodes/proxy: %q, %v", stdout.String(), err)
	}
}
