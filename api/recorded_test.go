// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
)

// recorded is one line of testdata: what Kubernetes v1.36 answered to a create, an update or an update of status, without
// problems of metadata, which no kind looks into itself. A line with a name is an object for others to change.
type recorded struct {
	Name   string          `json:"name"`
	Object json.RawMessage `json:"object"`

	Resource string          `json:"resource"`
	Create   json.RawMessage `json:"create"`
	Old      string          `json:"old"`
	Patch    json.RawMessage `json:"patch"` // a merge patch
	Status   bool            `json:"status"`

	Causes   []string       `json:"causes"`
	Warnings []string       `json:"warnings"`
	Want     map[string]any `json:"want"` // those parts of the answer are compared that are here
}

const recordedUID = "00000000-0000-0000-0000-000000000000"

// TestRecordedAnswers holds defaults, preparation, rules and warnings of the workload kinds against recorded answers.
func TestRecordedAnswers(t *testing.T) {
	file, err := os.Open("testdata/workloads.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	byResource, objects := map[string]*resource.Kind{}, map[string]json.RawMessage{}
	for _, k := range Kinds() {
		byResource[k.GroupVersion().String()+"/"+k.Resource] = k
	}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var r recorded
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		if r.Name != "" {
			objects[r.Name] = r.Object
			continue
		}
		k := byResource[r.Resource]
		if k == nil {
			t.Fatalf("line %d: %s is not served", n, r.Resource)
		}
		var got answer
		if r.Create != nil {
			got = createAsServed(t, k, r.Create)
		} else {
			got = updateAsServed(t, k, objects[r.Old], r.Patch, r.Status)
		}
		check(t, n, k, &r, got)
	}
}

type answer struct {
	object   resource.Object // as stored
	problems field.ErrorList
	warnings []string
}

func decoded(t *testing.T, k *resource.Kind, text []byte) resource.Object {
	t.Helper()
	obj := k.New()
	if _, err := codec.Decode(codec.JSON, text, obj); err != nil {
		t.Fatalf("decode %s: %v", text, err)
	}
	if k.Default != nil {
		k.Default(obj)
	}
	return obj
}

// stored is the kind and form in which an object is kept.
func stored(t *testing.T, k *resource.Kind, obj resource.Object) (*resource.Kind, resource.Object) {
	t.Helper()
	if k.Stored == nil {
		return k, obj
	}
	hub, err := k.Stored.ToHub(obj)
	if err != nil {
		t.Fatal(err)
	}
	return k.Stored.Hub, hub
}

func createAsServed(t *testing.T, k *resource.Kind, text []byte) (a answer) {
	t.Helper()
	obj := decoded(t, k, text)
	obj.SetUID(recordedUID)
	for _, warn := range []func(resource.Object) []string{k.WarningsCreate, k.Warnings} {
		if warn != nil {
			a.warnings = append(a.warnings, warn(obj)...)
		}
	}
	hub, obj := stored(t, k, obj)
	if hub.PrepareCreate != nil {
		hub.PrepareCreate(obj)
	}
	for _, validate := range []func(resource.Object) field.ErrorList{hub.Validate, hub.ValidateCreate} {
		if validate != nil {
			a.problems = append(a.problems, validate(obj)...)
		}
	}
	if hub.Default != nil {
		hub.Default(obj)
	}
	a.object = obj
	return a
}

func updateAsServed(t *testing.T, k *resource.Kind, before, patch []byte, status bool) (a answer) {
	t.Helper()
	_, old := stored(t, k, decoded(t, k, before))
	var object, change map[string]any
	if json.Unmarshal(before, &object) != nil || json.Unmarshal(patch, &change) != nil {
		t.Fatalf("%s or %s is no object", before, patch)
	}
	text, err := json.Marshal(merged(object, change))
	if err != nil {
		t.Fatal(err)
	}
	hub, obj := stored(t, k, decoded(t, k, text))
	if k.Stored != nil && k.ValidateCreate != nil { // a form with rules of its own
		hub, obj, old = k, decoded(t, k, text), decoded(t, k, before)
	}
	a.object = obj
	if status {
		hub.Status.Prepare(obj, old)
		if hub.Status.Validate != nil {
			a.problems = hub.Status.Validate(obj, old)
		}
		return a
	}
	if hub.PrepareUpdate != nil {
		hub.PrepareUpdate(obj, old)
	}
	if hub.Validate != nil {
		a.problems = append(a.problems, hub.Validate(obj)...)
	}
	if hub.ValidateUpdate != nil {
		a.problems = append(a.problems, hub.ValidateUpdate(obj, old)...)
	}
	switch {
	case hub.WarningsUpdate != nil:
		a.warnings = hub.WarningsUpdate(obj, old)
	case hub.Warnings != nil:
		a.warnings = hub.Warnings(obj)
	}
	return a
}

// merged applies a merge patch (RFC 7386).
func merged(object, patch map[string]any) map[string]any {
	if object == nil {
		object = map[string]any{}
	}
	for key, value := range patch {
		switch v := value.(type) {
		case nil:
			delete(object, key)
		case map[string]any:
			inner, _ := object[key].(map[string]any)
			object[key] = merged(inner, v)
		default:
			object[key] = value
		}
	}
	return object
}

func check(t *testing.T, line int, k *resource.Kind, r *recorded, got answer) {
	t.Helper()
	var causes []string
	for _, p := range got.problems {
		causes = append(causes, p.Field+": "+p.ErrorBody())
	}
	if !slices.Equal(causes, r.Causes) {
		t.Errorf("line %d: %s: causes are\n%s\nwant\n%s", line, r.Resource, strings.Join(causes, "\n"), strings.Join(r.Causes, "\n"))
		return
	}
	if len(causes) > 0 {
		return
	}
	if !slices.Equal(got.warnings, r.Warnings) {
		t.Errorf("line %d: %s: warnings are %q, want %q", line, r.Resource, got.warnings, r.Warnings)
	}
	obj := got.object
	if k.Stored != nil {
		var err error
		if obj, err = k.Stored.FromHub(obj); err != nil {
			t.Fatal(err)
		}
	}
	text, err := codec.MarshalJSON(obj)
	if err != nil {
		t.Fatal(err)
	}
	var have map[string]any
	if err := json.Unmarshal(text, &have); err != nil {
		t.Fatal(err)
	}
	for part, want := range r.Want {
		value := have[part]
		if part == "metadata" {
			value = partOf(value, "labels", "annotations", "generation")
		}
		if !reflect.DeepEqual(value, want) {
			a, _ := json.Marshal(value)
			b, _ := json.Marshal(want)
			if !bytes.Equal(a, b) {
				t.Errorf("line %d: %s: %s is\n%s\nwant\n%s", line, r.Resource, part, a, b)
			}
		}
	}
}

func partOf(value any, keys ...string) map[string]any {
	out := map[string]any{}
	object, _ := value.(map[string]any)
	for _, key := range keys {
		if v, ok := object[key]; ok {
			out[key] = v
		}
	}
	return out
}
