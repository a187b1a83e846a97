// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import "sync/atomic"

// sizes is the mean size of stored objects, of late.
type sizes struct{ count, bytes atomic.Int64 }

// remembered is after how many objects the older ones begin to count less.
const remembered = 1 << 14

func (s *sizes) add(size int) {
	s.bytes.Add(int64(size))
	if s.count.Add(1) > remembered { // two writers at once do it twice, which an estimate survives
		s.count.Store(remembered / 2)
		s.bytes.Store(s.bytes.Load() / 2)
	}
}

// Size is how many objects there are, and an estimate of the mean size of their stored form in bytes.
func (c *Cache) Size() (objects int, mean int64) {
	if s := c.newest.Load(); s != nil {
		objects = s.Len()
	}
	if n := c.sizes.count.Load(); n > 0 {
		mean = c.sizes.bytes.Load() / n
	}
	return objects, mean
}
