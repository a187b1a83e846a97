// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/proxy/nft"
)

// The network of the traffic tests: a node with a bridge and three pods on it, and an outsider that the node routes to.
//
//	outside 10.44.0.1, 192.0.2.1 --- node 10.44.0.11 --- bridge 10.42.0.1 --- a 10.42.0.2, b 10.42.0.3, c 10.42.0.4
type network struct {
	t                      testing.TB
	outside, node, a, b, c nft.Namespace
	host                   *nft.Host
	view                   Node
}

// newNamespace makes a network namespace that lasts as long as the test.
func newNamespace(t testing.TB) nft.Namespace {
	t.Helper()
	made := make(chan error, 1)
	var handle netns.NsHandle
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		var err error
		handle, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		t.Skip("cannot make network namespaces: ", err)
	}
	t.Cleanup(func() { handle.Close() })
	return nft.Namespace{Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(handle))}
}

func newNetwork(t testing.TB, addresses ...string) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	for _, program := range []string{"nft", "ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	n := &network{t: t, outside: newNamespace(t), node: newNamespace(t), a: newNamespace(t), b: newNamespace(t), c: newNamespace(t)}
	n.view = Node{
		Name: "here", Pods: netip.MustParsePrefix("10.42.0.0/16"), Nodes: netip.MustParsePrefix("10.44.0.0/16"),
		Services: netip.MustParsePrefix("10.43.0.0/16"),
	}
	for _, a := range addresses {
		n.view.Addresses = append(n.view.Addresses, netip.MustParseAddr(a))
	}
	n.ip(n.node, "link add br0 type bridge")
	n.ip(n.node, "addr add 10.42.0.1/24 dev br0")
	n.ip(n.node, "link set br0 up")
	n.ip(n.node, "link set lo up")
	n.ip(n.outside, "link set lo up")
	n.ip(n.node, "link add eth0 type veth peer name eth0 netns "+n.outside.Path)
	n.ip(n.node, "addr add 10.44.0.11/16 dev eth0")
	n.ip(n.node, "link set eth0 up")
	n.ip(n.outside, "addr add 10.44.0.1/16 dev eth0")
	n.ip(n.outside, "addr add 192.0.2.1/32 dev lo")
	n.ip(n.outside, "link set eth0 up")
	n.ip(n.outside, "route add 10.42.0.0/15 via 10.44.0.11")
	n.ip(n.node, "route add default via 10.44.0.1")
	for i, pod := range []nft.Namespace{n.a, n.b, n.c} {
		n.ip(n.node, fmt.Sprintf("link add pod%d type veth peer name eth0 netns %s", i, pod.Path))
		n.ip(n.node, fmt.Sprintf("link set pod%d master br0 up", i))
		n.ip(n.node, fmt.Sprintf("link set pod%d type bridge_slave hairpin on", i)) // as CNI's hairpinMode does
		n.ip(pod, "link set lo up")
		n.ip(pod, fmt.Sprintf("addr add 10.42.0.%d/24 dev eth0", i+2))
		n.ip(pod, "link set eth0 up")
		n.ip(pod, "route add default via 10.42.0.1")
		n.serve(pod, string(rune('a'+i)), ":8080")
	}
	n.serve(n.outside, "outside", ":8080")
	n.serve(n.node, "node", "10.44.0.11:8080")
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	p := New(Config{NodeName: "here", NodeIPs: n.view.Addresses, NetNS: n.node.Path, ServiceCIDR: n.view.Services}, nil, log)
	p.prepare(t.Context())
	n.host = nft.NewHost("knarr-proxy", n.node, log)
	n.rules(nil)
	return n
}

func (n *network) ip(where nft.Namespace, command string) {
	n.t.Helper()
	args := append([]string{"--net=" + where.Path, "ip"}, strings.Fields(command)...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", command, err, out)
	}
}

// serve answers every TCP line and UDP packet with its name and the address of who asked.
func (n *network) serve(where nft.Namespace, name, address string) {
	n.t.Helper()
	l, err := where.Listen(n.t.Context(), address)
	if err != nil {
		n.t.Fatal(err)
	}
	var u net.PacketConn
	if err := where.Inside(func() (err error) { u, err = net.ListenPacket("udp4", address); return err }); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { l.Close(); u.Close() })
	answer := func(from net.Addr) string {
		return name + " " + netip.MustParseAddrPort(from.String()).Addr().Unmap().String() + "\n"
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := make([]byte, 1); ; {
					if _, err := c.Read(b); err != nil {
						return
					}
					io.WriteString(c, answer(c.RemoteAddr()))
				}
			}()
		}
	}()
	go func() {
		for b := make([]byte, 100); ; {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo([]byte(answer(from)), from)
		}
	}()
}

