// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package merge_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/merge"
)

const configMap = `{"metadata":{"name":"a","labels":{"a":"b","c":"d"},"annotations":{"x":"y"}},"data":{"k":"v","l":"w"},"binaryData":{"b":"AAEC"}}`

const pod = `{"metadata":{"name":"a","namespace":"n","creationTimestamp":"2026-01-02T03:04:05Z","labels":{"app":"x"},"finalizers":["a/b"],
"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"o","uid":"u1"}],
"managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{}}}]},
"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":"TCP"},{"containerPort":81}],
"env":[{"name":"A","value":"1"},{"name":"B","value":"2"}],"resources":{"requests":{"cpu":"100m","memory":"1Gi"}},
"livenessProbe":{"httpGet":{"path":"/","port":80},"periodSeconds":5}},{"name":"d","image":"j","command":["a","b"]}],
"nodeSelector":{"disk":"ssd"},"tolerations":[{"key":"k","operator":"Exists"}],"terminationGracePeriodSeconds":30,"hostNetwork":true,
"volumes":[{"name":"v","emptyDir":{"sizeLimit":"1Gi"}},{"name":"w","configMap":{"name":"m"}}],"affinity":{"nodeAffinity":{}}},
"status":{"phase":"Pending","startTime":"2026-01-02T03:04:05Z","conditions":[{"type":"Ready","status":"False","lastTransitionTime":"2026-01-02T03:04:05Z"},
{"type":"PodScheduled","status":"True"}],"podIPs":[{"ip":"10.0.0.1"}],"containerStatuses":[{"name":"c","ready":true,"restartCount":0,"image":"i","imageID":""}]}}`

const deployment = `{"metadata":{"name":"a","labels":{"app":"x"}},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},
"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":"25%","maxUnavailable":1}},
"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}},
"status":{"replicas":1,"conditions":[{"type":"Available","status":"True"}]}}`

const service = `{"metadata":{"name":"a"},"spec":{"ports":[{"name":"h","port":80,"targetPort":8080},{"name":"s","port":443,"targetPort":"https"}],
"selector":{"a":"b"},"clusterIPs":["10.0.0.1"],"type":"ClusterIP"}}`

type sample struct {
	kind string
	text string
	make func() resource.Object
}

func samples() []sample {
	return []sample{
		{"v1/ConfigMap", configMap, func() resource.Object { return new(corev1.ConfigMap) }},
		{"v1/Pod", pod, func() resource.Object { return new(corev1.Pod) }},
		{"apps/v1/Deployment", deployment, func() resource.Object { return new(appsv1.Deployment) }},
		{"v1/Service", service, func() resource.Object { return new(corev1.Service) }},
	}
}

func (s *sample) gvk() schema.GroupVersionKind {
	if s.kind == "apps/v1/Deployment" {
		return schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	}
	return schema.GroupVersionKind{Version: "v1", Kind: s.kind[3:]}
}

// TestApplyIsTheLibraries compares with the libraries on random patches: whatever Apply takes on must come out the same.
func TestApplyIsTheLibraries(t *testing.T) {
	var p merge.Patcher
	for _, s := range samples() {
		random := rand.New(rand.NewPCG(1, 2))
		taken, total := 0, 0
		for range 1000 {
			old := s.decode(t, vary(random, []byte(s.text)))
			patch := s.patch(t, random, old)
			for _, strategic := range []bool{false, true} {
				total++
				if s.compare(t, &p, strategic, old, patch) {
					taken++
				}
			}
			if t.Failed() {
				return
			}
		}
		if taken < total/5 {
			t.Errorf("%s: took on %d of %d patches", s.kind, taken, total)
		}
	}
}

func (s *sample) decode(t *testing.T, text []byte) resource.Object {
	obj := s.make()
	if err := json.Unmarshal(text, obj); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return obj
}

// compare says whether Apply took a patch on.
func (s *sample) compare(t *testing.T, p *merge.Patcher, strategic bool, old resource.Object, patch []byte) bool {
	got := old.DeepCopyObject().(resource.Object)
	if !p.Apply(strategic, s.gvk(), got, patch) {
		return false
	}
	before, err := codec.EncodeJSON(s.gvk(), old)
	if err != nil {
		t.Fatal(err)
	}
	var after []byte
	if strategic {
		after, err = strategicpatch.StrategicMergePatch(before, patch, s.make())
	} else {
		after, err = jsonpatch.MergePatch(before, patch)
	}
	if err != nil {
		t.Errorf("strategic %v, patch %s of %s: %v", strategic, patch, before, err)
		return true
	}
	want := s.make()
	if strict, err := kjson.UnmarshalStrict(after, want); err != nil || len(strict) > 0 {
		t.Errorf("strategic %v, patch %s of %s: %v %v", strategic, patch, before, err, strict)
		return true
	}
	want.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	x, y := encoded(t, got), encoded(t, want)
	if x != y {
		t.Errorf("strategic %v, patch %s of\n%s\ngot  %s\nwant %s", strategic, patch, before, x, y)
	}
	return true
}

