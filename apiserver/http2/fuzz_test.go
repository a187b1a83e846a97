// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// complaints fails a test for whatever is logged: panics of handlers are.
type complaints struct{ t *testing.T }

func (c complaints) Write(p []byte) (int, error) {
	c.t.Errorf("%s", p)
	return len(p), nil
}

// FuzzFrames: whatever comes after the preface, nothing panics, and the connection and its handlers end when the client has gone.
func FuzzFrames(f *testing.F) {
	var block, frames bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":path", "/a?b=c"}, {":authority", "x"}, {"content-length", "4"}, {"te", "trailers"}} {
		_ = e.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	w := wire.NewFramer(&frames, nil)
	_ = w.WriteHeaders(wire.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes()[:9]})
	_ = w.WriteContinuation(1, true, block.Bytes()[9:])
	_ = w.WriteDataPadded(1, false, []byte("ab"), make([]byte, 3))
	_ = w.WriteData(1, true, []byte("cd"))
	_ = w.WriteWindowUpdate(0, 1<<20)
	f.Add(bytes.Clone(frames.Bytes()))
	_ = w.WriteHeaders(wire.HeadersFrameParam{StreamID: 3, BlockFragment: block.Bytes(), EndHeaders: true, Priority: wire.PriorityParam{Weight: 3}})
	_ = w.WriteRSTStream(3, wire.ErrCodeCancel)
	_ = w.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Val: 1}, wire.Setting{ID: wire.SettingHeaderTableSize, Val: 0})
	_ = w.WritePing(false, [8]byte{1})
	_ = w.WriteGoAway(0, wire.ErrCodeNo, nil)
	f.Add(bytes.Clone(frames.Bytes()))

	f.Fuzz(func(t *testing.T, data []byte) {
		s := &server{
			hs:         &http.Server{MaxHeaderBytes: 4 << 10, ErrorLog: log.New(complaints{t}, "", 0)},
			maxStreams: 3, stall: time.Second, conns: map[*conn]struct{}{},
		}
		theirs, ours := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		go func() {
			defer theirs.Close()
			_, _ = io.WriteString(theirs, wire.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
			_, _ = theirs.Write(data)
		}()
		c := newConn(s, context.Background(), ours, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			for k, v := range r.Header {
				w.Header()[k] = v
			}
			_, _ = w.Write(b)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, r.URL.String())
		}))
		c.serve()
		for running := true; running; runtime.Gosched() {
			c.mu.Lock()
			running = c.handlers > 0
			c.mu.Unlock()
		}
		if len(c.streams) > s.maxStreams {
			t.Errorf("%d streams", len(c.streams))
		}
	})
}
