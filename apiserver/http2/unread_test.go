// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"context"
	"net"
	"net/http"
	"testing"

	wire "golang.org/x/net/http2"
)

// TestUnread: a client that does not read what it makes the server say loses the connection before much waits.
func TestUnread(t *testing.T) {

	s := &server{hs: &http.Server{}, maxStreams: 10, stall: defaultStall, conns: map[*conn]struct{}{}}
	here, there := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.serve(context.Background(), there, nil, http.NotFoundHandler())
	}()
	_, err := here.Write([]byte(wire.ClientPreface))
	fr := wire.NewFramer(here, nil)
	if err == nil {
		err = fr.WriteSettings()
	}
	pings := 0
	for ; err == nil; pings++ {
		err = fr.WritePing(false, [8]byte{})
	}
	if pings > 2*controlsMax {
		t.Errorf("%d pings were taken", pings)
	}
	<-ended
}
