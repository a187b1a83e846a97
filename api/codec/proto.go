// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Message is a type of k8s.io/api in its role as a protobuf message.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// protoMagic starts every protobuf body and stored value.
func protoMagic() []byte { return []byte("k8s\x00") }

// MarshalProto encodes an object as a protobuf message, without the envelope; ErrNoProto if it has no such form.
func MarshalProto(obj any) ([]byte, error) {
	m, ok := obj.(message)
	if !ok {
		return nil, ErrNoProto
	}
	return m.Marshal()
}

// WrapProto puts a message into Kubernetes' envelope: the magic bytes and a runtime.Unknown.
func WrapProto(gvk schema.GroupVersionKind, raw []byte) []byte {
	return AppendProto(make([]byte, 0, len(raw)+len(gvk.Group)+len(gvk.Version)+len(gvk.Kind)+40), gvk, raw)
}

// AppendProto appends what WrapProto makes.
func AppendProto(dst []byte, gvk schema.GroupVersionKind, raw []byte) []byte {
	dst = bytesField(wrapHead(dst, gvk), 2, raw)
	dst = bytesField(dst, 3, nil)
	return bytesField(dst, 4, nil)
}

// sized is a message that can be written to where it shall be.
type sized interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

// EncodeProto encodes an object with its envelope.
func EncodeProto(gvk schema.GroupVersionKind, obj any) ([]byte, error) {
	return encodeProto(nil, gvk, obj)
}

// encodeProto is EncodeProto in room, if that is large enough; what room holds is lost.
func encodeProto(room []byte, gvk schema.GroupVersionKind, obj any) ([]byte, error) {
	m, ok := obj.(sized)
	if !ok {
		raw, err := MarshalProto(obj)
		if err != nil {
			return nil, err
		}
		return WrapProto(gvk, raw), nil
	}
	size := m.Size()
	dst := slices.Grow(room[:0], size+len(gvk.Group)+len(gvk.Version)+len(gvk.Kind)+32)
	dst = append(dst, protoMagic()...)
	dst = append(dst, 1<<3|2, 0) // the envelope's type, whose length follows
	dst = bytesField(dst, 1, []byte(gvk.GroupVersion().String()))
	dst = bytesField(dst, 2, []byte(gvk.Kind))
	head := len(protoMagic()) + 2
	if len(dst)-head > 0x7f {
		raw, err := MarshalProto(obj)
		return WrapProto(gvk, raw), err
	}
	dst[head-1] = byte(len(dst) - head)
	dst = append(dst, 2<<3|2)
	dst = binary.AppendUvarint(dst, uint64(size))
	if n, err := m.MarshalToSizedBuffer(dst[len(dst) : len(dst)+size]); err != nil || n != size {
		return nil, errors.Join(err, fmt.Errorf("encode %T: %d bytes, expected %d", obj, n, size))
	}
	dst = bytesField(dst[:len(dst)+size], 3, nil)
	return bytesField(dst, 4, nil), nil
}

// ProtoList encodes a list of messages as every typed list encodes: metadata is field 1, items are field 2.
func ProtoList(gvk schema.GroupVersionKind, meta *metav1.ListMeta, items [][]byte) ([]byte, error) {
	dst, size, err := ProtoListHead(gvk, meta, items)
	if err != nil {
		return nil, err
	}
	dst = slices.Grow(dst, size-len(dst))
	for _, item := range items {
		dst = append(AppendProtoItem(dst, len(item)), item...)
	}
	return append(dst, ProtoListTail...), nil
}

