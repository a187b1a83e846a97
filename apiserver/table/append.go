// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"bytes"
	"slices"
	"strconv"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
)

// Append appends the JSON of the table that Of makes, with its kind and apiVersion. It reuses the encodings that rows have
// and is many times faster than encoding the value.
func Append(dst []byte, kind *resource.Kind, rows []Row, meta metav1.ListMeta, o Options) ([]byte, error) {
	columns := layoutOf(kind)
	o.kind = kind
	dst = append(dst, `{"kind":"Table","apiVersion":"meta.k8s.io/`...)
	dst = append(dst, version(o)...)
	dst = append(dst, `","metadata":`...)
	var err error
	if dst, err = appendValue(dst, meta); err != nil {
		return nil, err
	}
	dst = append(dst, `,"columnDefinitions":`...)
	if o.NoHeaders {
		dst = append(dst, "null"...)
	} else {
		definitions := make([]metav1.TableColumnDefinition, 0, len(columns))
		for _, c := range columns {
			if c.definition.Name != "" { // some cells have no header
				definitions = append(definitions, described(kind, c.definition))
			}
		}
		if dst, err = appendValue(dst, definitions); err != nil {
			return nil, err
		}
	}
	dst = append(dst, `,"rows":[`...)
	start := len(dst)
	for i, r := range rows {
		if i > 0 {
			dst = append(dst, ',')
		}
		if i == 1 { // the others will be about as long
			dst = slices.Grow(dst, (len(dst)-start+32)*len(rows))
		}
		if dst, err = appendRow(dst, columns, kind.GroupVersionKind, r, o); err != nil {
			return nil, err
		}
	}
	return append(dst, `]}`...), nil
}

func appendRow(dst []byte, columns []column, gvk schema.GroupVersionKind, r Row, o Options) ([]byte, error) {
	var err error
	dst = append(dst, `{"cells":[`...)
	for i, c := range columns {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendValue(dst, c.value(r.Object, o.Now)); err != nil {
			return nil, err
		}
	}
	dst = append(dst, `],"object":`...)
	switch {
	case o.Include == metav1.IncludeNone:
		dst = append(dst, "null"...)
	case o.Include != metav1.IncludeObject && r.JSON != nil && len(o.kind.Hidden) == 0:
		b, err := r.JSON()
		if err != nil {
			return nil, err
		}
		dst = append(dst, `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/`...)
		dst = append(dst, version(o)...)
		dst = append(dst, `","metadata":`...)
		if m := member(b, "metadata"); m != nil {
			dst = append(dst, m...)
		} else {
			dst = append(dst, "{}"...)
		}
		dst = append(dst, '}')
	default:
		b, err := encode(gvk, r, o)
		if err != nil {
			return nil, err
		}
		dst = append(dst, b...)
	}
	return append(dst, '}'), nil
}

func version(o Options) string {
	if o.Version == "" {
		return "v1"
	}
	return o.Version
}

// appendValue appends a cell or a part of the header.
func appendValue(dst []byte, value any) ([]byte, error) {
	switch v := value.(type) {
	case string:
		if isPlain(v) {
			dst = append(dst, '"')
			dst = append(dst, v...)
			return append(dst, '"'), nil
		}
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case int32:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	}
	b, err := codec.MarshalJSON(value)
	return append(dst, b...), err
}

// isPlain says that a string stands for itself in JSON as encoding/json writes it.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// member returns the value of a member of a JSON object without spaces, as encoders write it; nil if it has none.
func member(object []byte, name string) []byte {
	for at := 1; at < len(object); at++ { // behind the brace or a comma
		if object[at] != '"' {
			return nil
		}
		end := skip(object, at)
		key := object[at+1 : end-1]
		if end >= len(object) || object[end] != ':' {
			return nil
		}
		at = skip(object, end+1)
		if string(key) == name {
			return object[end+1 : at]
		}
	}
	return nil
}

// skip returns where the value that begins at i ends.
func skip(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			i = skipString(b, i)
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // it was a number or a word
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ':':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// skipString returns where the closing quote of the string is that begins at i.
func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return len(b)
		}
		i += n
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
	return i
}
