// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"reflect"
	"sync"
	"time"
	"unsafe"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Verdict is what a quick look at two values tells.
type Verdict uint8

// Verdicts. Unsure is for what a quick look cannot tell, such as nil beside empty, or one quantity in two spellings.
const (
	Unsure Verdict = iota
	// Same values are equal in memory: whatever looks at them sees no difference.
	Same
	// Differ says that a field which both JSON and protobuf show has two values, or that two quantities or times do.
	Differ
)

// Comparer compares values of one type of the API in memory, which takes a tenth of the time of reflection or of comparing
// encodings. It is safe for use by several goroutines.
type Comparer struct{ layout *layout }

// NewComparer works out how to compare values of a type. Types are structs of the Kubernetes API or parts of them.
func NewComparer(t reflect.Type) *Comparer { return new(Comparers).Of(t) }

// Comparers makes comparers once for each type. Its zero value is ready, and safe for use by several goroutines.
type Comparers struct {
	made  sync.Map // reflect.Type -> *Comparer
	mu    sync.Mutex
	known map[reflect.Type]*layout // by mu
}

// Of returns the comparer of a type.
func (c *Comparers) Of(t reflect.Type) *Comparer {
	if have, ok := c.made.Load(t); ok {
		return have.(*Comparer)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[reflect.Type]*layout{}
	}
	have, _ := c.made.LoadOrStore(t, &Comparer{layouts(c.known).of(t)})
	return have.(*Comparer)
}

// Compare compares two values. T must be the type of the comparer.
func Compare[T any](c *Comparer, a, b *T) Verdict {
	if reflect.TypeFor[T]() != c.layout.t {
		return Unsure
	}
	return c.layout.compare(unsafe.Pointer(a), unsafe.Pointer(b))
}

// CompareAt compares the values that two pointers of any type point to. The values must be of the type of the comparer.
func (c *Comparer) CompareAt(a, b reflect.Value) Verdict {
	if a.Type().Elem() != c.layout.t || b.Type() != a.Type() {
		return Unsure
	}
	return c.layout.compare(a.UnsafePointer(), b.UnsafePointer())
}

// Type is the type of the values.
func (c *Comparer) Type() reflect.Type { return c.layout.t }

// compareHow is how values of a layout lie in memory.
type compareHow uint8

const (
	compareOther compareHow = iota // by reflection
	comparePlain                   // bytes
	compareString
	comparePointer
	compareSlice
	compareStruct
	compareTexts    // map[string]string
	compareBytes    // map[string][]byte
	compareAmounts  // quantities by name
	compareQuantity // resource.Quantity
	compareTime     // time.Time
)

// layout is a type as it lies in memory.
type layout struct {
	t      reflect.Type
	how    compareHow
	size   uintptr
	elem   *layout
	fields []layoutField
}

type layoutField struct {
	at      uintptr
	layout  *layout
	visible bool // in every encoding
}

// layouts are those of types that are known.
type layouts map[reflect.Type]*layout

func (l layouts) of(t reflect.Type) *layout {
	if have := l[t]; have != nil {
		return have
	}
	out := &layout{t: t, size: t.Size()}
	l[t] = out
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		out.how = comparePlain
	case reflect.String:
		out.how = compareString
	case reflect.Pointer:
		out.how, out.elem = comparePointer, l.of(t.Elem())
	case reflect.Slice:
		out.how, out.elem = compareSlice, l.of(t.Elem())
	case reflect.Map:
		switch {
		case t == reflect.TypeFor[map[string]string]():
			out.how = compareTexts
		case t == reflect.TypeFor[map[string][]byte]():
			out.how = compareBytes
		case t.Key().Kind() == reflect.String && t.Elem() == reflect.TypeFor[resource.Quantity]():
			out.how = compareAmounts
		}
	case reflect.Struct:
		l.structure(out, t)
	}
	return out
}

func (l layouts) structure(out *layout, t reflect.Type) {
	switch t {
	case reflect.TypeFor[resource.Quantity]():
		out.how = compareQuantity
		return
	case reflect.TypeFor[time.Time]():
		out.how = compareTime
		return
	}
	out.how = compareStruct
	opaque := t == reflect.TypeFor[intstr.IntOrString]() || t == reflect.TypeFor[runtime.RawExtension]()
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("protobuf")
		part := layoutField{at: f.Offset, layout: l.of(f.Type)}
		part.visible = !opaque && (tag != "" && tag != "-" || part.layout.how == compareTime)
		out.fields = append(out.fields, part)
	}
}

