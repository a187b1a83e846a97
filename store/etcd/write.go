// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"knarr.dev/store"
)

// Write implements store.Store. etcd changes a key only once in a transaction: an end is a transaction of its own.
func (s *Store) Write(ctx context.Context, op store.Op) (store.Record, error) {
	record, err := s.writeOne(ctx, op)
	if err != nil || op.End == nil || op.Value == nil {
		return record, err
	}
	return s.writeOne(ctx, store.Op{Key: op.Key, Expect: record.Modified, Attachment: op.End.Attachment})
}

func (s *Store) writeOne(ctx context.Context, op store.Op) (store.Record, error) {
	key, err := s.key(op.Key)
	if err != nil {
		return store.Record{}, fmt.Errorf("write: %w", err)
	}
	if len(op.Value) > store.MaxValueBytes {
		return store.Record{}, fmt.Errorf("write %s: %d bytes: %w", op.Key, len(op.Value), store.ErrTooLarge)
	}
	ctx, done, err := s.request(ctx)
	if err != nil {
		return store.Record{}, fmt.Errorf("write %s: %w", op.Key, err)
	}
	defer done()
	pending := s.written.begin(&op)
	record, err := s.write(ctx, key, &op)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // it ended meanwhile, or etcd was restored
		s.leases.forget()
		record, err = s.write(ctx, key, &op)
	}
	if err != nil {
		s.written.end(pending, 0)
		return record, fmt.Errorf("write %s: %w", op.Key, s.failure(err))
	}
	s.written.end(pending, record.Modified)
	record.Attachment = op.Attachment
	return record, nil
}

func (s *Store) write(ctx context.Context, key string, op *store.Op) (store.Record, error) {
	var conditions []clientv3.Cmp
	if op.Expect != store.Any {
		conditions = []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", op.Expect)}
	}
	var then []clientv3.Op
	switch {
	case op.Value == nil:
		then = []clientv3.Op{clientv3.OpDelete(key)}
	default:
		lease, err := s.lease(ctx, op.TTL)
		if err != nil {
			return store.Record{}, err
		}
		then = []clientv3.Op{clientv3.OpPut(key, string(op.Value), clientv3.WithLease(lease))}
		if op.Expect != store.Absent {
			then = append(then, clientv3.OpGet(key, clientv3.WithKeysOnly())) // tells when the key was created
		}
	}
	answer, err := s.client.Txn(ctx).If(conditions...).Then(then...).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return store.Record{}, err
	}
	if !answer.Succeeded {
		current := store.Record{Key: op.Key}
		if kvs := answer.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			current = s.record(kvs[0])
		}
		return current, fmt.Errorf("expected revision %d, have %d: %w", op.Expect, current.Modified, store.ErrConflict)
	}
	record := store.Record{Key: op.Key, Value: op.Value, Created: answer.Header.Revision, Modified: answer.Header.Revision}
	switch {
	case op.Value == nil && answer.Responses[0].GetResponseDeleteRange().Deleted == 0:
		return store.Record{Key: op.Key}, nil // there was nothing to delete
	case op.Value == nil:
		record.Created = 0
	case len(answer.Responses) > 1:
		record.Created = answer.Responses[1].GetResponseRange().Kvs[0].CreateRevision
	}
	return record, nil
}

// lease returns one that ends a TTL from now, or a little later; none for 0.
func (s *Store) lease(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	if ttl <= 0 {
		return clientv3.NoLease, nil
	}
	return s.leases.take(ttl, time.Now(), func(seconds int64) (clientv3.LeaseID, error) {
		answer, err := s.client.Grant(ctx, seconds)
		if err != nil {
			return 0, fmt.Errorf("grant lease: %w", err)
		}
		return answer.ID, nil
	})
}
