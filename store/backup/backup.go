// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package backup copies all records of a store, as of one revision, to a file and back.
//
// The file says what it holds, each of its frames has a checksum, and its end has one of the whole: a file that was cut off or changed
// is told from a good one before anything is restored. A store serves on while it is copied. docs/formats/backup.md specifies the
// file. Start with Write, Verify and Restore.
package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"

	"compress/flate"

	"knarr.dev/store"
)

// The file: Magic, and frames of a type, a length, that many bytes and a checksum of all three.
const (
	Magic = "knarr backup 1\n"

	frameHeader  = 'H' // Header in JSON: the first
	frameRecords = 'R' // records, deflated
	frameEnd     = 'E' // end in JSON: the last

	frameBytes = 1 << 20  // of records before a frame is written
	maxFrame   = 64 << 20 // refused on reading
	pageSize   = 500
)

// ErrDamaged means that a file is no backup, was cut off, or has changed since it was written.
var ErrDamaged = errors.New("damaged backup")

// Header says what a backup holds.
type Header struct {
	// Revision is that of the store as of which all records are.
	Revision int64 `json:"revision"`
	// Time is when the backup began.
	Time time.Time `json:"time"`
	// Prefix is how all keys begin.
	Prefix string `json:"prefix"`
}

// end closes a file.
type end struct {
	Records int64  `json:"records"`
	SHA256  string `json:"sha256"` // of all bytes before the frame
}

// Summary is what a backup came to.
type Summary struct {
	Header
	Records int64
}

// crcTable is that of CRC-32C, which machines compute fast.
func crcTable() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Write copies the records whose keys begin with a prefix. now is the time of the header.
func Write(ctx context.Context, s store.Store, prefix string, now time.Time, to io.Writer) (Summary, error) {
	f := &file{to: to, sum: sha256.New(), table: crcTable()}
	q := store.Query{Key: prefix, Prefix: true, Limit: pageSize, Expiry: true}
	page, err := s.Read(ctx, q)
	if err != nil {
		return Summary{}, fmt.Errorf("backup: %w", err)
	}
	out := Summary{Header: Header{Revision: page.Revision, Time: now.UTC().Truncate(time.Second), Prefix: prefix}}
	f.write([]byte(Magic))
	f.json(frameHeader, out.Header)
	var records []byte
	for {
		for i := range page.Records {
			records = appendRecord(records, &page.Records[i])
			out.Records++
			if len(records) >= frameBytes {
				f.records(records)
				records = records[:0]
			}
		}
		if f.err != nil {
			return out, fmt.Errorf("backup: %w", f.err)
		}
		if !page.More {
			break
		}
		q.After, q.Revision = page.Records[len(page.Records)-1].Key, page.Revision
		if page, err = s.Read(ctx, q); err != nil {
			if errors.Is(err, store.ErrCompacted) {
				return out, fmt.Errorf("backup: it took longer than the store keeps history: %w", err)
			}
			return out, fmt.Errorf("backup: %w", err)
		}
	}
	if len(records) > 0 {
		f.records(records)
	}
	f.json(frameEnd, end{Records: out.Records, SHA256: hex.EncodeToString(f.sum.Sum(nil))})
	if f.err != nil {
		return out, fmt.Errorf("backup: %w", f.err)
	}
	return out, nil
}

// appendRecord encodes a record: key, value, revision of its last write, Unix second at which it ends by itself or 0.
func appendRecord(b []byte, r *store.Record) []byte {
	b = binary.AppendUvarint(b, uint64(len(r.Key)))
	b = append(b, r.Key...)
	b = binary.AppendUvarint(b, uint64(len(r.Value)))
	b = append(b, r.Value...)
	b = binary.AppendUvarint(b, uint64(r.Modified))
	return binary.AppendUvarint(b, uint64(r.Expires))
}

// file writes frames and keeps the first error.
type file struct {
	to    io.Writer
	sum   hash.Hash
	table *crc32.Table
	err   error
}

func (f *file) write(b []byte) {
	if f.err != nil {
		return
	}
	f.sum.Write(b)
	_, f.err = f.to.Write(b)
}

func (f *file) frame(kind byte, payload []byte) {
	b := make([]byte, 0, len(payload)+9)
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	f.write(binary.BigEndian.AppendUint32(b, crc32.Checksum(b, f.table)))
}

func (f *file) json(kind byte, v any) {
	b, err := json.Marshal(v)
	if err != nil && f.err == nil {
		f.err = err
	}
	f.frame(kind, b)
}

func (f *file) records(raw []byte) {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err == nil {
		_, err = w.Write(raw)
		err = errors.Join(err, w.Close())
	}
	if err != nil && f.err == nil {
		f.err = err
	}
	f.frame(frameRecords, b.Bytes())
}