func (l *layout) compare(a, b unsafe.Pointer) Verdict {
	switch l.how {
	case comparePlain:
		if samePlain(a, b, l.size) {
			return Same
		}
		return Differ
	case compareString:
		if *(*string)(a) == *(*string)(b) {
			return Same
		}
		return Differ
	case comparePointer:
		x, y := *(*unsafe.Pointer)(a), *(*unsafe.Pointer)(b)
		switch {
		case x == y:
			return Same
		case x == nil || y == nil:
			return Differ
		}
		return l.elem.compare(x, y)
	case compareSlice:
		return l.slices(a, b)
	case compareStruct:
		return l.structures(a, b)
	case compareTexts:
		return texts(*(*map[string]string)(a), *(*map[string]string)(b))
	case compareBytes:
		return texts(*(*map[string][]byte)(a), *(*map[string][]byte)(b))
	case compareAmounts:
		return amounts(*(*map[string]resource.Quantity)(a), *(*map[string]resource.Quantity)(b))
	case compareQuantity:
		return quantities((*resource.Quantity)(a), (*resource.Quantity)(b))
	case compareTime:
		x, y := (*time.Time)(a), (*time.Time)(b)
		switch {
		case *x == *y:
			return Same
		case x.Unix() != y.Unix():
			return Differ
		}
		return Unsure
	}
	if reflect.DeepEqual(reflect.NewAt(l.t, a).Elem().Interface(), reflect.NewAt(l.t, b).Elem().Interface()) {
		return Same
	}
	return Unsure
}

func samePlain(a, b unsafe.Pointer, size uintptr) bool {
	switch size {
	case 1:
		return *(*uint8)(a) == *(*uint8)(b)
	case 2:
		return *(*uint16)(a) == *(*uint16)(b)
	case 4:
		return *(*uint32)(a) == *(*uint32)(b)
	}
	return *(*uint64)(a) == *(*uint64)(b)
}

// slices compares slices; of bytes too.
func (l *layout) slices(a, b unsafe.Pointer) Verdict {
	x, y := *(*[]byte)(a), *(*[]byte)(b) // in length and nil-ness any slice is like another
	switch {
	case len(x) != len(y):
		return Differ
	case (x == nil) != (y == nil):
		return Unsure
	}
	p, q := unsafe.Pointer(unsafe.SliceData(x)), unsafe.Pointer(unsafe.SliceData(y))
	if p == q {
		return Same
	}
	if l.elem.how == comparePlain && l.elem.size == 1 {
		if string(x) == string(y) {
			return Same
		}
		return Differ
	}
	out := Same
	for i := range uintptr(len(x)) {
		switch l.elem.compare(unsafe.Add(p, i*l.elem.size), unsafe.Add(q, i*l.elem.size)) {
		case Differ:
			return Differ
		case Unsure:
			out = Unsure
		}
	}
	return out
}

func (l *layout) structures(a, b unsafe.Pointer) Verdict {
	out := Same
	for i := range l.fields {
		f := &l.fields[i]
		switch f.layout.compare(unsafe.Add(a, f.at), unsafe.Add(b, f.at)) {
		case Differ:
			if f.visible {
				return Differ
			}
			out = Unsure
		case Unsure:
			out = Unsure
		}
	}
	return out
}

func texts[T string | []byte](a, b map[string]T) Verdict {
	switch {
	case len(a) != len(b):
		return Differ
	case (a == nil) != (b == nil):
		return Unsure
	}
	for key, value := range a {
		if other, ok := b[key]; !ok || string(value) != string(other) {
			return Differ
		}
	}
	return Same
}

// amounts compares quantities by name. Names may be of any type that is a string.
func amounts(a, b map[string]resource.Quantity) Verdict {
	switch {
	case len(a) != len(b):
		return Differ
	case (a == nil) != (b == nil):
		return Unsure
	}
	out := Same
	for key, value := range a {
		other, ok := b[key]
		if !ok {
			return Differ
		}
		switch quantities(&value, &other) {
		case Differ:
			return Differ
		case Unsure:
			out = Unsure
		}
	}
	return out
}

func quantities(a, b *resource.Quantity) Verdict {
	switch {
	case *a == *b:
		return Same
	case a.Cmp(*b) != 0:
		return Differ
	}
	x, y := *a, *b // which remember their text
	if x.String() == y.String() {
		return Same
	}
	return Unsure
}
