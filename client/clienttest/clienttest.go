// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clienttest holds what every call.Transport must do: the same script runs over the in-process transport and
// over HTTP, so that a component cannot tell which one it has.
//
// Run is the suite. It needs a server that serves the built-in kinds and lets the transports do anything.
package clienttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"knarr.dev/api/apps"
	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Pair is two transports to one server, for which nothing was written yet but by the server itself.
type Pair struct{ One, Other call.Transport }

// Run runs the suite. open starts a server of its own for each part.
func Run(t *testing.T, open func(t *testing.T) Pair) {
	for _, part := range []struct {
		name string
		run  func(*testing.T, Pair)
	}{
		{"objects", objects},
		{"errors", failures},
		{"patches", patches},
		{"apply", applies},
		{"deletions", deletions},
		{"pages", pages},
		{"subresources", subresources},
		{"watch", watches},
		{"watch ends", watchEnds},
		{"a view shows own writes", ownWrites},
		{"a view selects", selections},
		{"a view tells changes", changes},
		{"the same question has one view", sameView},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, open(t)) })
	}
}

const namespace = "default"

func configMap(name, value string, set map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: set}, Data: map[string]string{"k": value},
	}
}

// do carries out q for config maps of the namespace and fails the test on an error.
func do(t *testing.T, tr call.Transport, q *call.Request) *call.Result {
	t.Helper()
	res, err := try(t.Context(), tr, q)
	if err != nil {
		t.Fatalf("%s %s: %v", q.Verb, q.Name, err)
	}
	return res
}

func try(ctx context.Context, tr call.Transport, q *call.Request) (*call.Result, error) {
	if q.Kind == nil {
		q.Kind = core.ConfigMaps.Kind
	}
	q.Namespace = namespace
	return tr.Do(ctx, q)
}

func create(t *testing.T, tr call.Transport, name string, set map[string]string) *corev1.ConfigMap {
	t.Helper()
	return core.ConfigMaps.Cast(do(t, tr, &call.Request{Verb: "create", Object: configMap(name, name, set)}).Object)
}

func objects(t *testing.T, p Pair) {
	made := do(t, p.One, &call.Request{Verb: "create", Object: configMap("a", "1", nil), FieldManager: "tester"})
	a := core.ConfigMaps.Cast(made.Object)
	if !made.Created || a.UID == "" || a.ResourceVersion == "" || a.Kind != "" || a.APIVersion != "" || a.Data["k"] != "1" {
		t.Fatalf("created %+v", a)
	}
	if len(a.ManagedFields) > 0 && a.ManagedFields[0].Manager != "tester" {
		t.Errorf("managed fields %+v", a.ManagedFields)
	}
	next := a.DeepCopy()
	next.Data["k"] = "2"
	dry := do(t, p.One, &call.Request{Verb: "update", Name: "a", Object: next.DeepCopy(), DryRun: true})
	if core.ConfigMaps.Cast(dry.Object).Data["k"] != "2" {
		t.Errorf("dry run: %+v", dry.Object)
	}
	changed := do(t, p.One, &call.Request{Verb: "update", Name: "a", Object: next})
	if changed.Created || changed.Object.GetResourceVersion() == a.ResourceVersion {
		t.Errorf("update: %+v", changed)
	}
	got := do(t, p.Other, &call.Request{Verb: "get", Name: "a"})
	if got.Object.GetResourceVersion() != changed.Object.GetResourceVersion() {
		t.Errorf("get: %+v", got.Object)
	}
	list := do(t, p.One, &call.Request{Verb: "list", Fields: fields.OneTermEqualSelector("metadata.name", "a")}).List
	if list == nil || len(list.Items) != 1 || list.ResourceVersion == "" || list.Items[0].GetName() != "a" {
		t.Errorf("list: %+v", list)
	}
	empty := do(t, p.One, &call.Request{Verb: "list", Labels: labels.SelectorFromSet(labels.Set{"no": "body"})}).List
	if empty == nil || len(empty.Items) != 0 {
		t.Errorf("empty list: %+v", empty)
	}
}

