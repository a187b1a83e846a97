// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// compactKey paces compaction among all API servers on one etcd, kube-apiserver's among them: its version is a clock that one of
// them moves on each interval, its value the revision that the one who did so compacts to.
const compactKey = "compact_rev_key"

// pace is what a server knows about the clock.
type pace struct {
	version  int64 // of compactKey when this server last looked
	revision int64 // etcd's then: what to compact to when the interval is over
}

// keepCompacting compacts, each interval, to the newest revision of an interval ago.
func (s *Store) keepCompacting(ctx context.Context) {
	tick := time.NewTicker(s.options.CompactionInterval)
	defer tick.Stop()
	var p pace
	for {
		next, err := s.compactOnce(ctx, p)
		switch {
		case err == nil:
			p = next
		case ctx.Err() == nil:
			s.options.Log.Warn("compact etcd", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// compactOnce moves the clock on if nobody else did since p, and compacts if so.
func (s *Store) compactOnce(ctx context.Context, p pace) (pace, error) {
	ctx, done, err := s.request(ctx)
	if err != nil {
		return p, err
	}
	defer done()
	answer, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(compactKey), "=", p.version)).
		Then(clientv3.OpPut(compactKey, strconv.FormatInt(p.revision, 10))).
		Else(clientv3.OpGet(compactKey)).
		Commit()
	if err != nil {
		return p, fmt.Errorf("move %s: %w", compactKey, err)
	}
	next := pace{revision: answer.Header.Revision}
	if !answer.Succeeded {
		if kvs := answer.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			next.version = kvs[0].Version
		}
		return next, nil
	}
	next.version = p.version + 1
	if p.revision == 0 {
		return next, nil
	}
	if _, err := s.client.Compact(ctx, p.revision); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return next, fmt.Errorf("compact to %d: %w", p.revision, err)
	}
	return next, nil
}
