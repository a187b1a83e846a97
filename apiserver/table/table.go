// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package table renders objects as the tables that kubectl get shows (meta.k8s.io Table), from the columns of their kind.
//
// It adds a first column Name and, behind the last column that is not wide, a column Age, unless the kind has columns
// of its own in their place. It is pure: what objects there are and who asked is the caller's business. Start with Of.
package table

import (
	"fmt"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
)

// Options say how a table is rendered.
type Options struct {
	// Version is that of meta.k8s.io, v1 or v1beta1, for the objects in rows; v1 unless set.
	Version string
	// Include says what each row carries beside its cells: nothing, its metadata (also if empty) or the object.
	Include metav1.IncludeObjectPolicy
	// NoHeaders leaves out the column definitions: in a watch, only the first table has them.
	NoHeaders bool
	// Now is what ages are counted to.
	Now time.Time

	kind *resource.Kind
}

// Row is one object of a table.
type Row struct {
	Object resource.Object
	// JSON returns its encoding without kind and apiVersion if there is one already; may be nil.
	JSON func() ([]byte, error)
}

// ParseInclude reads the query parameter includeObject.
func ParseInclude(value string) (metav1.IncludeObjectPolicy, error) {
	switch p := metav1.IncludeObjectPolicy(value); p {
	case "", metav1.IncludeMetadata:
		return metav1.IncludeMetadata, nil
	case metav1.IncludeNone, metav1.IncludeObject:
		return p, nil
	}
	problem := field.Invalid(field.NewPath("includeObject"), value, "must be 'Metadata', 'Object', 'None', or empty")
	return "", apierrors.NewBadRequest(fmt.Sprintf("Unable to convert to Table as requested: %v", problem))
}

// Of renders objects of a kind. meta is that of their list; of a single object, ObjectMeta gives it.
func Of(kind *resource.Kind, rows []Row, meta metav1.ListMeta, o Options) (*metav1.Table, error) {
	o.kind = kind
	return render(layoutOf(kind), kind.GroupVersionKind, rows, meta, o)
}

// ObjectMeta is the metadata of a table of one object.
func ObjectMeta(obj resource.Object) metav1.ListMeta {
	return metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()}
}

// Scale renders a scale.
func Scale(s *autoscalingv1.Scale, o Options) (*metav1.Table, error) {
	columns := []column{
		{definition: metav1.TableColumnDefinition{Name: "Name", Type: "string", Description: metaDoc("name")},
			value: func(obj resource.Object, _ time.Time) any { return obj.GetName() }},
		{definition: metav1.TableColumnDefinition{Name: "Desired", Type: "integer", Description: autoscalingv1.ScaleSpec{}.SwaggerDoc()["replicas"]},
			value: func(resource.Object, time.Time) any { return int64(s.Spec.Replicas) }},
		{definition: metav1.TableColumnDefinition{Name: "Available", Type: "integer", Description: autoscalingv1.ScaleStatus{}.SwaggerDoc()["replicas"]},
			value: func(resource.Object, time.Time) any { return int64(s.Status.Replicas) }},
		ageColumn(),
	}
	gvk := autoscalingv1.SchemeGroupVersion.WithKind("Scale")
	return render(columns, gvk, []Row{{Object: s}}, ObjectMeta(s), o)
}

type column struct {
	definition metav1.TableColumnDefinition
	value      func(resource.Object, time.Time) any
}

