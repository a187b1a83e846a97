// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/measure"
)

// TestSlowRequests: a request that takes long is logged with where its time went, unless it lasts as long as its user likes.
func TestSlowRequests(t *testing.T) {
	parts := &spent{}
	parts.queue.add(100 * time.Millisecond)
	parts.storage.add(20 * time.Microsecond)
	parts.admission.All.Add(int64(450 * time.Millisecond))
	parts.admission.Webhooks.Add(int64(400 * time.Millisecond))
	if got := parts.outside(); got != 500*time.Millisecond {
		t.Errorf("others took %v, want 500ms", got)
	}
	for _, c := range []struct {
		verb, subresource string
		took              time.Duration
		want              string
	}{
		{"POST", "", 700 * time.Millisecond, `level=WARN msg="slow request" verb=POST resource=pods namespace=n name=p subresource="" user=u resp=201 latency=700ms queue=100ms admission=450ms webhooks=400ms`},
		{"POST", "", 499 * time.Millisecond, ""},
		{"WATCH", "", time.Hour, ""},
		{"CONNECT", "exec", time.Hour, ""},
		{"GET", "log", time.Hour, ""},
	} {
		var out bytes.Buffer
		s := &Server{cfg: Config{Log: slog.New(slog.NewTextHandler(&out, nil))}}
		key := measure.Key{Verb: c.verb, Resource: "pods", Subresource: c.subresource}
		s.logSlow(&key, 201, c.took, parts, slowCall(&call.Identity{Name: "u"}, &call.Request{Namespace: "n", Name: "p"}))
		if _, line, _ := strings.Cut(strings.TrimSpace(out.String()), " "); line != c.want {
			t.Errorf("%s of %v:\n%s\nwant\n%s", c.verb, c.took, line, c.want)
		}
	}
}

func TestRate(t *testing.T) {
	var l rate
	now := time.Unix(1, 0)
	for i := range slowLines + 3 {
		if _, ok := l.allow(now); ok != (i < slowLines) {
			t.Errorf("line %d: %v", i, ok)
		}
	}
	if skipped, ok := l.allow(now.Add(slowWindow)); !ok || skipped != 3 {
		t.Errorf("in the next window: %v, %d skipped, want 3", ok, skipped)
	}
	if skipped, ok := l.allow(now.Add(slowWindow)); !ok || skipped != 0 {
		t.Errorf("after that: %v, %d skipped", ok, skipped)
	}
}
