// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"strings"
	"testing"
	"time"

	"knarr.dev/apiserver"
)

func TestRequestBounds(t *testing.T) {
	no, zero, few, negative := false, 0, 7, -1
	for name, row := range map[string]struct {
		config RequestConfig
		want   apiserver.Config
	}{
		"defaults":  {},
		"unbounded": {RequestConfig{EnablePriorityAndFairness: &no, MaxRequestsInflight: &zero, MaxMutatingRequestsInflight: &few}, apiserver.Config{Unfair: true, MaxInFlight: -1, MaxMutatingInFlight: 7}},
		"times":     {RequestConfig{RequestTimeout: time.Second, MinRequestTimeout: 60}, apiserver.Config{RequestTimeout: time.Second, MinWatchTimeout: time.Minute}},
	} {
		row.config.validate(func(key, format string, args ...any) {
			t.Errorf("%s: %s is refused: "+format, append([]any{name, key}, args...)...)
		})
		var got apiserver.Config
		row.config.bound(&got)
		if got.Unfair != row.want.Unfair || got.MaxInFlight != row.want.MaxInFlight || got.MaxMutatingInFlight != row.want.MaxMutatingInFlight ||
			got.RequestTimeout != row.want.RequestTimeout || got.MinWatchTimeout != row.want.MinWatchTimeout {
			t.Errorf("%s: %+v", name, got)
		}
	}
	var refused []string
	bad := RequestConfig{MaxRequestsInflight: &negative, MaxMutatingRequestsInflight: &zero, GoawayChance: 0.5}
	bad.validate(func(key, _ string, _ ...any) { refused = append(refused, key) })
	if got := strings.Join(refused, " "); got != "maxRequestsInflight maxRequestsInflight goawayChance" {
		t.Errorf("refused: %s", got)
	}
}
