// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package nodeipam

import (
	"errors"
	"net/netip"
	"testing"
)

func TestLast(t *testing.T) {
	for _, test := range []struct {
		cluster string
		used    []string
		want    string
	}{
		{"10.42.0.0/16", nil, "10.42.255.0/24"},
		{"10.42.0.0/16", []string{"10.42.0.0/24", "10.42.255.0/24", "10.42.254.0/24"}, "10.42.253.0/24"},
		{"10.42.0.0/16", []string{"10.42.128.0/17"}, "10.42.127.0/24"},
		{"10.42.7.0/24", nil, "10.42.7.0/24"},
		{"10.42.6.0/23", []string{"10.42.6.0/24", "10.42.7.3/32"}, ""},
		{"10.42.7.0/25", nil, ""},
	} {
		var used []netip.Prefix
		for _, s := range test.used {
			used = append(used, netip.MustParsePrefix(s))
		}
		got, err := last(netip.MustParsePrefix(test.cluster), used)
		if test.want == "" {
			if !errors.Is(err, ErrFull) {
				t.Errorf("%s without %v: got %v, %v", test.cluster, test.used, got, err)
			}
			continue
		}
		if err != nil || got.String() != test.want {
			t.Errorf("%s without %v: got %v, %v, want %s", test.cluster, test.used, got, err, test.want)
		}
	}
}
