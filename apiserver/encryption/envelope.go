// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// How the source of an object's key is meant.
const (
	// keySource is a key for AES-GCM.
	keySource = 0
	// seedSource is a seed from which each object's key is derived.
	seedSource = 1
)

// encrypted is the protobuf message EncryptedObject of KEP-3299.
type encrypted struct {
	data        []byte            // 1
	keyID       string            // 2
	source      []byte            // 3: encryptedDEKSource
	annotations map[string][]byte // 4
	sourceType  uint64            // 5: encryptedDEKSourceType
}

// sum identifies the source.
func (e *encrypted) sum() [sha256.Size]byte {
	bare := *e
	bare.data = nil
	return sha256.Sum256(bare.marshal())
}

func (e *encrypted) marshal() []byte {
	b := make([]byte, 0, len(e.data)+len(e.source)+len(e.keyID)+64)
	bytes := func(b []byte, field protowire.Number, v []byte) []byte {
		if len(v) == 0 {
			return b
		}
		return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
	}
	b = bytes(b, 1, e.data)
	b = bytes(b, 2, []byte(e.keyID))
	b = bytes(b, 3, e.source)
	for _, name := range slices.Sorted(maps.Keys(e.annotations)) {
		var item []byte
		item = protowire.AppendString(protowire.AppendTag(item, 1, protowire.BytesType), name)
		item = protowire.AppendBytes(protowire.AppendTag(item, 2, protowire.BytesType), e.annotations[name])
		b = protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), item)
	}
	if e.sourceType != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), e.sourceType)
	}
	return b
}

// fields calls each for the fields of a message: v is set for bytes, n for numbers.
func fields(b []byte, each func(field protowire.Number, v []byte, n uint64) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var v []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			v, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := each(field, v, number); err != nil {
			return err
		}
	}
	return nil
}

func (e *encrypted) unmarshal(b []byte) error {
	err := fields(b, func(field protowire.Number, v []byte, n uint64) error {
		switch field {
		case 1:
			e.data = v
		case 2:
			e.keyID = string(v)
		case 3:
			e.source = v
		case 4:
			var name string
			var value []byte
			if err := fields(v, func(field protowire.Number, v []byte, _ uint64) error {
				switch field {
				case 1:
					name = string(v)
				case 2:
					value = v
				}
				return nil
			}); err != nil {
				return err
			}
			if e.annotations == nil {
				e.annotations = map[string][]byte{}
			}
			e.annotations[name] = value
		case 5:
			e.sourceType = n
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("not an EncryptedObject: %w", err)
	case len(e.data) == 0 || e.keyID == "" || len(e.source) == 0:
		return errors.New("not an EncryptedObject: data, key ID or source of the key lack")
	}
	return nil
}
