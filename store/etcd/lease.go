// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Leases are shared by keys that are written with the same TTL one after the other, because each lease costs etcd, as
// kube-apiserver does (its flag --lease-reuse-duration-seconds): a key lives up to a minute or a twentieth longer than its TTL.
const (
	leaseShare    = 60 * time.Second
	leaseFraction = 20
	leaseKeys     = 1000
)

// leases are those that new keys may still join.
type leases struct {
	mu  sync.Mutex
	all map[time.Duration]*shared // by TTL
}

type shared struct {
	id    clientv3.LeaseID
	until time.Time // when the last key may join
	left  int       // how many keys may join
}

// take returns a lease for one key. grant makes one with a TTL in seconds.
func (l *leases) take(ttl time.Duration, now time.Time, grant func(seconds int64) (clientv3.LeaseID, error)) (clientv3.LeaseID, error) {
	ttl = (ttl + time.Second - 1).Truncate(time.Second)
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.all[ttl]; s != nil && s.left > 0 && now.Before(s.until) {
		s.left--
		return s.id, nil
	}
	share := min(leaseShare, ttl/leaseFraction).Truncate(time.Second)
	id, err := grant(int64((ttl + share) / time.Second))
	if err != nil {
		return 0, err
	}
	if share == 0 {
		return id, nil
	}
	if l.all == nil {
		l.all = map[time.Duration]*shared{}
	}
	for other, s := range l.all {
		if !now.Before(s.until) {
			delete(l.all, other)
		}
	}
	l.all[ttl] = &shared{id: id, until: now.Add(share), left: leaseKeys - 1}
	return id, nil
}

// forget gives up all leases: one of them turned out to be gone.
func (l *leases) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = nil
}
