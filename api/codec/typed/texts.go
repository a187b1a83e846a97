// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package typed

import (
	"encoding/binary"
	"reflect"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/resource"
)

// texts remembers short strings that come again and again, such as names of containers, images and enumerated values, so
// that a decoder does not make them anew for each object. A string is remembered when it comes for the second time, and
// forgotten for another one with the same hash. Its zero value is ready for use, by many at once.
type texts struct {
	known [textSlots]atomic.Pointer[string]
	once  [textSlots]atomic.Uint64 // hash of what came last
}

const (
	textBits  = 12
	textSlots = 1 << textBits
	textMax   = 64 // bytes of a string that is remembered
)

// of returns b as a string.
func (t *texts) of(b []byte) string {
	n := len(b)
	if n == 0 {
		return ""
	}
	if n > textMax {
		return string(b)
	}
	// What strings of the API have in common is hardly ever their length, beginning and end.
	var first, last uint64
	if n >= 8 {
		first, last = binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[n-8:])
	} else {
		for _, c := range b {
			first = first<<8 | uint64(c)
		}
	}
	hash := (first ^ uint64(n)) * 0x9e3779b97f4a7c15
	hash = (hash ^ hash>>29 ^ last) * 0xbf58476d1ce4e5b9
	at := hash >> (64 - textBits)
	if s := t.known[at].Load(); s != nil && *s == string(b) {
		return *s
	}
	s := string(b)
	if t.once[at].Load() == hash {
		kept := s
		t.known[at].Store(&kept)
	} else {
		t.once[at].Store(hash)
	}
	return s
}

// sets remembers what managed fields say, which is long and the same for all objects that are made in the same way. Its zero value is
// ready for use, by many at once.
type sets struct {
	known [setSlots]atomic.Pointer[string]
}

const (
	setSlots = 64
	setMax   = 16 << 10 // bytes of a set that is remembered
)

// of returns b as a string.
func (t *sets) of(b []byte) string {
	n := len(b)
	if n < textMax || n > setMax {
		return string(b)
	}
	at := &t.known[(uint64(n)*0x9e3779b97f4a7c15^binary.LittleEndian.Uint64(b[n/2:]))*0xbf58476d1ce4e5b9>>58]
	if had := at.Load(); had != nil && *had == string(b) {
		return *had
	}
	s := string(b)
	at.Store(&s)
	return s
}

// quantities remembers the quantities that were read last, with the text that they are written as: finding that out takes
// longer than everything else about them. Its zero value is ready for use, by many at once.
type quantities struct {
	known [quantitySlots]atomic.Pointer[quantity]
}

type quantity struct {
	text  string
	value resource.Quantity
}

const (
	quantitySlots = 256
	quantityMax   = 16 // bytes of a text that is remembered
)

// read parses what a quantity is written as.
func (q *quantities) read(b []byte, to *resource.Quantity) bool {
	if len(b) > quantityMax {
		return parseQuantity(string(b), to)
	}
	hash := uint64(len(b))
	for _, c := range b {
		hash = (hash ^ uint64(c)) * 0x100000001b3
	}
	at := &q.known[(hash^hash>>32)%quantitySlots]
	if had := at.Load(); had != nil && had.text == string(b) {
		*to = had.value
		return true
	}
	one := quantity{text: string(b)}
	if !parseQuantity(one.text, &one.value) {
		return false
	}
	*to = one.value
	if reflect.ValueOf(one.value).FieldByName("d").Field(0).IsNil() { // else copies share a number that may change
		at.Store(&one)
	}
	return true
}

func parseQuantity(text string, to *resource.Quantity) bool {
	parsed, err := resource.ParseQuantity(text)
	if err != nil {
		return false
	}
	*to = parsed
	_ = to.String() // remembers it
	return true
}
