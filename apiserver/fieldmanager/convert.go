// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"fmt"
	"reflect"
	"slices"
	"sync"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

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
		return nil, fmt.Errorf("convert to %s: %w", kind.GroupVersionKind, err)
	}
	return obj, nil
}

// withKind is a shallow copy of an object that states its kind.
func withKind(in resource.Object, gvk schema.GroupVersionKind) resource.Object {
	if in.GetObjectKind().GroupVersionKind() == gvk {
		return in
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

// types knows the merge schema of built-in kinds: the published one of client-go, which is parsed when first needed.
type types struct {
	kinds  []*resource.Kind
	once   sync.Once
	parser managedfields.TypeConverter
}

// ObjectToTyped implements managedfields.TypeConverter.
func (t *types) ObjectToTyped(obj runtime.Object, o ...typed.ValidationOptions) (*typed.TypedValue, error) {
	return t.schema().ObjectToTyped(obj, o...)
}

// TypedToObject implements managedfields.TypeConverter.
func (t *types) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	return t.schema().TypedToObject(v)
}

func (t *types) schema() managedfields.TypeConverter {
	t.once.Do(func() {
		scheme := runtime.NewScheme()
		scheme.AddKnownTypeWithName(scaleKind(), new(autoscalingv1.Scale))
		for _, k := range t.kinds {
			if !scheme.Recognizes(k.GroupVersionKind) {
				scheme.AddKnownTypeWithName(k.GroupVersionKind, k.New())
			}
		}
		t.parser = withScale(scheme, applyconfigurations.NewTypeConverter(scheme))
	})
	return t.parser
}

// withScale adds the schema of scales, which the published one lacks.
func withScale(scheme *runtime.Scheme, published managedfields.TypeConverter) managedfields.TypeConverter {
	const example = "ConfigMap"
	typedExample, err := published.ObjectToTyped(withKind(new(corev1.ConfigMap), corev1.SchemeGroupVersion.WithKind(example)))
	if err != nil {
		return published
	}
	scalar := func(s smd.Scalar) smd.TypeRef { return smd.TypeRef{Inlined: smd.Atom{Scalar: &s}} }
	named := func(name string) smd.TypeRef { return smd.TypeRef{NamedType: &name} }
	object := func(name string, fields ...smd.StructField) smd.TypeDef {
		return smd.TypeDef{Name: name, Atom: smd.Atom{Map: &smd.Map{Fields: fields}}}
	}
	scale := autoscalingv1.Scale{}.OpenAPIModelName()
	spec, status := autoscalingv1.ScaleSpec{}.OpenAPIModelName(), autoscalingv1.ScaleStatus{}.OpenAPIModelName()
	all := append(slices.Clone(typedExample.Schema().Types),
		object(scale,
			smd.StructField{Name: "apiVersion", Type: scalar(smd.String)}, smd.StructField{Name: "kind", Type: scalar(smd.String)},
			smd.StructField{Name: "metadata", Type: named(metav1.ObjectMeta{}.OpenAPIModelName())},
			smd.StructField{Name: "spec", Type: named(spec)}, smd.StructField{Name: "status", Type: named(status)}),
		object(spec, smd.StructField{Name: "replicas", Type: scalar(smd.Numeric)}),
		object(status, smd.StructField{Name: "replicas", Type: scalar(smd.Numeric)}, smd.StructField{Name: "selector", Type: scalar(smd.String)}))
	return managedfields.NewSchemeTypeConverter(scheme, &typed.Parser{Schema: smd.Schema{Types: all}})
}
