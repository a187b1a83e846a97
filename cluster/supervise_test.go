// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestSupervisorStopsInReverse(t *testing.T) {
	s := newSupervisor()
	var stopped []string
	s.onStop("network", func() error { stopped = append(stopped, "network"); return nil })
	for _, name := range []string{"store", "server"} {
		s.run(name, func(ctx context.Context) error {
			<-ctx.Done()
			stopped = append(stopped, name)
			return ctx.Err()
		})
	}
	for range 2 {
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"server", "store", "network"}; !slices.Equal(stopped, want) {
		t.Errorf("stopped %v, want %v", stopped, want)
	}
}

func TestSupervisorEndsWithTheFirstFailure(t *testing.T) {
	s := newSupervisor()
	broken := errors.New("broken")
	s.run("good", func(ctx context.Context) error { <-ctx.Done(); return nil })
	s.run("bad", func(context.Context) error { return broken })
	<-s.done
	if err := s.stop(); !errors.Is(err, broken) || err.Error() != "bad: broken" {
		t.Errorf("got %v", err)
	}
}
