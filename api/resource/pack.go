// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"reflect"
	"slices"
	"strings"
	"time"
	"unsafe"
)

// Packer copies objects that nobody modifies any more, so that they lie side by side in memory: what lived scattered among
// the garbage of requests keeps whole pages of it. What is equal in the objects is in memory once. The copies are equal to the
// objects, and must not be modified either: they share their parts. The zero value is ready; it is for one goroutine.
type Packer struct {
	shapes map[reflect.Type]*shape
	seed   maphash.Seed
	room   []byte            // for texts
	texts  map[string]string // packed ones
	values map[uint64]packed // by hash: values that are pointed to, and elements of slices
	maps   map[string]unsafe.Pointer
	copied map[unsafe.Pointer]unsafe.Pointer // maps by what they were; holding these, no other can take their place
	key    []byte
}

const (
	// blockBytes is the size of what values are put into: blocks of more than 32 KiB have pages of their own. The first block
	// of a type is small, each further one twice as large.
	blockBytes, firstBytes = 64 << 10, 1 << 10
	// Bounds of what is remembered in order to share it; beyond them, all is forgotten.
	packTexts, packValues, packMaps = 16384, 32768, 8192
)

// packed are n values of a shape.
type packed struct {
	at    unsafe.Pointer
	shape *shape
	n     int
}

// shape is a type as the packer sees it.
type shape struct {
	t      reflect.Type
	id     uint32 // tells types apart
	kind   reflect.Kind
	size   uintptr
	elem   *shape
	fields []shapeField // those that point to something
	plain  bool         // nothing in it points to what could be packed

	block      reflect.Value // a slice
	used, room int           // of block, in elements
	grown      int           // bytes of the last block
}

type shapeField struct {
	at    uintptr
	shape *shape
}

// Pack returns a packed copy of an object of a Go type of its own; an unstructured object comes back as it is.
func (p *Packer) Pack(obj Object) Object {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return obj
	}
	s := p.shape(v.Type().Elem())
	if s.plain {
		return obj
	}
	at, _ := p.take(s, v.UnsafePointer(), 1)
	return reflect.NewAt(s.t, at).Interface().(Object)
}

func (p *Packer) shape(t reflect.Type) *shape {
	if have := p.shapes[t]; have != nil {
		return have
	}
	if p.shapes == nil {
		p.shapes, p.seed = map[reflect.Type]*shape{}, maphash.MakeSeed()
		p.forget()
	}
	s := &shape{t: t, id: uint32(len(p.shapes)), kind: t.Kind(), size: t.Size()}
	p.shapes[t] = s
	switch s.kind {
	case reflect.String:
	case reflect.Pointer, reflect.Slice:
		s.elem = p.shape(t.Elem())
	case reflect.Map:
		s.elem = p.shape(t.Elem())
		s.plain = t.Key().Kind() != reflect.String
	case reflect.Struct:
		s.plain = t == reflect.TypeFor[time.Time]()
		for i := 0; i < t.NumField() && !s.plain; i++ {
			f := t.Field(i)
			if part := p.shape(f.Type); !part.plain {
				s.fields = append(s.fields, shapeField{f.Offset, part})
			}
		}
		s.plain = len(s.fields) == 0
	default: // numbers; interfaces and what else there may be stays what it was
		s.plain = true
	}
	return s
}

// forget makes the packer remember nothing that it could share.
func (p *Packer) forget() {
	p.texts, p.values = map[string]string{}, map[uint64]packed{}
	p.maps, p.copied = map[string]unsafe.Pointer{}, map[unsafe.Pointer]unsafe.Pointer{}
}

// take copies n values into a block. undo tells how much of the block was used before, less than 0 if it is a new one.
func (p *Packer) take(s *shape, from unsafe.Pointer, n int) (at unsafe.Pointer, undo int) {
	undo = s.used
	if s.used+n > s.room {
		s.grown = min(max(2*s.grown, firstBytes), blockBytes)
		s.room, s.used, undo = max(n, s.grown/int(max(s.size, 1)), 1), 0, -1
		s.block = reflect.MakeSlice(reflect.SliceOf(s.t), s.room, s.room)
	}
	first := s.used
	s.used += n
	block := s.block
	for i := range n {
		block.Index(first + i).Set(reflect.NewAt(s.t, unsafe.Add(from, uintptr(i)*s.size)).Elem())
	}
	at = block.Index(first).Addr().UnsafePointer()
	for i := range n {
		p.settle(s, unsafe.Add(at, uintptr(i)*s.size))
	}
	return at, undo
}

