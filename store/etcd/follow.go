// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"knarr.dev/store"
)

// Bounds of following.
const (
	maxBackoff   = time.Second
	nudgeEvery   = 20 * time.Millisecond // how long a progress notification is waited for before it is asked for again
	pastEvents   = 4096                  // events of one read from history, beyond which only the rest of a message goes
	pastBytes    = 16 << 20
	streamHeader = "knarr-watch" // gRPC metadata: etcd's client has one stream for each value
)

// stream is a context whose watches share a stream with no others; so progress requests concern them alone.
func stream(ctx context.Context, name string) context.Context {
	return metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), streamHeader, name)
}

// follow publishes all changes after a revision until ctx ends, over broken connections and lost leaders.
func (s *Store) follow(ctx context.Context, after int64) {
	backoff := 10 * time.Millisecond
	for ctx.Err() == nil {
		reached, err := s.followOnce(ctx, after)
		if reached > after {
			after, backoff = reached, 10*time.Millisecond
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, store.ErrCompacted) {
			if current, err := s.client.Get(ctx, s.healthKey()); err == nil {
				s.options.Log.Warn("etcd compacted changes that were not seen", "after", after, "revision", current.Header.Revision)
				after = current.Header.Revision
				s.feed.Reset(after)
				continue
			}
		}
		s.options.Log.Warn("watch of etcd is renewed", "after", after, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// followOnce is one watch of all keys. It returns the revision up to which it published.
func (s *Store) followOnce(ctx context.Context, after int64) (int64, error) {
	ctx, cancel := context.WithCancel(stream(ctx, "all"))
	defer cancel()
	answers := s.client.Watch(ctx, s.options.Prefix+"/", clientv3.WithPrefix(), clientv3.WithRev(after+1),
		clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithFragment())
	for answer := range answers {
		if err := watchError(&answer); err != nil {
			return after, err
		}
		if answer.Created {
			continue
		}
		if answer.IsProgressNotify() {
			after = max(after, answer.Header.Revision)
			s.feed.Publish(nil, after)
			s.written.passed(after)
			continue
		}
		events := make([]store.Event, 0, len(answer.Events))
		for _, e := range answer.Events {
			event := s.event(e)
			event.Attachment = s.written.claim(&event)
			events = append(events, event)
			after = event.Modified
		}
		s.feed.Publish(events, after)
		s.written.passed(after)
	}
	return after, errors.New("the watch ended")
}

func watchError(answer *clientv3.WatchResponse) error {
	if answer.CompactRevision > 0 {
		return fmt.Errorf("%w (etcd compacted to %d)", store.ErrCompacted, answer.CompactRevision)
	}
	return answer.Err()
}

func (s *Store) event(e *clientv3.Event) store.Event {
	event := store.Event{Record: s.record(e.Kv)}
	if e.Type == clientv3.EventTypeDelete {
		event.Deleted, event.Value = true, nil
	}
	event.Size = len(event.Value)
	if e.PrevKv != nil {
		prev := s.record(e.PrevKv)
		event.Prev = &prev
	}
	return event
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) (store.Watcher, error) {
	if _, err := s.key(prefix); err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	// Of a watch, etcd would tell only later that history is gone.
	answer, err := s.get(ctx, s.healthKey(), []clientv3.OpOption{clientv3.WithRev(after), clientv3.WithCountOnly()})
	switch {
	case errors.Is(err, store.ErrFuture):
	case err != nil:
		return nil, fmt.Errorf("watch %s after %d: %w", prefix, after, err)
	case after == 0:
		after = answer.Header.Revision
	}
	w, err := s.feed.Watch(prefix, after)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", prefix, err)
	}
	return w, nil
}

// past reads history by a watch of its own, for the feed.
func (s *Store) past(ctx context.Context, prefix string, after, to int64) ([]store.Event, int64, error) {
	key, err := s.key(prefix)
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithCancel(stream(ctx, "past-"+strconv.FormatInt(s.streams.Add(1), 10)))
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	answers := s.client.Watch(ctx, key, clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithPrevKV(), clientv3.WithFragment())
	nudge := time.NewTicker(nudgeEvery)
	defer nudge.Stop()
	var events []store.Event
	for size := 0; ; {
		select {
		case answer, open := <-answers:
			if !open {
				return nil, 0, s.failure(errors.Join(ctx.Err(), errors.New("the watch ended")))
			}
			if err := watchError(&answer); err != nil {
				return nil, 0, s.failure(err)
			}
			if answer.IsProgressNotify() {
				after = max(after, answer.Header.Revision)
			}
			for _, e := range answer.Events {
				events = append(events, s.event(e))
				size += len(e.Kv.Value)
				after = e.Kv.ModRevision
			}
			if after >= to || len(events) >= pastEvents || size >= pastBytes {
				return events, after, nil
			}
		case <-nudge.C:
			if err := s.client.RequestProgress(ctx); err != nil {
				return nil, 0, s.failure(err)
			}
		}
	}
}

// rounds joins those who ask for the newest revision at the same time: who comes while one round is under way waits for the
// next, which begins after they came.
type rounds struct {
	mu      sync.Mutex
	next    *round
	running bool
}

type round struct {
	done     chan struct{}
	revision int64
	err      error
}

// current returns etcd's newest revision when everything up to it was published.
func (s *Store) current(ctx context.Context) (int64, error) {
	s.rounds.mu.Lock()
	if s.ctx.Err() != nil {
		s.rounds.mu.Unlock()
		return 0, store.ErrClosed
	}
	if s.rounds.next == nil {
		s.rounds.next = &round{done: make(chan struct{})}
	}
	r := s.rounds.next
	if !s.rounds.running {
		s.rounds.running = true
		s.owned.Go(s.runRounds) // ends with the last who waits
	}
	s.rounds.mu.Unlock()
	select {
	case <-r.done:
		return r.revision, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (s *Store) runRounds() {
	for {
		s.rounds.mu.Lock()
		r := s.rounds.next
		s.rounds.next = nil
		if r == nil {
			s.rounds.running = false
			s.rounds.mu.Unlock()
			return
		}
		s.rounds.mu.Unlock()
		r.revision, r.err = s.catchUp()
		close(r.done)
	}
}

// catchUp asks for the newest revision and sees to it that the watch gets there.
func (s *Store) catchUp() (int64, error) {
	ctx, done, err := s.request(s.ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	answer, err := s.client.Get(ctx, s.healthKey())
	if err != nil {
		return 0, s.failure(err)
	}
	revision := answer.Header.Revision
	for s.feed.Newest() < revision {
		if err := s.client.RequestProgress(stream(ctx, "all")); err != nil {
			return 0, s.failure(err)
		}
		waiting, cancel := context.WithTimeout(ctx, nudgeEvery)
		err := s.feed.Wait(waiting, revision)
		cancel()
		if err != nil && ctx.Err() != nil {
			return 0, s.failure(err)
		}
	}
	return revision, nil
}
