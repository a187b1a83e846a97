// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"knarr.dev/api/call"
)

const policyText = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch]}
- {level: None, userGroups: ["system:nodes"], namespaces: [""]}
- {level: RequestResponse, resources: [{group: "", resources: [pods]}], omitManagedFields: false}
- {level: Request, resources: [{group: "", resources: ["pods/*", "*/scale"]}, {group: apps}]}
- {level: Metadata, resources: [{group: "", resources: [configmaps], resourceNames: [one]}], omitStages: [ResponseStarted]}
- {level: None, nonResourceURLs: ["/healthz*", "/version"]}
- {level: Metadata, nonResourceURLs: ["*"]}
- {level: Metadata, resources: [{group: batch, resources: ["*"]}]}
`

func TestPolicy(t *testing.T) {
	p, err := ParsePolicy([]byte(policyText))
	if err != nil {
		t.Fatal(err)
	}
	jane := &call.Identity{Name: "jane", Groups: []string{"dev"}}
	for _, test := range []struct {
		name  string
		r     Request
		level auditv1.Level
	}{
		{"user and verb", Request{User: &call.Identity{Name: "system:kube-proxy"}, Verb: "watch", Resource: "pods"}, "None"},
		{"user, other verb", Request{User: &call.Identity{Name: "system:kube-proxy"}, Verb: "list", Resource: "pods"}, "RequestResponse"},
		{"group, cluster scope", Request{User: &call.Identity{Groups: []string{"system:nodes"}}, Resource: "pods"}, "None"},
		{"group, namespace", Request{User: &call.Identity{Groups: []string{"system:nodes"}}, Resource: "pods", Namespace: "n"}, "RequestResponse"},
		{"nobody", Request{Resource: "pods", Namespace: "n"}, "RequestResponse"},
		{"resource", Request{User: jane, Resource: "pods", Namespace: "n"}, "RequestResponse"},
		{"subresource", Request{User: jane, Resource: "pods", Subresource: "log", Namespace: "n"}, "Request"},
		{"subresource of any", Request{User: jane, Resource: "things", Subresource: "scale", Namespace: "n"}, "Request"},
		{"group of resources", Request{User: jane, Group: "apps", Resource: "deployments", Subresource: "status", Namespace: "n"}, "Request"},
		{"name", Request{User: jane, Resource: "configmaps", Name: "one", Namespace: "n"}, "Metadata"},
		{"other name", Request{User: jane, Resource: "configmaps", Name: "two", Namespace: "n"}, "None"},
		{"path", Request{User: jane, Path: "/healthz/etcd"}, "None"},
		{"other path", Request{User: jane, Path: "/apis"}, "Metadata"},
		{"every resource of a group", Request{User: jane, Group: "batch", Resource: "jobs", Subresource: "status", Namespace: "n"}, "Metadata"},
		{"nothing said", Request{User: jane, Group: "x", Resource: "y", Namespace: "n"}, "None"},
	} {
		if v := p.decide(&test.r); v.level != test.level {
			t.Errorf("%s: got %s, want %s", test.name, v.level, test.level)
		}
	}
	if v := p.decide(&Request{User: jane, Resource: "pods", Namespace: "n"}); v.omitManagedFields || len(v.omitStages) != 1 {
		t.Errorf("verdict %+v", v)
	}
	for _, bad := range []string{
		"kind: Policy", "{apiVersion: audit.k8s.io/v1, kind: Policy}", "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Some}]}",
		"{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, nonResourceURLs: [x]}]}",
		"{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, omitStages: [Never]}]}",
		"{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, nope: 1}]}",
	} {
		if _, err := ParsePolicy([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}

type memory struct {
	mu      sync.Mutex
	events  []*auditv1.Event
	calls   int
	problem error
}

func (m *memory) Write(events ...*auditv1.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events, m.calls = append(m.events, events...), m.calls+1
	return m.problem
}

func (m *memory) seen() (events, calls int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.events), m.calls
}

func record(t *testing.T, to Sink, level string) *Record {
	t.Helper()
	p, err := ParsePolicy([]byte("{apiVersion: audit.k8s.io/v1, kind: Policy, omitManagedFields: true, rules: [{level: " + level + "}]}"))
	if err != nil {
		t.Fatal(err)
	}
	a := New(p, []Sink{to}, func() time.Time { return time.Unix(2, 0) }, nil)
	return a.Begin(&Request{User: &call.Identity{Name: "jane"}, Verb: "create", Version: "v1", Resource: "pods", Namespace: "n"},
		Origin{ID: "id", URI: "/api/v1/namespaces/n/pods", Received: time.Unix(1, 0)})
}

func TestRecord(t *testing.T) {
	m := &memory{}
	r := record(t, m, "RequestResponse")
	if err := r.Received(); err != nil {
		t.Fatal(err)
	}
	r.Annotate("k", "v")
	r.Annotate("k", "w")
	r.Request([]byte(`{"kind":"Pod","metadata":{"name":"p","managedFields":[{"manager":"x"}]}}`), nil)
	r.Response([]byte(`{"kind":"PodList","items":[{"metadata":{"managedFields":[]}}]}`))
	r.Named("p")
	r.Complete(201)
	if len(m.events) != 2 || m.events[0].Stage != auditv1.StageRequestReceived || m.events[0].Annotations != nil || m.events[0].ObjectRef.Name != "" {
		t.Fatalf("first event: %+v", m.events[0])
	}
	got, err := json.Marshal(m.events[1])
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"id","stage":"ResponseComplete",` +
		`"requestURI":"/api/v1/namespaces/n/pods","verb":"create","user":{"username":"jane"},` +
		`"objectRef":{"resource":"pods","namespace":"n","name":"p","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":201},` +
		`"requestObject":{"kind":"Pod","metadata":{"name":"p"}},"responseObject":{"items":[{"metadata":{}}],"kind":"PodList"},` +
		`"requestReceivedTimestamp":"1970-01-01T00:00:01.000000Z","stageTimestamp":"1970-01-01T00:00:02.000000Z","annotations":{"k":"v"}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if record(t, m, "None") != nil {
		t.Error("level None must make no record")
	}
	var none *Record
	if err := none.Received(); err != nil {
		t.Fatal(err)
	}
	none.Annotate("k", "v")
	none.Complete(200)
}

func TestBatchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		b := NewBatch(m, BatchConfig{Buffer: 10, MaxSize: 4, MaxWait: time.Second, Log: slog.New(slog.DiscardHandler)})
		for range 12 {
			_ = b.Write(&auditv1.Event{})
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		synctest.Wait()
		if events, calls := m.seen(); events != 8 || calls != 2 || b.Dropped() != 2 {
			t.Errorf("%d events in %d batches, %d dropped", events, calls, b.Dropped())
		}
		time.Sleep(time.Second) // virtual
		synctest.Wait()
		if events, _ := m.seen(); events != 10 {
			t.Errorf("%d events after the longest wait", events)
		}
		_ = b.Write(&auditv1.Event{})
		cancel()
		<-done
		if events, _ := m.seen(); events != 11 {
			t.Errorf("%d events at the end", events)
		}
	})
}

func TestLogRotates(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l, err := OpenLog(LogConfig{
		Path: filepath.Join(dir, "audit.log"), MaxSize: 300, MaxBackups: 2, Compress: true, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { now = now.Add(time.Second); return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := l.Write(&auditv1.Event{RequestURI: "/x"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) != 3 || names[2] != "audit.log" || !strings.HasPrefix(names[0], "audit-2026-01-01T00-00-") || !strings.HasSuffix(names[0], ".log.gz") {
		t.Errorf("files %v", names)
	}
}

func TestTruncate(t *testing.T) {
	m := &memory{}
	tr := &Truncate{To: m, MaxEvent: 600, Log: slog.New(slog.DiscardHandler)}
	r := record(t, tr, "Request")
	r.Request([]byte(`{"data":"`+strings.Repeat("x", 1000)+`"}`), nil)
	r.Complete(200)
	if len(m.events) != 1 || m.events[0].RequestObject != nil || m.events[0].Annotations[TruncatedAnnotation] != "true" {
		t.Errorf("events %+v", m.events)
	}
}

func TestTruncateDividesBatches(t *testing.T) {
	m := &memory{}
	e := &auditv1.Event{RequestURI: strings.Repeat("x", 100)}
	tr := &Truncate{To: m, MaxEvent: 1000, MaxBatch: 2 * sizeOf(e), Log: slog.New(slog.DiscardHandler)}
	if err := tr.Write(e, e, e, e, e); err != nil || m.calls != 3 || len(m.events) != 5 {
		t.Errorf("%d events in %d batches, %v", len(m.events), m.calls, err)
	}
}

func TestStrict(t *testing.T) {
	for _, c := range []struct {
		sink Sink
		want error
	}{{&memory{problem: io.ErrShortWrite}, nil}, {Strict{&memory{problem: io.ErrShortWrite}}, ErrNotStored}, {Strict{&memory{}}, nil}} {
		r := record(t, c.sink, "Metadata")
		if err := r.Received(); !errors.Is(err, c.want) {
			t.Errorf("%T: %v", c.sink, err)
		}
		r.Complete(200)
	}
}

// TestLegacyLog holds lines to those of kube-apiserver v1.36.3.
func TestLegacyLog(t *testing.T) {
	e := auditv1.Event{
		AuditID: "88741e44-8c90-400d-8885-d81e712a79e4", Stage: auditv1.StageResponseComplete, Verb: "list", SourceIPs: []string{"127.0.0.1"},
		User:             authenticationv1.UserInfo{Username: "admin", Groups: []string{"system:masters", "system:authenticated"}},
		ImpersonatedUser: &authenticationv1.UserInfo{Username: `bo"b x`, Groups: []string{"g1", "g 2", "system:authenticated"}},
		UserAgent:        `a"gent`, ObjectRef: &auditv1.ObjectReference{Namespace: "default"}, ResponseStatus: &metav1.Status{Code: 403},
		RequestURI:               "/api/v1/namespaces/default/configmaps?limit=500",
		RequestReceivedTimestamp: metav1.NewMicroTime(time.Date(2026, 11, 21, 12, 34, 16, 703008055, time.UTC)),
	}
	const want = `2026-11-21T12:34:16.703008055Z AUDIT: id="88741e44-8c90-400d-8885-d81e712a79e4" stage="ResponseComplete" ip="127.0.0.1" method="list" user="admin" groups="\"system:masters\",\"system:authenticated\"" as="bo\"b x" asgroups="\"g1\",\"g 2\",\"system:authenticated\"" user-agent="a\"gent" namespace="default" uri="/api/v1/namespaces/default/configmaps?limit=500" response="403"` + "\n"
	if got := legacy(&e); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	e = auditv1.Event{Stage: auditv1.StageRequestReceived}
	if got := legacy(&e); !strings.Contains(got, `user="<none>" groups="<none>" as="<self>" asgroups="<lookup>"`) || !strings.Contains(got, `namespace="<none>" uri="" response="<deferred>"`) {
		t.Error(got)
	}
}
