// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package codec turns objects into bytes and back: JSON, YAML and Kubernetes' protobuf, and the form in storage.
//
// Objects of built-in kinds carry no TypeMeta in the process. Encoders put it in front of single objects and watch
// events; items of lists of built-in kinds have none. Unstructured objects keep theirs. Decoders remove it and return
// it. Decoding is case-sensitive, and finds unknown and duplicate fields in Kubernetes' words.
package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/codec/typed"
	"knarr.dev/api/resource"
)

// Media types.
const (
	JSON  = "application/json"
	YAML  = "application/yaml"
	Proto = "application/vnd.kubernetes.protobuf"
)

// types has what was worked out of Go types, which are the same for all: nothing depends on who saw them first.
var types typed.Types

// buffers are []byte that appendTyped writes to.
var buffers sync.Pool

// ErrNoProto means that a kind has no protobuf form.
var ErrNoProto = errors.New("kind has no protobuf form")

// MarshalJSON encodes an object without adding kind and apiVersion, and without a newline at the end.
func MarshalJSON(obj any) ([]byte, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return appendTyped(obj)
	}
	b, err := json.Marshal(u.Object)
	if err != nil || bytes.HasPrefix(b, []byte(`{"apiVersion":`)) || bytes.HasPrefix(b, []byte(`{"kind":`)) || u.GetKind() == "" {
		return b, err
	}
	// A field sorts before apiVersion: what looks at the beginning alone must see the kind all the same.
	rest := maps.Clone(u.Object)
	delete(rest, "apiVersion")
	delete(rest, "kind")
	if b, err = json.Marshal(rest); err != nil {
		return nil, err
	}
	return WithKind(nil, u.GroupVersionKind(), b), nil
}

// appendTyped encodes into a buffer that is used again, so that what is kept is not longer than it must be.
func appendTyped(obj any) ([]byte, error) {
	buf, _ := buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	b, err := types.Append((*buf)[:0], obj)
	if cap(b) <= 1<<16 {
		*buf = b
		defer buffers.Put(buf)
	}
	if err != nil {
		return nil, err
	}
	return bytes.Clone(b), nil
}

// WithKind returns a JSON object with kind and apiVersion put in front, unless its first field is one of them.
func WithKind(dst []byte, gvk schema.GroupVersionKind, object []byte) []byte {
	if bytes.HasPrefix(object, []byte(`{"apiVersion":`)) || bytes.HasPrefix(object, []byte(`{"kind":`)) {
		return append(dst, object...)
	}
	dst = append(dst, `{"kind":`...)
	dst = strconv.AppendQuote(dst, gvk.Kind)
	dst = append(dst, `,"apiVersion":`...)
	dst = strconv.AppendQuote(dst, gvk.GroupVersion().String())
	if len(object) > 2 {
		dst = append(dst, ',')
	}
	return append(dst, object[1:]...)
}

// DecodePlain decodes JSON into a pointer to a zero value of a Go type. False means that there is something out of the ordinary, which is for
// the library, and leaves it zero.
func DecodePlain(data []byte, into any) bool { return types.Decode(data, into) }

// AppendJSON appends what EncodeJSON makes.
func AppendJSON(dst []byte, gvk schema.GroupVersionKind, obj any) ([]byte, error) {
	if _, ok := obj.(*unstructured.Unstructured); ok {
		b, err := MarshalJSON(obj)
		return WithKind(dst, gvk, b), err
	}
	base := len(dst)
	dst = WithKind(dst, gvk, []byte("{}"))
	at := len(dst) - 1 // of the bracket, where the object is to begin
	dst, err := types.Append(dst[:at], obj)
	switch {
	case err != nil || len(dst) < at+2:
		return dst, errors.Join(err, fmt.Errorf("encode %T: no object", obj))
	case bytes.HasPrefix(dst[at:], []byte(`{"apiVersion":`)), bytes.HasPrefix(dst[at:], []byte(`{"kind":`)): // it tells them itself
		return append(dst[:base], dst[at:]...), nil
	case dst[at+1] == '}':
		return append(dst[:at], '}'), nil
	}
	dst[at] = ','
	return dst, nil
}

// EncodeJSON encodes an object with kind and apiVersion.
func EncodeJSON(gvk schema.GroupVersionKind, obj any) ([]byte, error) {
	b, err := MarshalJSON(obj)
	if err != nil {
		return nil, err
	}
	return WithKind(make([]byte, 0, len(b)+64), gvk, b), nil
}

// Decoded is what Decode found beside the object.
type Decoded struct {
	// Kind is what the bytes said: any part may be empty.
	Kind schema.GroupVersionKind
	// Strict lists unknown and duplicate fields.
	Strict []error
	// Plain says that PeekKind would say Kind too, and that Strict is empty.
	Plain bool
}

