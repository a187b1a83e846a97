// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"context"
	"io"
	"net/http"
	"time"
)

// Ending says when the server that the handler belongs to ends. The zero value is never.
type Ending struct {
	// Began is closed when it begins to end.
	Began <-chan struct{}
	// Turn is how long then the next watch may go on.
	Turn func() time.Duration
}

// follow ends what q asks for in its turn when the server ends: the request in the returned one's context, and the answer's body as
// if the other server had ended it. done is to be called when q is answered, and waits.
func (e Ending) follow(q *http.Request) (followed *http.Request, modify func(*http.Response) error, done func()) {
	ctx, cancel := context.WithCancel(q.Context())
	ended, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		select {
		case <-ctx.Done():
			return
		case <-e.Began:
		}
		timer := time.NewTimer(e.Turn())
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		close(ended)
		cancel()
	}()
	modify = func(answer *http.Response) error {
		if answer.StatusCode != http.StatusSwitchingProtocols {
			answer.Body = &endingBody{answer.Body, ended}
		}
		return nil
	}
	return q.WithContext(ctx), modify, func() {
		cancel()
		<-gone
	}
}

// endingBody is a body that is at its end when the server ends.
type endingBody struct {
	io.ReadCloser
	ended <-chan struct{}
}

// Read implements io.Reader.
func (b *endingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		select {
		case <-b.ended:
			err = io.EOF
		default:
		}
	}
	return n, err
}
