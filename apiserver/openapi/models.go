// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gvks "k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/resource"
)

// models are the definitions by name. Each is made once, when it is first asked for; they live only while documents
// are made.
type models struct {
	v2      bool // definitions are for the document of v2
	markers markers
	types   map[string]reflect.Type
	// custom are kinds and lists without Go type.
	custom map[string]*resource.Kind
	kinds  map[string][]gvks.GroupVersionKind
	names  map[gvks.GroupVersionKind]string // of what has a Go type
	made   map[string]*model
	// options are the parameters that types of options stand for.
	options map[reflect.Type][]parameter
}

type model struct {
	*schema
	refs []string // names of the definitions that it refers to
}

func metaKind(kind string) gvks.GroupVersionKind {
	return gvks.GroupVersionKind{Version: "v1", Kind: kind}
}

func watchEventKind() gvks.GroupVersionKind    { return metaKind("WatchEvent") }
func deleteOptionsKind() gvks.GroupVersionKind { return metaKind("DeleteOptions") }
func statusKind() gvks.GroupVersionKind        { return metaKind("Status") }

// others are the types of bodies beside the kinds themselves.
func others() map[gvks.GroupVersionKind]reflect.Type {
	return map[gvks.GroupVersionKind]reflect.Type{
		watchEventKind():            reflect.TypeFor[metav1.WatchEvent](),
		deleteOptionsKind():         reflect.TypeFor[metav1.DeleteOptions](),
		statusKind():                reflect.TypeFor[metav1.Status](),
		metaKind("APIVersions"):     reflect.TypeFor[metav1.APIVersions](),
		metaKind("APIGroupList"):    reflect.TypeFor[metav1.APIGroupList](),
		metaKind("APIGroup"):        reflect.TypeFor[metav1.APIGroup](),
		metaKind("APIResourceList"): reflect.TypeFor[metav1.APIResourceList](),
		metaKind("Binding"):         reflect.TypeFor[corev1.Binding](),
		// Kinds that others contain.
		metaKind("PersistentVolumeClaim"):                            reflect.TypeFor[corev1.PersistentVolumeClaim](),
		autoscalingv1.SchemeGroupVersion.WithKind("Scale"):           reflect.TypeFor[autoscalingv1.Scale](),
		policyv1.SchemeGroupVersion.WithKind("Eviction"):             reflect.TypeFor[policyv1.Eviction](),
		authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"): reflect.TypeFor[authenticationv1.TokenRequest](),
	}
}

func newModels(kinds []*resource.Kind) *models {
	m := &models{
		markers: readMarkers(markersText), types: map[string]reflect.Type{}, custom: map[string]*resource.Kind{},
		kinds: map[string][]gvks.GroupVersionKind{}, names: map[gvks.GroupVersionKind]string{}, made: map[string]*model{},
		options: map[reflect.Type][]parameter{},
	}
	for gvk, t := range others() {
		m.know(gvk, t)
	}
	for _, k := range kinds {
		if t, ok := typed(k); ok {
			m.know(k.GroupVersionKind, t)
		} else {
			m.custom[customName(k)], m.custom[customListName(k)] = k, k
		}
		if t, ok := typedList(k); ok {
			m.know(k.GroupVersion().WithKind(k.Kind+"List"), t)
		}
	}
	return m
}

// know records the type of a kind.
func (m *models) know(gvk gvks.GroupVersionKind, t reflect.Type) {
	name := modelName(t)
	m.types[name], m.names[gvk] = t, name
	if !slices.Contains(m.kinds[name], gvk) {
		m.kinds[name] = append(m.kinds[name], gvk)
	}
}

// typed returns the struct type of a built-in kind.
func typed(k *resource.Kind) (reflect.Type, bool) {
	t := reflect.TypeOf(k.New()).Elem()
	return t, t.PkgPath() != "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
}

func typedList(k *resource.Kind) (reflect.Type, bool) {
	if k.NewList == nil {
		return nil, false
	}
	t := reflect.TypeOf(k.NewList()).Elem()
	return t, t.PkgPath() != "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
}

func (m *models) kind(k *resource.Kind) string {
	if t, ok := typed(k); ok {
		return modelName(t)
	}
	return customName(k)
}

func (m *models) list(k *resource.Kind) string {
	if t, ok := typedList(k); ok {
		return modelName(t)
	}
	return customListName(k)
}

// named returns the definition of a kind by its name; without one it is text.
func (m *models) named(gvk gvks.GroupVersionKind) string { return m.names[gvk] }

// meta returns the definition of a type of meta/v1.
func (m *models) meta(value any) string {
	t := reflect.TypeOf(value)
	name := modelName(t)
	m.types[name] = t
	return name
}

// get makes a definition.
func (m *models) get(name string) *model {
	if d := m.made[name]; d != nil {
		return d
	}
	d := &model{}
	m.made[name] = d
	t, ok := m.types[name]
	if !ok {
		d.schema, d.refs = m.describeCustom(name)
		return d
	}
	r := reflector{markers: m.markers, refers: func(t reflect.Type) {
		ref := modelName(t)
		m.types[ref] = t
		if !slices.Contains(d.refs, ref) {
			d.refs = append(d.refs, ref)
		}
	}}
	d.schema = r.define(t)
	return d
}

// closure is all definitions that those named need, by name.
func (m *models) closure(names map[string]bool) []string {
	done := map[string]bool{}
	todo := slices.Collect(maps.Keys(names))
	for len(todo) > 0 {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if done[name] {
			continue
		}
		done[name] = true
		todo = append(todo, m.get(name).refs...)
	}
	return slices.Sorted(maps.Keys(done))
}

// kindsOf tells of which kinds a definition is, in a document that is about the given versions.
func (m *models) kindsOf(name string, about []gvks.GroupVersion) []gvks.GroupVersionKind {
	if k := m.custom[name]; k != nil {
		return []gvks.GroupVersionKind{k.GroupVersion().WithKind(name[strings.LastIndexByte(name, '.')+1:])}
	}
	out := slices.Clone(m.kinds[name])
	if len(out) == 1 && (out[0] == watchEventKind() || out[0] == deleteOptionsKind()) { // each version has its own
		for _, gv := range about {
			if gvk := gv.WithKind(out[0].Kind); !slices.Contains(out, gvk) {
				out = append(out, gvk)
			}
		}
	}
	slices.SortFunc(out, func(a, b gvks.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	return out
}
