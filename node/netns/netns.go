// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package netns makes sockets and processes in another network namespace.
//
// A namespace is named by its path, such as /run/netns/knarr1; the empty path is the namespace of the process. A socket
// stays in the namespace that it was made in, so callers use the results anywhere.
package netns

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f in the namespace at path, on a thread of its own. Goroutines that f starts are outside.
func Do(path string, f func() error) error {
	if path == "" {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine, so no other goroutine meets its namespace.
		runtime.LockOSThread()
		if err := enter(path); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// Lock moves the calling goroutine and its thread into the namespace at path for good. Processes that it starts
// belong to the namespace. The goroutine should end without unlocking its thread.
func Lock(path string) error {
	runtime.LockOSThread()
	if path == "" {
		return nil
	}
	return enter(path)
}

func enter(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}

// Dialer connects from a network namespace.
type Dialer struct {
	// Path names the namespace.
	Path string
	net.Dialer
}

// DialContext connects to address, whose host must be an IP address if Path is set.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := Do(d.Path, func() (err error) {
		conn, err = d.Dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens in the namespace at path.
func Listen(ctx context.Context, path, network, address string) (net.Listener, error) {
	var listener net.Listener
	err := Do(path, func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return listener, err
}