func failures(t *testing.T, p Pair) {
	a := create(t, p.One, "a", nil)
	stale := a.DeepCopy()
	create(t, p.One, "b", nil)
	a = a.DeepCopy()
	a.Data["k"] = "2"
	do(t, p.One, &call.Request{Verb: "update", Name: "a", Object: a})
	stale.Data["k"] = "3"
	for _, test := range []struct {
		q    *call.Request
		want func(error) bool
		name string
	}{
		{&call.Request{Verb: "get", Name: "none"}, apierrors.IsNotFound, "not found"},
		{&call.Request{Verb: "create", Object: configMap("a", "", nil)}, apierrors.IsAlreadyExists, "already exists"},
		{&call.Request{Verb: "update", Name: "a", Object: stale}, apierrors.IsConflict, "conflict"},
		{&call.Request{Verb: "create", Object: configMap("NO", "", nil)}, apierrors.IsInvalid, "invalid"},
		{&call.Request{Verb: "delete", Name: "none"}, apierrors.IsNotFound, "not found"},
		{&call.Request{Verb: "list", Fields: fields.OneTermEqualSelector("data.k", "x")}, apierrors.IsBadRequest, "bad request"},
	} {
		if _, err := try(t.Context(), p.One, test.q); !test.want(err) {
			t.Errorf("%s %s: %v, want %s", test.q.Verb, test.q.Name, err, test.name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.One.View(ctx, &call.Request{Kind: core.Secrets.Kind}); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("a view whose caller gave up: %v", err)
	}
}

func patches(t *testing.T, p Pair) {
	create(t, p.One, "a", nil)
	for i, q := range []*call.Request{
		{PatchType: types.MergePatchType, Patch: []byte(`{"data":{"x":"0"}}`)},
		{PatchType: types.JSONPatchType, Patch: []byte(`[{"op":"add","path":"/data/x","value":"1"}]`)},
		{PatchType: types.StrategicMergePatchType, Patch: []byte(`{"data":{"x":"2"}}`)},
	} {
		q.Verb, q.Name = "patch", "a"
		res := do(t, p.One, q)
		if got := core.ConfigMaps.Cast(res.Object).Data["x"]; got != fmt.Sprint(i) {
			t.Errorf("%s: x is %q", q.PatchType, got)
		}
	}
}

func applies(t *testing.T, p Pair) {
	create(t, p.Other, "a", nil)
	q := &call.Request{
		Verb: "patch", Name: "a", PatchType: types.ApplyYAMLPatchType, FieldManager: "applier", Force: true,
		Patch: []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: '3'}}"),
	}
	res, err := try(t.Context(), p.One, q)
	if apierrors.IsUnsupportedMediaType(err) {
		t.Skip("the server has no server-side apply")
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := core.ConfigMaps.Cast(res.Object).Data["x"]; got != "3" || res.Created {
		t.Errorf("apply: x is %q, created is %v", got, res.Created)
	}
}

func deletions(t *testing.T, p Pair) {
	a := create(t, p.One, "a", nil)
	wrong := types.UID("other")
	q := &call.Request{Verb: "delete", Name: "a", Delete: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}}
	if _, err := try(t.Context(), p.One, q); !apierrors.IsConflict(err) {
		t.Errorf("precondition: %v", err)
	}
	do(t, p.One, &call.Request{Verb: "delete", Name: "a", DryRun: true})
	gone := do(t, p.One, &call.Request{Verb: "delete", Name: "a"})
	if gone.Status == nil || gone.Status.Details.UID != a.UID || gone.Object != nil {
		t.Errorf("delete: %+v", gone)
	}
	for i := range 3 {
		create(t, p.One, fmt.Sprint("c", i), map[string]string{"n": fmt.Sprint(i % 2)})
	}
	some := do(t, p.One, &call.Request{Verb: "deletecollection", Labels: labels.SelectorFromSet(labels.Set{"n": "0"})})
	if some.List == nil || len(some.List.Items) != 2 {
		t.Errorf("deletecollection: %+v", some)
	}
	if left := names(do(t, p.One, &call.Request{Verb: "list", Labels: labels.SelectorFromSet(labels.Set{"n": "1"})}).List.Items); !slices.Equal(left, []string{"c1"}) {
		t.Errorf("left: %v", left)
	}
}

