// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net"
	"sync"
)

// listeners is one listener over several addresses.
type listeners struct {
	all      []net.Listener
	accepted chan net.Conn
	failed   chan error
	closed   chan struct{}
	once     sync.Once
	wg       sync.WaitGroup
}

// listenAll joins listeners that are open; the first one's address is the address of all.
func listenAll(all ...net.Listener) net.Listener {
	if len(all) == 1 {
		return all[0]
	}
	l := &listeners{all: all, accepted: make(chan net.Conn), failed: make(chan error, len(all)), closed: make(chan struct{})}
	for _, one := range all {
		l.wg.Go(func() {
			for {
				conn, err := one.Accept()
				if err != nil {
					l.failed <- err
					return
				}
				select {
				case l.accepted <- conn:
				case <-l.closed:
					conn.Close()
					return
				}
			}
		})
	}
	return l
}

func (l *listeners) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case err := <-l.failed:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listeners) Close() error {
	var err error
	l.once.Do(func() {
		close(l.closed)
		for _, one := range l.all {
			if e := one.Close(); e != nil {
				err = e
			}
		}
		l.wg.Wait()
	})
	return err
}

func (l *listeners) Addr() net.Addr { return l.all[0].Addr() }
