// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"fmt"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Define makes the Type of a definition. It panics if *T is not an Object or names are missing: a definition is part
// of the program.
func Define[T any](d Definition[T]) *Type[T] {
	if _, ok := any(new(T)).(Object); !ok {
		panic(fmt.Sprintf("resource: *%T is not an API object", *new(T)))
	}
	if d.Version == "" || d.Kind == "" || d.Resource == "" {
		panic(fmt.Sprintf("resource: definition of %T lacks version, kind or resource", *new(T)))
	}
	k := &Kind{
		GroupVersionKind: schema.GroupVersionKind{Group: d.Group, Version: d.Version, Kind: d.Kind},
		Resource:         d.Resource, Singular: d.Singular, ShortNames: d.ShortNames, Categories: d.Categories,
		Scope: d.Scope, StoragePath: d.StoragePath, StorageVersion: d.StorageVersion,
		New: func() Object { return any(new(T)).(Object) },

		Default: erase(d.Default), PrepareCreate: erase(d.PrepareCreate), PrepareUpdate: erase2(d.PrepareUpdate),
		Validate: eraseResult[T, field.ErrorList](d.Validate), ValidateUpdate: eraseErrors2(d.ValidateUpdate),
		Revalidate:     eraseErrors2(d.Revalidate),
		ValidateCreate: eraseResult[T, field.ErrorList](d.ValidateCreate),
		Readable:       eraseResult[T, error](d.Readable),
		Share:          eraseShare(d.Share),
		Name:           d.Name, NameOf: eraseResult[T, func(string, bool) []string](d.NameOf), Warnings: eraseResult[T, []string](d.Warnings), WarningsCreate: eraseResult[T, []string](d.WarningsCreate),
		Fields: eraseResult[T, fields.Set](d.Fields), FieldNames: d.FieldNames, Ageless: d.Ageless, Hidden: d.Hidden, WarningsUpdate: eraseWarnings2(d.WarningsUpdate), Others: d.Subresources.Others,

		CreateOnUpdate: d.CreateOnUpdate, NeedsRevision: d.NeedsRevision, TTL: d.TTL, Virtual: d.Virtual,
		Verbs: d.Verbs, DefaultPropagation: d.DefaultPropagation,
	}
	if k.Singular == "" {
		k.Singular = strings.ToLower(k.Kind)
	}
	if k.StoragePath == "" {
		k.StoragePath = k.Resource
		if k.Group != "" {
			k.StoragePath = k.Group + "/" + k.Resource
		}
	}
	if k.DefaultPropagation == "" {
		k.DefaultPropagation = metav1.DeletePropagationBackground
	}
	if grace := d.Grace; grace != nil {
		k.Grace = func(o Object, asked *int64) int64 { return grace(cast[T](o), asked) }
	}
	for _, c := range d.Columns {
		kc := KindColumn{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Wide: c.Wide}
		if kc.Type == "" {
			kc.Type = "string"
		}
		value := c.Value
		kc.Value = func(o Object, now time.Time) any { return value(cast[T](o), now) }
		k.Columns = append(k.Columns, kc)
	}
	if s := d.Subresources.Status; s != nil {
		k.Status = &KindStatus{
			Prepare: erase2(s.Prepare), Validate: eraseErrors2(s.Validate),
			KeepMetadata: s.KeepMetadata, Warnings: eraseResult[T, []string](s.Warnings),
			Default: erase(s.Default),
		}
		if copied := s.Copy; copied != nil {
			k.Status.Copy = func(o Object) Object { return any(copied(cast[T](o))).(Object) }
		}
	}
	if s := d.Subresources.Scale; s != nil {
		k.Scale = eraseScale(s)
	}
	return &Type[T]{Kind: k}
}

// WithList gives the kind its typed list.
func WithList[T any](t *Type[T], list func() runtime.Object) *Type[T] {
	t.NewList = list
	return t
}

// Storage is a form in which objects are stored that is not that of other kinds.
type Storage[T any] struct {
	Encode func(*T) ([]byte, error)
	Decode func([]byte) (*T, error)
}

// WithStorage gives the kind its own form in storage.
func WithStorage[T any](t *Type[T], s *Storage[T]) *Type[T] {
	t.EncodeStored = func(o Object) ([]byte, error) { return s.Encode(cast[T](o)) }
	t.DecodeStored = func(value []byte) (Object, error) {
		v, err := s.Decode(value)
		return any(v).(Object), err
	}
	return t
}

// Cast returns the typed form of an object of this kind.
func (*Type[T]) Cast(o Object) *T { return cast[T](o) }

// Erase returns the object form of a typed pointer.
func (*Type[T]) Erase(t *T) Object { return any(t).(Object) }

func cast[T any](o Object) *T {
	t, ok := any(o).(*T)
	if !ok {
		panic(fmt.Sprintf("resource: got %T, want %T", o, t))
	}
	return t
}

func erase[T any](f func(*T)) func(Object) {
	if f == nil {
		return nil
	}
	return func(o Object) { f(cast[T](o)) }
}

func erase2[T any](f func(a, b *T)) func(a, b Object) {
	if f == nil {
		return nil
	}
	return func(a, b Object) { f(cast[T](a), cast[T](b)) }
}

func eraseResult[T, R any](f func(*T) R) func(Object) R {
	if f == nil {
		return nil
	}
	return func(o Object) R { return f(cast[T](o)) }
}

func eraseShare[T any](f func(*T, *Shared)) func(Object, *Shared) {
	if f == nil {
		return nil
	}
	return func(o Object, s *Shared) { f(cast[T](o), s) }
}

func eraseErrors2[T any](f func(a, b *T) field.ErrorList) func(a, b Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(a, b Object) field.ErrorList { return f(cast[T](a), cast[T](b)) }
}

func eraseWarnings2[T any](f func(a, b *T) []string) func(a, b Object) []string {
	if f == nil {
		return nil
	}
	return func(a, b Object) []string { return f(cast[T](a), cast[T](b)) }
}

func eraseScale[T any](s *Scale[T]) *KindScale {
	get, set := s.Get, s.Set
	return &KindScale{
		Path: s.Path,
		Set:  func(o Object, n int32) { set(cast[T](o), n) },
		Get: func(o Object) *autoscalingv1.Scale {
			want, have, selector := get(cast[T](o))
			return &autoscalingv1.Scale{
				ObjectMeta: metav1.ObjectMeta{
					Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(),
					ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp(),
				},
				Spec:   autoscalingv1.ScaleSpec{Replicas: want},
				Status: autoscalingv1.ScaleStatus{Replicas: have, Selector: selector},
			}
		},
	}
}

// Stored says that the objects of this kind are those of another one, the hub, in another form.
type Stored struct {
	Hub *Kind
	// ToHub and FromHub return new objects; they lose nothing that the other form can hold.
	ToHub, FromHub func(Object) (Object, error)
	// FromHubAll, if set, is FromHub for many objects, which costs less than one at a time.
	FromHubAll func([]Object) ([]Object, error)
}

// StoredAs makes t a second form of hub's objects (events.k8s.io Events of core Events, say).
func StoredAs[T, H any](t *Type[T], hub *Type[H], to func(*T) (*H, error), from func(*H) (*T, error)) *Type[T] {
	t.Stored = &Stored{
		Hub: hub.Kind,
		ToHub: func(o Object) (Object, error) {
			h, err := to(cast[T](o))
			return any(h).(Object), err
		},
		FromHub: func(o Object) (Object, error) {
			f, err := from(cast[H](o))
			return any(f).(Object), err
		},
	}
	t.StoragePath = hub.StoragePath
	return t
}