func names(items []resource.Object) []string {
	var out []string
	for _, o := range items {
		out = append(out, o.GetName())
	}
	return out
}

func pages(t *testing.T, p Pair) {
	mine := labels.SelectorFromSet(labels.Set{"page": "yes"})
	var want []string
	for i := range 5 {
		want = append(want, create(t, p.One, fmt.Sprint("p", i), map[string]string{"page": "yes"}).Name)
	}
	var got []string
	var revision string
	for q := (&call.Request{Verb: "list", Labels: mine, Limit: 2}); ; {
		l := do(t, p.One, q).List
		got = append(got, names(l.Items)...)
		if revision == "" {
			revision = l.ResourceVersion
			create(t, p.Other, "p9", map[string]string{"page": "yes"})
		}
		if l.ResourceVersion != revision {
			t.Errorf("pages at %s and %s", revision, l.ResourceVersion)
		}
		if l.Continue == "" {
			break
		}
		q = &call.Request{Verb: "list", Labels: mine, Limit: 2, Continue: l.Continue}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func subresources(t *testing.T, p Pair) {
	one := int32(1)
	set := map[string]string{"app": "x"}
	do(t, p.One, &call.Request{Verb: "create", Kind: apps.ReplicaSets.Kind, Object: &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: namespace},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: set},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: set},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}})
	view, err := p.One.View(t.Context(), &call.Request{Kind: apps.ReplicaSets.Kind})
	if err != nil {
		t.Fatal(err)
	}
	res := do(t, p.One, &call.Request{Verb: "get", Kind: apps.ReplicaSets.Kind, Name: "r", Subresource: "scale"})
	scale, ok := any(res.Object).(*autoscalingv1.Scale)
	if !ok || scale.Spec.Replicas != 1 {
		t.Fatalf("scale: %T %+v", res.Object, res.Object)
	}
	scale = scale.DeepCopy()
	scale.Spec.Replicas = 4
	do(t, p.One, &call.Request{Verb: "update", Kind: apps.ReplicaSets.Kind, Name: "r", Subresource: "scale", Object: scale})
	o, _ := view.Get(namespace, "r")
	if r := apps.ReplicaSets.Cast(o); *r.Spec.Replicas != 4 {
		t.Errorf("the view shows %d replicas after the scale was updated", *r.Spec.Replicas)
	}
	r := apps.ReplicaSets.Cast(o).DeepCopy()
	r.Status.Replicas, r.Spec.Replicas = 2, &one
	do(t, p.One, &call.Request{Verb: "update", Kind: apps.ReplicaSets.Kind, Name: "r", Subresource: "status", Object: r})
	o, _ = view.Get(namespace, "r")
	if r := apps.ReplicaSets.Cast(o); *r.Spec.Replicas != 4 || r.Status.Replicas != 2 {
		t.Errorf("the view shows %d, %d after the status was updated", *r.Spec.Replicas, r.Status.Replicas)
	}
}

// next is the next event that is no bookmark, as TYPE/NAME.
func next(t *testing.T, s call.Stream) (string, resource.Object) {
	t.Helper()
	for {
		e, err := s.Next(t.Context())
		if err != nil {
			t.Fatalf("watch: %v", err)
		}
		if e.Type == watch.Bookmark {
			continue
		}
		o, ok := e.Object.(resource.Object)
		if !ok {
			t.Fatalf("event %s with %+v", e.Type, e.Object)
		}
		return string(e.Type) + "/" + o.GetName(), o
	}
}

