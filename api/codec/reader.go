// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/resource"
)

// HasProto says whether objects of a kind have a protobuf form.
func HasProto(k *resource.Kind) bool {
	_, ok := any(k.New()).(message)
	return ok
}

// DecodeList decodes a list of objects of a kind, as every typed list encodes. A list without items has none.
func DecodeList(mediaType string, data []byte, kind *resource.Kind) ([]resource.Object, metav1.ListMeta, error) {
	var meta metav1.ListMeta
	var items []resource.Object
	item := func(media string, raw []byte) error {
		obj := kind.New()
		if media == Proto {
			if err := obj.(message).Unmarshal(raw); err != nil {
				return err
			}
		} else if _, err := Decode(media, raw, obj); err != nil {
			return err
		}
		items = append(items, obj)
		return nil
	}
	if mediaType == Proto {
		if !HasProto(kind) {
			return nil, meta, fmt.Errorf("decode list of %s: %w", kind.Kind, ErrNoProto)
		}
		u, err := unwrapProto(data)
		if err != nil {
			return nil, meta, err
		}
		err = eachField(u.Raw, func(field int, value []byte) error {
			switch field {
			case 1:
				return meta.Unmarshal(value)
			case 2:
				return item(Proto, value)
			}
			return nil
		})
		return items, meta, err
	}
	var list struct {
		Metadata metav1.ListMeta   `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, meta, err
	}
	items = make([]resource.Object, 0, len(list.Items))
	for _, raw := range list.Items {
		if err := item(JSON, raw); err != nil {
			return nil, meta, err
		}
	}
	return items, list.Metadata, nil
}

func malformed() error { return errors.New("malformed protobuf message") }

// eachField calls each for every length-delimited field of a message and skips the others.
func eachField(data []byte, each func(field int, value []byte) error) error {
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 {
			return malformed()
		}
		data = data[n:]
		switch tag & 7 {
		case 0:
			_, n := binary.Uvarint(data)
			if n <= 0 {
				return malformed()
			}
			data = data[n:]
		case 1, 5:
			width := 8
			if tag&7 == 5 {
				width = 4
			}
			if len(data) < width {
				return malformed()
			}
			data = data[width:]
		case 2:
			size, n := binary.Uvarint(data)
			if n <= 0 || size > uint64(len(data)-n) {
				return malformed()
			}
			value := data[n : n+int(size)]
			data = data[n+int(size):]
			if err := each(int(tag>>3), value); err != nil {
				return err
			}
		default:
			return malformed()
		}
	}
	return nil
}

// Frames reads the events of a watch, in the form that its Content-Type names.
type Frames struct {
	proto bool
	max   int
	r     *bufio.Reader
	json  *json.Decoder
	input *capped // of json
}

// capped fails when one event needs more bytes than are left for it.
type capped struct {
	r    io.Reader
	left int
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("watch event is too long")
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// NewFrames reads a watch from r; a frame longer than limit bytes is an error.
func NewFrames(contentType string, r io.Reader, limit int) *Frames {
	f := &Frames{proto: strings.HasPrefix(contentType, Proto), max: limit}
	if f.proto {
		f.r = bufio.NewReaderSize(r, 32<<10)
	} else {
		f.input = &capped{r: r}
		f.json = json.NewDecoder(f.input)
	}
	return f
}

// Next returns the type of the next event and its encoded object, in the returned media type. io.EOF is a proper end.
func (f *Frames) Next() (event, mediaType string, object []byte, err error) {
	if !f.proto {
		var e struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		f.input.left = f.max
		if err := f.json.Decode(&e); err != nil {
			return "", "", nil, err
		}
		return e.Type, JSON, e.Object, nil
	}
	var head [4]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return "", "", nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if int64(size) > int64(f.max) {
		return "", "", nil, fmt.Errorf("watch event of %d bytes, limit %d", size, f.max)
	}
	frame := make([]byte, size)
	if _, err := io.ReadFull(f.r, frame); err != nil {
		return "", "", nil, unexpected(err)
	}
	err = eachField(frame, func(field int, value []byte) error {
		switch field {
		case 1:
			event = string(value)
		case 2: // a RawExtension, whose field 1 is the object
			return eachField(value, func(field int, value []byte) error {
				if field == 1 {
					object = value
				}
				return nil
			})
		}
		return nil
	})
	return event, Proto, object, err
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
