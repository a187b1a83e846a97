// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"reflect"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/randfill"

	"knarr.dev/api/codec"
	"knarr.dev/api/codec/typed"
	kinds "knarr.dev/api/resource"
)

const (
	fillsPerKind = 12
	fillSeed     = 20240102
)

// filler makes random objects of what survives a round trip: times of whole seconds or microseconds, valid JSON where bytes are
// JSON, no TypeMeta.
func filler(seed int64) *randfill.Filler {
	instant := func(c randfill.Continue, unit time.Duration) time.Time {
		return time.Unix(0, c.Int63n(int64(4e9*float64(time.Second)/float64(unit)))*int64(unit)).Local()
	}
	return randfill.NewWithSeed(seed).NilChance(.3).NumElements(1, 3).MaxDepth(14).Funcs(
		func(*metav1.TypeMeta, randfill.Continue) {},
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.NewTime(instant(c, time.Second)) },
		func(t *metav1.MicroTime, c randfill.Continue) { *t = metav1.NewMicroTime(instant(c, time.Microsecond)) },
		func(q *resource.Quantity, c randfill.Continue) {
			*q = resource.MustParse(fmt.Sprintf("%dm", c.Int63n(1e6)))
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			if *v = intstr.FromInt32(c.Int31()); c.Bool() {
				*v = intstr.FromString(c.String(9))
			}
		},
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.SetRawBytes([]byte(`{"f:spec":{}}`)) },
		func(r *runtime.RawExtension, c randfill.Continue) { r.Raw = anyJSON(c) },
		func(*runtime.Object, randfill.Continue) {},
		func(j *apiextensionsv1.JSON, c randfill.Continue) { j.Raw = anyJSON(c) },
		func(s *apiextensionsv1.JSONSchemaPropsOrBool, c randfill.Continue) {
			if s.Allows = true; c.Bool() {
				s.Schema = &apiextensionsv1.JSONSchemaProps{Type: c.String(5)}
			}
		},
		func(s *apiextensionsv1.JSONSchemaPropsOrArray, c randfill.Continue) {
			if s.Schema = (&apiextensionsv1.JSONSchemaProps{Type: c.String(5)}); c.Bool() {
				s.Schema, s.JSONSchemas = nil, []apiextensionsv1.JSONSchemaProps{{Type: c.String(5)}, {Format: c.String(5)}}
			}
		},
		func(s *apiextensionsv1.JSONSchemaPropsOrStringArray, c randfill.Continue) {
			if s.Schema = (&apiextensionsv1.JSONSchemaProps{Type: c.String(5)}); c.Bool() {
				s.Schema, s.Property = nil, []string{c.String(5)}
			}
		},
		func(s *apiextensionsv1.JSONSchemaProps, c randfill.Continue) {
			s.Type, s.Description, s.Default = c.String(5), c.String(5), &apiextensionsv1.JSON{Raw: anyJSON(c)}
			s.Properties = map[string]apiextensionsv1.JSONSchemaProps{"a": {Type: c.String(5)}}
			c.Fill(&s.Items)
			c.Fill(&s.AdditionalProperties)
			c.Fill(&s.Dependencies)
		},
	)
}

func anyJSON(c randfill.Continue) []byte {
	b, err := json.Marshal(map[string]any{"a": c.Int31n(100), "b": []any{c.String(5), c.Bool()}})
	if err != nil {
		panic(err)
	}
	return b
}

// TestRoundTrips sends random objects of every kind through JSON, protobuf and the form in storage: nothing may be lost.
func TestRoundTrips(t *testing.T) {
	for i, k := range Kinds() {
		t.Run(k.GroupVersionResource().String(), func(t *testing.T) {
			t.Parallel()
			if _, ok := k.New().(*unstructured.Unstructured); ok {
				t.Skip("has no Go type")
			}
			f := filler(fillSeed + int64(i))
			for range fillsPerKind {
				obj := k.New()
				f.Fill(obj)
				for name, trip := range trips(k) {
					got, err := trip(obj.DeepCopyObject().(kinds.Object))
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if name == "storage" && k.EncodeStored != nil { // in another version: what is stored is what comes back
						first, err := k.EncodeStored(obj)
						if err != nil {
							t.Fatal(err)
						}
						if again, err := k.EncodeStored(got); err != nil || string(again) != string(first) {
							t.Fatalf("stored again: %v\n%s\nbefore:\n%s", err, again, first)
						}
						continue
					}
					if !equality.Semantic.DeepEqual(obj, got) {
						t.Fatalf("%s loses something: %s", name, difference(obj, got))
					}
				}
			}
		})
	}
}

type trip func(kinds.Object) (kinds.Object, error)