func watches(t *testing.T, p Pair) {
	mine := labels.SelectorFromSet(labels.Set{"w": "1"})
	a := create(t, p.One, "a", map[string]string{"w": "1"})
	s, err := p.One.Watch(t.Context(), &call.Request{
		Kind: core.ConfigMaps.Kind, Namespace: namespace, Labels: mine, ResourceVersion: a.ResourceVersion, AllowBookmarks: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	create(t, p.Other, "other", nil)
	create(t, p.Other, "b", map[string]string{"w": "1"})
	left := a.DeepCopy()
	left.Labels = nil
	do(t, p.Other, &call.Request{Verb: "update", Name: "a", Object: left})
	do(t, p.Other, &call.Request{Verb: "delete", Name: "b"})
	for _, want := range []string{"ADDED/b", "DELETED/a", "DELETED/b"} {
		if got, o := next(t, s); got != want || core.ConfigMaps.Cast(o).Kind != "" {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	one, err := p.One.Watch(t.Context(), &call.Request{Kind: core.ConfigMaps.Kind, Namespace: namespace, Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	if got, _ := next(t, one); got != "ADDED/a" {
		t.Errorf("watch of one object: %s", got)
	}
}

func watchEnds(t *testing.T, p Pair) {
	s, err := p.One.Watch(t.Context(), &call.Request{Kind: core.ConfigMaps.Kind, ResourceVersion: "0", Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = s.Next(t.Context())
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("the end of a watch: %v, want io.EOF", err)
	}
	s.Close()
	closed, err := p.One.Watch(t.Context(), &call.Request{Kind: core.ConfigMaps.Kind})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for err == nil {
		_, err = closed.Next(ctx)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that was given up: %v", err)
	}
	closed.Close()
	closed.Close()
}

func ownWrites(t *testing.T, p Pair) {
	view, err := p.One.View(t.Context(), &call.Request{Kind: core.ConfigMaps.Kind})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		name := fmt.Sprint("own", i)
		a := create(t, p.One, name, nil)
		o, ok := view.Get(namespace, name)
		if !ok || o.GetResourceVersion() != a.ResourceVersion {
			t.Fatalf("create %s: the view shows %v", name, o)
		}
		res := do(t, p.One, &call.Request{Verb: "patch", Name: name, PatchType: types.MergePatchType, Patch: []byte(`{"data":{"k":"9"}}`)})
		if o, _ := view.Get(namespace, name); o == nil || o.GetResourceVersion() != res.Object.GetResourceVersion() {
			t.Fatalf("patch %s: the view shows %v", name, o)
		}
		switch i % 3 {
		case 0:
			do(t, p.One, &call.Request{Verb: "delete", Name: name})
			if o, ok := view.Get(namespace, name); ok {
				t.Fatalf("delete %s: the view shows %v", name, o)
			}
		case 1: // deleted and made again behind this transport's back, then changed
			do(t, p.Other, &call.Request{Verb: "delete", Name: name})
			create(t, p.Other, name, nil)
			res := do(t, p.One, &call.Request{Verb: "patch", Name: name, PatchType: types.MergePatchType, Patch: []byte(`{"data":{"k":"8"}}`)})
			if o, _ := view.Get(namespace, name); o == nil || o.GetUID() != res.Object.GetUID() {
				t.Fatalf("patch %s made again: the view shows %v", name, o)
			}
		}
	}
	do(t, p.One, &call.Request{Verb: "deletecollection", Fields: fields.OneTermNotEqualSelector("metadata.name", "kube-root-ca.crt")})
	view.List(namespace, func(o resource.Object) bool {
		if o.GetName() != "kube-root-ca.crt" {
			t.Errorf("the view shows %s after all were deleted", o.GetName())
		}
		return true
	})
	held := configMap("held", "", nil)
	held.Finalizers = []string{"example.com/hold"}
	do(t, p.One, &call.Request{Verb: "create", Object: held})
	do(t, p.One, &call.Request{Verb: "delete", Name: "held"})
	if o, ok := view.Get(namespace, "held"); !ok || o.GetDeletionTimestamp() == nil {
		t.Errorf("deleted, but held: the view shows %v", o)
	}
	do(t, p.One, &call.Request{Verb: "patch", Name: "held", PatchType: types.MergePatchType, Patch: []byte(`{"metadata":{"finalizers":null}}`)})
	if o, ok := view.Get(namespace, "held"); ok {
		t.Errorf("deleted and released: the view shows %v", o)
	}
}

func selections(t *testing.T, p Pair) {
	create(t, p.Other, "z", map[string]string{"s": "1"})
	view, err := p.One.View(t.Context(), &call.Request{Kind: core.ConfigMaps.Kind, Labels: labels.SelectorFromSet(labels.Set{"s": "1"})})
	if err != nil {
		t.Fatal(err)
	}
	shown := func() (out []string) {
		view.List("", func(o resource.Object) bool {
			out = append(out, o.GetName())
			return true
		})
		return out
	}
	create(t, p.One, "a", map[string]string{"s": "1"})
	create(t, p.One, "b", nil)
	if got := shown(); !slices.Equal(got, []string{"a", "z"}) {
		t.Errorf("the view shows %v", got)
	}
	do(t, p.One, &call.Request{Verb: "patch", Name: "a", PatchType: types.MergePatchType, Patch: []byte(`{"metadata":{"labels":null}}`)})
	if got := shown(); !slices.Equal(got, []string{"z"}) {
		t.Errorf("the view shows %v after a left", got)
	}
	do(t, p.One, &call.Request{Verb: "patch", Name: "a", PatchType: types.MergePatchType, Patch: []byte(`{"metadata":{"labels":{"s":"1"}}}`)})
	if got := shown(); !slices.Equal(got, []string{"a", "z"}) {
		t.Errorf("the view shows %v after a came back", got)
	}
	if _, err := p.One.View(t.Context(), &call.Request{Kind: core.ConfigMaps.Kind, Fields: fields.OneTermEqualSelector("data.k", "x")}); !apierrors.IsBadRequest(err) {
		t.Errorf("a view with a selector that is not known: %v", err)
	}
}

func changes(t *testing.T, p Pair) {
	mine := labels.SelectorFromSet(labels.Set{"c": "1"})
	set := map[string]string{"c": "1"}
	create(t, p.Other, "a", set)
	view, err := p.One.View(t.Context(), &call.Request{Kind: core.ConfigMaps.Kind, Labels: mine})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const last = "last"
	state := map[string]string{} // what the calls add up to
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- view.Subscribe(ctx, func(o, old resource.Object) {
			if o == nil {
				if state[old.GetName()] != old.GetResourceVersion() {
					t.Errorf("told that %s at %s went, but it was at %q", old.GetName(), old.GetResourceVersion(), state[old.GetName()])
				}
				delete(state, old.GetName())
				return
			}
			if was := state[o.GetName()]; was != "" && (old == nil || old.GetResourceVersion() != was) {
				t.Errorf("told of %s with the wrong old object", o.GetName())
			}
			if shown, ok := view.Get(namespace, o.GetName()); ok && shown.GetUID() == o.GetUID() && len(shown.GetResourceVersion()) < len(o.GetResourceVersion()) {
				t.Errorf("told of what the view does not show: %s", o.GetName())
			}
			state[o.GetName()] = o.GetResourceVersion()
			if o.GetName() == last {
				cancel()
			}
		}, func() { close(ready) })
	}()
	<-ready
	want := map[string]string{}
	for i := range 30 {
		name := fmt.Sprint("n", i%7)
		from := p.One
		if i%2 == 0 {
			from = p.Other
		}
		if want[name] != "" && i%3 == 0 {
			do(t, from, &call.Request{Verb: "delete", Name: name})
			delete(want, name)
			continue
		}
		if want[name] == "" {
			want[name] = create(t, from, name, set).ResourceVersion
			continue
		}
		patch := fmt.Appendf(nil, `{"data":{"i":"%d"}}`, i)
		want[name] = do(t, from, &call.Request{Verb: "patch", Name: name, PatchType: types.MergePatchType, Patch: patch}).Object.GetResourceVersion()
	}
	create(t, p.Other, last, set)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("Subscribe: %v", err)
	}
	delete(state, last)
	delete(state, "a")
	if fmt.Sprint(state) != fmt.Sprint(want) {
		t.Errorf("told %v, want %v", state, want)
	}
}

func sameView(t *testing.T, p Pair) {
	q := func() *call.Request { return &call.Request{Kind: core.ConfigMaps.Kind} }
	a, err := p.One.View(t.Context(), q())
	if err != nil {
		t.Fatal(err)
	}
	if b, err := p.One.View(t.Context(), q()); err != nil || a != b {
		t.Errorf("two views for one question: %v", err)
	}
}
