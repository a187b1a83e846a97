// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/api"
	"knarr.dev/api/resource"
)

// generator fills objects with random values, many of them alike. Items of lists have no empty lists and maps in them:
// the library takes those for other than none where lists are compared as a whole, though JSON shows neither.
type generator struct {
	*rand.Rand
	items bool
}

// size is how many items to make; negative is none.
func (g generator) size(depth int) int {
	if n := g.IntN(6) - 2; depth > 0 && (n != 0 || !g.items) {
		return n
	}
	return -1
}

func (g generator) fill(v reflect.Value, depth int) {
	if !v.CanSet() {
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *metav1.Time:
		if g.IntN(3) > 0 {
			*p = metav1.NewTime(time.Unix(int64(g.IntN(3)), int64(g.IntN(2))))
		}
		return
	case *metav1.MicroTime:
		*p = metav1.NewMicroTime(time.Unix(int64(g.IntN(2)), int64(g.IntN(3))*1000))
		return
	case *quantity.Quantity:
		*p = quantity.MustParse([]string{"1", "1000m", "2Gi", "0"}[g.IntN(4)])
		return
	case *intstr.IntOrString:
		*p = intstr.Parse([]string{"1", "2", "http", "25%"}[g.IntN(4)])
		return
	case *runtime.RawExtension:
		p.Raw = []byte(`{"a":1}`)
		return
	case *[]metav1.ManagedFieldsEntry, *metav1.TypeMeta:
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(g.IntN(2) == 0)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(g.IntN(3)))
	case reflect.Float64:
		v.SetFloat(float64(g.IntN(3)) / 2)
	case reflect.String:
		v.SetString([]string{"", "a", "b", "a-b", "z.y/x", "A", "c c", "ü", `q"`}[min(g.IntN(12), 8-g.IntN(2)*2)])
	case reflect.Pointer:
		if g.IntN(3) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			g.fill(v.Elem(), depth-1)
		}
	case reflect.Slice:
		if n := g.size(depth); n >= 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			g.items = true
			for i := range n {
				g.fill(v.Index(i), depth-1)
			}
		}
	case reflect.Map:
		if n := g.size(depth); n >= 0 {
			v.Set(reflect.MakeMap(v.Type()))
			for range n {
				key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				g.fill(key, depth-1)
				g.fill(elem, depth-1)
				v.SetMapIndex(key, elem)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if g.IntN(3) == 0 || v.Type().Field(i).Name == "ObjectMeta" || v.NumField() < 5 {
				g.fill(v.Field(i), depth)
			}
		}
	}
}

// mutate changes some of an object.
func (g generator) mutate(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		switch v.Addr().Interface().(type) {
		case *metav1.Time, *metav1.MicroTime, *quantity.Quantity, *intstr.IntOrString, *runtime.RawExtension, *metav1.TypeMeta:
			g.fill(v, depth)
			return
		}
		for i := range v.NumField() {
			if g.IntN(3) == 0 {
				g.mutate(v.Field(i), depth)
			}
		}
	case reflect.Pointer:
		if !v.IsNil() && g.IntN(3) > 0 {
			g.mutate(v.Elem(), depth)
			return
		}
		g.fill(v, depth)
	case reflect.Slice:
		if _, ok := v.Addr().Interface().(*[]metav1.ManagedFieldsEntry); ok {
			return
		}
		switch n := v.Len(); {
		case n > 1 && g.IntN(4) == 0:
			reflect.Swapper(v.Interface())(0, n-1)
		case n > 0 && g.IntN(2) == 0:
			g.items = true
			g.mutate(v.Index(g.IntN(n)), depth)
		default:
			g.fill(v, depth)
		}
	default:
		g.fill(v, depth)
	}
}

// TestUpdateAgainstLibrary lets managers change random objects, by the fast way and by the library's.
func TestUpdateAgainstLibrary(t *testing.T) {
	f := New(api.Kinds())
	var fast, all int
	for _, kind := range api.Kinds() {
		if kind.Virtual {
			continue
		}
		for seed := range uint64(6) {
			g := generator{Rand: rand.New(rand.NewPCG(seed, 1))}
			live := kind.New()
			for step := range 12 {
				quick, total, next := g.step(t, f, kind, live, fmt.Sprintf("%s seed %d step %d", kind.Kind, seed, step))
				if fast, all = fast+quick, all+total; next == nil {
					break
				}
				live = next
			}
		}
	}
	t.Logf("%d of %d updates took the fast way", fast, all)
	if fast*2 < all {
		t.Errorf("only %d of %d updates took the fast way", fast, all)
	}
}

