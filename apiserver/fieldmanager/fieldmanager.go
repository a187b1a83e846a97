// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fieldmanager records in metadata.managedFields who set which field of an object, and merges what server-side
// apply asks for.
//
// A Manager serves one kind, or one of its subresources. Update compares two states of an object and notes what the
// writer changed; Apply merges a configuration into an object, or returns the conflict with those who own what it would
// change. The meaning is that of k8s.io/apimachinery/pkg/util/managedfields, which also does the merging. The package
// does not decide who may write. Start with New.
package fieldmanager

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"knarr.dev/api/resource"
)

// Fields has the managers of all kinds.
type Fields struct {
	kinds    atomic.Pointer[[]*resource.Kind]
	types    *types
	planner  planner
	managers sync.Map // managerKey -> func() (*Manager, error)
	room     describers
	sets     sets
}

type managerKey struct {
	kind        *resource.Kind
	subresource string
}

// New returns the managers of kinds. Each is built when it is first asked for.
func New(kinds []*resource.Kind) *Fields {
	f := &Fields{types: newTypes(kinds)}
	f.kinds.Store(&kinds)
	return f
}

// Set replaces the kinds, for servers whose kinds change while they run; the built-in ones must stay.
func (f *Fields) Set(kinds []*resource.Kind) {
	f.kinds.Store(&kinds)
	f.managers.Range(func(key, _ any) bool {
		if k := key.(managerKey).kind; k.Custom != nil && !slices.Contains(kinds, k) {
			f.managers.Delete(key)
		}
		return true
	})
}

// Manager records the fields of one kind as one of its resources shows them.
type Manager struct {
	library *managedfields.FieldManager
	fast    *updater // nil if the schema or the objects are not known beforehand
}

// Of returns the manager of a kind, or of its objects as a subresource writes them.
func (f *Fields) Of(kind *resource.Kind, subresource string) (*Manager, error) {
	key := managerKey{kind, subresource}
	build, ok := f.managers.Load(key)
	if !ok {
		build, _ = f.managers.LoadOrStore(key, sync.OnceValues(func() (*Manager, error) { return f.build(kind, subresource) }))
	}
	return build.(func() (*Manager, error))()
}

func (f *Fields) build(kind *resource.Kind, subresource string) (*Manager, error) {
	c := &converter{served: kind, kinds: *f.kinds.Load()}
	gvk, types := kind.GroupVersionKind, managedfields.TypeConverter(f.types)
	if subresource == "scale" {
		gvk = scaleKind()
		c.served = &resource.Kind{GroupVersionKind: gvk, New: func() resource.Object { return new(autoscalingv1.Scale) }}
	} else if subresource == "token" {
		gvk = tokenKind()
		c.served = &resource.Kind{GroupVersionKind: gvk, New: func() resource.Object { return new(authenticationv1.TokenRequest) }}
	} else if _, custom := kind.New().(*unstructured.Unstructured); custom {
		types = managedfields.NewDeducedTypeConverter()
		if kind.Custom != nil && kind.Custom.Types != nil {
			var err error
			if types, err = kind.Custom.Types(); err != nil {
				return nil, fmt.Errorf("field manager of %s: %w", gvk, err)
			}
		}
	}
	library, err := managedfields.NewDefaultFieldManager(types, c, c, c, gvk, gvk.GroupVersion(), subresource, filters(kind, resets(kind, subresource)))
	if err != nil {
		return nil, fmt.Errorf("field manager of %s: %w", gvk, err)
	}
	m := &Manager{library: library}
	if types == managedfields.TypeConverter(f.types) {
		m.fast = f.newUpdater(c.served, subresource, resets(kind, subresource))
	}
	return m, nil
}

func (f *Fields) newUpdater(kind *resource.Kind, subresource string, except [][]string) *updater {
	name := f.types.typeName(kind.GroupVersionKind)
	if name == "" {
		return nil
	}
	return &updater{
		plan: f.planner.root(reflect.TypeOf(kind.New()), name, except), apiVersion: kind.GroupVersion().String(), subresource: subresource,
		room: &f.room, sets: &f.sets,
	}
}

func tokenKind() schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

func scaleKind() schema.GroupVersionKind { return autoscalingv1.SchemeGroupVersion.WithKind("Scale") }

// Update makes managedFields of obj, which is what manager wants to make of live. For a new object live is empty. obj
// may ask to forget all owners by managedFields of one empty entry. An error means that the object does not have the
// form of its schema; obj then has no managedFields.
func (m *Manager) Update(live, obj resource.Object, manager string) error {
	if m.fast != nil && m.fast.update(live, obj, manager, time.Now()) {
		return nil
	}
	if _, err := m.library.Update(live, obj, manager); err != nil {
		obj.SetManagedFields(nil)
		return err
	}
	wholeSeconds(obj)
	return nil
}

// Create is Update of an empty object, which is made only if it takes one.
func (m *Manager) Create(empty func() resource.Object, obj resource.Object, manager string) error {
	if m.fast != nil && m.fast.fresh(obj, manager, time.Now()) {
		return nil
	}
	return m.Update(empty(), obj, manager)
}

// wholeSeconds cuts times as they are stored.
func wholeSeconds(obj resource.Object) {
	entries := obj.GetManagedFields()
	for i := range entries {
		if t := entries[i].Time; t != nil && t.Nanosecond() != 0 {
			entries[i].Time = &metav1.Time{Time: t.Truncate(time.Second)}
		}
	}
}

// Apply merges what manager wants into live and returns the outcome, a new object with managedFields and defaults. The
// error may be a conflict, which force avoids.
func (m *Manager) Apply(live resource.Object, patch *unstructured.Unstructured, manager string, force bool) (resource.Object, error) {
	merged, err := m.library.Apply(live, patch, manager, force)
	if err != nil {
		return nil, err
	}
	obj, ok := merged.(resource.Object)
	if !ok {
		return nil, fmt.Errorf("apply made a %T", merged)
	}
	if _, custom := obj.(*unstructured.Unstructured); !custom {
		wholeSeconds(obj)
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return obj, nil
}

// Scale translates managedFields between an object and its scale, where only the replicas are seen.
type Scale struct{ handler *managedfields.ScaleHandler }

// NewScale returns the translation for an object of kind with these entries.
func (f *Fields) NewScale(kind *resource.Kind, entries []metav1.ManagedFieldsEntry) (*Scale, error) {
	paths := managedfields.ResourcePathMappings{}
	for _, k := range *f.kinds.Load() {
		if k.Scale == nil || k.Group != kind.Group || k.Resource != kind.Resource {
			continue
		}
		path, err := scalePath(k.Scale.Path)
		if err != nil {
			return nil, err
		}
		paths[k.GroupVersion().String()] = path
	}
	return &Scale{managedfields.NewScaleHandler(entries, kind.GroupVersion(), paths)}, nil
}

// Entries are the managedFields of the scale.
func (s *Scale) Entries() ([]metav1.ManagedFieldsEntry, error) { return s.handler.ToSubresource() }

// Parent are the managedFields of the object when its scale has entries.
func (s *Scale) Parent(entries []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, error) {
	return s.handler.ToParent(entries)
}

// scalePath parses .spec.replicas.
func scalePath(path string) (fieldpath.Path, error) {
	var out fieldpath.Path
	for i, at := 0, 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '.' {
			continue
		}
		if i > at {
			name := path[at:i]
			out = append(out, fieldpath.PathElement{FieldName: &name})
		}
		at = i + 1
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("scale path %q names no field", path)
	}
	return out, nil
}