func (n *network) rules(s *corev1.Service, endpoints ...string) {
	n.t.Helper()
	var services []*corev1.Service
	var slices []*discoveryv1.EndpointSlice
	if s != nil {
		services, slices = append(services, s), append(slices, testSlice(s.Spec.Ports[0].Protocol, endpoints...))
	}
	if err := n.host.Sync(n.t.Context(), Rules(services, slices, n.view)); err != nil {
		n.t.Fatal(err)
	}
}

// change is rules as a change of what was there.
func (n *network) change(s *corev1.Service, endpoints ...string) {
	n.t.Helper()
	part := partOf(s, []*discoveryv1.EndpointSlice{testSlice(s.Spec.Ports[0].Protocol, endpoints...)}, n.view)
	if err := n.host.Update(n.t.Context(), map[string]nft.Part{"ns/web": part}); err != nil {
		n.t.Fatal(err)
	}
}

// Answers come at once; that none comes takes a while to find out.
const answerTime, silenceTime = 20 * time.Second, 300 * time.Millisecond

func (n *network) dial(from nft.Namespace, proto, to string, patience time.Duration) (c net.Conn, err error) {
	err = from.Inside(func() (err error) {
		ctx, done := context.WithTimeout(n.t.Context(), patience)
		defer done()
		c, err = new(net.Dialer).DialContext(ctx, proto, to)
		return err
	})
	if err == nil {
		n.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// say sends something over a connection and returns the answer, "refused" or "nothing".
func say(c net.Conn, patience time.Duration) string {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "x"); err != nil {
		return failure(err)
	}
	b := make([]byte, 100)
	k, err := c.Read(b)
	if err != nil {
		return failure(err)
	}
	return string(bytes.TrimSpace(b[:k]))
}

func failure(err error) string {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "refused"
	}
	return "nothing"
}

func (n *network) ask(from nft.Namespace, proto, to string) string {
	return n.askFor(from, proto, to, answerTime)
}

func (n *network) askFor(from nft.Namespace, proto, to string, patience time.Duration) string {
	c, err := n.dial(from, proto, to, patience)
	if err != nil {
		return failure(err)
	}
	defer c.Close()
	return say(c, patience)
}

