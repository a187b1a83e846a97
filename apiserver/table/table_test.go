// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package table_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api"
	"knarr.dev/api/codec"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/table"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func configMap() *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", ResourceVersion: "7", CreationTimestamp: metav1.NewTime(start)},
		Data:       map[string]string{"k": "v"},
	}
}

func header(t *metav1.Table) string {
	var names []string
	for _, c := range t.ColumnDefinitions {
		names = append(names, fmt.Sprintf("%s/%s/%s/%d", c.Name, c.Type, c.Format, c.Priority))
	}
	return strings.Join(names, " ")
}

func TestTable(t *testing.T) {
	rows := []table.Row{{Object: configMap()}}
	meta := table.ObjectMeta(configMap())
	for _, c := range []struct {
		name    string
		options table.Options
		want    string
	}{
		{"metadata", table.Options{NoHeaders: true, Now: start.Add(90 * time.Second)},
			`{"metadata":{"resourceVersion":"7"},"columnDefinitions":null,"rows":[{"cells":["a",1,"90s"],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"a","namespace":"n","resourceVersion":"7","creationTimestamp":"2026-01-02T03:04:05Z"}}}]}`},
		{"none", table.Options{NoHeaders: true, Include: metav1.IncludeNone, Now: start.Add(50 * time.Hour)},
			`{"metadata":{"resourceVersion":"7"},"columnDefinitions":null,"rows":[{"cells":["a",1,"2d2h"],"object":null}]}`},
		{"object", table.Options{NoHeaders: true, Include: metav1.IncludeObject, Now: start},
			`{"metadata":{"resourceVersion":"7"},"columnDefinitions":null,"rows":[{"cells":["a",1,"0s"],"object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"n","resourceVersion":"7","creationTimestamp":"2026-01-02T03:04:05Z"},"data":{"k":"v"}}}]}`},
	} {
		got, err := table.Of(core.ConfigMaps.Kind, rows, meta, c.options)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := json.Marshal(got); err != nil || string(b) != c.want {
			t.Errorf("%s: %v\ngot  %s\nwant %s", c.name, err, b, c.want)
		}
	}
}

func TestHeaders(t *testing.T) {
	value := func(resource.Object, time.Time) any { return "" }
	of := func(columns ...resource.KindColumn) string {
		out, err := table.Of(&resource.Kind{Columns: columns}, nil, metav1.ListMeta{}, table.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return header(out)
	}
	for _, c := range []struct{ got, want string }{
		{of(), "Name/string/name/0 Age/string//0"},
		{of(resource.KindColumn{Name: "A", Type: "integer", Value: value}, resource.KindColumn{Name: "B", Wide: true, Value: value}),
			"Name/string/name/0 A/integer//0 Age/string//0 B/string//1"},
		{of(resource.KindColumn{Name: "Last Seen", Value: value}, resource.KindColumn{Name: "Name", Wide: true, Value: value}),
			"Last Seen/string//0 Name/string/name/1"},
		{of(resource.KindColumn{Name: "Age", Value: value}, resource.KindColumn{Name: "Z", Value: value}),
			"Name/string/name/0 Age/string//0 Z/string//0"},
	} {
		if c.got != c.want {
			t.Errorf("got  %s\nwant %s", c.got, c.want)
		}
	}
}

// TestKinds renders an empty object of every kind with its defaults: columns must not lean on fields that may be missing.
func TestKinds(t *testing.T) {
	for _, k := range api.Kinds() {
		obj := k.New()
		if k.Default != nil {
			k.Default(obj)
		}
		if _, err := table.Of(k, []table.Row{{Object: obj}}, metav1.ListMeta{}, table.Options{Now: start}); err != nil {
			t.Errorf("%s: %v", k.Kind, err)
		}
	}
}

func TestScale(t *testing.T) {
	s := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 3}, Status: autoscalingv1.ScaleStatus{Replicas: 2}}
	s.Name = "d"
	got, err := table.Scale(s, table.Options{Now: start})
	if err != nil || fmt.Sprint(got.Rows[0].Cells) != "[d 3 2 <unknown>]" {
		t.Errorf("%v %v", got.Rows, err)
	}
}

func TestParseInclude(t *testing.T) {
	if _, err := table.ParseInclude("Bogus"); err == nil ||
		err.Error() != `Unable to convert to Table as requested: includeObject: Invalid value: "Bogus": must be 'Metadata', 'Object', 'None', or empty` {
		t.Error(err)
	}
}

func TestAppendIsTheEncodedTable(t *testing.T) {
	odd := configMap()
	odd.Annotations = map[string]string{"a": `quote " slash \\" <tag> é` + "\n", `"`: "}"}
	odd.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{}}`)}}
	empty := &corev1.ConfigMap{}
	for _, o := range []table.Options{
		{Now: start}, {Now: start, Version: "v1beta1", NoHeaders: true},
		{Now: start, Include: metav1.IncludeNone}, {Now: start, Include: metav1.IncludeObject},
	} {
		var rows []table.Row
		for _, m := range []*corev1.ConfigMap{configMap(), odd, empty} {
			rows = append(rows, table.Row{Object: m, JSON: func() ([]byte, error) { return codec.MarshalJSON(m) }})
		}
		meta := metav1.ListMeta{ResourceVersion: "9", Continue: "more"}
		value, err := table.Of(core.ConfigMaps.Kind, rows, meta, o)
		if err != nil {
			t.Fatal(err)
		}
		version := o.Version
		if version == "" {
			version = "v1"
		}
		want, err := codec.EncodeJSON(schema.GroupVersionKind{Group: "meta.k8s.io", Version: version, Kind: "Table"}, value)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := table.Append(nil, core.ConfigMaps.Kind, rows, meta, o); err != nil || string(got) != string(want) {
			t.Errorf("%v\ngot  %s\nwant %s", err, got, want)
		}
	}
}

// Each text in descriptions.txt is the header of a column that there is.
func TestDescriptions(t *testing.T) {
	lines, err := os.ReadFile("descriptions.txt")
	if err != nil {
		t.Fatal(err)
	}
	headers := map[string]string{}
	for _, k := range api.Kinds() {
		made, err := table.Of(k, nil, metav1.ListMeta{}, table.Options{Now: start})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range made.ColumnDefinitions {
			headers[k.Group+"/"+k.Resource+"\t"+c.Name] = c.Description
		}
	}
	for line := range strings.Lines(string(lines)) {
		at := strings.LastIndexByte(line, '\t')
		got, ok := headers[line[:at]]
		if want := strings.ReplaceAll(strings.TrimSpace(line[at+1:]), `\n`, "\n"); !ok || got == "" || want[0] != '{' && got != want {
			t.Errorf("%q: got %q", line[:at], got)
		}
	}
}