func render(columns []column, gvk schema.GroupVersionKind, rows []Row, meta metav1.ListMeta, o Options) (*metav1.Table, error) {
	t := &metav1.Table{ListMeta: meta, Rows: make([]metav1.TableRow, 0, len(rows))}
	if !o.NoHeaders {
		for _, c := range columns {
			if c.definition.Name == "" {
				continue // a cell without a header, as Kubernetes has for the age of IPAddresses
			}
			t.ColumnDefinitions = append(t.ColumnDefinitions, described(o.kind, c.definition))
		}
	}
	for _, r := range rows {
		row := metav1.TableRow{Cells: make([]any, len(columns))}
		for i, c := range columns {
			row.Cells[i] = c.value(r.Object, o.Now)
		}
		if o.Include != metav1.IncludeNone {
			raw, err := encode(gvk, r, o)
			if err != nil {
				return nil, err
			}
			row.Object = runtime.RawExtension{Raw: raw}
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

func encode(gvk schema.GroupVersionKind, r Row, o Options) ([]byte, error) {
	if o.Include == metav1.IncludeObject {
		if r.JSON == nil {
			return codec.EncodeJSON(gvk, r.Object)
		}
		b, err := r.JSON()
		if err != nil {
			return nil, err
		}
		return codec.WithKind(make([]byte, 0, len(b)+64), gvk, b), nil
	}
	version := o.Version
	if version == "" {
		version = "v1"
	}
	partial := schema.GroupVersionKind{Group: "meta.k8s.io", Version: version, Kind: "PartialObjectMetadata"}
	meta := metadata(r.Object)
	if o.kind != nil {
		meta = o.kind.Shown(meta)
	}
	return codec.EncodeJSON(partial, &metav1.PartialObjectMetadata{ObjectMeta: meta})
}

// metadata is that of any object, shared with it.
func metadata(obj resource.Object) metav1.ObjectMeta {
	if a, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			return *m
		}
	}
	var p metav1.PartialObjectMetadata
	if u, ok := obj.(*unstructured.Unstructured); ok {
		content := map[string]any{"metadata": u.Object["metadata"]}
		if runtime.DefaultUnstructuredConverter.FromUnstructured(content, &p) == nil {
			return p.ObjectMeta
		}
	}
	return metav1.ObjectMeta{Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion()}
}

// layoutOf lists the columns of a kind with the ones that are added.
func layoutOf(kind *resource.Kind) []column {
	if kind.Custom != nil && len(kind.Columns) > 0 { // which say all that they want
		out := []column{nameColumn()}
		for _, c := range kind.Columns {
			out = append(out, kindColumn(c))
		}
		return out
	}
	if kind.Custom != nil {
		age := ageColumn()
		age.definition.Type = "date"
		return []column{nameColumn(), age}
	}
	own := map[string]bool{}
	behind := 0 // of the last column that is not wide
	for i, c := range kind.Columns {
		own[c.Name] = true
		if !c.Wide {
			behind = i + 1
		}
	}
	var out []column
	if !own["Name"] {
		out = append(out, nameColumn())
	}
	hasAge := kind.Ageless || own["Age"] || own["Created At"] || own["Last Seen"] || own[""]
	for i, c := range kind.Columns {
		if i == behind && !hasAge {
			out = append(out, ageColumn())
		}
		out = append(out, kindColumn(c))
	}
	if behind == len(kind.Columns) && !hasAge {
		out = append(out, ageColumn())
	}
	return out
}

func kindColumn(c resource.KindColumn) column {
	d := metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description}
	if d.Type == "" {
		d.Type = "string"
	}
	if c.Name == "Name" && d.Format == "" && c.Priority == 0 {
		d.Format = "name"
	}
	d.Priority = c.Priority
	if c.Wide {
		d.Priority = 1
	}
	return column{definition: d, value: c.Value}
}

func nameColumn() column {
	return column{
		definition: metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metaDoc("name")},
		value:      func(obj resource.Object, _ time.Time) any { return obj.GetName() },
	}
}

func ageColumn() column {
	return column{
		definition: metav1.TableColumnDefinition{Name: "Age", Type: "string", Description: metaDoc("creationTimestamp")},
		value:      func(obj resource.Object, now time.Time) any { return age(obj.GetCreationTimestamp(), now) },
	}
}

func metaDoc(name string) string { return metav1.ObjectMeta{}.SwaggerDoc()[name] }

// age is how long ago t was, as kubectl shows it: 5d3h.
func age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}