func TestTraffic(t *testing.T) {
	n := newNetwork(t, "10.44.0.11", "127.0.0.1")
	who := map[string]nft.Namespace{"outside": n.outside, "node": n.node, "a": n.a, "b": n.b}
	type try struct{ from, to, want string }
	for _, c := range []struct {
		name, service string
		endpoints     []string
		tries         []try
	}{
		{"cluster address", "ClusterIP 10.43.0.9 80", []string{"10.42.0.3@here"}, []try{
			{"a", "10.43.0.9:80", "b 10.42.0.2"},
			{"b", "10.43.0.9:80", "b 10.42.0.1"}, // the hairpin
			{"node", "10.43.0.9:80", "b 10.42.0.1"},
			{"outside", "10.43.0.9:80", "b 10.42.0.1"},
			{"a", "10.43.0.9:81", "refused"},
			{"node", "10.43.0.9:81", "refused"},
			{"a", "10.43.0.200:80", "nothing"},
		}},
		{"cluster address over UDP", "ClusterIP 10.43.0.9 80/UDP", []string{"10.42.0.3@here"}, []try{
			{"a", "10.43.0.9:80", "b 10.42.0.2"},
			{"b", "10.43.0.9:80", "b 10.42.0.1"},
			{"node", "10.43.0.9:80", "b 10.42.0.1"},
			{"a", "10.43.0.9:81", "refused"},
		}},
		{"node port", "NodePort 10.43.0.9 80 nodePort=30080", []string{"10.42.0.3@here"}, []try{
			{"outside", "10.44.0.11:30080", "b 10.42.0.1"},
			{"node", "10.44.0.11:30080", "b 10.42.0.1"},
			{"node", "127.0.0.1:30080", "b 10.42.0.1"},
			{"a", "10.44.0.11:30080", "b 10.42.0.1"},
			{"b", "10.44.0.11:30080", "b 10.42.0.1"},
			{"outside", "10.44.0.11:30081", "refused"}, // by the node itself: nobody listens
		}},
		{"nobody there", "NodePort 10.43.0.9 80 nodePort=30080 externalIP=192.0.2.77", []string{"10.42.0.3@here!unready"}, []try{
			{"a", "10.43.0.9:80", "refused"},
			{"node", "10.43.0.9:80", "refused"},
			{"node", "127.0.0.1:30080", "refused"},
			{"outside", "10.44.0.11:30080", "refused"},
			{"a", "192.0.2.77:80", "refused"},
		}},
		{"external address", "ClusterIP 10.43.0.9 80 externalIP=192.0.2.77", []string{"10.42.0.3@here"}, []try{
			{"a", "192.0.2.77:80", "b 10.42.0.1"},
			{"node", "192.0.2.77:80", "b 10.42.0.1"},
		}},
		{"terminating is better than nothing", "ClusterIP 10.43.0.9 80", []string{"10.42.0.3@here!unready", "10.42.0.4@here!terminating"}, []try{
			{"a", "10.43.0.9:80", "c 10.42.0.2"}}},
		{"external traffic stays here", "NodePort 10.43.0.9 80 nodePort=30080 externalLocal",
			[]string{"10.42.0.3@here", "10.42.0.4@there!terminating"}, []try{
				{"outside", "10.44.0.11:30080", "b 10.44.0.1"},
				{"a", "10.44.0.11:30080", "b 10.42.0.1"},
				{"node", "127.0.0.1:30080", "b 10.42.0.1"}}},
		{"external traffic has nowhere to go", "NodePort 10.43.0.9 80 nodePort=30080 externalLocal", []string{"10.42.0.3@there"}, []try{
			{"outside", "10.44.0.11:30080", "nothing"},
			{"a", "10.44.0.11:30080", "b 10.42.0.1"},
			{"a", "10.43.0.9:80", "b 10.42.0.2"}}},
		{"internal traffic stays here", "NodePort 10.43.0.9 80 nodePort=30080 internalLocal", []string{"10.42.0.3@there"}, []try{
			{"a", "10.43.0.9:80", "nothing"},
			{"outside", "10.44.0.11:30080", "b 10.42.0.1"}}},
		{"balancer with allowed sources", "LoadBalancer 10.43.0.9 80 balancer=192.0.2.88 range=10.42.0.2/32", []string{"10.42.0.4@here"}, []try{
			{"a", "192.0.2.88:80", "c 10.42.0.1"},
			{"b", "192.0.2.88:80", "nothing"}}},
		{"the node itself is the endpoint", "NodePort 10.43.0.9 80 nodePort=30080", []string{"10.44.0.11@here"}, []try{
			{"a", "10.43.0.9:80", "node 10.42.0.2"},
			{"node", "10.43.0.9:80", "node 10.42.0.1"}, // one of its addresses
			{"node", "127.0.0.1:30080", "node 10.42.0.1"},
			{"outside", "10.44.0.11:30080", "node 10.44.0.1"}}},
		{"the node itself is the endpoint over UDP", "ClusterIP 10.43.0.9 80/UDP", []string{"10.44.0.11@here"}, []try{
			{"a", "10.43.0.9:80", "node 10.42.0.2"},
			{"node", "10.43.0.9:80", "node 10.42.0.1"}}},
		{"pods go out as the node", "ClusterIP 10.43.0.9 80", []string{"10.42.0.3@here"}, []try{
			{"a", "192.0.2.1:8080", "outside 10.44.0.11"},
			{"a", "10.44.0.1:8080", "outside 10.42.0.2"}, // other nodes see pods as they are
			{"a", "10.42.0.3:8080", "b 10.42.0.2"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := testService(c.service)
			n.rules(s, c.endpoints...)
			for _, a := range c.tries {
				patience := answerTime
				if a.want == "nothing" {
					patience = silenceTime
				}
				if got := n.askFor(who[a.from], protocol(s.Spec.Ports[0].Protocol), a.to, patience); got != a.want {
					t.Errorf("%s to %s: got %q, want %q", a.from, a.to, got, a.want)
				}
			}
			if t.Failed() {
				out, _ := exec.Command("nsenter", "--net="+n.node.Path, "nft", "list", "ruleset").CombinedOutput()
				t.Logf("%s", out)
			}
		})
	}
}

func TestNodeWithoutDefaultRoute(t *testing.T) {
	n := newNetwork(t, "10.44.0.11")
	n.ip(n.node, "route del default")
	n.rules(testService("ClusterIP 10.43.0.9 80"), "10.42.0.3@here")
	for to, want := range map[string]string{"10.43.0.9:80": "b 10.42.0.1", "10.43.0.9:81": "refused"} {
		if got := n.ask(n.node, "tcp", to); got != want {
			t.Errorf("to %s: got %q, want %q", to, got, want)
		}
	}
}

func TestLoopbackAddressesStayOnTheNode(t *testing.T) {
	n := newNetwork(t, "10.44.0.11", "127.0.0.1")
	n.serve(n.node, "private", ":9000")
	n.ip(n.outside, "route del local 127.0.0.0/8 dev lo table local")
	n.ip(n.outside, "addr del 127.0.0.1/8 dev lo")
	n.ip(n.outside, "route add 127.0.0.0/8 via 10.44.0.11 src 10.44.0.1")
	if got := n.askFor(n.outside, "tcp", "127.0.0.1:9000", silenceTime); got != "nothing" {
		t.Errorf("an outsider reaches a loopback address: %s", got)
	}
	if got := n.ask(n.node, "tcp", "127.0.0.1:9000"); got != "private 127.0.0.1" {
		t.Errorf("the node itself: %s", got)
	}
}

func TestAffinity(t *testing.T) {
	n := newNetwork(t, "10.44.0.11")
	s := testService("ClusterIP 10.43.0.9 80 sticky")
	n.rules(s, "10.42.0.3@here", "10.42.0.4@here")
	first := n.ask(n.a, "tcp", "10.43.0.9:80")
	for range 12 {
		if got := n.ask(n.a, "tcp", "10.43.0.9:80"); got != first {
			t.Fatalf("%s, then %s", first, got)
		}
	}
	n.change(s, "10.42.0.2@here", "10.42.0.3@here", "10.42.0.4@here")
	if got := n.ask(n.a, "tcp", "10.43.0.9:80"); got != first {
		t.Errorf("after another endpoint came: %s, before %s", got, first)
	}
	rest, want := "10.42.0.3@here", "b 10.42.0.2"
	if first == want {
		rest, want = "10.42.0.4@here", "c 10.42.0.2"
	}
	n.change(s, rest)
	if got := n.ask(n.a, "tcp", "10.43.0.9:80"); got != want {
		t.Errorf("after the endpoint went: %s, want %s", got, want)
	}
}

// Replacing one endpoint by another breaks no connection and refuses none.
func TestReplacingEndpoints(t *testing.T) {
	n := newNetwork(t, "10.44.0.11")
	s := testService("ClusterIP 10.43.0.9 80")
	n.rules(s, "10.42.0.3@here")
	old, err := n.dial(n.a, "tcp", "10.43.0.9:80", answerTime)
	if err != nil {
		t.Fatal(err)
	}
	stop, result := make(chan struct{}), make(chan string, 1)
	asked := make(chan struct{})
	go func() {
		defer close(result)
		for i := 0; ; i++ {
			if got := n.ask(n.a, "tcp", "10.43.0.9:80"); got != "b 10.42.0.2" && got != "c 10.42.0.2" {
				result <- got
				return
			}
			if i == 0 {
				close(asked)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	<-asked
	for i := range 20 {
		n.change(s, "10.42.0.3@here", "10.42.0.4@here")
		n.change(s, fmt.Sprintf("10.42.0.%d@here", 3+i%2))
		if i == 10 {
			n.rules(s, "10.42.0.3@here")
		}
	}
	n.change(s, "10.42.0.3@here!terminating", "10.42.0.4@here")
	close(stop)
	if bad := <-result; bad != "" {
		t.Errorf("a request got %q", bad)
	}
	if got := say(old, answerTime); got != "b 10.42.0.2" {
		t.Errorf("the old connection got %q", got)
	}
	if got := n.ask(n.a, "tcp", "10.43.0.9:80"); got != "c 10.42.0.2" {
		t.Errorf("a new connection got %q", got)
	}
}

// A packet that came past the choice of an endpoint, as one may while rules are replaced, is sent again by who sent it, not refused.
func TestPastTheChoice(t *testing.T) {
	n := newNetwork(t, "10.44.0.11")
	n.rules(testService("ClusterIP 10.43.0.9 80"), "10.42.0.3@here")
	if err := n.node.Apply(t.Context(), "flush chain ip knarr-proxy dispatch\n"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		to, want string
		patience time.Duration
	}{{"10.43.0.9:80", "nothing", silenceTime}, {"10.43.0.9:81", "refused", answerTime}} {
		for _, from := range []nft.Namespace{n.a, n.node} {
			if got := n.askFor(from, "tcp", c.to, c.patience); got != c.want {
				t.Errorf("%s: got %q, want %q", c.to, got, c.want)
			}
		}
	}
}

// A UDP client that keeps its port follows the endpoints: its tracked connection is forgotten.
func TestUDPFollowsEndpoints(t *testing.T) {
	n := newNetwork(t, "10.44.0.11")
	s := testService("NodePort 10.43.0.9 80/UDP nodePort=30080")
	c, err := n.dial(n.a, "udp", "10.43.0.9:80", answerTime)
	if err != nil {
		t.Fatal(err)
	}
	outside, err := n.dial(n.outside, "udp", "10.44.0.11:30080", answerTime)
	if err != nil {
		t.Fatal(err)
	}
	n.rules(s)
	if got := say(c, answerTime); got != "refused" {
		t.Errorf("without endpoints: %q", got)
	}
	steps := []struct {
		endpoint, want, fromOutside string
		sync                        bool
	}{
		{"10.42.0.3@here", "b 10.42.0.2", "b 10.42.0.1", false},
		{"10.42.0.4@here", "c 10.42.0.2", "c 10.42.0.1", false},
		{"10.42.0.3@here", "b 10.42.0.2", "b 10.42.0.1", true},
	}
	for _, step := range steps {
		if step.sync {
			n.rules(s, step.endpoint)
		} else {
			n.change(s, step.endpoint)
		}
		if got := say(c, answerTime); got != step.want {
			t.Errorf("%s: got %q, want %q", step.endpoint, got, step.want)
		}
		if got := say(outside, answerTime); got != step.fromOutside {
			t.Errorf("%s from outside: got %q, want %q", step.endpoint, got, step.fromOutside)
		}
	}
}

// A machine that is no node reaches the cluster through rules of its own.
func TestMachineAroundNodes(t *testing.T) {
	n := newNetwork(t, "10.44.0.11")
	machine := Node{
		Addresses: []netip.Addr{netip.MustParseAddr("10.44.0.1"), netip.MustParseAddr("127.0.0.1")},
		Pods:      n.view.Pods, Nodes: n.view.Nodes, Services: n.view.Services,
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	p := New(Config{NodeIPs: machine.Addresses, NetNS: n.outside.Path}, nil, log)
	const routeLocal = "net/ipv4/conf/all/route_localnet"
	if _, err := n.outside.Set(routeLocal, "0"); err != nil {
		t.Fatal(err)
	}
	undo := p.prepare(t.Context())
	s := testService("NodePort 10.43.0.9 80 nodePort=30080 externalLocal")
	n.rules(s, "10.42.0.3@here")
	table := Rules([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{testSlice("TCP", "10.42.0.3@here")}, machine)
	if err := p.host.Sync(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from nft.Namespace
		to   string
		want string
	}{
		{n.outside, "127.0.0.1:30080", "b 10.44.0.1"},
		{n.outside, "10.44.0.1:30080", "b 10.44.0.1"},
		{n.outside, "10.43.0.9:80", "b 10.44.0.1"},
		{n.outside, "10.44.0.11:30080", "b 10.44.0.1"},
		{n.node, "10.43.0.9:80", "b 10.42.0.1"},
		{n.a, "10.43.0.9:80", "b 10.42.0.2"},
		{n.a, "10.44.0.1:30080", "b 10.44.0.1"},
	} {
		if got := n.ask(c.from, "tcp", c.to); got != c.want {
			t.Errorf("to %s: got %q, want %q", c.to, got, c.want)
		}
	}
	if err := errors.Join(p.host.Remove(t.Context()), undo(t.Context())); err != nil {
		t.Fatal(err)
	}
	if was, err := n.outside.Set(routeLocal, "0"); err != nil || was != "0" {
		t.Errorf("loopback addresses are still routed: %q, %v", was, err)
	}
}

func TestKernelWithoutBridgeFilter(t *testing.T) {
	n := newNetwork(t, "10.44.0.11")
	if _, err := n.node.Set("net/bridge/bridge-nf-call-iptables", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	n.view.Unbridged = true
	n.rules(testService("ClusterIP 10.43.0.9 80"), "10.42.0.3@here")
	for _, from := range []nft.Namespace{n.a, n.b, n.node} {
		if got := n.ask(from, "tcp", "10.43.0.9:80"); got != "b 10.42.0.1" {
			t.Error(got)
		}
	}
}
