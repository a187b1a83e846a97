// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The tables of the database, by the first byte of a key. docs/formats/store.md specifies them.
const (
	tableMeta     = 'm' // m NAME                  -> int64
	tableVersions = 'v' // v KEY 0 ^REVISION        -> version: every version of every key, the newest first
	tableLog      = 'l' // l REVISION               -> KEY 0 FLAGS PREVIOUS: which key a revision changed, and how
	tableExpiry   = 'x' // x UNIX-SECONDS REVISION  -> KEY: when a version ends by itself
)

var (
	metaCompacted = []byte("mcompacted")
	metaFormat    = []byte("mformat")
)

// format is the version of the layout. In format 1 rows of the log had only the key.
const format = 2

// version is what a key was after one write.
type version struct {
	revision int64
	created  int64
	previous int64 // the version before, 0 if the key was absent
	deleted  bool
	expires  int64 // Unix seconds; 0 never
	value    []byte
}

const (
	flagDeleted = 1 << iota
	flagExpires
)

func versionKey(key string, revision int64) []byte {
	return appendVersionKey(make([]byte, 0, len(key)+versionKeyExtra), key, revision)
}

// versionKeyExtra is by how much a version's key is longer than the key.
const versionKeyExtra = 10

func appendVersionKey(b []byte, key string, revision int64) []byte {
	b = append(b, tableVersions)
	b = append(b, key...)
	b = append(b, 0)
	return binary.BigEndian.AppendUint64(b, ^uint64(revision))
}

func splitVersionKey(b []byte) (key string, revision int64, err error) {
	if len(b) < 10 || b[len(b)-9] != 0 {
		return "", 0, fmt.Errorf("malformed version key %q", b)
	}
	return string(b[1 : len(b)-9]), int64(^binary.BigEndian.Uint64(b[len(b)-8:])), nil
}

func logKey(revision int64) []byte { return appendLogKey(make([]byte, 0, 9), revision) }

func appendLogKey(b []byte, revision int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, tableLog), uint64(revision))
}

// change is a row of the log: what is needed to forget the version that a write replaced, without reading it.
type change struct {
	key      string
	previous int64
	deleted  bool
	short    bool // of format 1: only the key is known
}

func appendChange(b []byte, key string, v *version) []byte {
	flags := byte(0)
	if v.deleted {
		flags |= flagDeleted
	}
	return binary.AppendUvarint(append(append(b, key...), 0, flags), uint64(v.previous))
}

func decodeChange(b []byte) (change, error) {
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		return change{key: string(b), short: true}, nil
	}
	c := change{key: string(b[:end])}
	if b = b[end+1:]; len(b) < 2 {
		return c, fmt.Errorf("%s: %w", c.key, errMalformed)
	}
	previous, used := binary.Uvarint(b[1:])
	if used <= 0 {
		return c, fmt.Errorf("%s: %w", c.key, errMalformed)
	}
	c.deleted, c.previous = b[0]&flagDeleted != 0, int64(previous)
	return c, nil
}

func expiryKey(at, revision int64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{tableExpiry}, uint64(at)), uint64(revision))
}

// maxHeader bounds what appendHeader adds.
const maxHeader = 1 + 3*binary.MaxVarintLen64

// appendHeader encodes what is before the value of a version: flags, created, previous, expiry if any.
func appendHeader(b []byte, v *version) []byte {
	flags := byte(0)
	if v.deleted {
		flags |= flagDeleted
	}
	if v.expires != 0 {
		flags |= flagExpires
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(v.created))
	b = binary.AppendUvarint(b, uint64(v.previous))
	if v.expires != 0 {
		b = binary.AppendUvarint(b, uint64(v.expires))
	}
	return b
}

var errMalformed = errors.New("malformed version")

// decodeVersion decodes b; the value is a copy.
func decodeVersion(b []byte, revision int64) (version, error) {
	v, value, err := decodeHeader(b, revision)
	if err == nil && !v.deleted {
		v.value = append([]byte{}, value...)
	}
	return v, err
}

// decodeHeader decodes what is before the value in b, and returns the value as the rest of b.
func decodeHeader(b []byte, revision int64) (version, []byte, error) {
	if len(b) == 0 {
		return version{}, nil, errMalformed
	}
	flags := b[0]
	b = b[1:]
	number := func() int64 {
		n, used := binary.Uvarint(b)
		if used <= 0 {
			b = nil
			return -1
		}
		b = b[used:]
		return int64(n)
	}
	v := version{revision: revision, deleted: flags&flagDeleted != 0}
	v.created, v.previous = number(), number()
	if flags&flagExpires != 0 {
		v.expires = number()
	}
	if v.created < 0 || v.previous < 0 || v.expires < 0 {
		return version{}, nil, errMalformed
	}
	return v, b, nil
}

// expiry is when a TTL that starts now ends, in Unix seconds, rounded up.
func expiry(now time.Time, ttl time.Duration) int64 {
	if ttl <= 0 {
		return 0
	}
	return now.Add(ttl + time.Second - 1).Unix()
}

// prefixEnd is the first key after all that start with p.
func prefixEnd(p []byte) []byte {
	end := append([]byte{}, p...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}
