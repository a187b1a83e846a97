// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"knarr.dev/apiserver"
)

// lines is a log of JSON lines.
type lines struct {
	mu  sync.Mutex
	raw bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.raw.Write(b)
}

// of are the lines with a message.
func (l *lines) of(t *testing.T, message string) (out []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.raw.Bytes()) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		if m["msg"] == message {
			out = append(out, m)
		}
	}
	return out
}

func TestRequestLog(t *testing.T) {
	log, level := &lines{}, new(slog.LevelVar)
	s := startWith(t, func(c *apiserver.Config) {
		c.Log, c.Level = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: level})), level
	})
	verbosity := func(v string) {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/debug/flags/v", strings.NewReader(v)))
		if w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
	}
	ask(s.Handler(), "GET", "/livez", "")
	if n := len(log.of(t, "HTTP")); n > 0 {
		t.Fatalf("%d requests are logged without being asked for", n)
	}
	verbosity("3")
	for _, c := range []struct {
		method, path, verb string
		code               float64
	}{
		{"GET", "/api/v1/namespaces?limit=5", "LIST", 200},
		{"GET", "/api/v1/namespaces/nothere", "GET", 404},
		{"GET", "/livez?verbose", "GET", 200},
		{"GET", "/api/v1/namespaces?watch=1&timeoutSeconds=1", "WATCH", 200},
	} {
		r := httptest.NewRequest(c.method, c.path, nil)
		r.Header.Set("User-Agent", "tester/1")
		r.Header.Set("Audit-ID", "id-"+c.path)
		s.Handler().ServeHTTP(httptest.NewRecorder(), r)
		all := log.of(t, "HTTP")
		if len(all) == 0 {
			t.Fatalf("%s %s is not logged", c.method, c.path)
		}
		line := all[len(all)-1]
		for key, want := range map[string]any{
			"verb": c.verb, "URI": c.path, "resp": c.code, "userAgent": "tester/1", "audit-ID": "id-" + c.path, "srcIP": r.RemoteAddr,
			"apf_pl": "exempt", "apf_fs": "exempt", "apf_iseats": 1.0, "apf_fseats": 0.0, "apf_additionalLatency": "0s",
		} {
			if line[key] != want {
				t.Errorf("%s: %s is %v, want %v", c.path, key, line[key], want)
			}
		}
		for _, key := range []string{"latency", "apf_execution_time"} {
			text, _ := line[key].(string)
			if d, err := time.ParseDuration(text); err != nil || d <= 0 {
				t.Errorf("%s: %s is %q", c.path, key, text)
			}
		}
	}
	before := len(log.of(t, "HTTP"))
	verbosity("0")
	ask(s.Handler(), "GET", "/livez", "")
	if after := len(log.of(t, "HTTP")); after != before {
		t.Errorf("%d requests are logged after the end", after-before)
	}
}
