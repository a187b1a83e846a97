// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "golang.org/x/net/http2"

	"knarr.dev/apiserver/http2"
)

// few is a server of few streams that gives slow clients up soon.
func few(t *testing.T, streams int, stall time.Duration, h http.HandlerFunc) *raw {
	s := start(t, true, h, func(s *http.Server) { http2.Attach(s, http2.Options{MaxStreams: streams, StallTimeout: stall}) })
	return greet(t, s)
}

// flood sends what next makes until the server has enough, and returns how it says so.
func (r *raw) flood(next func(i int)) string {
	ended := make(chan string, 1)
	go func() {
		for {
			f, err := r.fr.ReadFrame()
			if g, ok := f.(*wire.GoAwayFrame); ok {
				ended <- "GOAWAY " + g.ErrCode.String()
				return
			}
			if err != nil && !errors.As(err, new(wire.StreamError)) {
				ended <- err.Error()
				return
			}
		}
	}()
	for i := 0; ; i++ {
		select {
		case how := <-ended:
			return how
		default:
		}
		next(i)
		if r.out.Len() > 4<<10 {
			r.send()
		}
	}
}

// TestFloods: frames that bring nothing end the connection, whichever they are.
func TestFloods(t *testing.T) {
	nothing := func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	for name, c := range map[string]struct {
		first func(*raw)
		next  func(*raw, int)
	}{
		"PING":                  {next: func(r *raw, _ int) { _ = r.fr.WritePing(false, [8]byte{}) }},
		"SETTINGS":              {next: func(r *raw, _ int) { _ = r.fr.WriteSettings() }},
		"acknowledged SETTINGS": {next: func(r *raw, _ int) { _ = r.fr.WriteSettingsAck() }},
		"PRIORITY":              {next: func(r *raw, _ int) { _ = r.fr.WritePriority(1, wire.PriorityParam{}) }},
		"unknown frames":        {next: func(r *raw, _ int) { _ = r.fr.WriteRawFrame(0x99, 0, 0, nil) }},
		"empty DATA": {
			first: func(r *raw) { r.open(1, false, request("POST")...) },
			next:  func(r *raw, _ int) { _ = r.fr.WriteData(1, false, nil) },
		},
		"DATA of padding": {
			first: func(r *raw) { r.open(1, false, request("POST")...) },
			next:  func(r *raw, _ int) { _ = r.fr.WriteDataPadded(1, false, nil, []byte{0}) },
		},
		"RST_STREAM": {
			first: get(1),
			next:  func(r *raw, _ int) { _ = r.fr.WriteRSTStream(1, wire.ErrCodeCancel) },
		},
		"malformed requests": {next: func(r *raw, i int) { r.open(uint32(2*i+1), true, "a", "b") }},
		"empty CONTINUATION": {
			first: frame(wire.FrameHeaders, 0, 1, ""),
			next:  func(r *raw, _ int) { _ = r.fr.WriteContinuation(1, false, nil) },
		},
		"CONTINUATION": {
			first: frame(wire.FrameHeaders, 0, 1, ""),
			next: func(r *raw, i int) {
				_ = r.fr.WriteContinuation(1, false, r.block(fmt.Sprint("x-", i), strings.Repeat("x", 100)))
			},
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			r := few(t, 10, 0, nothing)
			if c.first != nil {
				c.first(r)
			}
			if got := r.flood(func(i int) { c.next(r, i) }); got != "GOAWAY ENHANCE_YOUR_CALM" {
				t.Error(got)
			}
		})
	}
}

// TestRapidReset: who opens streams and resets them has no more handlers than streams, and few that wait.
func TestRapidReset(t *testing.T) {
	const streams = 10
	var running, most, all atomic.Int64
	end := make(chan struct{})
	r := few(t, streams, 0, func(w http.ResponseWriter, r *http.Request) {
		all.Add(1)
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-end // as if it took no notice
		running.Add(-1)
	})
	const requests = 2000
	for i := range uint32(requests) {
		r.open(2*i+1, true, request("GET")...)
		_ = r.fr.WriteRSTStream(2*i+1, wire.ErrCodeCancel)
		r.send()
	}
	_ = r.fr.WritePing(false, [8]byte{1})
	r.until(func(f wire.Frame) bool { p, ok := f.(*wire.PingFrame); return ok && p.Data[0] == 1 })
	if n := most.Load(); n > streams {
		t.Errorf("%d handlers at once", n)
	}
	close(end)
	r.open(2*requests+1, true, request("GET")...)
	r.until(func(f wire.Frame) bool { h, ok := f.(*wire.MetaHeadersFrame); return ok && h.StreamID == 2*requests+1 })
	if n := all.Load(); n > requests/2 {
		t.Errorf("%d handlers were started for streams that were reset", n)
	}
}

