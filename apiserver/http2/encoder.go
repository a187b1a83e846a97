// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

// tableSize is how large the encoder's table may be, counted as RFC 7541, section 4.1, does: few entries, which are found quickly.
const tableSize = 1024

// field is a header field of an answer.
type field struct {
	name, value string
	static      uint8 // the name's index in the static table; 0 if it has none
	volatile    bool  // its value seldom comes again
}

// encoder encodes header blocks of answers (RFC 7541). Fields that come again are one byte, by a table whose few entries are looked
// through one after the other; no strings are compressed, which costs more than it saves on such as come once.
type encoder struct {
	entries []entry // the oldest first
	size    int
	max     int
	resized bool // since the last block
}

type entry struct{ name, value string }

func (e entry) size() int { return len(e.name) + len(e.value) + 32 }

// firstDynamic is the index of the newest entry, after those of the static table.
const firstDynamic = 62

// shrink takes notice of the largest table that the client wants. It does not grow again: few need it, and clients need not
// understand more than one change at once.
func (e *encoder) shrink(n int) {
	if n < e.max {
		e.max, e.resized = n, true
		e.evict(0)
	}
}

// evict makes room for n bytes.
func (e *encoder) evict(n int) {
	i := 0
	for ; i < len(e.entries) && e.size+n > e.max; i++ {
		e.size -= e.entries[i].size()
	}
	if i > 0 {
		kept := copy(e.entries, e.entries[i:])
		clear(e.entries[kept:])
		e.entries = e.entries[:kept]
	}
}

// begin appends what comes before the fields of a block.
func (e *encoder) begin(dst []byte) []byte {
	if !e.resized {
		return dst
	}
	e.resized = false
	return appendNumber(dst, 0x20, 5, e.max)
}

// append appends one field.
func (e *encoder) append(dst []byte, f *field) []byte {
	if f.name == ":status" {
		if i := statusIndex(f.value); i > 0 {
			return append(dst, 0x80|i)
		}
	}
	named := int(f.static)
	for i := len(e.entries) - 1; i >= 0 && (!f.volatile || named == 0); i-- {
		if t := &e.entries[i]; t.name == f.name {
			at := firstDynamic + len(e.entries) - 1 - i
			if t.value == f.value {
				return appendNumber(dst, 0x80, 7, at)
			}
			if named == 0 {
				named = at
			}
		}
	}
	t := entry{f.name, f.value}
	if size := t.size(); !f.volatile && size <= e.max/2 {
		dst = appendNumber(dst, 0x40, 6, named)
		e.evict(size)
		e.entries, e.size = append(e.entries, t), e.size+size
	} else {
		dst = appendNumber(dst, 0, 4, named)
	}
	if named == 0 {
		dst = appendText(dst, f.name)
	}
	return appendText(dst, f.value)
}

// appendNumber appends a number after some bits (RFC 7541, section 5.1).
func appendNumber(dst []byte, bits byte, prefix, n int) []byte {
	most := 1<<prefix - 1
	if n < most {
		return append(dst, bits|byte(n))
	}
	dst = append(dst, bits|byte(most))
	for n -= most; n >= 128; n >>= 7 {
		dst = append(dst, byte(n)|128)
	}
	return append(dst, byte(n))
}

func appendText(dst []byte, s string) []byte {
	return append(appendNumber(dst, 0, 7, len(s)), s...)
}

// statusIndex is the index of a status in the static table; 0 if it is not there.
func statusIndex(code string) byte {
	switch code {
	case "200":
		return 8
	case "204":
		return 9
	case "206":
		return 10
	case "304":
		return 11
	case "400":
		return 12
	case "404":
		return 13
	case "500":
		return 14
	}
	return 0
}
