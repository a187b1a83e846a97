// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/admission"
)

func widgets() *apiextensionsv1.CustomResourceDefinition {
	props := func(p map[string]apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
		return apiextensionsv1.JSONSchemaProps{Type: "object", Properties: p}
	}
	text, number := apiextensionsv1.JSONSchemaProps{Type: "string"}, apiextensionsv1.JSONSchemaProps{Type: "integer"}
	size := number
	size.Default = &apiextensionsv1.JSON{Raw: []byte("3")}
	size.Maximum = new(float64)
	*size.Maximum = 10
	spec := props(map[string]apiextensionsv1.JSONSchemaProps{"size": size, "color": text, "old": text})
	spec.XValidations = apiextensionsv1.ValidationRules{{Rule: "self.size != 7", Message: "seven is taken"}}
	full := props(map[string]apiextensionsv1.JSONSchemaProps{"spec": spec, "status": props(map[string]apiextensionsv1.JSONSchemaProps{"size": number})})
	plain := props(map[string]apiextensionsv1.JSONSchemaProps{"spec": props(map[string]apiextensionsv1.JSONSchemaProps{"size": number})})
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Kind: "Widget"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{
				{
					Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &full},
					Subresources: &apiextensionsv1.CustomResourceSubresources{
						Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
						Scale:  &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.size", StatusReplicasPath: ".status.size"},
					},
					SelectableFields: []apiextensionsv1.SelectableField{{JSONPath: ".spec.color"}},
				},
				{Name: "v1beta1", Served: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &plain}},
			},
		},
	}
}

func widget(name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": name}, "spec": spec,
	}}
}

// define makes a definition and waits until it is served.
func define(t *testing.T, s *apiserver.Server, d *apiextensionsv1.CustomResourceDefinition, changed <-chan []*resource.Kind) {
	t.Helper()
	_, err := local(s).Do(t.Context(), &call.Request{Verb: "create", Kind: extension.CustomResourceDefinitions.Kind, Object: d})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-t.Context().Done():
		t.Fatal("not served")
	}
}

func startCustom(t *testing.T, change ...func(*apiserver.Config)) (*apiserver.Server, dynamic.Interface, chan []*resource.Kind) {
	changed := make(chan []*resource.Kind, 16)
	s := startWith(t, func(c *apiserver.Config) {
		c.KindsChanged = func(k []*resource.Kind) { changed <- k }
		for _, f := range change {
			f(c)
		}
	})
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	client, err := dynamic.NewForConfig(&rest.Config{Host: h.URL})
	if err != nil {
		t.Fatal(err)
	}
	return s, client, changed
}

func version(v string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "example.com", Version: v, Resource: "widgets"}
}

func TestCustomResource(t *testing.T) {
	s, client, changed := startCustom(t)
	ctx := t.Context()
	v1 := client.Resource(version("v1")).Namespace("default")
	if _, err := v1.List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("before there is a definition: %v", err)
	}
	define(t, s, widgets(), changed)
	w, err := v1.Watch(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := v1.Create(ctx, widget("a", map[string]any{"color": "red", "bogus": "x"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"color": "red", "size": int64(3)}
	if got := made.Object["spec"]; !equal(got, want) || made.GetGeneration() != 1 || made.GetKind() != "Widget" {
		t.Errorf("pruned and defaulted: %v", made.Object)
	}
	if e := <-w.ResultChan(); e.Type != watch.Added || e.Object.(*unstructured.Unstructured).GetUID() != made.GetUID() {
		t.Errorf("watched %v", e)
	}
	for spec, problem := range map[string]string{
		"big": "spec.size in body should be less than or equal to 10", "seven": "seven is taken", "text": "must be of type integer",
	} {
		size := map[string]any{"big": int64(11), "seven": int64(7), "text": "x"}[spec]
		_, err := v1.Create(ctx, widget(spec, map[string]any{"size": size}), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %v", spec, err)
		}
	}
	applied, err := v1.Apply(ctx, "a", widget("a", map[string]any{"old": "y"}), metav1.ApplyOptions{FieldManager: "m"})
	if err != nil || applied.GetGeneration() != 2 || len(applied.GetManagedFields()) != 2 {
		t.Errorf("apply: %v, %v", applied, err)
	}
	scaled, err := v1.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{}, "scale")
	if n, _, _ := unstructured.NestedInt64(scaled.Object, "spec", "replicas"); err != nil || n != 5 {
		t.Errorf("scale: %v, %v", scaled, err)
	}
	status, err := v1.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"size":9},"status":{"size":2}}`), metav1.PatchOptions{}, "status")
	if err != nil || !equal(status.Object["status"], map[string]any{"size": int64(2)}) || !equal(status.Object["spec"], map[string]any{"color": "red", "old": "y", "size": int64(5)}) {
		t.Errorf("status: %v, %v", status, err)
	}
	if _, err := v1.Patch(ctx, "a", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{}); apierrors.ReasonForError(err) != metav1.StatusReasonUnsupportedMediaType {
		t.Errorf("strategic merge patch: %v", err)
	}
	if _, err := v1.Patch(ctx, "a", types.MergePatchType, []byte(`{"kind":"Other"}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("another kind: %v", err)
	}
	old, err := client.Resource(version("v1beta1")).Namespace("default").Get(ctx, "a", metav1.GetOptions{})
	if err != nil || old.GetAPIVersion() != "example.com/v1beta1" || !equal(old.Object["spec"], map[string]any{"size": int64(5)}) {
		t.Errorf("another version: %v, %v", old, err)
	}
}

