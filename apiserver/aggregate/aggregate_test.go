// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
)

// world has the objects of one server behind a Service, and is the view of its APIService.
type world struct {
	service *apiregistrationv1.APIService
	objects map[*resource.Kind]resource.Object
}

func (w *world) Get(_ context.Context, kind *resource.Kind, _, name string) (resource.Object, error) {
	if o := w.objects[kind]; o != nil && o.GetName() == name {
		return o, nil
	}
	return nil, apierrors.NewNotFound(kind.GroupResource(), name)
}

func (w *world) List(_ context.Context, kind *resource.Kind, _ string, each func(resource.Object) bool) error {
	if o := w.objects[kind]; o != nil {
		each(o)
	}
	return nil
}

func (w *world) Do(_ context.Context, r *call.Request) (*call.Result, error) {
	w.service = extension.APIServices.Cast(r.Object)
	return &call.Result{Object: r.Object}, nil
}

// view implements call.View.
type view struct{ *world }

func (v view) Get(_, name string) (resource.Object, bool) { return v.service, v.service.Name == name }

func (v view) List(_ string, each func(resource.Object) bool) { each(v.service) }

func (v view) Subscribe(ctx context.Context, changed func(obj, old resource.Object), synced func()) error {
	changed(v.service, nil)
	synced()
	<-ctx.Done()
	return ctx.Err()
}

var version = schema.GroupVersion{Group: "wardle.example.com", Version: "v1"}

// behind returns the objects through which a server is found.
func behind(t *testing.T, server *httptest.Server) *world {
	t.Helper()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	host, text, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	port, name := int32(number), ""
	return &world{
		service: &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.wardle.example.com", UID: "1"}, Spec: apiregistrationv1.APIServiceSpec{
			Group: version.Group, Version: version.Version, InsecureSkipTLSVerify: true, GroupPriorityMinimum: 1000, VersionPriority: 15,
			Service: &apiregistrationv1.ServiceReference{Namespace: "n", Name: "api"},
		}},
		objects: map[*resource.Kind]resource.Object{
			core.Services.Kind: &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "api"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}},
			discovery.EndpointSlices.Kind: &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "api-x", Labels: map[string]string{discoveryv1.LabelServiceName: "api"}},
				Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{host}}},
			},
		},
	}
}

func condition(a *apiregistrationv1.APIService) string {
	if len(a.Status.Conditions) != 1 {
		return fmt.Sprint(a.Status.Conditions)
	}
	c := a.Status.Conditions[0]
	return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
}

func TestAvailability(t *testing.T) {
	code := http.StatusOK
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(code)
		switch r.URL.Path {
		case "/openapi/v3":
			fmt.Fprint(w, `{"paths":{"apis/wardle.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/wardle.example.com/v1?hash=x"}}}`)
		default:
			fmt.Fprint(w, `{"kind":"APIResourceList","groupVersion":"wardle.example.com/v1","resources":[{"name":"flunders","kind":"Flunder","namespaced":true,"verbs":["get"]}]}`)
		}
	}))
	defer server.Close()
	w := behind(t, server)
	slice := discovery.EndpointSlices.Cast(w.objects[discovery.EndpointSlices.Kind])
	endpoints, address := slice.Endpoints, server.Listener.Addr().String()
	changes := 0
	h := New(Config{Server: w, Changed: func() { changes++ }, Log: slog.New(slog.DiscardHandler)})
	for _, step := range []struct {
		name   string
		do     func()
		want   string
		served bool
	}{
		{"a server that answers", func() {}, "True Passed: all checks passed", true},
		{"one that fails", func() { code = http.StatusTeapot }, "False FailedDiscoveryCheck: failing or missing response from https://" + address +
			"/apis/wardle.example.com/v1: bad status from https://" + address + "/apis/wardle.example.com/v1: 418", false},
		{"no endpoints", func() { slice.Endpoints = nil }, `False MissingEndpoints: endpointslices for service/api in "n" have no addresses with port name ""`, false},
		{"no slices", func() { delete(w.objects, discovery.EndpointSlices.Kind) }, `False EndpointsNotFound: cannot find endpointslices for service/api in "n"`, false},
		{"another port", func() { core.Services.Cast(w.objects[core.Services.Kind]).Spec.Ports[0].Port = 80 },
			`False ServicePortError: service/api in "n" is not listening on port 443`, false},
		{"no Service", func() { delete(w.objects, core.Services.Kind) }, `False ServiceNotFound: service/api in "n" is not present`, false},
		{"all of it again", func() {
			again := behind(t, server)
			w.objects, code = again.objects, http.StatusOK
			discovery.EndpointSlices.Cast(w.objects[discovery.EndpointSlices.Kind]).Endpoints = endpoints
		}, "True Passed: all checks passed", true},
	} {
		step.do()
		again := h.reconcile(t.Context(), view{w}, w.service.Name)
		if got := condition(w.service); got != step.want || (again == 0) != step.served {
			t.Errorf("%s: %s, again in %v\nwant %s", step.name, got, again, step.want)
		}
		if remotes := h.Remotes(); len(remotes) != 1 || remotes[0].Available != step.served || len(remotes[0].Resources.APIResources) != 1 || remotes[0].OpenAPI == "" {
			t.Errorf("%s: %+v", step.name, remotes)
		}
	}
	if changes != 4 {
		t.Errorf("discovery was told %d times, want 4", changes)
	}
	w.service.Spec.Service = nil
	if h.reconcile(t.Context(), view{w}, w.service.Name); h.Serves(version) {
		t.Error("a version of the server's own is still passed on")
	}
}