// Decode decodes data of a media type (empty is JSON) into obj, whose TypeMeta ends up empty unless it is unstructured.
func Decode(mediaType string, data []byte, obj runtime.Object) (Decoded, error) {
	switch mediaType {
	case Proto:
		gvk, err := decodeProto(data, obj)
		return Decoded{Kind: gvk, Plain: true}, err
	case YAML:
		return decodeYAML(data, obj)
	case JSON, "":
		return decodeJSON(data, obj)
	}
	return Decoded{}, fmt.Errorf("media type %q is not known", mediaType)
}

// PeekKind returns the kind that the bytes state. Its errors are Kubernetes' for bodies that are no objects at all.
func PeekKind(mediaType string, data []byte) (schema.GroupVersionKind, error) {
	switch mediaType {
	case Proto:
		u, err := unwrapProto(data)
		if err != nil {
			return schema.GroupVersionKind{}, err
		}
		return schema.FromAPIVersionAndKind(u.APIVersion, u.Kind), nil
	case YAML:
		j, err := yaml.YAMLToJSON(data)
		if err != nil {
			return schema.GroupVersionKind{}, err
		}
		data = j
	}
	gvk, err := serializer.DefaultMetaFactory.Interpret(data)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return *gvk, nil
}

func decodeYAML(data []byte, obj runtime.Object) (Decoded, error) {
	j, strict := yaml.YAMLToJSONStrict(data)
	if strict != nil {
		var err error
		if j, err = yaml.YAMLToJSON(data); err != nil {
			return Decoded{}, err
		}
	}
	d, err := decodeJSON(j, obj)
	if strict != nil {
		d.Strict, d.Plain = append([]error{strict}, d.Strict...), false
	}
	return d, err
}

func decodeJSON(data []byte, obj runtime.Object) (Decoded, error) {
	var into any = obj
	u, isUnstructured := obj.(*unstructured.Unstructured)
	if isUnstructured {
		u.Object = map[string]any{}
		into = &u.Object
	}
	var strict []error
	if isUnstructured || !types.Decode(data, obj) {
		var err error
		if strict, err = kjson.UnmarshalStrict(data, into); err != nil {
			return Decoded{}, err
		}
	}
	d := Decoded{Strict: strict}
	if isUnstructured {
		d.Kind = u.GroupVersionKind()
		d.Plain = len(strict) == 0 && plainKind(u.Object)
		return d, nil
	}
	d.Kind = obj.GetObjectKind().GroupVersionKind()
	said, _ := obj.GetObjectKind().(*metav1.TypeMeta)
	malformed := said != nil && strings.Count(said.APIVersion, "/") > 1 // which PeekKind refuses
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	d.Plain = len(strict) == 0 && !malformed // else an unknown field may be kind in other letters, which PeekKind takes too
	return d, nil
}

// plainKind says that an object states kind and apiVersion as strings, and nothing by these names in other letters.
func plainKind(obj map[string]any) bool {
	for key, value := range obj {
		switch {
		case key == "kind", key == "apiVersion":
			if _, ok := value.(string); !ok {
				return false
			}
		case strings.EqualFold(key, "kind"), strings.EqualFold(key, "apiVersion"):
			return false
		}
	}
	return true
}

// EncodeStored encodes an object as Kubernetes keeps it in etcd: protobuf in its envelope for built-in kinds, JSON for
// others. The object must have no resourceVersion.
func EncodeStored(kind *resource.Kind, obj resource.Object) ([]byte, error) {
	return EncodeStoredIn(nil, kind, obj)
}

// EncodeStoredIn is EncodeStored in room, if that is large enough; what room holds is lost.
func EncodeStoredIn(room []byte, kind *resource.Kind, obj resource.Object) ([]byte, error) {
	if kind.EncodeStored != nil {
		return kind.EncodeStored(obj)
	}
	stored := kind.GroupVersionKind
	if kind.StorageVersion != "" {
		stored.Version = kind.StorageVersion
	}
	value, err := encodeProto(room, stored, obj)
	if errors.Is(err, ErrNoProto) {
		value, err = EncodeJSON(kind.GroupVersionKind, obj)
		return append(value, '\n'), err
	}
	return value, err
}

// DecodeStored decodes what EncodeStored made.
func DecodeStored(kind *resource.Kind, value []byte) (resource.Object, error) {
	if kind.DecodeStored != nil {
		obj, err := kind.DecodeStored(value)
		if err != nil {
			return nil, fmt.Errorf("decode stored %s: %w", kind.Kind, err)
		}
		return obj, nil
	}
	obj := kind.New()
	mediaType := JSON
	if bytes.HasPrefix(value, protoMagic()) {
		mediaType = Proto
	}
	if _, err := Decode(mediaType, value, obj); err != nil {
		return nil, fmt.Errorf("decode stored %s: %w", kind.Kind, err)
	}
	if kind.Custom == nil || kind.Custom.Stored == nil {
		return obj, nil
	}
	current, err := kind.Custom.Stored(obj)
	if err != nil {
		return nil, fmt.Errorf("decode stored %s: %w", kind.Kind, err)
	}
	return current, nil
}
