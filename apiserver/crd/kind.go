// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"

	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
)

// Kinds makes the kinds of an established definition: the one that is stored, and all that are served, of which it may be one.
func Kinds(d *apiextensionsv1.CustomResourceDefinition, converter Converter, figures *Figures) (hub *resource.Kind, served []*resource.Kind, err error) {
	r := &family{definition: d, schemas: map[string]*compiled{}, converter: converter}
	r.types = sync.OnceValues(func() (managedfields.TypeConverter, error) { return mergeTypes(d) })
	made := make([]*resource.Kind, len(d.Spec.Versions))
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		if r.schemas[v.Name], err = compile(d, v, figures); err != nil {
			return nil, nil, err
		}
		if made[i], err = r.kind(v); err != nil {
			return nil, nil, fmt.Errorf("version %s: %w", v.Name, err)
		}
		if v.Storage {
			hub = made[i]
		}
	}
	if hub == nil {
		return nil, nil, fmt.Errorf("definition %s stores no version", d.Name)
	}
	r.hub = hub
	hub.Custom.Stored = r.fromStorage
	for i, k := range made {
		if k != hub {
			k.Stored = &resource.Stored{
				Hub: hub,
				ToHub: func(o resource.Object) (resource.Object, error) {
					stored, err := r.convert(o, hub)
					if err == nil {
						r.schemas[hub.Version].applyDefaults(asCustom(stored)) // as when it is read
					}
					return stored, err
				},
				FromHub:    func(o resource.Object) (resource.Object, error) { return r.convert(o, k) },
				FromHubAll: func(list []resource.Object) ([]resource.Object, error) { return r.convertMany(list, k) },
			}
		}
		if d.Spec.Versions[i].Served {
			served = append(served, k)
		}
	}
	return hub, served, nil
}

// family is what the versions of one definition share.
type family struct {
	definition *apiextensionsv1.CustomResourceDefinition
	hub        *resource.Kind
	schemas    map[string]*compiled // by version
	types      func() (managedfields.TypeConverter, error)
	converter  Converter
}

func (r *family) kind(v *apiextensionsv1.CustomResourceDefinitionVersion) (*resource.Kind, error) {
	k, s := extension.Kind(r.definition, v), r.schemas[v.Name]
	k.NeedsRevision, k.Custom.Warning = true, r.warning(v)
	hasStatus := v.Subresources != nil && v.Subresources.Status != nil
	k.Custom.Types = r.types
	k.Custom.Convert = func(o resource.Object) (resource.Object, error) { return r.convertWhole(o, k) }
	k.Custom.Coerce = func(o resource.Object) ([]string, error) {
		u := asCustom(o)
		var unknown []string
		err := r.schemaOf(u).coerce(u, false, &unknown)
		slices.Sort(unknown)
		return unknown, err
	}
	k.Default = func(o resource.Object) { s.applyDefaults(asCustom(o)) }
	k.PrepareCreate = func(o resource.Object) {
		u := asCustom(o)
		if hasStatus {
			delete(u.Object, "status")
		}
		u.SetGeneration(1)
		_ = s.coerce(u, false, nil) // admission may have put in more than there may be; what is wrong is found by validation
	}
	k.PrepareUpdate = func(o, before resource.Object) {
		_ = s.coerce(asCustom(o), false, nil)
		prepareUpdate(asCustom(o), asCustom(before), hasStatus)
	}
	k.WarningsCreate = func(o resource.Object) []string { return finalizerWarnings(o.GetFinalizers(), nil) }
	k.WarningsUpdate = func(o, before resource.Object) []string {
		return finalizerWarnings(o.GetFinalizers(), before.GetFinalizers())
	}
	var scale *apiextensionsv1.CustomResourceSubresourceScale
	if v.Subresources != nil {
		scale = v.Subresources.Scale
	}
	problems := func(o, before resource.Object) field.ErrorList {
		var old *unstructured.Unstructured
		if before != nil {
			old = asCustom(before)
		}
		if errs := typeProblems(k, asCustom(o)); len(errs) > 0 {
			return errs
		}
		return append(s.problems(context.Background(), asCustom(o), old), scaleProblems(scale, asCustom(o))...)
	}
	k.ValidateCreate = func(o resource.Object) field.ErrorList { return problems(o, nil) }
	k.ValidateUpdate = problems
	if hasStatus {
		k.Status = &resource.KindStatus{
			KeepMetadata: true,
			Prepare:      func(o, before resource.Object) { prepareStatus(asCustom(o), asCustom(before)) },
			Validate: func(o, before resource.Object) field.ErrorList {
				return append(s.statusProblems(context.Background(), asCustom(o), asCustom(before)), scaleProblems(scale, asCustom(o))...)
			},
		}
	}
	if scale != nil {
		k.Scale = scaleOf(scale)
	}
	var err error
	if k.Columns, err = columns(v.AdditionalPrinterColumns); err != nil {
		return nil, err
	}
	r.selectable(k, v)
	return k, nil
}