func encoded(t *testing.T, obj any) string {
	b, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// patch is a random patch of an object.
func (s *sample) patch(t *testing.T, random *rand.Rand, old resource.Object) []byte {
	before := []byte(encoded(t, old))
	fresh := vary(random, before)
	var patch []byte
	var err error
	switch random.IntN(4) {
	case 0:
		patch, err = jsonpatch.CreateMergePatch(before, fresh)
	case 1:
		patch, err = strategicpatch.CreateTwoWayMergePatch(before, fresh, s.make())
	case 2:
		var v any
		_ = json.Unmarshal(fresh, &v)
		patch = []byte(encoded(t, part(random, v)))
	default:
		var v any
		_ = json.Unmarshal([]byte(s.text), &v)
		patch = []byte(encoded(t, part(random, part(random, v))))
	}
	if err != nil { // an item without a key
		return []byte(`{}`)
	}
	return patch
}

// vary changes an object a little.
func vary(random *rand.Rand, text []byte) []byte {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		panic(err)
	}
	b, _ := json.Marshal(varied(random, v))
	return b
}

func varied(random *rand.Rand, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range sortedKeys(v) {
			if random.IntN(12) == 0 && key != "metadata" {
				delete(v, key)
				continue
			}
			v[key] = varied(random, v[key])
		}
	case []any:
		for i := range v {
			v[i] = varied(random, v[i])
		}
		switch {
		case len(v) > 1 && random.IntN(8) == 0:
			return v[:len(v)-1]
		case len(v) > 1 && random.IntN(8) == 0:
			v[0], v[1] = v[1], v[0]
		}
	case string:
		if random.IntN(10) == 0 && len(v) == 1 {
			return string(rune('a' + random.IntN(26)))
		}
	case bool:
		return random.IntN(6) != 0
	}
	return v
}

// part leaves out much of a value, and makes some of it null.
func part(random *rand.Rand, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for _, key := range sortedKeys(v) {
			switch random.IntN(8) {
			case 0:
				out[key] = nil
			case 1, 2, 3:
				out[key] = part(random, v[key])
			case 4:
				out[key] = v[key]
			}
		}
		return out
	case []any:
		out := slices.Clone(v)
		for i := range out {
			if m, ok := out[i].(map[string]any); ok && random.IntN(2) == 0 {
				out[i] = part(random, m)
			}
		}
		return out[:random.IntN(len(out)+1)]
	}
	return v
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func TestApplyLeavesToTheLibraries(t *testing.T) {
	var p merge.Patcher
	for _, patch := range []string{
		``, `[]`, `null`, `{`, `{"data":{"a":1}}`, `{"unknown":1}`, `{"data":{"a":"b","a":"c"}}`, `{"kind":"Pod"}`, `{"$patch":"replace"}`,
		`{"metadata":{"finalizers":["a"]}}`, `{"data":{"$patch":"delete"}}`, `{"Data":{"a":"b"}}`, `{"metadata":{"labels":["a"]}}`,
	} {
		obj := new(corev1.ConfigMap)
		if p.Apply(true, schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, obj, []byte(patch)) {
			t.Errorf("took on %s: %v", patch, obj)
		}
	}
}

func TestApplyTakesOnTheUsual(t *testing.T) {
	var p merge.Patcher
	for i, patch := range []string{
		`{"metadata":{"labels":{"a":"b"}}}`,
		` {"status" : {"phase":"Running", "conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-02-02T03:04:05Z"}]}} `,
		`{"status":{"$setElementOrder/conditions":[{"type":"Ready"},{"type":"PodScheduled"}],"conditions":[{"type":"Ready","status":"True"}],"podIP":"10.0.0.1"}}`,
		`{"kind":"Pod","apiVersion":"v1","metadata":{"uid":"u"},"spec":{"containers":[{"name":"c","image":"x"}]}}`,
	} {
		s := samples()[1]
		old := s.decode(t, []byte(s.text))
		if !s.compare(t, &p, true, old, []byte(patch)) {
			t.Errorf("patch %d is not taken on", i)
		}
	}
}

func BenchmarkStatusPatch(b *testing.B) {
	s := samples()[1]
	old := s.make()
	if err := json.Unmarshal([]byte(s.text), old); err != nil {
		b.Fatal(err)
	}
	patch := []byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}],"phase":"Running"}}`)
	b.Run("here", func(b *testing.B) {
		var p merge.Patcher
		b.ReportAllocs()
		for b.Loop() {
			if !p.Apply(true, s.gvk(), old.DeepCopyObject().(resource.Object), patch) {
				b.Fatal("not taken on")
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			before, _ := codec.EncodeJSON(s.gvk(), old)
			after, err := strategicpatch.StrategicMergePatch(before, patch, old)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := codec.Decode(codec.JSON, after, s.make()); err != nil {
				b.Fatal(fmt.Errorf("decode: %w", err))
			}
		}
	})
}
