// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"testing"
	"time"
)

func TestFarewells(t *testing.T) {
	for _, c := range []struct {
		grace         time.Duration
		watches, said int64
		want          time.Duration
	}{
		{0, 5, 3, 0},
		{4 * time.Second, 2, 0, 0},
		{4 * time.Second, 2, 1, 5 * time.Millisecond},
		{4 * time.Second, 4000, 2000, 2 * time.Second},
		{4 * time.Second, 4000, 9000, 4 * time.Second},
	} {
		var f farewells
		f.all.Store(c.watches)
		f.said.Store(c.said)
		if got := f.turn(c.grace); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