func (g generator) step(t *testing.T, f *Fields, kind *resource.Kind, live resource.Object, name string) (fast, all int, next resource.Object) {
	subresource := ""
	if live.GetUID() != "" && kind.Status != nil && g.IntN(3) == 0 {
		subresource = "status"
	}
	m, err := f.Of(kind, subresource)
	if err != nil || m.fast == nil {
		t.Fatalf("%s: no fast way: %v", name, err)
	}
	obj := live.DeepCopyObject().(resource.Object)
	if live.GetUID() == "" {
		g.fill(reflect.ValueOf(obj).Elem(), 5)
	} else {
		g.mutate(reflect.ValueOf(obj).Elem(), 5)
	}
	obj.SetUID(live.GetUID())
	if subresource == "" && g.IntN(4) == 0 {
		obj.SetManagedFields(nil)
	}
	manager := string(rune('a' + g.IntN(14)))
	one, two := obj.DeepCopyObject().(resource.Object), obj.DeepCopyObject().(resource.Object)
	_, err = m.library.Update(live, one, manager)
	if err != nil && strings.Contains(err.Error(), "omits all key fields") {
		return 0, 0, nil // conditions without type, which the library minds in a status too that the write leaves alone
	}
	if err != nil {
		one.SetManagedFields(nil)
	}
	if err != nil && strings.Contains(err.Error(), "omits all key fields") {
		return 0, 0, nil // what validation refuses
	}
	if m.fast.update(live, two, manager, time.Now()) {
		fast = 1
		if got, want := entriesText(two), entriesText(one); got != want || err != nil {
			t.Errorf("%s by %s: fast way:\n%s\nlibrary (%v):\n%s", name, manager, got, err, want)
			return fast, 1, nil
		}
	}
	if err != nil {
		return fast, 1, nil
	}
	wholeSeconds(one)
	one.SetUID("u")
	return fast, 1, one
}

// entriesText shows managedFields with the presence of times.
func entriesText(obj resource.Object) string {
	var lines []string
	for _, e := range obj.GetManagedFields() {
		lines = append(lines, fmt.Sprintf("%s %s %s %s %v %s\n", e.Manager, e.Operation, e.APIVersion, e.Subresource, e.Time != nil, e.FieldsV1.GetRawString()))
	}
	slices.Sort(lines) // times, which come first, may be a second apart
	return strings.Join(lines, "")
}

// TestUpdateKeepsLive makes sure that the live object, which readers share, is not touched.
func TestUpdateKeepsLive(t *testing.T) {
	f := New(api.Kinds())
	kind := api.Kinds()[2]
	m, err := f.Of(kind, "")
	if err != nil {
		t.Fatal(err)
	}
	live := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"a": "b"}}}
	if err := m.Update(kind.New(), live, "one"); err != nil {
		t.Fatal(err)
	}
	live.UID = "u"
	before := live.DeepCopy()
	obj := live.DeepCopy()
	obj.Labels["a"] = "c"
	if err := m.Update(live, obj, "two"); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(before, live) {
		t.Error("live changed")
	}
	if got := entriesText(obj); !strings.Contains(got, `two Update v1  true {"f:metadata":{"f:labels":{"f:a":{}}}}`) {
		t.Error(got)
	}
}

// TestTraces makes sure that objects with equal traces have equal descriptions.
func TestTraces(t *testing.T) {
	f := New(api.Kinds())
	hits, all := 0, 0
	for _, kind := range api.Kinds() {
		if kind.Virtual {
			continue
		}
		m, err := f.Of(kind, "")
		if err != nil || m.fast == nil {
			t.Fatalf("%s: no fast way: %v", kind.Kind, err)
		}
		known := map[string]string{}
		for seed := range uint64(60) {
			g := generator{Rand: rand.New(rand.NewPCG(seed, 2))}
			obj := kind.New()
			g.fill(reflect.ValueOf(obj).Elem(), int(seed%5))
			variants := []resource.Object{obj}
			for range 3 {
				other := obj.DeepCopyObject().(resource.Object)
				g.mutate(reflect.ValueOf(other).Elem(), 5)
				variants = append(variants, other)
			}
			for _, v := range variants {
				var tr tracer
				if !tr.trace(m.fast.plan, reflect.ValueOf(v)) {
					continue
				}
				d := new(describer)
				d.describe(m.fast.plan, reflect.ValueOf(kind.New()), reflect.ValueOf(v))
				text := string(d.out)
				if d.gaveUp {
					text = "gave up"
				}
				all++
				had, ok := known[string(tr.out)]
				if ok {
					hits++
				}
				if ok && had != text {
					t.Fatalf("%s seed %d: one trace, two descriptions:\n%s\n%s", kind.Kind, seed, had, text)
				}
				known[string(tr.out)] = text
			}
		}
	}
	t.Logf("%d of %d traces were known", hits, all)
	if hits*20 < all {
		t.Errorf("only %d of %d traces were known", hits, all)
	}
}