// TestTooManyStreams: streams above the limit are refused, and nothing else suffers.
func TestTooManyStreams(t *testing.T) {
	end := make(chan struct{})
	r := few(t, 2, 0, func(http.ResponseWriter, *http.Request) { <-end })
	for _, id := range []uint32{1, 3, 5} {
		get(id)(r)
	}
	if got := r.outcome(); got != "RST 5 REFUSED_STREAM" {
		t.Error(got)
	}
	close(end)
	ends := 0
	r.until(func(f wire.Frame) bool {
		if _, ok := f.(*wire.MetaHeadersFrame); ok {
			ends++
		}
		return ends == 2
	})
}

// TestNoWindow: streams whose client takes nothing wait, and let others of another connection be; all end with the connection.
func TestNoWindow(t *testing.T) {
	const streams = 100
	var done atomic.Int64
	s := start(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			_, _ = io.WriteString(w, "ok")
			return
		}
		_, err := w.Write(make([]byte, 1<<20))
		if err == nil {
			t.Error("written")
		}
		done.Add(1)
	}), func(s *http.Server) { http2.Attach(s, http2.Options{MaxStreams: streams}) })
	r := greet(t, s, wire.Setting{ID: wire.SettingInitialWindowSize, Val: 0})
	for i := range uint32(streams) {
		r.open(2*i+1, true, request("POST")...)
	}
	headers := 0
	r.until(func(f wire.Frame) bool {
		if _, ok := f.(*wire.MetaHeadersFrame); ok {
			headers++
		}
		return headers == streams
	})
	if res, err := s.Client().Get(s.URL); err != nil || res.StatusCode != 200 {
		t.Error(res, err)
	}
	_ = r.nc.Close()
	for done.Load() < streams {
		runtime.Gosched()
	}
}

// TestStall: a client that reads nothing from the connection is given up, and its handlers hear of it.
func TestStall(t *testing.T) {
	ended := make(chan error, 1)
	r := few(t, 2, 20*time.Millisecond, func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				<-r.Context().Done()
				ended <- r.Context().Err()
				return
			}
		}
	})
	_ = r.fr.WriteWindowUpdate(0, 1<<30)
	r.open(1, true, request("GET")...)
	_ = r.fr.WriteWindowUpdate(1, 1<<30)
	r.send()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestUpload: more than the windows say is refused, of one stream as of all.
func TestUpload(t *testing.T) {
	for _, c := range []struct {
		streams int
		want    string
	}{{1, "RST 1 FLOW_CONTROL_ERROR"}, {8, "GOAWAY FLOW_CONTROL_ERROR"}} {
		end := make(chan struct{})
		r := few(t, 10, 0, func(http.ResponseWriter, *http.Request) { <-end })
		for i := range c.streams {
			r.open(uint32(2*i+1), false, request("POST")...)
			for range 256 >> 4 {
				_ = r.fr.WriteData(uint32(2*i+1), false, make([]byte, 16<<10))
			}
		}
		_ = r.fr.WriteData(1, false, []byte("x"))
		if got := r.outcome(); got != c.want {
			t.Errorf("%d streams: %s, want %s", c.streams, got, c.want)
		}
		close(end)
	}
}

// TestBomb: a small block that names a large field again and again is not unpacked.
func TestBomb(t *testing.T) {
	r := few(t, 10, 0, func(http.ResponseWriter, *http.Request) { t.Error("served") })
	b := r.block(request("GET", "x", strings.Repeat("v", 4000))...)
	again := r.block("x", strings.Repeat("v", 4000))
	if len(again) != 1 {
		t.Fatal(len(again))
	}
	for range 10000 {
		b = append(b, again...)
	}
	_ = r.fr.WriteHeaders(wire.HeadersFrameParam{StreamID: 1, BlockFragment: b, EndStream: true, EndHeaders: true})
	if got := r.outcome(); got != "HEADERS 1 431" {
		t.Error(got)
	}
}
