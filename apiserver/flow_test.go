// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/call"
	"knarr.dev/api/flowcontrol"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/authn"
)

// named takes each request for one of the user that its header names.
type named struct{}

func (named) Authenticate(r *http.Request) (*call.Identity, error) {
	u := &call.Identity{Name: r.Header.Get("User")}
	if u.Name == "admin" {
		u.Groups = []string{authn.GroupMasters}
	}
	return u, nil
}

func askAs(s *apiserver.Server, user, method, path string, body io.Reader) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, body)
	r.Header.Set("User", user)
	r.Header.Set("Content-Type", "application/json")
	s.Handler().ServeHTTP(w, r)
	return w
}

// flow makes a priority level that has one seat, and sends the requests of a user there.
func flow(t *testing.T, s *apiserver.Server, user string, response flowcontrolv1.LimitResponse) {
	t.Helper()
	tr, none, shares, uid := local(s), int32(0), int32(1), ""
	for kind, o := range map[*resource.Kind]resource.Object{
		flowcontrol.PriorityLevelConfigurations.Kind: &flowcontrolv1.PriorityLevelConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: user},
			Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: "Limited", Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: &shares, BorrowingLimitPercent: &none, LimitResponse: response,
			}},
		},
		flowcontrol.FlowSchemas.Kind: &flowcontrolv1.FlowSchema{
			ObjectMeta: metav1.ObjectMeta{Name: user},
			Spec: flowcontrolv1.FlowSchemaSpec{
				PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: user}, MatchingPrecedence: 10,
				Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
					Subjects:         []flowcontrolv1.Subject{{Kind: "User", User: &flowcontrolv1.UserSubject{Name: user}}},
					ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, ClusterScope: true, Namespaces: []string{"*"}}},
					NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
				}},
			},
		},
	} {
		made, err := tr.Do(t.Context(), &call.Request{Verb: "create", Kind: kind, Object: o})
		if err != nil {
			t.Fatal(err)
		}
		if kind == flowcontrol.FlowSchemas.Kind {
			uid = string(made.Object.GetUID())
		}
	}
	until(t, func() bool {
		return askAs(s, user, http.MethodGet, "/api/v1/namespaces/default", nil).Header().Get("X-Kubernetes-PF-FlowSchema-UID") == uid
	})
}

func until(t *testing.T, what func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !what() {
		select {
		case <-ctx.Done():
			t.Fatal("it never came to that")
		case <-time.After(time.Millisecond):
		}
	}
}

// occupy begins a request of a user that lasts until the body's end, which is what it returns.
func occupy(t *testing.T, s *apiserver.Server, user string) (end func() int) {
	body, rest := io.Pipe()
	answer := make(chan int, 1)
	go func() {
		answer <- askAs(s, user, http.MethodPost, "/api/v1/namespaces/default/configmaps", body).Code
	}()
	if _, err := rest.Write([]byte("{")); err != nil { // which returns when the server reads: the request has its seat
		t.Fatal(err)
	}
	return func() int {
		_ = rest.Close()
		return <-answer
	}
}

func TestSaturatedLevel(t *testing.T) {
	s := startWith(t, func(c *apiserver.Config) {
		c.Authenticators, c.MaxInFlight, c.MaxMutatingInFlight = []authn.Authenticator{named{}}, 20, 10
	})
	flow(t, s, "greedy", flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject})
	first := askAs(s, "greedy", http.MethodGet, "/api/v1/namespaces/default", nil)
	uid := first.Header().Get("X-Kubernetes-PF-FlowSchema-UID")
	if first.Code != http.StatusOK || uid == "" || first.Header().Get("X-Kubernetes-PF-PriorityLevel-UID") == "" {
		t.Fatalf("a classified request: %d %v", first.Code, first.Header())
	}
	end := occupy(t, s, "greedy")
	second := askAs(s, "greedy", http.MethodGet, "/api/v1/namespaces/default", nil)
	if h := second.Header(); second.Code != http.StatusTooManyRequests || h.Get("Retry-After") != "1" || h.Get("X-Kubernetes-PF-FlowSchema-UID") != uid ||
		h.Get("Content-Type") != "text/plain; charset=utf-8" || second.Body.String() != "Too many requests, please try again later.\n" {
		t.Errorf("a request of a full level: %d %v %q", second.Code, h, second.Body)
	}
	for _, user := range []string{"admin", "somebody"} {
		if w := askAs(s, user, http.MethodGet, "/api/v1/namespaces/default", nil); w.Code != http.StatusOK || w.Header().Get("X-Kubernetes-PF-FlowSchema-UID") == uid {
			t.Errorf("a request of %s: %d %s", user, w.Code, w.Body)
		}
	}
	if w := askAs(s, "greedy", http.MethodGet, "/api/v1/namespaces/default/pods/x/log", nil); w.Code == http.StatusTooManyRequests || w.Header().Get("X-Kubernetes-PF-FlowSchema-UID") != "" {
		t.Errorf("a request that streams: %d", w.Code)
	}
	if code := end(); code != http.StatusBadRequest {
		t.Errorf("the request in between: %d", code)
	}
	if w := askAs(s, "greedy", http.MethodGet, "/api/v1/namespaces/default", nil); w.Code != http.StatusOK {
		t.Errorf("after it ended: %d", w.Code)
	}
}

