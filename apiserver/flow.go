// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// flow bounds the requests that are carried out at once, those that write apart from those that read. Watches count
// only until they are open.
type flow struct {
	reading, writing chan struct{}
	waiting          atomic.Int64
}

// Bounds of the queue of requests over HTTP.
const (
	maxWaiting = 4096
	maxWait    = 15 * time.Second
)

// queue takes a seat, after waiting for one if the queue is not too long; false if it is, or if the wait was.
func (f *flow) queue(ctx context.Context, verb string) (done func(), ok bool) {
	seats := f.seats(verb)
	free := func() { <-seats }
	select {
	case seats <- struct{}{}:
		return free, true
	default:
	}
	if f.waiting.Add(1) > maxWaiting {
		f.waiting.Add(-1)
		return nil, false
	}
	defer f.waiting.Add(-1)
	patience := time.NewTimer(maxWait)
	defer patience.Stop()
	select {
	case seats <- struct{}{}:
		return free, true
	case <-patience.C:
	case <-ctx.Done():
	}
	return nil, false
}

func newFlow(all, mutating int) *flow {
	if all <= 0 {
		all = 400
	}
	if mutating <= 0 {
		mutating = 200
	}
	return &flow{reading: make(chan struct{}, all), writing: make(chan struct{}, mutating)}
}

func (f *flow) seats(verb string) chan struct{} {
	switch verb {
	case "get", "list", "watch", "head", "options":
		return f.reading
	}
	return f.writing
}

// wait takes a seat as soon as one is free.
func (f *flow) wait(ctx context.Context, verb string) (done func(), err error) {
	seats := f.seats(verb)
	select {
	case seats <- struct{}{}:
		return func() { <-seats }, nil
	case <-ctx.Done():
		return nil, apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
	}
}
