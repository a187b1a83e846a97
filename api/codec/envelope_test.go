// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/resource"
)

func TestEnvelopeInPlaceIsTheLibrarys(t *testing.T) {
	for _, gvk := range []schema.GroupVersionKind{
		{Version: "v1", Kind: "ConfigMap"}, {}, {Group: strings.Repeat("g", 150), Version: "v1", Kind: "ConfigMap"},
	} {
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": strings.Repeat("v", 300)}}
		raw, err := obj.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := EncodeProto(gvk, obj)
		if err != nil {
			t.Fatal(err)
		}
		u := &runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind}, Raw: raw}
		want, err := u.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		want = append(protoMagic(), want...)
		if !bytes.Equal(got, want) || !bytes.Equal(got, WrapProto(gvk, raw)) {
			t.Errorf("%s: %q, want %q", gvk, got, want)
		}
		kind, inner, ok := envelope(got)
		if !ok || kind != gvk || !bytes.Equal(inner, raw) {
			t.Errorf("%s: read %s %v", gvk, kind, ok)
		}
	}
}

func TestEnvelopeLeavesTheUnusual(t *testing.T) {
	encoded := func(u runtime.Unknown) []byte {
		b, err := u.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return append(protoMagic(), b...)
	}
	for _, data := range [][]byte{
		nil, []byte("{}"), protoMagic(), encoded(runtime.Unknown{})[:6],
		encoded(runtime.Unknown{Raw: []byte("x"), ContentType: "application/json"}),
		encoded(runtime.Unknown{Raw: []byte("x"), ContentEncoding: "gzip"}),
	} {
		if _, _, ok := envelope(data); ok {
			t.Errorf("%q: read", data)
		}
	}
}

func TestPlainSaysWhatPeekKindSays(t *testing.T) {
	for _, body := range []string{
		`{"kind":"ConfigMap","apiVersion":"v1"}`, `{"kind":"A","Kind":"B"}`, `{"KIND":"A"}`, `{"kind":"A","kind":"B"}`,
		`{"data":{"a":"b"}}`, `{"kind":"A","foo":1}`, `{"metadata":{"name":"a"},"apiVersion":"v2"}`,
	} {
		d, err := Decode(JSON, []byte(body), &corev1.ConfigMap{})
		if err != nil {
			t.Fatal(err)
		}
		if want, err := PeekKind(JSON, []byte(body)); d.Plain && (err != nil || d.Kind != want) {
			t.Errorf("%s: %s, want %s", body, d.Kind, want)
		}
	}
}

func TestAtRevision(t *testing.T) {
	kind := &resource.Kind{GroupVersionKind: schema.GroupVersionKind{Version: "v1", Kind: "Pod"}}
	for name, meta := range map[string]metav1.ObjectMeta{
		"empty": {},
		"full": {
			Name: "a", GenerateName: strings.Repeat("g", 200), Namespace: "n", UID: "u", Generation: 3,
			Labels: map[string]string{"a": "b"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
		},
	} {
		obj := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: "n"}}
		stored, err := EncodeStored(kind, obj)
		if err != nil {
			t.Fatal(err)
		}
		obj.ResourceVersion = "1234567"
		want, err := EncodeProto(kind.GroupVersionKind, obj)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := AppendAtRevision(nil, stored, kind.GroupVersionKind, obj.ResourceVersion)
		if !ok || !bytes.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if _, ok := AppendAtRevision(nil, want, kind.GroupVersionKind, "1"); ok {
			t.Errorf("%s: took what has a revision", name)
		}
	}
	for _, stored := range []string{"", "{}", "k8s:enc:aescbc:v1:k:x"} {
		if _, ok := AppendAtRevision(nil, []byte(stored), kind.GroupVersionKind, "1"); ok {
			t.Errorf("took %q", stored)
		}
	}
}

func TestAppendProtoEvent(t *testing.T) {
	for _, n := range []int{0, 1, 100, 127, 128, 300, 16000, 16400, 3 << 20} {
		raw := bytes.Repeat([]byte{'x'}, n)
		for _, gvk := range []schema.GroupVersionKind{
			{Version: "v1", Kind: "Pod"},
			{Group: strings.Repeat("long.", 40) + "example.com", Version: "v1beta1", Kind: "Thing"},
		} {
			want := append([]byte("before"), ProtoFrame("MODIFIED", WrapProto(gvk, raw))...)
			if got := AppendProtoEvent([]byte("before"), "MODIFIED", gvk, raw); !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %s: frames differ", n, gvk.Kind)
			}
		}
	}
}
