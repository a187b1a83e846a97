// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"knarr.dev/store"
)

// podValue is about as large, and as much like the next one, as a stored Pod: two thirds are managed fields.
func podValue(r *rand.Rand, name string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "k8s\x00%s %x-%x", name, r.Uint64(), r.Uint64())
	for i := range 16 {
		fmt.Fprintf(&b, "env-%d=value of %d for %s;", i, i*i, name)
	}
	for i := range 50 {
		fmt.Fprintf(&b, `"f:field%d":{".":{},"f:type%d":{},"k:{\"name\":\"v%d\"}":{".":{},"f:value":{}}},`, i, i*7, i*3)
	}
	fmt.Fprintf(&b, "%x", r.Uint64())
	for b.Len() < 6200 {
		fmt.Fprintf(&b, `"f:status%d":{},`, b.Len())
	}
	return b.Bytes()
}

func configMapValue(r *rand.Rand, name string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "k8s\x00%s %x-%x", name, r.Uint64(), r.Uint64())
	b.WriteString(strings.Repeat("f:data", 60))
	for b.Len() < 1400 {
		fmt.Fprintf(&b, "%016x", r.Uint64())
	}
	return b.Bytes()
}

// BenchmarkWrites has 64 writers create, update twice and, of every other key, delete. It says what one write costs of the processor,
// with what goes on in the background, and how much a key takes on disk in the end.
func BenchmarkWrites(b *testing.B) {
	for _, kind := range []struct {
		name  string
		value func(*rand.Rand, string) []byte
	}{{"pods", podValue}, {"configmaps", configMapValue}} {
		b.Run(kind.name, func(b *testing.B) {
			dir := b.TempDir()
			s, err := Open(dir, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			r := rand.New(rand.NewPCG(1, 2))
			var values [256][]byte
			for i := range values {
				values[i] = kind.value(r, fmt.Sprintf("name-%d", i))
			}
			b.SetParallelism(32)
			var keys, writes atomic.Int64
			before := cpu(b)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					i := keys.Add(1)
					key := fmt.Sprintf("/registry/%s/default/name-%d", kind.name, i*7919%1000003)
					expect := store.Absent
					for step := range 4 {
						op := store.Op{Key: key, Value: values[(i+int64(step))%256], Expect: expect}
						if step == 3 {
							if i%2 == 0 {
								continue
							}
							op.Value = nil
						}
						got, err := s.Write(b.Context(), op)
						if err != nil && !errors.Is(err, store.ErrConflict) {
							b.Error(err)
							return
						}
						expect = got.Modified
						writes.Add(1)
					}
				}
			})
			b.StopTimer()
			n := float64(writes.Load())
			b.ReportMetric(float64(cpu(b)-before)/1e3/n, "cpu-us/write")
			b.ReportMetric(float64(bytesIn(b, dir))/1e3/float64(keys.Load()), "disk-KB/key")
			m := s.db.Metrics()
			b.ReportMetric(float64(m.WAL.BytesWritten)/1e3/n, "wal-KB/write")
			b.ReportMetric(float64(m.Total().TableBytesFlushed+m.Total().TableBytesCompacted+m.Total().BlobBytesFlushed+m.Total().BlobBytesCompacted)/1e3/n, "tables-KB/write")
		})
	}
}

// BenchmarkOneWriter is one writer that waits for each write.
func BenchmarkOneWriter(b *testing.B) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	value := configMapValue(rand.New(rand.NewPCG(1, 2)), "one")
	before := cpu(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		if _, err := s.Write(b.Context(), store.Op{Key: fmt.Sprintf("/registry/configmaps/default/%d", i), Value: value}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpu(b)-before)/1e3/float64(i), "cpu-us/write")
}

// cpu is the time that the process has used of the processors, in nanoseconds.
func cpu(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func bytesIn(b *testing.B, dir string) (sum int64) {
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		sum += info.Size()
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.Fatal(err)
	}
	return sum
}
