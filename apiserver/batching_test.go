// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestBatchConn writes pieces of all sizes: they arrive in order, and closing loses none.
func TestBatchConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		c := newBatchConn(here, new(sync.Pool))
		random := rand.New(rand.NewPCG(1, 2))
		var sent []byte
		go func() {
			for range 2000 {
				p := make([]byte, random.IntN(1<<random.IntN(16)))
				for i := range p {
					p[i] = byte(random.Uint32())
				}
				sent = append(sent, p...)
				if n, err := c.Write(p); n != len(p) || err != nil {
					t.Errorf("wrote %d of %d bytes: %v", n, len(p), err)
				}
			}
			if err := c.SetWriteDeadline(time.Now()); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
		got, err := io.ReadAll(there)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes arrived of %d, or others; %v", len(got), len(sent), err)
		}
	})
}

// TestBatchConnStalled has a reader that does not read: writes wait, and fail at their deadline.
func TestBatchConnStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		c := newBatchConn(here, new(sync.Pool))
		began := time.Now()
		if err := c.SetWriteDeadline(began.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		written := 0
		for {
			n, err := c.Write(make([]byte, 1000))
			if written += n; err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
				}
				break
			}
		}
		if written > 2*batchMax || time.Since(began) != time.Minute {
			t.Errorf("%d bytes waited, for %s", written, time.Since(began))
		}
		if _, err := c.Write([]byte("a")); err == nil {
			t.Error("no error after a failed write")
		}
		_ = c.Close()
	})
}

// TestBatchConnCloses does not wait for long for a reader that does not read.
func TestBatchConnCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		c := newBatchConn(here, new(sync.Pool))
		if _, err := c.Write([]byte("a")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := c.Close(); err != nil || time.Since(began) != closeGrace {
			t.Errorf("closed after %s: %v", time.Since(began), err)
		}
	})
}

// TestBatchConnOfTwo has a small write come while a large one is under way: it arrives too, though nobody writes after it.
func TestBatchConnOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		c := newBatchConn(here, new(sync.Pool))
		defer c.Close()
		defer there.Close()
		go func() { _, _ = c.Write(make([]byte, directMin)) }()
		synctest.Wait()
		if _, err := c.Write([]byte("a")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(there, make([]byte, directMin+1)); err != nil {
			t.Error(err)
		}
	})
}