// settle packs what a value in a block points to.
func (p *Packer) settle(s *shape, at unsafe.Pointer) {
	if s.plain {
		return
	}
	switch s.kind {
	case reflect.String:
		*(*string)(at) = p.text(*(*string)(at))
	case reflect.Pointer:
		if to := *(*unsafe.Pointer)(at); to != nil {
			*(*unsafe.Pointer)(at) = p.same(s.elem, to, 1)
		}
	case reflect.Slice:
		p.slice(s.elem, (*[]byte)(at)) // in length and nil-ness any slice is like another
	case reflect.Map:
		p.mapping(s, at)
	case reflect.Struct:
		for _, f := range s.fields {
			p.settle(f.shape, unsafe.Add(at, f.at))
		}
	}
}

// text is the packed one of texts that are equal.
func (p *Packer) text(v string) string {
	if v == "" {
		return ""
	}
	if have, ok := p.texts[v]; ok {
		return have
	}
	if len(p.texts) >= packTexts {
		clear(p.texts)
	}
	if len(v) > len(p.room) {
		if len(v) > blockBytes/4 {
			v = strings.Clone(v)
			p.texts[v] = v
			return v
		}
		p.room = make([]byte, blockBytes)
	}
	out := unsafe.String(unsafe.SliceData(p.room), copy(p.room, v))
	p.room = p.room[len(v):]
	p.texts[out] = out
	return out
}

func (p *Packer) slice(elem *shape, v *[]byte) {
	switch n := len(*v); {
	case *v == nil:
	case n == 0:
		*v = []byte{}
	case elem.kind == reflect.Uint8:
		*v = unsafe.Slice(unsafe.StringData(p.text(unsafe.String(unsafe.SliceData(*v), n))), n)
	default:
		*v = unsafe.Slice((*byte)(p.same(elem, unsafe.Pointer(unsafe.SliceData(*v)), n)), n)
	}
}

// same is the packed one of equal values. Their parts are packed first, so that those that are equal are so byte by byte.
func (p *Packer) same(s *shape, from unsafe.Pointer, n int) unsafe.Pointer {
	if s.size == 0 {
		return from
	}
	at, undo := p.take(s, from, n)
	raw := unsafe.Slice((*byte)(at), uintptr(n)*s.size)
	hash := maphash.Bytes(p.seed, raw) + uint64(s.id)
	have, ok := p.values[hash]
	if ok && have.shape == s && have.n == n && string(raw) == string(unsafe.Slice((*byte)(have.at), len(raw))) {
		s.used = max(undo, 0) // nothing was packed for it: its parts are those of the other
		return have.at
	}
	if len(p.values) >= packValues {
		clear(p.values)
	}
	p.values[hash] = packed{at, s, n}
	return at
}

// mapping packs a map with keys that are strings.
func (p *Packer) mapping(s *shape, at unsafe.Pointer) {
	from := *(*unsafe.Pointer)(at)
	if from == nil {
		return
	}
	if have, ok := p.copied[from]; ok {
		*(*unsafe.Pointer)(at) = have
		return
	}
	if len(p.copied) >= packMaps {
		clear(p.maps)
		clear(p.copied)
	}
	type pair struct {
		name       string
		key, value reflect.Value
	}
	old := reflect.NewAt(s.t, at).Elem()
	pairs := make([]pair, 0, old.Len())
	for it := old.MapRange(); it.Next(); {
		key, value := reflect.New(s.t.Key()).Elem(), reflect.New(s.elem.t).Elem()
		key.SetString(p.text(it.Key().String()))
		value.Set(it.Value())
		p.settle(s.elem, value.Addr().UnsafePointer())
		pairs = append(pairs, pair{key.String(), key, value})
	}
	slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(a.name, b.name) })
	raw := binary.LittleEndian.AppendUint32(p.key[:0], s.id)
	for _, one := range pairs {
		raw = append(append(raw, one.name...), 0)
		raw = append(raw, unsafe.Slice((*byte)(one.value.Addr().UnsafePointer()), s.elem.size)...)
	}
	p.key = raw
	to, ok := p.maps[string(raw)]
	if !ok {
		made := reflect.MakeMapWithSize(s.t, len(pairs))
		for _, one := range pairs {
			made.SetMapIndex(one.key, one.value)
		}
		to = made.UnsafePointer()
		p.maps[string(raw)] = to
	}
	p.copied[from] = to
	*(*unsafe.Pointer)(at) = to
}
