// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package typed

import (
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and lists may nest.
const maxDepth = 200

// reader goes over JSON (RFC 8259). Its methods return false for what is not valid, and for what it leaves to others.
type reader struct {
	data  []byte
	at    int
	depth int
	buf   []byte // of the last string with escapes
	types *Types
}

// next skips white space and returns the byte that follows, without taking it; 0 at the end.
func (r *reader) next() byte {
	for r.at < len(r.data) {
		switch c := r.data[r.at]; c {
		case ' ', '\n', '\t', '\r':
			r.at++
		default:
			return c
		}
	}
	return 0
}

// take takes one byte, after white space, if it is c.
func (r *reader) take(c byte) bool {
	if r.next() != c {
		return false
	}
	r.at++
	return true
}

func (r *reader) word(w string) bool {
	if len(r.data)-r.at < len(w) || string(r.data[r.at:r.at+len(w)]) != w {
		return false
	}
	r.at += len(w)
	return true
}

// object reads an object; member is called with the name of each member and reads its value. The name is valid until then.
func (r *reader) object(member func(name []byte) bool) bool {
	if !r.take('{') || r.depth == maxDepth {
		return false
	}
	if r.take('}') {
		return true
	}
	r.depth++
	for {
		name, ok := r.text()
		if !ok || !r.take(':') || !member(name) {
			return false
		}
		if r.take(',') {
			continue
		}
		r.depth--
		return r.take('}')
	}
}

// array reads a list; element is called to read each value in it.
func (r *reader) array(element func() bool) bool {
	if !r.take('[') || r.depth == maxDepth {
		return false
	}
	if r.take(']') {
		return true
	}
	r.depth++
	for {
		if !element() {
			return false
		}
		if r.take(',') {
			continue
		}
		r.depth--
		return r.take(']')
	}
}

// text reads a string of valid UTF-8. The result is valid until the next call.
func (r *reader) text() ([]byte, bool) {
	if !r.take('"') {
		return nil, false
	}
	start, ascii := r.at, true
	for i := start; i < len(r.data); i++ {
		switch c := r.data[i]; {
		case c == '"':
			r.at = i + 1
			s := r.data[start:i]
			return s, ascii || utf8.Valid(s)
		case c == '\\':
			return r.escaped(start, i)
		case c < ' ':
			return nil, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, false
}

// escaped reads a string from start on, whose first escape is at i.
func (r *reader) escaped(start, i int) ([]byte, bool) {
	buf := append(r.buf[:0], r.data[start:i]...)
	for i < len(r.data) {
		c := r.data[i]
		i++
		switch {
		case c == '"':
			r.at, r.buf = i, buf
			return buf, utf8.Valid(buf)
		case c < ' ':
			return nil, false
		case c != '\\':
			buf = append(buf, c)
			continue
		}
		if i == len(r.data) {
			return nil, false
		}
		c = r.data[i]
		i++
		switch c {
		case '"', '\\', '/':
			buf = append(buf, c)
		case 'b':
			buf = append(buf, '\b')
		case 'f':
			buf = append(buf, '\f')
		case 'n':
			buf = append(buf, '\n')
		case 'r':
			buf = append(buf, '\r')
		case 't':
			buf = append(buf, '\t')
		case 'u':
			code, ok := r.hex(i)
			if !ok {
				return nil, false
			}
			i += 4
			if utf16.IsSurrogate(code) {
				second, ok := r.hex(i + 2)
				if !ok || r.data[i] != '\\' || r.data[i+1] != 'u' {
					return nil, false
				}
				if code = utf16.DecodeRune(code, second); code == utf8.RuneError {
					return nil, false
				}
				i += 6
			}
			buf = utf8.AppendRune(buf, code)
		default:
			return nil, false
		}
	}
	return nil, false
}

// hex reads the four hexadecimal digits at i.
func (r *reader) hex(i int) (rune, bool) {
	if len(r.data)-i < 4 {
		return 0, false
	}
	var code rune
	for _, c := range r.data[i : i+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		code = code<<4 | rune(c)
	}
	return code, true
}

// number reads a number in the grammar of JSON.
func (r *reader) number() ([]byte, bool) {
	r.next()
	start, i := r.at, r.at
	digits := func() bool {
		from := i
		for i < len(r.data) && '0' <= r.data[i] && r.data[i] <= '9' {
			i++
		}
		return i > from
	}
	at := func(set string) bool {
		for j := range len(set) {
			if i < len(r.data) && r.data[i] == set[j] {
				i++
				return true
			}
		}
		return false
	}
	at("-")
	if !at("0") && !digits() {
		return nil, false
	}
	if at(".") && !digits() {
		return nil, false
	}
	if at("eE") {
		at("+-")
		if !digits() {
			return nil, false
		}
	}
	r.at = i
	return r.data[start:i], true
}

func (r *reader) integer() (int64, bool) {
	b, ok := r.number()
	if !ok {
		return 0, false
	}
	return parseInteger(b)
}

// raw reads any valid value and returns its bytes.
func (r *reader) raw() ([]byte, bool) {
	r.next()
	start := r.at
	if !r.skip() {
		return nil, false
	}
	return r.data[start:r.at], true
}

func (r *reader) skip() bool {
	switch r.next() {
	case '{':
		return r.object(func([]byte) bool { return r.skip() })
	case '[':
		return r.array(r.skip)
	case '"':
		_, ok := r.text()
		return ok
	case 't':
		return r.word("true")
	case 'f':
		return r.word("false")
	case 'n':
		return r.word("null")
	}
	_, ok := r.number()
	return ok
}
