// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// TestEncoder has x/net decode what the encoder makes of random fields, with a table that shrinks.
func TestEncoder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	e := encoder{max: 4096}
	var got []string
	d := hpack.NewDecoder(4096, func(f hpack.HeaderField) { got = append(got, f.Name+"="+f.Value) })
	names := []string{":status", "content-type", "x-a", "x-b", "date", "audit-id", "www-authenticate", "x-none"}
	for range 3000 {
		for random.IntN(100) == 0 {
			e.shrink(e.max - random.IntN(100))
		}
		var want []string
		b := e.begin(nil)
		for range random.IntN(8) {
			f := field{name: names[random.IntN(len(names))], value: fmt.Sprint(random.IntN(20)), volatile: random.IntN(4) == 0}
			switch random.IntN(30) {
			case 0:
				f.value = strings.Repeat("v", random.IntN(6000))
			case 1, 2, 3:
				f.name, f.value = ":status", []string{"200", "201", "204", "206", "304", "400", "404", "500"}[random.IntN(8)]
			}
			f.static = staticName(f.name)
			want = append(want, f.name+"="+f.value)
			b = e.append(b, &f)
		}
		got = nil
		if _, err := d.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	if e.size > e.max {
		t.Errorf("%d bytes in a table of %d", e.size, e.max)
	}
}
