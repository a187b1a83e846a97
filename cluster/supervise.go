// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// supervisor runs the parts of a cluster: it starts them in order and stops them in reverse. A part that ends before it
// is stopped ends the cluster.
type supervisor struct {
	done chan struct{} // closed at the first failure or when told to end

	mu      sync.Mutex
	parts   []*part
	err     error
	ended   bool
	closed  chan struct{} // closed when everything has stopped
	closing bool
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	close  func() error // for parts that are not goroutines
}

func newSupervisor() *supervisor {
	return &supervisor{done: make(chan struct{}), closed: make(chan struct{})}
}

// run starts f, which must block until its context ends.
func (s *supervisor) run(name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	s.parts = append(s.parts, p)
	s.mu.Unlock()
	go func() {
		defer close(p.done)
		err := f(ctx)
		if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		s.fail(fmt.Errorf("%s: %w", name, err))
	}()
}

// onStop registers what undoes a step that is no goroutine.
func (s *supervisor) onStop(name string, f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts = append(s.parts, &part{name: name, close: f})
}

// fail ends the cluster because of err.
func (s *supervisor) fail(err error) {
	s.mu.Lock()
	s.err = errors.Join(s.err, err)
	s.mu.Unlock()
	s.end()
}

// end says that the cluster is to stop.
func (s *supervisor) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		close(s.done)
	}
}

// stop stops all parts, the last started first, and returns what went wrong since the start. It may be called again.
func (s *supervisor) stop() error {
	s.end()
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	parts := s.parts
	s.mu.Unlock()
	if first {
		for i := len(parts) - 1; i >= 0; i-- {
			p := parts[i]
			if p.close != nil {
				if err := p.close(); err != nil {
					s.mu.Lock()
					s.err = errors.Join(s.err, fmt.Errorf("stop %s: %w", p.name, err))
					s.mu.Unlock()
				}
				continue
			}
			p.cancel()
			<-p.done
		}
		close(s.closed)
	}
	<-s.closed
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
