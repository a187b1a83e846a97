// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"knarr.dev/store"
)

// chunk is how many records one request asks for, so that long lists do not make etcd hold them whole.
const chunk = 2000

// Read implements store.Store.
func (s *Store) Read(ctx context.Context, q store.Query) (store.Page, error) {
	for {
		page, err := s.read(ctx, q)
		if errors.Is(err, store.ErrCompacted) && q.Revision == 0 {
			continue // history went between two chunks
		}
		if err != nil {
			return store.Page{}, fmt.Errorf("read %s: %w", q.Key, err)
		}
		return page, nil
	}
}

func (s *Store) read(ctx context.Context, q store.Query) (store.Page, error) {
	key, err := s.key(q.Key)
	if err != nil {
		return store.Page{}, err
	}
	var options []clientv3.OpOption
	if q.Prefix {
		options = append(options, clientv3.WithRange(clientv3.GetPrefixRangeEnd(key)))
	}
	if q.CountOnly {
		options = append(options, clientv3.WithCountOnly())
	}
	page := store.Page{Revision: q.Revision}
	if q.After >= q.Key && q.After != "" {
		if key, err = s.key(q.After); err != nil {
			return store.Page{}, err
		}
		key += "\x00"
	}
	known := map[clientv3.LeaseID]int64{}
	for first := true; ; first = false {
		limit := chunk
		if q.Limit > 0 {
			limit = min(limit, q.Limit-len(page.Records))
		}
		answer, err := s.get(ctx, key, append(options[:len(options):len(options)], clientv3.WithRev(page.Revision), clientv3.WithLimit(int64(limit))))
		if err != nil {
			return store.Page{}, err
		}
		if first {
			page.Count = answer.Count
			if page.Revision == 0 {
				page.Revision = answer.Header.Revision
			}
			if !q.CountOnly && answer.Count > 0 {
				page.Records = make([]store.Record, 0, min(answer.Count, int64(max(q.Limit, chunk))))
			}
		}
		for _, kv := range answer.Kvs {
			r := s.record(kv)
			if q.Expiry && kv.Lease != 0 {
				if r.Expires, err = s.expires(ctx, clientv3.LeaseID(kv.Lease), known); err != nil {
					return store.Page{}, err
				}
			}
			page.Records = append(page.Records, r)
		}
		page.More = answer.More
		if !answer.More || q.Limit > 0 && len(page.Records) >= q.Limit {
			return page, nil
		}
		key = string(answer.Kvs[len(answer.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) get(ctx context.Context, key string, options []clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, done, err := s.request(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	answer, err := s.client.Get(ctx, key, options...)
	return answer, s.failure(err)
}

func (s *Store) record(kv *mvccpb.KeyValue) store.Record {
	value := kv.Value
	if value == nil {
		value = []byte{} // nil would say that the key is absent
	}
	return store.Record{Key: s.name(kv.Key), Value: value, Created: kv.CreateRevision, Modified: kv.ModRevision}
}

// expires is when a lease ends, as Unix seconds; known has those that were asked for. One that ended by now ends now.
func (s *Store) expires(ctx context.Context, id clientv3.LeaseID, known map[clientv3.LeaseID]int64) (int64, error) {
	if at, ok := known[id]; ok {
		return at, nil
	}
	ctx, done, err := s.request(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	answer, err := s.client.TimeToLive(ctx, id)
	if err != nil {
		return 0, s.failure(err)
	}
	known[id] = time.Now().Unix() + max(answer.TTL, 0)
	return known[id], nil
}

// Compact implements store.Store.
func (s *Store) Compact(ctx context.Context, rev int64) error {
	ctx, done, err := s.request(ctx)
	if err != nil {
		return err
	}
	defer done()
	if _, err := s.client.Compact(ctx, rev); err != nil {
		return fmt.Errorf("compact to %d: %w", rev, s.failure(err))
	}
	return nil
}