// TestPassedOnInTheNameOfTheUser: the other server learns who asks from this one alone.
func TestPassedOnInTheNameOfTheUser(t *testing.T) {
	var got *http.Request
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{}`)
	}))
	defer server.Close()
	w := behind(t, server)
	h := New(Config{Server: w, Log: slog.New(slog.DiscardHandler)})
	user := &call.Identity{Name: "jane", UID: "7", Groups: []string{"dev", "ops"}, Extra: map[string][]string{"example.com/a b": {"x"}}}
	serve := func() *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/apis/wardle.example.com/v1/flunders?watch=1", nil)
		r.Header = http.Header{
			"Authorization": {"Bearer secret"}, "X-Remote-User": {"root"}, "X-Remote-Group": {"system:masters"}, "X-Remote-Extra-A": {"b"},
			"Impersonate-User": {"root"}, "Accept": {"application/json"},
		}
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, r, version, user, true)
		return answer
	}
	if a := serve(); a.Code != http.StatusNotFound {
		t.Errorf("before anybody serves it: %d", a.Code)
	}
	h.set(version, h.connect(w.service))
	if a := serve(); a.Code != http.StatusServiceUnavailable || a.Body.String() != "service unavailable\n" {
		t.Errorf("before it is available: %d %s", a.Code, a.Body)
	}
	h.reconcile(t.Context(), view{w}, w.service.Name)
	if a := serve(); a.Code != http.StatusOK || a.Body.String() != "{}" {
		t.Fatalf("%d %s", a.Code, a.Body)
	}
	want := map[string]string{
		"X-Remote-User": "[jane]", "X-Remote-Uid": "[7]", "X-Remote-Group": "[dev ops]", "X-Remote-Extra-A": "[]", "X-Remote-Extra-Example.com%2Fa%20b": "[x]",
		"Authorization": "[]", "Impersonate-User": "[]", "Accept": "[application/json]",
	}
	for name, value := range want {
		var values []string
		for key, v := range got.Header {
			if http.CanonicalHeaderKey(key) == http.CanonicalHeaderKey(name) {
				values = v
			}
		}
		if fmt.Sprint(values) != value {
			t.Errorf("%s: %v, want %s", name, values, value)
		}
	}
	if got.URL.String() != "/apis/wardle.example.com/v1/flunders?watch=1" || got.Host != "api.n.svc:443" {
		t.Errorf("%s of %s", got.URL, got.Host)
	}
	server.Close()
	if a := serve(); a.Code != http.StatusServiceUnavailable {
		t.Errorf("when it is gone: %d %s", a.Code, a.Body)
	}
}

func TestRunFollowsTheView(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) }))
	defer server.Close()
	w := behind(t, server)
	changed := make(chan struct{}, 8)
	h := New(Config{Server: w, Changed: func() { changed <- struct{}{} }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); h.Run(ctx, view{w}) }()
	<-changed // before anybody answers
	if !h.Serves(version) {
		t.Error("the version is not served")
	}
	cancel()
	<-ended
}