// ProtoListHead is what ProtoList begins with, and the size of all. Each item follows behind what AppendProtoItem makes, then
// ProtoListTail: so a list can be written without making it.
func ProtoListHead(gvk schema.GroupVersionKind, meta *metav1.ListMeta, items [][]byte) (head []byte, size int, err error) {
	m, err := meta.Marshal()
	if err != nil {
		return nil, 0, err
	}
	raw := 1 + varintSize(uint64(len(m))) + len(m)
	for _, item := range items {
		raw += 1 + varintSize(uint64(len(item))) + len(item)
	}
	head = append(wrapHead(nil, gvk), 2<<3|2)
	head = binary.AppendUvarint(head, uint64(raw))
	size = len(head) + raw + len(ProtoListTail)
	return bytesField(head, 1, m), size, nil
}

// ProtoListTail is what ProtoList ends with: the empty fields of the envelope.
const ProtoListTail = "\x1a\x00\x22\x00"

// AppendProtoItem appends what stands before an item of that size.
func AppendProtoItem(dst []byte, size int) []byte {
	return binary.AppendUvarint(append(dst, 2<<3|2), uint64(size))
}

// ProtoFrame makes the frame of a watch event: its length and a metav1.WatchEvent around an enveloped object.
func ProtoFrame(event string, object []byte) []byte {
	inner := bytesField(make([]byte, 0, len(object)+16), 1, object)
	dst := make([]byte, 4, len(inner)+len(event)+24)
	dst = bytesField(dst, 1, []byte(event))
	dst = bytesField(dst, 2, inner)
	binary.BigEndian.PutUint32(dst, uint32(len(dst)-4))
	return dst
}

// AppendProtoEvent appends ProtoFrame(event, WrapProto(gvk, raw)), of which it copies raw once.
func AppendProtoEvent(dst []byte, event string, gvk schema.GroupVersionKind, raw []byte) []byte {
	var space [160]byte
	meta := bytesField(space[:0], 1, []byte(gvk.GroupVersion().String()))
	meta = bytesField(meta, 2, []byte(gvk.Kind))
	object := len(protoMagic()) + fieldSize(len(meta)) + fieldSize(len(raw)) + 2*fieldSize(0)
	inner := fieldSize(object)
	size := fieldSize(len(event)) + fieldSize(inner)
	dst = slices.Grow(dst, 4+size)
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	dst = bytesField(dst, 1, []byte(event))
	dst = binary.AppendUvarint(append(dst, 2<<3|2), uint64(inner))
	dst = binary.AppendUvarint(append(dst, 1<<3|2), uint64(object))
	dst = append(dst, protoMagic()...)
	dst = bytesField(dst, 1, meta)
	dst = bytesField(dst, 2, raw)
	return append(dst, 3<<3|2, 0, 4<<3|2, 0)
}

// fieldSize is the length of a field of n bytes.
func fieldSize(n int) int {
	size := 2 + n
	for v := n; v >= 0x80; v >>= 7 {
		size++
	}
	return size
}

