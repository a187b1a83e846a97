// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"knarr.dev/api/codec"
)

// frameTimeout bounds how long one write to a watcher may take; a client that does not read for so long is cut off.
const frameTimeout = 30 * time.Second

// serveWatch sends the events of a watch, many in one write if there are many.
func (s *Server) serveWatch(w http.ResponseWriter, r *http.Request, stream *watchStream, form accepted) {
	out := newSender(w, frameTimeout)
	media := codec.JSON
	switch {
	case form.media == codec.Proto && form.as != "Table":
		media = codec.Proto + ";stream=watch"
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(http.StatusOK)
	if !out.flush() {
		return
	}
	sc := scopeOf(r)
	f := &framer{s: s, stream: stream, form: form}
	k := stream.r.kind
	sent, sizes := s.metrics.watchEvents.With(k.Group, k.Resource, k.Version), s.metrics.watchSizes.With(k.Group, k.Resource, k.Version)
	var buf []byte
	for {
		events, err := stream.next(r.Context())
		if err != nil {
			return
		}
		buf = buf[:0]
		sent.Add(uint64(len(events)))
		for _, e := range events {
			before := len(buf)
			if buf, err = f.append(buf, e); err != nil {
				s.cfg.Log.Error("encode watch event", "kind", stream.r.kind.Kind, "err", err)
				return
			}
			sizes.Observe(int64(len(buf) - before))
			if len(buf) > 64<<10 {
				if !out.send(buf) {
					return
				}
				buf = buf[:0]
			}
		}
		if len(buf) > 0 && !out.send(buf) {
			return
		}
		sc.begun()
		if stream.listing { // what there was is told at once
			stream.listing = false
			scope := measuredScope("watch", stream.of.namespace, stream.of.name)
			s.metrics.watchLists.With(k.Group, k.Resource, scope, k.Version).Took(time.Since(sc.received))
		}
		if cap(buf) > 256<<10 {
			buf = nil
		}
	}
}

// sender writes to a watcher. A timer that runs while it writes cuts off a watcher that does not read: a deadline alone would end the
// stream also when nothing is written.
type sender struct {
	w       http.ResponseWriter
	control *http.ResponseController
	within  time.Duration
	timer   *time.Timer
}

func newSender(w http.ResponseWriter, within time.Duration) *sender {
	s := &sender{w: w, control: http.NewResponseController(w), within: within}
	s.timer = time.AfterFunc(within, func() { _ = s.control.SetWriteDeadline(time.Unix(1, 0)) }) // some writers of tests have no deadlines
	s.timer.Stop()
	return s
}

// flush sends what was written, and tells whether the watcher is still there.
func (s *sender) flush() bool { return s.send(nil) }

// send sends b, and tells whether the watcher is still there.
func (s *sender) send(b []byte) bool {
	s.timer.Reset(s.within)
	defer s.timer.Stop()
	if len(b) > 0 {
		if _, err := s.w.Write(b); err != nil {
			return false
		}
	}
	return s.control.Flush() == nil
}

// framer encodes the events of one watch.
type framer struct {
	s      *Server
	stream *watchStream
	form   accepted
	tables int // rows sent: only the first Table has column definitions
}

func (f *framer) append(dst []byte, e watchEvent) ([]byte, error) {
	if f.form.media == codec.Proto && f.form.as != "Table" {
		if e.status == nil && f.form.as == "" {
			raw, err := e.entry.Proto()
			if err != nil {
				return dst, err
			}
			return codec.AppendProtoEvent(dst, string(e.kind), e.entry.Kind.GroupVersionKind, raw), nil
		}
		object, err := f.proto(e)
		if err != nil {
			return dst, err
		}
		return append(dst, codec.ProtoFrame(string(e.kind), object)...), nil
	}
	dst = append(dst, `{"type":"`...)
	dst = append(dst, e.kind...)
	dst = append(dst, `","object":`...)
	var err error
	if dst, err = f.json(dst, e); err != nil {
		return dst, err
	}
	return append(dst, "}\n"...), nil
}

func (f *framer) partialKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "meta.k8s.io", Version: f.form.version, Kind: "PartialObjectMetadata"}
}

// proto is what is rare in a watch: a status, or an object without its spec.
func (f *framer) proto(e watchEvent) ([]byte, error) {
	if e.status != nil {
		return codec.EncodeProto(statusKind(), e.status)
	}
	return codec.EncodeProto(f.partialKind(), partial(e.entry, f.form, false))
}

func (f *framer) json(dst []byte, e watchEvent) ([]byte, error) {
	if e.status != nil {
		b, err := json.Marshal(e.status)
		return codec.WithKind(dst, statusKind(), b), err
	}
	switch {
	case f.form.as == "Table" && e.kind != watch.Error:
		f.tables++
		return f.s.appendTable(dst, f.stream.r, f.form, e.entry, f.tables == 1)
	case f.form.as != "":
		b, err := json.Marshal(partial(e.entry, f.form, false))
		return codec.WithKind(dst, f.partialKind(), b), err
	}
	b, err := e.entry.JSON()
	if err != nil {
		return dst, err
	}
	return codec.WithKind(dst, e.entry.Kind.GroupVersionKind, b), nil
}