// TestWatchesBegin: watches have a seat only until they have begun.
func TestWatchesBegin(t *testing.T) {
	s := startWith(t, func(c *apiserver.Config) { c.Authenticators = []authn.Authenticator{named{}} })
	flow(t, s, "watcher", flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	defer cancel() // before Close, which waits for the watches
	for _, query := range []string{"", "&resourceVersion=1", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"} {
		for range 5 {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/v1/namespaces?watch=1"+query, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("User", "watcher")
			until(t, func() bool { // the one before may not quite have begun
				w, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				return w.StatusCode == http.StatusOK
			})
		}
	}
}

func TestUnfair(t *testing.T) {
	s := startWith(t, func(c *apiserver.Config) {
		c.Authenticators, c.Unfair, c.MaxInFlight, c.MaxMutatingInFlight = []authn.Authenticator{named{}}, true, -1, 1
	})
	end := occupy(t, s, "a")
	if w := askAs(s, "b", http.MethodPut, "/api/v1/namespaces/default/configmaps/x", strings.NewReader("{}")); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" {
		t.Errorf("a write too many: %d", w.Code)
	}
	if w := askAs(s, "b", http.MethodGet, "/api/v1/namespaces/default", nil); w.Code != http.StatusOK || w.Header().Get("X-Kubernetes-PF-FlowSchema-UID") != "" {
		t.Errorf("a read: %d %v", w.Code, w.Header())
	}
	if w := askAs(s, "admin", http.MethodPut, "/api/v1/namespaces/default/configmaps/x", strings.NewReader("{}")); w.Code == http.StatusTooManyRequests {
		t.Error("a superuser's write was refused")
	}
	if w := askAs(s, "admin", http.MethodGet, "/debug/api_priority_and_fairness/dump_queues", nil); w.Code != http.StatusNotFound {
		t.Errorf("tables of flow control: %d", w.Code)
	}
	end()
}

// TestSuggestedObjects: the server looks after its objects as long as nobody took them over.
func TestSuggestedObjects(t *testing.T) {
	s := start(t)
	tr := local(s)
	get := func(name string) *flowcontrolv1.FlowSchema {
		r, err := tr.Do(t.Context(), &call.Request{Verb: "get", Kind: flowcontrol.FlowSchemas.Kind, Name: name})
		if err != nil {
			return nil
		}
		return flowcontrol.FlowSchemas.Cast(r.Object)
	}
	patch := func(name, body string) {
		t.Helper()
		if _, err := tr.Do(t.Context(), &call.Request{
			Verb: "patch", Kind: flowcontrol.FlowSchemas.Kind, Name: name, PatchType: types.MergePatchType, Patch: []byte(body),
		}); err != nil {
			t.Fatal(err)
		}
	}
	const key = flowcontrolv1.AutoUpdateAnnotationKey
	if m := get("probes").ManagedFields; len(m) == 0 || m[len(m)-1].Manager != "api-priority-and-fairness-config-producer-v1" {
		t.Errorf("fields are managed by %+v", m)
	}
	patch("probes", `{"spec":{"matchingPrecedence":3}}`)
	patch("system-nodes", `{"metadata":{"annotations":null}}`)
	patch("service-accounts", `{"metadata":{"annotations":{"`+key+`":"odd"}},"spec":{"matchingPrecedence":9001}}`)
	patch("global-default", `{"metadata":{"annotations":{"`+key+`":"false"}},"spec":{"matchingPrecedence":9901}}`)
	mine := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "mine", Annotations: map[string]string{key: "true"}}}
	mine.Spec.PriorityLevelConfiguration.Name = "exempt"
	for _, q := range []*call.Request{{Verb: "create", Object: mine}, {Verb: "delete", Name: "catch-all"}} {
		q.Kind = flowcontrol.FlowSchemas.Kind
		if _, err := tr.Do(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.MaintainFlows(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		precedence int32
		auto       string
	}{
		"probes": {2, "true"}, "system-nodes": {500, "true"}, "service-accounts": {9001, "false"}, "global-default": {9901, "false"}, "catch-all": {10000, "true"},
	} {
		if o := get(name); o == nil || o.Spec.MatchingPrecedence != want.precedence || o.Annotations[key] != want.auto {
			t.Errorf("%s: %+v, want %+v", name, o, want)
		}
	}
	if get("mine") != nil {
		t.Error("an object that claims to be suggested stays")
	}
}

func TestRequestTimeout(t *testing.T) {
	s := start(t)
	for query, want := range map[string]struct {
		code int
		body string
	}{
		"?timeout=abc": {http.StatusBadRequest, `"message":"invalid timeout specified in the request URL - time: invalid duration \"abc\"","reason":"BadRequest","code":400}`},
		"?timeout=5":   {http.StatusBadRequest, `time: missing unit in duration \"5\"`},
		"?timeout=1ns": {http.StatusGatewayTimeout, `{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","reason":"Timeout","details":{},"code":504}`},
		"?timeout=-3s": {http.StatusOK, `"default"`}, "?timeout=100m": {http.StatusOK, `"default"`}, "?timeout=": {http.StatusOK, `"default"`},
	} {
		if w := askAs(s, "admin", http.MethodGet, "/api/v1/namespaces/default"+query, nil); w.Code != want.code || !strings.Contains(w.Body.String(), want.body) {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}