// schemaOf is the schema of the version that an object states; nothing is known of versions that there are not.
func (r *family) schemaOf(u *unstructured.Unstructured) *compiled {
	gvk := u.GroupVersionKind()
	if s := r.schemas[gvk.Version]; s != nil && gvk.Group == r.definition.Spec.Group {
		return s
	}
	return unknownSchema()
}

// fromStorage prunes and defaults an object as its version wants it, and brings it into the stored version.
func (r *family) fromStorage(o resource.Object) (resource.Object, error) {
	u := asCustom(o)
	s := r.schemaOf(u)
	if err := s.coerce(u, true, nil); err != nil {
		return nil, err
	}
	if u.GetGeneration() == 0 {
		u.SetGeneration(1)
	}
	s.applyDefaults(u)
	if u.GetAPIVersion() == r.hub.GroupVersion().String() {
		return u, nil
	}
	return r.convert(u, r.hub)
}

// selectable sets the fields that selectors may name.
func (r *family) selectable(k *resource.Kind, v *apiextensionsv1.CustomResourceDefinitionVersion) {
	if len(v.SelectableFields) == 0 {
		return
	}
	paths := make([][]string, len(v.SelectableFields))
	for i, f := range v.SelectableFields {
		paths[i] = fieldPath(f.JSONPath)
		k.FieldNames = append(k.FieldNames, f.JSONPath[1:])
	}
	k.Fields = func(o resource.Object) fields.Set {
		set := fields.Set{}
		for i, path := range paths {
			value, found, err := unstructured.NestedFieldNoCopy(asCustom(o).Object, path...)
			if err == nil && found && value != nil {
				set[k.FieldNames[i]] = fmt.Sprint(value)
			} else {
				set[k.FieldNames[i]] = ""
			}
		}
		return set
	}
}

// prepareUpdate takes status from the old object if it is a subresource, and raises the generation when more than metadata
// changed.
func prepareUpdate(u, old *unstructured.Unstructured, hasStatus bool) {
	if hasStatus {
		if status, ok := old.Object["status"]; ok {
			u.Object["status"] = status
		} else {
			delete(u.Object, "status")
		}
	}
	if !equality.Semantic.DeepEqual(content(u), content(old)) {
		u.SetGeneration(old.GetGeneration() + 1)
	}
}

// content is an object without metadata.
func content(u *unstructured.Unstructured) map[string]any {
	out := make(map[string]any, len(u.Object))
	for key, value := range u.Object {
		if key != "metadata" && key != "apiVersion" && key != "kind" {
			out[key] = value
		}
	}
	return out
}

// prepareStatus takes everything but status and the owners of fields from the old object.
func prepareStatus(u, old *unstructured.Unstructured) {
	status, has := u.Object["status"]
	owners := u.GetManagedFields()
	u.Object = old.DeepCopy().Object
	delete(u.Object, "status")
	if has {
		u.Object["status"] = status
	}
	u.SetManagedFields(owners)
}

// warning is what every answer of a deprecated version says: what the definition wants, or which version to use.
func (r *family) warning(v *apiextensionsv1.CustomResourceDefinitionVersion) string {
	if !v.Deprecated {
		return ""
	}
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	name := func(version string) string {
		return r.definition.Spec.Group + "/" + version + " " + r.definition.Status.AcceptedNames.Kind
	}
	best := ""
	for _, other := range r.definition.Spec.Versions {
		newer := version.CompareKubeAwareVersionStrings(other.Name, v.Name) > 0
		if other.Served && !other.Deprecated && newer && (best == "" || version.CompareKubeAwareVersionStrings(other.Name, best) > 0) {
			best = other.Name
		}
	}
	if best == "" {
		return name(v.Name) + " is deprecated"
	}
	return name(v.Name) + " is deprecated; use " + name(best)
}

// finalizerWarnings are about new finalizers without a domain, which only custom resources may have.
func finalizerWarnings(finalizers, before []string) (out []string) {
	for _, f := range finalizers {
		switch {
		case slices.Contains(before, f), strings.Contains(f, "/"), f == metav1.FinalizerOrphanDependents, f == metav1.FinalizerDeleteDependents, f == "kubernetes":
		default:
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", f))
		}
	}
	return out
}
