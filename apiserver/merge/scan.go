// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package merge

import (
	"bytes"
	"strconv"
)

// The functions here walk through JSON that is valid, which the caller made sure of.

// blank skips white space.
func blank(data []byte, at int) int {
	for at < len(data) {
		switch data[at] {
		case ' ', '\t', '\n', '\r':
			at++
		default:
			return at
		}
	}
	return at
}

// after is where the value that begins at a place ends.
func after(data []byte, at int) int {
	depth := 0
	for at < len(data) {
		switch data[at] {
		case '"':
			at = afterString(data, at)
		case '{', '[':
			depth++
			at++
		case '}', ']':
			if depth == 0 {
				return at
			}
			depth--
			at++
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return at
			}
			at++
			continue
		default:
			at++
			continue
		}
		if depth == 0 {
			return at
		}
	}
	return at
}

func afterString(data []byte, at int) int {
	for at++; at < len(data); at++ {
		switch data[at] {
		case '\\':
			at++
		case '"':
			return at + 1
		}
	}
	return at
}

// member is one field of a JSON object. Its name has no quotes.
type member struct{ name, value []byte }

// members are the fields of an object. Not ok are other values, and names with escapes or repeated ones.
func members(data []byte) (out []member, ok bool) {
	at := blank(data, 0)
	if at >= len(data) || data[at] != '{' {
		return nil, false
	}
	out = make([]member, 0, 8)
	for at = blank(data, at+1); at < len(data) && data[at] != '}'; {
		end := afterString(data, at)
		name := data[at+1 : end-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			return nil, false
		}
		for i := range out {
			if bytes.Equal(out[i].name, name) {
				return nil, false
			}
		}
		at = blank(data, blank(data, end)+1) // past the colon
		end = after(data, at)
		out = append(out, member{name, data[at:end]})
		if at = blank(data, end); at < len(data) && data[at] == ',' {
			at = blank(data, at+1)
		}
	}
	return out, true
}

// elements are the items of a list.
func elements(data []byte) (out [][]byte) {
	for at := blank(data, 1); at < len(data) && data[at] != ']'; {
		end := after(data, at)
		out = append(out, data[at:end])
		if at = blank(data, end); at < len(data) && data[at] == ',' {
			at = blank(data, at+1)
		}
	}
	return out
}

func isNull(data []byte) bool { return len(data) > 0 && data[0] == 'n' }

// plainText is a string of ASCII without escapes.
func plainText(data []byte) (string, bool) {
	if len(data) < 2 || data[0] != '"' {
		return "", false
	}
	data = data[1 : len(data)-1]
	for _, c := range data {
		if c == '\\' || c >= 0x80 {
			return "", false
		}
	}
	return string(data), true
}

// plainInteger is a number without fraction and exponent.
func plainInteger(data []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(data), 10, 64)
	return n, err == nil
}
