// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"knarr.dev/api"
	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/authn"
	"knarr.dev/store/pebble"
)

// admin takes every request for one of the superuser.
type admin struct{}

func (admin) Authenticate(*http.Request) (*call.Identity, error) {
	return &call.Identity{Name: "admin", Groups: []string{authn.GroupMasters}}, nil
}

// start runs a server on a store in memory until the test ends.
func start(t testing.TB) *apiserver.Server {
	t.Helper()
	return startWith(t, func(*apiserver.Config) {})
}

// startWith is start with another configuration.
func startWith(t testing.TB, change func(*apiserver.Config)) *apiserver.Server {
	t.Helper()
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	config := apiserver.Config{
		Store: st, Kinds: api.Kinds(), Log: slog.New(slog.DiscardHandler), Authenticators: []authn.Authenticator{admin{}},
	}
	change(&config)
	s, err := apiserver.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	run(t, s)
	return s
}

// run runs a server until the test ends, and returns when it is ready.
func run(t testing.TB, s *apiserver.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("Run ended early: %v", err)
	}
}

func local(s *apiserver.Server) call.Transport {
	return s.Transport(call.Identity{Name: "tester", Groups: []string{authn.GroupMasters}})
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: data}
}

func create(t testing.TB, tr call.Transport, name string, labels map[string]string) *corev1.ConfigMap {
	t.Helper()
	m := configMap(name, map[string]string{"k": name})
	m.Labels = labels
	res, err := tr.Do(t.Context(), &call.Request{Verb: "create", Kind: core.ConfigMaps.Kind, Namespace: "default", Object: m})
	if err != nil {
		t.Fatal(err)
	}
	return core.ConfigMaps.Cast(res.Object)
}

func TestInProcess(t *testing.T) {
	s := start(t)
	tr, ctx := local(s), t.Context()
	a := create(t, tr, "a", nil)
	if a.UID == "" || a.ResourceVersion == "" || a.CreationTimestamp.IsZero() || a.Kind != "" {
		t.Fatalf("created %+v", a.ObjectMeta)
	}
	do := func(q *call.Request) (*call.Result, error) {
		q.Kind, q.Namespace = core.ConfigMaps.Kind, "default"
		return tr.Do(ctx, q)
	}
	if _, err := do(&call.Request{Verb: "create", Object: configMap("a", nil)}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("create again: %v", err)
	}
	got, err := do(&call.Request{Verb: "get", Name: "a"})
	if err != nil || got.Object != any(a) {
		t.Errorf("get does not share the object that create made: %v", err)
	}
	same, err := do(&call.Request{Verb: "update", Name: "a", Object: a.DeepCopy()})
	if err != nil || same.Object.GetResourceVersion() != a.ResourceVersion {
		t.Errorf("an update that changes nothing: %v, %v", same, err)
	}
	next := a.DeepCopy()
	next.Data["k"] = "2"
	changed, err := do(&call.Request{Verb: "update", Name: "a", Object: next.DeepCopy()})
	if err != nil || changed.Object.GetResourceVersion() == a.ResourceVersion {
		t.Errorf("update: %v, %v", changed, err)
	}
	if _, err := do(&call.Request{Verb: "update", Name: "a", Object: next}); !apierrors.IsConflict(err) {
		t.Errorf("stale update: %v", err)
	}
	if a.Data["k"] != "a" {
		t.Error("the old object was changed")
	}
	gone, err := do(&call.Request{Verb: "delete", Name: "a"})
	if err != nil || gone.Status == nil || gone.Status.Details.UID != a.UID {
		t.Errorf("delete: %+v, %v", gone, err)
	}
	if _, err := do(&call.Request{Verb: "get", Name: "a"}); !apierrors.IsNotFound(err) {
		t.Errorf("get of what is deleted: %v", err)
	}
}

