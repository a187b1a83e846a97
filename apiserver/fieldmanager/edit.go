// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import "strings"

// editor changes a set of fields in its encoded form, FieldsV1, in one pass: what is not touched is copied. Sets must be
// as the library writes them, in order and without spaces; others make it give up.
type editor struct {
	in     string
	at     int
	out    []byte
	gaveUp bool
	// own says that what was put comes into the set; else it leaves, as what is gone does.
	own bool
}

// edit appends the set after changes to dst, and returns false for a set that it cannot read. An empty set is empty text.
func edit(dst []byte, fields string, changes []change, own bool) ([]byte, bool) {
	e := editor{in: fields, own: own, out: dst}
	e.set(changes, kept, true)
	return e.out, !e.gaveUp && e.at == len(e.in)
}

// concerned says whether changes can change the set of somebody else: not if it has none of what changed.
func concerned(fields string, changes []change) bool {
	for i := range changes {
		c := &changes[i]
		if mentions(fields, c.elem) && (c.mark != kept || concerned(fields, c.below)) {
			return true
		}
	}
	return false
}

// mentions says whether an element stands anywhere in a set.
func mentions(fields, elem string) bool {
	for {
		i := strings.Index(fields, elem)
		if i < 0 {
			return false
		}
		end := i + len(elem)
		if i > 0 && fields[i-1] == '"' && end < len(fields) && fields[end] == '"' {
			return true
		}
		fields = fields[i+1:]
	}
}

// encode is the set of what was put; empty if that is nothing.
func encode(changes []change) string {
	e := editor{in: "{}", own: true}
	e.set(changes, kept, true)
	return string(e.out)
}

// set edits the object that begins here. It writes nothing and returns false if neither the set nor its owner is left.
func (e *editor) set(changes []change, m mark, root bool) bool {
	start := len(e.out)
	e.out = append(e.out, '{')
	if !e.skip('{') {
		return false
	}
	member := false
	if e.peek() == '}' {
		e.at++
		member = true
		if m != kept {
			member = m == put && e.own
		}
		e.member(member && !root)
		for i := range changes {
			e.add(&changes[i])
		}
		return e.finish(start, member && !root)
	}
	key := e.key()
	if key == "." {
		member = true
		if !e.skip(':') || !e.skip('{') || !e.skip('}') {
			return false
		}
		key = e.next()
	}
	if m != kept {
		member = m == put && e.own
	}
	e.member(member && !root)
	for key != "" && !e.gaveUp {
		if root && len(changes) == 0 { // the rest stays as it is
			e.out = append(e.out, '"')
			e.out = append(e.out, key...)
			e.out = append(e.out, '"')
			e.out = append(e.out, e.in[e.at:]...)
			e.at = len(e.in)
			return true
		}
		for len(changes) > 0 && order(changes[0].elem, key) < 0 {
			e.add(&changes[0])
			changes = changes[1:]
		}
		if len(changes) > 0 && changes[0].elem == key {
			e.child(key, &changes[0])
			changes = changes[1:]
		} else {
			e.copy(key)
		}
		before := key
		if key = e.next(); key != "" && order(before, key) >= 0 {
			e.gaveUp = true
		}
	}
	for i := range changes {
		e.add(&changes[i])
	}
	return e.finish(start, member && !root)
}

func (e *editor) member(is bool) {
	if is {
		e.out = append(e.out, `".":{},`...)
	}
}

// finish closes the object that was begun at start.
func (e *editor) finish(start int, member bool) bool {
	body := start + 1
	if member {
		body += len(`".":{},`)
	}
	if len(e.out) == body {
		e.out = e.out[:start]
		if member {
			e.out = append(e.out, "{}"...)
		}
		return member
	}
	e.out[len(e.out)-1] = '}' // the comma
	return true
}

// name begins a child and returns where.
func (e *editor) name(elem string) int {
	start := len(e.out)
	e.out = append(e.out, '"')
	e.out = append(e.out, elem...)
	e.out = append(e.out, '"', ':')
	return start
}

// child edits the child that is next in the set.
func (e *editor) child(elem string, c *change) {
	start := e.name(elem)
	if !e.skip(':') {
		return
	}
	if e.set(c.below, c.mark, false) {
		e.out = append(e.out, ',')
	} else {
		e.out = e.out[:start]
	}
}

// add writes a child that the set does not have.
func (e *editor) add(c *change) {
	if !e.own {
		return
	}
	start := e.name(c.elem)
	body := len(e.out)
	e.out = append(e.out, '{')
	e.member(c.mark == put)
	for i := range c.below {
		e.add(&c.below[i])
	}
	if e.finish(body, c.mark == put) {
		e.out = append(e.out, ',')
	} else {
		e.out = e.out[:start]
	}
}

// copy copies the child that is next.
func (e *editor) copy(elem string) {
	e.name(elem)
	if !e.skip(':') {
		return
	}
	from, depth := e.at, 0
	for e.at < len(e.in) {
		switch c := e.in[e.at]; c {
		case '"':
			e.at++
			if !e.unquote() {
				return
			}
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				e.at++
				e.out = append(e.out, e.in[from:e.at]...)
				e.out = append(e.out, ',')
				return
			}
		}
		e.at++
	}
	e.gaveUp = true
}

// unquote goes on to the end of a quoted text.
func (e *editor) unquote() bool {
	for {
		i := strings.IndexByte(e.in[e.at:], '"')
		if i < 0 {
			e.gaveUp = true
			return false
		}
		escapes := 0
		for j := e.at + i - 1; j >= e.at && e.in[j] == '\\'; j-- {
			escapes++
		}
		if e.at += i; escapes%2 == 0 {
			return true
		}
		e.at++
	}
}

func (e *editor) peek() byte {
	if e.at < len(e.in) {
		return e.in[e.at]
	}
	return 0
}

func (e *editor) skip(c byte) bool {
	if e.peek() != c {
		e.gaveUp = true
		return false
	}
	e.at++
	return true
}

// next is the key of the next child, or empty at the end of the object.
func (e *editor) next() string {
	switch e.peek() {
	case ',':
		e.at++
		return e.key()
	case '}':
		e.at++
		return ""
	}
	e.gaveUp = true
	return ""
}

// key reads a key. Escapes other than of quotes are too rare to be worth understanding.
func (e *editor) key() string {
	if !e.skip('"') {
		return ""
	}
	for i := e.at; i < len(e.in); i++ {
		switch c := e.in[i]; {
		case c == '"':
			key := e.in[e.at:i]
			e.at = i + 1
			if key == "" {
				e.gaveUp = true
			}
			return key
		case c == '\\' && i+1 < len(e.in) && e.in[i+1] == '"':
			i++
		case c == '\\' || c > '~' || c < ' ':
			e.gaveUp = true
			return ""
		}
	}
	e.gaveUp = true
	return ""
}
