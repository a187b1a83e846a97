// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net"
	"runtime"
	"sync"
	"time"
)

// batchMax is how many bytes may wait to be written to one connection; directMin is from how many on bytes do not wait if none do.
const (
	batchMax  = 64 << 10
	directMin = 12 << 10
)

// closeGrace is how long a connection that closes may take to write what waits.
const closeGrace = 2 * time.Second

// batching is a listener whose connections write behind: bytes that are written shortly after one another go to the system together.
// An answer over HTTP/2 is three writes (its header, its data, its end), each of which would wake the client.
type batching struct {
	net.Listener
	buffers *sync.Pool // of *[]byte
}

func newBatching(l net.Listener) batching { return batching{Listener: l, buffers: new(sync.Pool)} }

// Accept implements net.Listener.
func (l batching) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newBatchConn(c, l.buffers), nil
}

// batchConn is a connection that writes behind. A write that fails is told by the next one; whoever reads learns of a broken connection
// anyway. At most one goroutine writes, and it ends when nothing waits.
type batchConn struct {
	net.Conn
	buffers *sync.Pool

	mu      sync.Mutex
	changed sync.Cond // busy, waiting or failed
	waiting *[]byte   // nil: nothing
	busy    bool      // somebody writes, or is about to
	failed  error
}

func newBatchConn(c net.Conn, buffers *sync.Pool) *batchConn {
	b := &batchConn{Conn: c, buffers: buffers}
	b.changed.L = &b.mu
	return b
}

// Write implements net.Conn. It waits while too much waits already.
func (c *batchConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.failed == nil && c.waiting != nil && len(*c.waiting)+len(p) > batchMax {
		c.changed.Wait()
	}
	if c.failed != nil {
		return 0, c.failed
	}
	if !c.busy && len(p) >= directMin {
		c.busy = true
		n, err := c.writeOut(p)
		if c.waiting == nil || err != nil {
			c.end(err)
		} else { // of somebody else, meanwhile
			go c.flush()
		}
		return n, err
	}
	if c.waiting == nil {
		if c.waiting, _ = c.buffers.Get().(*[]byte); c.waiting == nil {
			c.waiting = new([]byte)
		}
	}
	*c.waiting = append(*c.waiting, p...)
	if !c.busy {
		c.busy = true
		go c.flush()
	}
	return len(p), nil
}

// writeOut writes without the lock, which is held before and after.
func (c *batchConn) writeOut(p []byte) (int, error) {
	c.mu.Unlock()
	defer c.mu.Lock()
	return c.Conn.Write(p)
}

// end is called under the lock by who wrote.
func (c *batchConn) end(err error) {
	c.busy, c.failed = false, err
	c.changed.Broadcast()
}

// flush writes until nothing waits.
func (c *batchConn) flush() {
	runtime.Gosched() // so that those who are about to write do
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	for c.waiting != nil && err == nil {
		b := c.waiting
		c.waiting = nil
		_, err = c.writeOut(*b)
		*b = (*b)[:0]
		c.buffers.Put(b)
		c.changed.Broadcast()
	}
	c.end(err)
}

// drain waits until nothing waits or a write has failed.
func (c *batchConn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.busy {
		c.changed.Wait()
	}
}

// Close implements net.Conn.
func (c *batchConn) Close() error {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(closeGrace))
	c.drain()
	return c.Conn.Close()
}

// SetWriteDeadline implements net.Conn. One that is over stops writes that come, as TLS does when it closes, and not those before it.
func (c *batchConn) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(closeGrace))
		c.drain()
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *batchConn) SetDeadline(t time.Time) error {
	if err := c.Conn.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}