func TestUnconditionalUpdatesAllHappen(t *testing.T) {
	tr := local(start(t))
	create(t, tr, "a", nil)
	errs := make(chan error, 16)
	for i := range cap(errs) {
		go func() {
			_, err := tr.Do(t.Context(), &call.Request{
				Verb: "update", Kind: core.ConfigMaps.Kind, Namespace: "default", Name: "a",
				Object: configMap("a", map[string]string{"n": fmt.Sprint(i)}),
			})
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestPaging(t *testing.T) {
	tr := local(start(t))
	for i := range 7 {
		create(t, tr, fmt.Sprintf("m-%d", i), nil)
	}
	var names []string
	token, revision := "", ""
	for page := 0; page == 0 || token != ""; page++ {
		res, err := tr.Do(t.Context(), &call.Request{Verb: "list", Kind: core.ConfigMaps.Kind, Namespace: "default", Limit: 3, Continue: token})
		if err != nil {
			t.Fatal(err)
		}
		if revision == "" {
			revision = res.List.ResourceVersion
			create(t, tr, "m-9", nil) // later than the list
		}
		if res.List.ResourceVersion != revision {
			t.Errorf("page %d is of revision %s, the first of %s", page, res.List.ResourceVersion, revision)
		}
		for _, o := range res.List.Items {
			names = append(names, o.GetName())
		}
		token = res.List.Continue
	}
	if fmt.Sprint(names) != "[m-0 m-1 m-2 m-3 m-4 m-5 m-6]" {
		t.Errorf("pages have %v", names)
	}
}

func TestWatchOverHTTP(t *testing.T) {
	s := start(t)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	for _, media := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		t.Run(media, func(t *testing.T) { typedClient(t, server.URL, media) })
	}
}

// typedClient does with client-go what every client does.
func typedClient(t *testing.T, url, media string) {
	clients, err := kubernetes.NewForConfig(&rest.Config{Host: url, ContentConfig: rest.ContentConfig{ContentType: media}})
	if err != nil {
		t.Fatal(err)
	}
	maps, ctx := clients.CoreV1().ConfigMaps("default"), t.Context()
	list, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: "on=yes"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	m := configMap("w", nil)
	m.Labels = map[string]string{"on": "yes"}
	if m, err = maps.Create(ctx, m, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	stale := m.DeepCopy()
	m.Data = map[string]string{"k": "v"}
	if m, err = maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	stale.Data = map[string]string{"k": "other"}
	if _, err := maps.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("stale update: %v", err)
	}
	m.Labels["on"] = "no"
	if m, err = maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(ctx, "w", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(ctx, "w", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get after delete: %v", err)
	}
	for i, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		e := <-w.ResultChan()
		if e.Type != want {
			t.Errorf("event %d is %s, want %s: %v", i, e.Type, want, e.Object)
		}
		if want == watch.Deleted && e.Object.(*corev1.ConfigMap).ResourceVersion != m.ResourceVersion {
			t.Errorf("the object left with revision %s, want that of the change, %s", e.Object.(*corev1.ConfigMap).ResourceVersion, m.ResourceVersion)
		}
	}
}

func TestViewTellsWhatMatches(t *testing.T) {
	tr := local(start(t))
	create(t, tr, "a", nil)
	v, err := tr.View(t.Context(), &call.Request{Kind: core.ConfigMaps.Kind})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := v.Get("default", "a"); !ok {
		t.Error("the view lacks what was there")
	}
	ctx, cancel := context.WithCancel(t.Context())
	told, synced, done := make(chan string, 10), make(chan struct{}), make(chan error)
	go func() {
		done <- v.Subscribe(ctx, func(obj, old resource.Object) {
			switch {
			case obj == nil:
				told <- "-" + old.GetName()
			case old == nil:
				told <- "+" + obj.GetName()
			default:
				told <- "=" + obj.GetName()
			}
		}, func() { close(synced) })
	}()
	<-synced
	create(t, tr, "b", nil)
	if _, err := tr.Do(ctx, &call.Request{Verb: "delete", Kind: core.ConfigMaps.Kind, Namespace: "default", Name: "a"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"+a", "+b", "-a"} {
		if got := <-told; got != want {
			t.Errorf("told %s, want %s", got, want)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Subscribe: %v", err)
	}
}

func TestFirstObjectsAndServiceAddresses(t *testing.T) {
	tr := local(start(t))
	get := func(q *call.Request) *corev1.Service {
		t.Helper()
		q.Kind, q.Namespace = core.Services.Kind, "default"
		res, err := tr.Do(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return core.Services.Cast(res.Object)
	}
	if ip := get(&call.Request{Verb: "get", Name: "kubernetes"}).Spec.ClusterIP; ip != "10.43.0.1" {
		t.Errorf("default/kubernetes has address %s", ip)
	}
	service := func(name string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
			SessionAffinity: corev1.ServiceAffinityNone,
		}}
	}
	a := get(&call.Request{Verb: "create", Object: service("a")})
	if a.Spec.ClusterIP == "" || a.Spec.Ports[0].NodePort < 30000 {
		t.Fatalf("nothing allocated: %+v", a.Spec)
	}
	b := service("b")
	b.Spec.ClusterIP, b.Spec.ClusterIPs = a.Spec.ClusterIP, a.Spec.ClusterIPs
	_, err := tr.Do(t.Context(), &call.Request{Verb: "create", Kind: core.Services.Kind, Namespace: "default", Object: b})
	if !apierrors.IsInvalid(err) {
		t.Errorf("taken address: %v", err)
	}
	kept := get(&call.Request{Verb: "update", Name: "a", Object: service("a")})
	if kept.Spec.ClusterIP != a.Spec.ClusterIP || kept.Spec.Ports[0].NodePort != a.Spec.Ports[0].NodePort {
		t.Errorf("an update that leaves addresses out changed them: %+v", kept.Spec)
	}
	if _, err := tr.Do(t.Context(), &call.Request{Verb: "delete", Kind: core.Services.Kind, Namespace: "default", Name: "a"}); err != nil {
		t.Fatal(err)
	}
	b = service("b")
	b.Spec.ClusterIP, b.Spec.ClusterIPs = a.Spec.ClusterIP, a.Spec.ClusterIPs
	if got := get(&call.Request{Verb: "create", Object: b}); got.Spec.ClusterIP != a.Spec.ClusterIP {
		t.Errorf("a freed address was not given: %+v", got.Spec)
	}
}
