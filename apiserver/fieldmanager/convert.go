// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"fmt"
	"maps"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/resource"
)

// converter is what the library needs to know of a kind: how to make, default and convert its objects. The objects it
// gives out state their kind, which those of the process do not.
type converter struct {
	served *resource.Kind
	kinds  []*resource.Kind
}

// New implements runtime.ObjectCreater.
func (c *converter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	k := c.kind(gvk.GroupVersion())
	if k == nil || k.Kind != gvk.Kind {
		return nil, runtime.NewNotRegisteredErrForKind("", gvk)
	}
	return k.New(), nil
}

// Default implements runtime.ObjectDefaulter.
func (c *converter) Default(in runtime.Object) {
	if obj, ok := in.(resource.Object); ok && c.served.Default != nil {
		c.served.Default(obj)
	}
}

// kind is the form of the objects in another group and version, or nil.
func (c *converter) kind(gv schema.GroupVersion) *resource.Kind {
	if gv == c.served.GroupVersion() {
		return c.served
	}
	for _, k := range c.kinds {
		if k.GroupVersion() == gv && hub(k) == hub(c.served) {
			return k
		}
	}
	return nil
}

func hub(k *resource.Kind) *resource.Kind {
	if k.Stored != nil {
		return k.Stored.Hub
	}
	return k
}

// ConvertToVersion implements runtime.ObjectConvertor. An object without a kind is one of the served kind.
func (c *converter) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	from := in.GetObjectKind().GroupVersionKind()
	if from.Empty() {
		from = c.served.GroupVersionKind
	}
	to, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{from})
	if gv, isVersion := target.(schema.GroupVersion); isVersion {
		to, ok = gv.WithKind(from.Kind), true
	}
	kind, source := c.kind(to.GroupVersion()), c.kind(from.GroupVersion())
	if !ok || kind == nil || source == nil {
		return nil, runtime.NewNotRegisteredErrForTarget("", reflect.TypeOf(in), target)
	}
	obj, err := structured(in, source)
	if err != nil {
		return nil, err
	}
	if kind != source && kind.Custom != nil && kind.Custom.Convert != nil {
		return kind.Custom.Convert(obj)
	}
	if kind != source {
		if source.Stored != nil {
			if obj, err = source.Stored.ToHub(obj); err != nil {
				return nil, err
			}
		}
		if kind.Stored != nil {
			if obj, err = kind.Stored.FromHub(obj); err != nil {
				return nil, err
			}
		}
	}
	return withKind(obj, kind.GroupVersionKind), nil
}

// structured is an object in the Go type of its kind.
func structured(in runtime.Object, kind *resource.Kind) (resource.Object, error) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in.(resource.Object), nil
	}
	obj := kind.New()
	if _, custom := obj.(*unstructured.Unstructured); custom {
		return u, nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
		return nil, fmt.Errorf("unable to convert unstructured object to %s: %w", kind.GroupVersionKind, err)
	}
	return obj, nil
}

// withKind is a shallow copy of an object that states its kind.
func withKind(in resource.Object, gvk schema.GroupVersionKind) resource.Object {
	if in.GetObjectKind().GroupVersionKind() == gvk {
		return in
	}
	if u, ok := in.(*unstructured.Unstructured); ok {
		out := &unstructured.Unstructured{Object: maps.Clone(u.Object)}
		out.SetGroupVersionKind(gvk)
		return out
	}
	v := reflect.New(reflect.TypeOf(in).Elem())
	v.Elem().Set(reflect.ValueOf(in).Elem())
	out := v.Interface().(resource.Object)
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out
}

// Convert implements runtime.ObjectConvertor; the library does not use it.
func (c *converter) Convert(any, any, any) error {
	return fmt.Errorf("convert %s in place", c.served.Kind)
}

// ConvertFieldLabel implements runtime.ObjectConvertor; the library does not use it.
func (c *converter) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}
