// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/client"
)

// objects are views with a few objects that do not change, by resource and name.
type objects struct{ of map[string]resource.Object }

func (o *objects) Do(context.Context, *call.Request) (*call.Result, error) {
	return nil, errors.ErrUnsupported
}

func (o *objects) Watch(context.Context, *call.Request) (call.Stream, error) {
	return nil, errors.ErrUnsupported
}

func (o *objects) View(_ context.Context, r *call.Request) (call.View, error) {
	return view{o, r.Kind.Resource}, nil
}

type view struct {
	*objects
	resource string
}

func (v view) Get(namespace, name string) (resource.Object, bool) {
	o, ok := v.of[v.resource+" "+namespace+"/"+name]
	return o, ok
}

func (v view) List(string, func(resource.Object) bool) {}

func (v view) Subscribe(ctx context.Context, changed func(obj, old resource.Object), synced func()) error {
	for key, o := range v.of {
		if key == v.resource+" "+o.GetNamespace()+"/"+o.GetName() {
			changed(o, nil)
		}
	}
	synced()
	<-ctx.Done()
	return ctx.Err()
}

// run starts a server on a free port of the loopback address and returns where it is.
func run(t testing.TB, config Config, of map[string]resource.Object) string {
	t.Helper()
	return runAs(t, config, client.New(&objects{of: of}))
}

func runAs(t testing.TB, config Config, c *client.Client) string {
	t.Helper()
	config.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	s := New(config, c, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != context.Canceled {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		done <- err
		t.Fatal(err)
	}
	return s.Addresses()[0].String()
}

func exchangeWith(t *testing.T, network, to string, q *dns.Msg) string {
	t.Helper()
	m, _, err := (&dns.Client{Net: network}).ExchangeContext(t.Context(), q, to)
	if err != nil {
		t.Fatal(err)
	}
	out := show(m)
	if m.Truncated {
		out += " cut"
	}
	return out
}

func TestAnswersOverTheNetwork(t *testing.T) {
	address := run(t, Config{Domain: "knarr.test"}, map[string]resource.Object{"services ns/web": testService("web 10.43.0.10 dns-tcp=53/TCP")})
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range []struct {
			kind uint16
			name string
			want string
		}{
			{dns.TypeA, "web.ns.svc.knarr.test", "NOERROR 5 IN A 10.43.0.10"},
			{dns.TypeSRV, "_dns-tcp._tcp.web.ns.svc.knarr.test",
				"NOERROR 5 IN SRV 0 100 53 web.ns.svc.knarr.test. extra:web.ns.svc.knarr.test.10.43.0.10"},
			{dns.TypeA, "cluster.local", "REFUSED"},
		} {
			if got := exchangeWith(t, network, address, ask(c.name, c.kind)); got != c.want {
				t.Errorf("%s: got %s, want %s", network, got, c.want)
			}
		}
	}
}

func TestWhatMakesNoSense(t *testing.T) {
	address := run(t, Config{}, nil)
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer, _ := ask("a.", dns.TypeA).Pack()
	answer[2] |= 0x80
	for _, silent := range [][]byte{{1, 2, 3}, answer} {
		c.Write(silent)
	}
	c.Write([]byte{7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff})
	b := make([]byte, 512)
	n, err := c.Read(b)
	if err != nil || n != 12 || b[0] != 7 || b[3] != dns.RcodeFormatError {
		t.Errorf("%v, %v", b[:n], err)
	}
	status := ask("a.", dns.TypeA)
	status.Opcode = dns.OpcodeStatus
	for _, network := range []string{"udp", "tcp"} {
		if got := exchangeWith(t, network, address, status); got != "NOTIMP" {
			t.Errorf("%s: %s", network, got)
		}
	}
}

// BenchmarkOverUDP has as many askers as there are processors, each waiting for its answer.
func BenchmarkOverUDP(b *testing.B) {
	address := run(b, Config{}, map[string]resource.Object{"services ns/web": testService("web 10.43.0.7")})
	query, _ := ask("web.ns.svc.cluster.local", dns.TypeA).Pack()
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("udp", address)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		reply := make([]byte, 512)
		for pb.Next() {
			if _, err := c.Write(query); err != nil {
				b.Error(err)
			}
			if _, err := c.Read(reply); err != nil {
				b.Error(err)
			}
		}
	})
}
