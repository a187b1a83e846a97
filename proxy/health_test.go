// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/client"
	"knarr.dev/proxy/nft"
)

func TestHealthOfAService(t *testing.T) {
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, number, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	port, _ := strconv.Atoi(number)
	h := newHealth(nft.Namespace{}, slog.New(slog.DiscardHandler))
	defer h.stop()
	key := client.Key{Namespace: "ns", Name: "web"}
	for _, c := range []struct {
		endpoints []string
		code      int
		want      string
	}{
		{[]string{"10.42.0.1@here", "10.42.0.2@there", "10.42.0.3@here!terminating"}, 200,
			`{"service":{"namespace":"ns","name":"web"},"localEndpoints":1,"serviceProxyHealthy":true}`},
		{[]string{"10.42.0.2@there"}, 503, `{"service":{"namespace":"ns","name":"web"},"localEndpoints":0,"serviceProxyHealthy":true}`},
	} {
		h.set(t.Context(), key, int32(port), readyHere([]*discoveryv1.EndpointSlice{testSlice("TCP", c.endpoints...)}, "here"))
		r, err := http.Get("http://127.0.0.1:" + number + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != c.code || strings.TrimSpace(string(body)) != c.want {
			t.Errorf("%d %s, want %d %s", r.StatusCode, body, c.code, c.want)
		}
	}
	h.set(t.Context(), key, 0, 0)
	if _, err := http.Get("http://127.0.0.1:" + number + "/healthz"); err == nil {
		t.Error("still answered")
	}
}
