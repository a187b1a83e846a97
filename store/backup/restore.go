// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"bufio"
	"bytes"
	"compress/flate"
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
	"sync"
	"time"

	"knarr.dev/store"
)

const (
	maxRecords = 256 << 20 // bytes that a frame may inflate to
	writers    = 64        // writes at once
)

// ErrNotEmpty means that a store which is to be restored into has records already.
var ErrNotEmpty = errors.New("the store is not empty")

// Verify reads a whole backup and tells what it holds.
func Verify(from io.Reader) (Summary, error) {
	return read(from, func(store.Record) error { return nil })
}

// Restore writes the records of a backup into a store that has none with their prefix. Revisions are the store's own. Keys whose time is
// over are left out, and those that end by themselves end when they would have. The backup is not verified before the first write:
// do that first. After an error the store holds a part.
func Restore(ctx context.Context, from io.Reader, to store.Store, now func() time.Time) (Summary, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan store.Op)
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for op := range queue {
				if _, err := to.Write(ctx, op); err != nil {
					cancel(err)
				}
			}
		})
	}
	first := true
	summary, err := read(from, func(r store.Record) error {
		if first { // the header was read
			first = false
			if err := empty(ctx, to, r.Key); err != nil {
				return err
			}
		}
		op := store.Op{Key: r.Key, Value: r.Value, Expect: store.Absent}
		if r.Expires > 0 {
			if op.TTL = time.Unix(r.Expires, 0).Sub(now()); op.TTL <= 0 {
				return nil
			}
		}
		select {
		case queue <- op:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(queue)
	all.Wait()
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return summary, fmt.Errorf("restore: %w", err)
	}
	return summary, nil
}

// empty looks whether a store has records that begin as key does, up to its second slash: /registry/.
func empty(ctx context.Context, s store.Store, key string) error {
	prefix := key
	if i := bytes.IndexByte([]byte(key[1:]), '/'); i >= 0 {
		prefix = key[:i+2]
	}
	page, err := s.Read(ctx, store.Query{Key: prefix, Prefix: true, Limit: 1})
	if err == nil && len(page.Records) > 0 {
		return fmt.Errorf("%w: it has %s and %d more", ErrNotEmpty, page.Records[0].Key, page.Count-1)
	}
	return err
}

// read calls each for the records of a file, in order, and checks everything there is to check.
func read(from io.Reader, each func(store.Record) error) (Summary, error) {
	r := &reader{from: bufio.NewReaderSize(from, 1<<16), sum: sha256.New(), table: crcTable()}
	magic := make([]byte, len(Magic))
	if err := r.full(magic); err != nil || string(magic) != Magic {
		return Summary{}, fmt.Errorf("%w: it does not begin as one", ErrDamaged)
	}
	var out Summary
	for n := 0; ; n++ {
		before := hex.EncodeToString(r.sum.Sum(nil))
		kind, payload, err := r.frame()
		if err != nil {
			return out, err
		}
		switch {
		case (kind == frameHeader) != (n == 0):
			return out, fmt.Errorf("%w: frame %d is out of place", ErrDamaged, n)
		case kind == frameHeader:
			if err := json.Unmarshal(payload, &out.Header); err != nil {
				return out, fmt.Errorf("%w: header: %w", ErrDamaged, err)
			}
		case kind == frameRecords:
			count, err := records(payload, each)
			if err != nil {
				return out, err
			}
			out.Records += count
		case kind == frameEnd:
			return out, finish(payload, before, out.Records, r.from)
		default:
			return out, fmt.Errorf("%w: frame %d has the unknown type %q", ErrDamaged, n, kind)
		}
	}
}

// finish compares the end of a file with what came before it.
func finish(payload []byte, sum string, count int64, rest io.Reader) error {
	var e end
	if err := json.Unmarshal(payload, &e); err != nil {
		return fmt.Errorf("%w: end: %w", ErrDamaged, err)
	}
	if e.SHA256 != sum || e.Records != count {
		return fmt.Errorf("%w: checksum or number of records of the whole differs", ErrDamaged)
	}
	if n, err := rest.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows the end", ErrDamaged)
	}
	return nil
}

// reader reads frames.
type reader struct {
	from  io.Reader
	sum   hash.Hash
	table *crc32.Table
}

func (r *reader) full(b []byte) error {
	_, err := io.ReadFull(r.from, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut off", ErrDamaged)
	}
	r.sum.Write(b)
	return err
}

func (r *reader) frame() (kind byte, payload []byte, err error) {
	head := make([]byte, 5)
	if err := r.full(head); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length > maxFrame {
		return 0, nil, fmt.Errorf("%w: a frame of %d bytes", ErrDamaged, length)
	}
	var body bytes.Buffer // grows with what is there, not with what a damaged length says
	if _, err := io.CopyN(&body, io.TeeReader(r.from, r.sum), int64(length)+4); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: it is cut off", ErrDamaged)
		}
		return 0, nil, err
	}
	payload = body.Bytes()[:length]
	check := crc32.Update(crc32.Checksum(head, r.table), r.table, payload)
	if check != binary.BigEndian.Uint32(body.Bytes()[length:]) {
		return 0, nil, fmt.Errorf("%w: a frame's checksum differs", ErrDamaged)
	}
	return head[0], payload, nil
}

// records decodes a frame of records.
func records(payload []byte, each func(store.Record) error) (int64, error) {
	b, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(payload)), maxRecords))
	if err != nil {
		return 0, fmt.Errorf("%w: records: %w", ErrDamaged, err)
	}
	bad := false
	number := func() uint64 {
		n, used := binary.Uvarint(b)
		if used <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[used:]
		return n
	}
	text := func() []byte {
		n := number()
		if n > uint64(len(b)) {
			bad, b = true, nil
			return nil
		}
		out := b[:n:n]
		b = b[n:]
		return out
	}
	var count int64
	for len(b) > 0 {
		r := store.Record{Key: string(text()), Value: text(), Modified: int64(number()), Expires: int64(number())}
		if bad || len(r.Key) < 2 || r.Key[0] != '/' {
			return count, fmt.Errorf("%w: a record is malformed", ErrDamaged)
		}
		if err := each(r); err != nil {
			return count, err
		}
		count++
	}
	return count, nil
}
