// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package etcd is the shared store: store.Store on an etcd v3 cluster, beside other API servers, Kubernetes' too.
//
// Keys, values, leases and the key that paces compaction are those of Kubernetes, so that an etcd may be taken over from
// kube-apiserver and given back. Conditions are transactions on the mod revision; reads are linearizable. One watch
// follows all keys of the prefix and feeds the watches of this process (see store/internal/feed); a read of what every
// server has written asks etcd for its revision and for a progress notification, once for all who wait.
//
// It needs etcd 3.4.31, 3.5.13 or newer: older ones send progress notifications too early.
//
// Start with Open.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"knarr.dev/store"
	"knarr.dev/store/internal/feed"
)

// Defaults of Options.
const (
	defaultTimeout  = 10 * time.Second
	defaultInterval = 5 * time.Minute // as kube-apiserver's --etcd-compaction-interval
	dialTimeout     = 20 * time.Second
	keepalive       = 30 * time.Second
	maxInFlight     = 1024 // requests to etcd at once
)

// Options say which etcd, and how.
type Options struct {
	// Endpoints are URLs of the members: https://HOST:PORT, http://HOST:PORT.
	Endpoints []string
	// TLS is for https endpoints; see Files.
	TLS *tls.Config
	// Base is how the store's keys begin, and Prefix what etcd's begin with instead. Kubernetes' are both /registry.
	Base, Prefix string
	// Timeout bounds each request; 10 seconds if 0.
	Timeout time.Duration
	// CompactionInterval is how often history older than the interval is dropped, by one of the servers on this etcd;
	// 5 minutes if 0, never if negative.
	CompactionInterval time.Duration
	// Log is told what a person would act on; nil is silence.
	Log *slog.Logger
}

// Store is an open store.
type Store struct {
	client  *clientv3.Client
	options Options
	feed    *feed.Feed
	rounds  rounds
	written written
	leases  leases
	slots   chan struct{} // holds a token for each request in flight
	streams atomic.Int64  // numbers watches of history

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	owned  sync.WaitGroup // goroutines
	once   sync.Once
}

// Size is how many bytes the store takes on the disk of one of etcd's members.
func (s *Store) Size(ctx context.Context) (int64, error) {
	status, err := s.client.Status(ctx, s.client.Endpoints()[0])
	if err != nil {
		return 0, fmt.Errorf("size: %w", err)
	}
	return status.DbSize, nil
}

// Open connects to a cluster and returns when it answers, or when ctx or 20 seconds end.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.CompactionInterval == 0 {
		o.CompactionInterval = defaultInterval
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Prefix = strings.TrimSuffix(o.Prefix, "/")
	client, err := clientv3.New(clientv3.Config{
		Endpoints: o.Endpoints, TLS: o.TLS, Logger: zap.NewNop(),
		DialTimeout: dialTimeout, DialKeepAliveTime: keepalive, DialKeepAliveTimeout: keepalive / 3,
	})
	if err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	s := &Store{client: client, options: o, slots: make(chan struct{}, maxInFlight)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	revision, err := s.greet(ctx)
	if err == nil {
		err = s.newEnough(ctx)
	}
	if err != nil {
		s.cancel()
		return nil, errors.Join(fmt.Errorf("open etcd %s: %w", strings.Join(o.Endpoints, ","), err), client.Close())
	}
	s.feed = feed.New(feed.Config{Revision: revision, Past: s.past, Current: s.current})
	s.owned.Go(func() { s.follow(s.ctx, revision) })
	if o.CompactionInterval > 0 {
		s.owned.Go(func() { s.keepCompacting(s.ctx) })
	}
	return s, nil
}

// greet waits for an answer of the cluster: its revision.
func (s *Store) greet(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	for {
		trying, done := context.WithTimeout(ctx, dialTimeout/4)
		answer, err := s.client.Get(trying, s.healthKey())
		done()
		if err == nil {
			return answer.Header.Revision, nil
		}
		if ctx.Err() != nil {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// newEnough asks each member for its version. Members that do not answer are passed over.
func (s *Store) newEnough(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout/4)
	defer cancel()
	for _, endpoint := range s.options.Endpoints {
		status, err := s.client.Status(ctx, endpoint)
		if err != nil {
			continue
		}
		if !supported(status.Version) {
			return fmt.Errorf("%s is etcd %s, which sends progress notifications too early: 3.4.31, 3.5.13 or newer is needed", endpoint, status.Version)
		}
	}
	return nil
}

// supported tells whether consistent reads may rely on the progress notifications of a version.
func supported(version string) bool {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); n < 3 {
		return true // a build of somebody's own
	}
	switch {
	case major != 3:
		return major > 3
	case minor < 4, minor == 4 && patch < 31, minor == 5 && patch < 13:
		return false
	}
	return true
}

// Close disconnects. Requests without an answer fail with store.ErrClosed.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		s.rounds.mu.Lock() // so that none begins after this
		s.cancel()
		s.rounds.mu.Unlock()
		s.feed.Close()
		s.owned.Wait()
		if err = s.client.Close(); errors.Is(err, context.Canceled) {
			err = nil
		}
	})
	return err
}

// Health asks whether the cluster has a leader and answers.
func (s *Store) Health(ctx context.Context) error {
	ctx, done, err := s.request(ctx)
	if err != nil {
		return err
	}
	defer done()
	_, err = s.client.Get(ctx, s.healthKey())
	return s.failure(err)
}

// healthKey is the key that Kubernetes reads to see whether etcd is healthy; nobody writes it.
func (s *Store) healthKey() string { return s.options.Prefix + "/health" }

// key is the name in etcd of a key, or of a prefix, of the store.
func (s *Store) key(key string) (string, error) {
	rest, ok := strings.CutPrefix(key, s.options.Base)
	if !ok || !strings.HasPrefix(rest, "/") {
		return "", fmt.Errorf("key %q is not below %s/", key, s.options.Base)
	}
	return s.options.Prefix + rest, nil
}

// name is the store's key for one of etcd.
func (s *Store) name(key []byte) string {
	return s.options.Base + string(key[len(s.options.Prefix):])
}

// request bounds one request in time, and how many there are at once.
func (s *Store) request(ctx context.Context) (context.Context, func(), error) {
	if s.ctx.Err() != nil {
		return nil, nil, store.ErrClosed
	}
	select {
	case s.slots <- struct{}{}:
	case <-s.ctx.Done():
		return nil, nil, store.ErrClosed
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
		<-s.slots
	}, nil
}

// failure gives an error of etcd the name that the store has for it.
func (s *Store) failure(err error) error {
	switch {
	case err == nil:
		return nil
	case s.ctx.Err() != nil:
		return store.ErrClosed
	case errors.Is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("%w (%w)", store.ErrCompacted, err)
	case errors.Is(err, rpctypes.ErrFutureRev):
		return fmt.Errorf("%w (%w)", store.ErrFuture, err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "larger than max"):
		return fmt.Errorf("%w (%w)", store.ErrTooLarge, err)
	case status.Code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("%w (%w)", context.DeadlineExceeded, err)
	case status.Code(err) == codes.Canceled:
		return fmt.Errorf("%w (%w)", context.Canceled, err)
	}
	return err
}