// TestCustomResourceLifecycle changes and deletes a definition while its objects are watched.
func TestCustomResourceLifecycle(t *testing.T) {
	s, client, changed := startCustom(t)
	ctx := t.Context()
	define(t, s, widgets(), changed)
	v1 := client.Resource(version("v1")).Namespace("default")
	made, err := v1.Create(ctx, widget("a", map[string]any{}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := v1.Watch(ctx, metav1.ListOptions{ResourceVersion: made.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	patch := `[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/shape","value":{"type":"string","default":"round"}}]`
	if _, err := definitions.Patch(ctx, "widgets.example.com", types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	<-changed
	if e, open := <-w.ResultChan(); open {
		t.Errorf("the watch goes on after the schema changed: %v", e)
	}
	got, err := v1.Get(ctx, "a", metav1.GetOptions{})
	if shape, _, _ := unstructured.NestedString(got.Object, "spec", "shape"); err != nil || shape != "round" {
		t.Errorf("a stored object has no new default: %v, %v", got, err)
	}
	if err := definitions.Delete(ctx, "widgets.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	<-changed
	if _, err := v1.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the definition was deleted: %v", err)
	}
	// The objects went with it: they are not there when a definition of that name comes again.
	gone, err := definitions.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=widgets.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := definitions.Get(ctx, "widgets.example.com", metav1.GetOptions{}); err == nil {
		for e := range gone.ResultChan() {
			if e.Type == watch.Deleted {
				break
			}
		}
	}
	define(t, s, widgets(), changed)
	list, err := v1.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("objects of the definition before: %v, %v", list, err)
	}
}

func equal(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

// Custom resources may have finalizers without a domain, as in Kubernetes, but are warned of new ones.
func TestCustomResourceFinalizers(t *testing.T) {
	s, _, changed := startCustom(t)
	define(t, s, widgets(), changed)
	o := observer{handler: s.Handler()}
	const path = "/apis/example.com/v1/namespaces/default/widgets"
	warn := func(f string) string {
		return `metadata.finalizers: "` + f + `": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers`
	}
	made := o.send(t, "POST", path, set(widget("a", nil).Object, map[string]any{"metadata/finalizers": []string{"one", "example.com/x", "orphan"}, "spec": map[string]any{}}))
	if made.code != 201 || !equal(made.warnings, []string{warn("one")}) {
		t.Fatalf("create: %d %v %v", made.code, made.warnings, made.body["message"])
	}
	next := o.send(t, "PUT", path+"/a", set(made.body, map[string]any{"metadata/finalizers": []string{"one", "two"}}))
	if next.code != 200 || !equal(next.warnings, []string{warn("two")}) {
		t.Errorf("update: %d %v %v", next.code, next.warnings, next.body["message"])
	}
	if bad := o.send(t, "PUT", path+"/a", set(next.body, map[string]any{"metadata/finalizers": []string{"x y"}})); bad.code != 422 {
		t.Errorf("no name at all: %d", bad.code)
	}
}

// TestCustomResourceQuota counts custom resources under count/RESOURCE.GROUP.
func TestCustomResourceQuota(t *testing.T) {
	s, client, changed := startCustom(t, func(c *apiserver.Config) {
		c.Steps = func(r admission.Reader, w admission.Writer) []admission.Step {
			return admission.Steps(r, w, admission.Config{})
		}
	})
	define(t, s, widgets(), changed)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q", Namespace: "default"}}
	const counted = "count/widgets.example.com"
	write := func(verb, subresource, used string) {
		t.Helper()
		quota.Status = corev1.ResourceQuotaStatus{
			Hard: corev1.ResourceList{counted: apiresource.MustParse("1")}, Used: corev1.ResourceList{counted: apiresource.MustParse(used)}}
		if _, err := local(s).Do(t.Context(), &call.Request{Verb: verb, Kind: core.ResourceQuotas.Kind, Namespace: "default", Name: "q", Subresource: subresource, Object: quota.DeepCopy()}); err != nil {
			t.Fatal(err)
		}
	}
	write("create", "", "0")
	write("update", "status", "0")
	all := client.Resource(version("v1beta1")).Namespace("default") // whichever version they are written in
	make := func(name string) error {
		w := widget(name, map[string]any{})
		w.SetAPIVersion("example.com/v1beta1")
		_, err := all.Create(t.Context(), w, metav1.CreateOptions{})
		return err
	}
	if err := make("a"); err != nil {
		t.Fatal(err)
	}
	const want = `widgets.example.com "b" is forbidden: exceeded quota: q, requested: count/widgets.example.com=1, used: count/widgets.example.com=1, limited: count/widgets.example.com=1`
	if err := make("b"); err == nil || err.Error() != want {
		t.Errorf("a second one: got %v, want %s", err, want)
	}
	write("update", "status", "0") // as the quota loop does when one is gone
	if err := make("b"); err != nil {
		t.Errorf("when none is used: %v", err)
	}
}