func bytesField(dst []byte, field byte, value []byte) []byte {
	dst = append(dst, field<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

func unwrapProto(data []byte) (*runtime.Unknown, error) {
	if !bytes.HasPrefix(data, protoMagic()) {
		return nil, errors.New("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
	}
	u := new(runtime.Unknown)
	if err := u.Unmarshal(data[len(protoMagic()):]); err != nil {
		return nil, err
	}
	return u, nil
}

// envelope reads what unwrapProto does without copying it; not ok if there is anything unusual.
func envelope(data []byte) (gvk schema.GroupVersionKind, raw []byte, ok bool) {
	data, ok = bytes.CutPrefix(data, protoMagic())
	if !ok {
		return gvk, nil, false
	}
	var meta []byte
	seen := 0
	err := eachField(data, func(field int, value []byte) error {
		if field != seen+1 || field > 2 && len(value) > 0 {
			ok = false
		}
		switch seen = field; field {
		case 1:
			meta = value
		case 2:
			raw = value
		}
		return nil
	})
	var apiVersion, kind string
	seen = 0
	err = errors.Join(err, eachField(meta, func(field int, value []byte) error {
		switch {
		case field == 1 && seen == 0:
			apiVersion = string(value)
		case field == 2:
			kind = string(value)
		default:
			ok = false
		}
		seen = field
		return nil
	}))
	return schema.FromAPIVersionAndKind(apiVersion, kind), raw, ok && err == nil && raw != nil
}

func decodeProto(data []byte, obj runtime.Object) (schema.GroupVersionKind, error) {
	if gvk, raw, ok := envelope(data); ok {
		if m, ok := obj.(message); ok {
			if types.DecodeProto(raw, obj) {
				return gvk, nil
			}
			return gvk, m.Unmarshal(raw)
		}
	}
	u, err := unwrapProto(data)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	gvk := schema.FromAPIVersionAndKind(u.APIVersion, u.Kind)
	m, ok := obj.(message)
	if !ok {
		return gvk, fmt.Errorf("decode %T: %w", obj, ErrNoProto)
	}
	return gvk, m.Unmarshal(u.Raw)
}

// AppendAtRevision appends what EncodeProto would make of what EncodeStored made: the same object with a resourceVersion. Not ok
// are other forms than EncodeStored's.
func AppendAtRevision(dst, stored []byte, gvk schema.GroupVersionKind, revision string) ([]byte, bool) {
	const metadata, resourceVersion = 1<<3 | 2, 6<<3 | 2 // tags of the message and of its metadata
	_, raw, ok := envelope(stored)
	if !ok || len(raw) == 0 || raw[0] != metadata || len(revision) > 0x7f {
		return dst, false
	}
	size, n := binary.Uvarint(raw[1:])
	if n <= 0 || size > uint64(len(raw)-1-n) {
		return dst, false
	}
	meta, rest := raw[1+n:1+n+int(size)], raw[1+n+int(size):]
	at := 0
	for at < len(meta) && meta[at] < resourceVersion {
		long, n := binary.Uvarint(meta[at+1:])
		if meta[at]&7 != 2 || n <= 0 || long > uint64(len(meta)-at-1-n) {
			return dst, false
		}
		at += 1 + n + int(long)
	}
	if at+1 >= len(meta) || meta[at] != resourceVersion || meta[at+1] != 0 {
		return dst, false
	}
	metaSize := size + uint64(len(revision))
	dst = wrapHead(slices.Grow(dst, len(stored)+len(revision)+3*binary.MaxVarintLen64+len(gvk.Group)+len(gvk.Version)), gvk)
	dst = append(dst, 2<<3|2)
	dst = binary.AppendUvarint(dst, 1+uint64(varintSize(metaSize))+metaSize+uint64(len(rest)))
	dst = append(dst, metadata)
	dst = binary.AppendUvarint(dst, metaSize)
	dst = append(append(dst, meta[:at+1]...), byte(len(revision)))
	dst = append(append(append(dst, revision...), meta[at+2:]...), rest...)
	dst = bytesField(dst, 3, nil)
	return bytesField(dst, 4, nil), true
}

// wrapHead begins an envelope: all that comes before the message.
func wrapHead(dst []byte, gvk schema.GroupVersionKind) []byte {
	version := len(gvk.Version)
	if gvk.Group != "" {
		version += len(gvk.Group) + 1
	}
	dst = append(dst, protoMagic()...)
	dst = append(dst, 1<<3|2)
	dst = binary.AppendUvarint(dst, uint64(2+varintSize(uint64(version))+version+varintSize(uint64(len(gvk.Kind)))+len(gvk.Kind)))
	dst = append(dst, 1<<3|2)
	dst = binary.AppendUvarint(dst, uint64(version))
	if gvk.Group != "" {
		dst = append(append(dst, gvk.Group...), '/')
	}
	dst = append(append(dst, gvk.Version...), 2<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(gvk.Kind)))
	return append(dst, gvk.Kind...)
}

// varintSize is how many bytes a number takes.
func varintSize(n uint64) int { return (bits.Len64(n|1) + 6) / 7 }
