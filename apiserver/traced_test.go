// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"knarr.dev/api/call"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/tracing"
	"knarr.dev/apiserver/tracing/tracetest"
)

// grouped takes requests for those of a member of the groups that a header names.
type grouped struct{}

func (grouped) Authenticate(r *http.Request) (*call.Identity, error) {
	if groups := r.Header.Values("X-Groups"); len(groups) > 0 {
		return &call.Identity{Name: "jane", Groups: groups}, nil
	}
	return nil, nil
}

// traced is a server whose traces a test reads when it has ended the tracer.
type traced struct {
	server    *apiserver.Server
	tracer    *tracing.Tracer
	collector *tracetest.Collector
}

func startTraced(t *testing.T, rate int32) traced {
	t.Helper()
	out := traced{collector: tracetest.Start(t)}
	var err error
	out.tracer, err = tracing.New(&tracing.Config{Endpoint: out.collector.Endpoint, SamplingRatePerMillion: rate}, "one", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	out.server = startWith(t, func(c *apiserver.Config) {
		c.Tracer, c.Authenticators = out.tracer, []authn.Authenticator{grouped{}}
	})
	return out
}

// traceOf is the ID of a trace with a number.
func traceOf(n int) string { return fmt.Sprintf("%032x", n) }

func (s traced) ask(t *testing.T, method, path, media, body string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("Content-Type", media)
	w := httptest.NewRecorder()
	s.server.Handler().ServeHTTP(w, r)
	return w
}

func TestSpans(t *testing.T) {
	s := startTraced(t, 0)
	const (
		maps  = "/api/v1/namespaces/default/configmaps"
		route = "/api/v1/namespaces/{:namespace}/configmaps"
		json  = "application/json"
		steps = "(audit(constrainedimpersonation(priorityandfairness(authorization"
	)
	rows := []struct {
		method, path, media, body string
		code                      int
		want                      string
	}{
		{"POST", maps, json, `{"metadata":{"name":"a"}}`, 201, "POST " + route + steps + "(Create(Create etcd3 SerializeObject))))))"},
		{"GET", maps + "/a", json, "", 200, "GET " + route + "/{:name}" + steps + "(Get(cacher.Get SerializeObject))))))"},
		{"GET", maps, json, "", 200, "GET " + route + steps + "(List(cacher.GetList SerializeObject))))))"},
		{"PUT", maps + "/a", json, `{"metadata":{"name":"a"},"data":{"k":"v"}}`, 200,
			"PUT " + route + "/{:name}" + steps + "(Update(GuaranteedUpdate etcd3 SerializeObject))))))"},
		{"PATCH", maps + "/a", "application/merge-patch+json", `{"data":{"k":"w"}}`, 200,
			"PATCH " + route + "/{:name}" + steps + "(Patch(GuaranteedUpdate etcd3 SerializeObject))))))"},
		{"DELETE", maps + "/a", json, "", 200, "DELETE " + route + "/{:name}" + steps + "(Delete(SerializeObject))))))"},
		{"GET", maps + "/a", json, "", 404, "GET " + route + "/{:name}" + steps + "(Get(cacher.Get))))))"},
		{"GET", "/version", json, "", 200, "GET" + steps + "))))"},
	}
	const parent = "00000000000000aa"
	for i, row := range rows {
		w := s.ask(t, row.method, row.path, row.media, row.body, http.Header{
			"X-Groups": {authn.GroupMasters}, "Traceparent": {"00-" + traceOf(i+1) + "-" + parent + "-01"},
		})
		if w.Code != row.code {
			t.Fatalf("%s %s: %d %s", row.method, row.path, w.Code, w.Body)
		}
	}
	if err := s.tracer.Close(); err != nil {
		t.Fatal(err)
	}
	for i, row := range rows {
		spans := s.collector.Spans(traceOf(i + 1))
		if got := tracetest.Tree(spans); got != row.want {
			t.Errorf("%s %s: %s\nwant %s", row.method, row.path, got, row.want)
			continue
		}
		root := spans[0]
		if root.Parent != parent || root.Kind != "SERVER" || root.Attributes["url.path"] != row.path || root.Attributes["audit-id"] == "" ||
			root.Attributes["http.response.status_code"] != fmt.Sprint(row.code) || root.Attributes["http.response.body.size"] == "0" ||
			root.Resource["service.name"] != "apiserver" || root.Resource["service.instance.id"] != "one" {
			t.Errorf("%s %s: %+v", row.method, row.path, root)
		}
	}
}

func TestWhoJoinsTraces(t *testing.T) {
	for _, row := range []struct {
		rate          int32
		groups        []string
		flag          string
		joined, alone bool
	}{
		{rate: 0, groups: []string{authn.GroupMasters}, flag: "01", joined: true},
		{rate: 0, groups: []string{"system:monitoring"}, flag: "01", joined: true},
		{rate: 0, groups: []string{"others"}, flag: "01"},
		{rate: 0, flag: "01"},
		{rate: 0, groups: []string{authn.GroupMasters}, flag: "00"},
		{rate: 1_000_000, groups: []string{authn.GroupMasters}, flag: "01", joined: true},
		{rate: 1_000_000, groups: []string{authn.GroupMasters}, flag: "00"},
		{rate: 1_000_000, groups: []string{"others"}, flag: "00", alone: true},
		{rate: 1_000_000, flag: "01", alone: true},
	} {
		s := startTraced(t, row.rate)
		header := http.Header{"Traceparent": {"00-" + traceOf(1) + "-00000000000000aa-" + row.flag}}
		if row.groups != nil {
			header["X-Groups"] = row.groups
		}
		s.ask(t, "GET", "/version", "", "", header)
		if err := s.tracer.Close(); err != nil {
			t.Fatal(err)
		}
		joined := len(s.collector.Spans(traceOf(1))) > 0
		alone := slices.ContainsFunc(s.collector.Spans(""), func(s tracetest.Span) bool {
			return s.Name == "GET" && s.Parent == "" && slices.Contains(s.Links, traceOf(1))
		})
		if joined != row.joined || alone != row.alone {
			t.Errorf("%+v: joined %v, alone %v:\n%+v", row, joined, alone, s.collector.Spans(""))
		}
	}
}

// TestSpansInProcess looks at those of components of the same process.
func TestSpansInProcess(t *testing.T) {
	s := startTraced(t, 1_000_000)
	create(t, local(s.server), "m", nil)
	if err := s.tracer.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := tracetest.Tree(s.collector.Spans("")), "POST /api/v1/namespaces/{:namespace}/configmaps(Create(Create etcd3))"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
