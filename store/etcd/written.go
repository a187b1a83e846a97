// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"sync"
	"time"

	"knarr.dev/store"
)

// written remembers the attachments of this process's writes until the watch shows their events. An event often comes
// before the answer to its write: then the watch waits for that, which is on its way, but not for long.
type written struct {
	mu      sync.Mutex
	pending map[string][]*pending // by key: writes without an answer
	done    map[int64]any         // by revision: attachments of writes whose event has not come
}

// Limits of written.
const (
	maxRemembered = 4096
	answerWait    = 20 * time.Millisecond
)

type pending struct {
	op       *store.Op
	done     chan struct{} // closed when revision is known
	revision int64         // 0 if the write failed or nothing is known
}

// begin notes a write before it is sent; nil if it has no attachment.
func (w *written) begin(op *store.Op) *pending {
	if op.Attachment == nil {
		return nil
	}
	p := &pending{op: op, done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending == nil {
		w.pending, w.done = map[string][]*pending{}, map[int64]any{}
	}
	w.pending[op.Key] = append(w.pending[op.Key], p)
	return p
}

// end notes the answer to a write.
func (w *written) end(p *pending, revision int64) {
	if p == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.pending[p.op.Key]
	for i := range all {
		if all[i] == p {
			all = append(all[:i:i], all[i+1:]...)
			break
		}
	}
	if w.pending[p.op.Key] = all; len(all) == 0 {
		delete(w.pending, p.op.Key)
	}
	if revision != 0 && len(w.done) < maxRemembered {
		w.done[revision] = p.op.Attachment
	}
	p.revision = revision
	close(p.done)
}

// claim returns the attachment of the write that made an event, or nil.
func (w *written) claim(e *store.Event) any {
	w.mu.Lock()
	if a, known := w.done[e.Modified]; known {
		delete(w.done, e.Modified)
		w.mu.Unlock()
		return a
	}
	var candidate *pending
	for _, p := range w.pending[e.Key] {
		if (p.op.Value == nil) == e.Deleted && string(p.op.Value) == string(e.Value) {
			candidate = p
			break
		}
	}
	w.mu.Unlock()
	if candidate == nil {
		return nil
	}
	timer := time.NewTimer(answerWait)
	defer timer.Stop()
	select {
	case <-candidate.done:
	case <-timer.C:
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.done[e.Modified]
	delete(w.done, e.Modified)
	return a
}

// passed forgets attachments of events up to a revision, which have been shown.
func (w *written) passed(revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.done {
		if r <= revision {
			delete(w.done, r)
		}
	}
}