func trips(k *kinds.Kind) map[string]trip {
	through := func(mediaType string, encode func(kinds.Object) ([]byte, error)) trip {
		return func(obj kinds.Object) (kinds.Object, error) {
			b, err := encode(obj)
			if err != nil {
				return nil, err
			}
			out := k.New()
			d, err := codec.Decode(mediaType, b, out)
			if err == nil && (d.Kind != k.GroupVersionKind || len(d.Strict) > 0) {
				err = fmt.Errorf("decoded as %v with %v", d.Kind, d.Strict)
			}
			return out, err
		}
	}
	all := map[string]trip{
		"json": through(codec.JSON, func(o kinds.Object) ([]byte, error) { return codec.EncodeJSON(k.GroupVersionKind, o) }),
	}
	if _, err := codec.MarshalProto(k.New()); err == nil {
		all["protobuf"] = through(codec.Proto, func(o kinds.Object) ([]byte, error) { return codec.EncodeProto(k.GroupVersionKind, o) })
	}
	if !k.Virtual && k.Stored == nil {
		all["storage"] = func(obj kinds.Object) (kinds.Object, error) {
			b, err := codec.EncodeStored(k, obj)
			if err != nil {
				return nil, err
			}
			return codec.DecodeStored(k, b)
		}
	}
	return all
}

// difference names the first field in which two values differ.
func difference(a, b any) string {
	var find func(path string, a, b reflect.Value) string
	find = func(path string, a, b reflect.Value) string {
		if equality.Semantic.DeepEqual(a.Interface(), b.Interface()) {
			return ""
		}
		switch a.Kind() {
		case reflect.Pointer:
			if !a.IsNil() && !b.IsNil() {
				return find(path, a.Elem(), b.Elem())
			}
		case reflect.Struct:
			for i := range a.NumField() {
				if f := a.Type().Field(i); f.IsExported() {
					if d := find(path+"."+f.Name, a.Field(i), b.Field(i)); d != "" {
						return d
					}
				}
			}
		case reflect.Slice:
			for i := range min(a.Len(), b.Len()) {
				if d := find(fmt.Sprintf("%s[%d]", path, i), a.Index(i), b.Index(i)); d != "" {
					return d
				}
			}
		}
		return fmt.Sprintf("%s: %#v became %#v", path, a.Interface(), b.Interface())
	}
	return find("", reflect.ValueOf(a), reflect.ValueOf(b))
}

// TestJSONIsTheLibrarys compares what is encoded and decoded without reflection with encoding/json and sigs.k8s.io/json.
func TestJSONIsTheLibrarys(t *testing.T) {
	var types typed.Types
	for i, k := range Kinds() {
		if _, ok := k.New().(*unstructured.Unstructured); ok {
			continue
		}
		f := filler(fillSeed + int64(i))
		for range fillsPerKind {
			obj := k.New()
			f.Fill(obj)
			want, err := json.Marshal(obj)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := types.Append(nil, obj); err != nil || string(got) != string(want) {
				t.Fatalf("%s: %v\n%s\nthe library's\n%s", k.GroupVersionKind, err, got, want)
			}
			got, same := k.New(), k.New()
			if !types.Decode(want, got) {
				t.Fatalf("%s is not decoded without the library: %s", k.GroupVersionKind, want)
			}
			if strict, err := kjson.UnmarshalStrict(want, same); err != nil || len(strict) > 0 || !reflect.DeepEqual(got, same) {
				t.Fatalf("%s: %v %v: %s", k.GroupVersionKind, err, strict, difference(same, got))
			}
		}
	}
}

// TestDecodersSurviveGarbage feeds damaged encodings to the decoders: they may refuse them, but not panic.
func TestDecodersSurviveGarbage(t *testing.T) {
	for i, k := range Kinds() {
		if _, ok := k.New().(*unstructured.Unstructured); ok {
			continue
		}
		random := rand.New(rand.NewSource(fillSeed + int64(i)))
		obj := k.New()
		filler(fillSeed).Fill(obj)
		for _, mediaType := range []string{codec.JSON, codec.YAML, codec.Proto} {
			good, err := codec.EncodeJSON(k.GroupVersionKind, obj)
			if mediaType == codec.Proto {
				good, err = codec.EncodeProto(k.GroupVersionKind, obj)
			}
			if err != nil {
				continue // no such form
			}
			if mediaType == codec.YAML && len(good) > 4096 {
				good = good[:4096]
			}
			for range 20 {
				bad := append([]byte(nil), good[:random.Intn(len(good)+1)]...)
				for range min(len(bad), random.Intn(4)) {
					bad[random.Intn(len(bad))] = byte(random.Intn(256))
				}
				_, _ = codec.Decode(mediaType, bad, k.New())
			}
		}
	}
}
