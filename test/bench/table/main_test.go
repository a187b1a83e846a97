// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	in := `{"bench":"write","label":"floor","rows":[{"case":"hello","conc":64,"rate/s":100}]}
{"bench":"write","label":"knarr","rows":[{"case":"pod create","enc":"json","conc":64,"rate/s":10,"srv_us/op":5}]}
{"bench":"write","label":"kubernetes","rows":[{"case":"pod create","enc":"json","conc":64,"rate/s":4,"srv_us/op":20}]}
{"bench":"memory","label":"knarr","rows":[{"case":"loaded","pods":10,"pss_MiB":0}]}
`
	want := `| case | Knarr | Kubernetes | ratio |
|---|---|---|---|
| floor: write, hello, 64 clients | 100 /s | | |
| write, pod create, json, 64 clients | 10 /s, 5 us CPU | 4 /s, 20 us CPU | 2.5, 4.0 |
| memory, loaded, 10 pods | 0 MiB PSS |  |  |
`
	var out strings.Builder
	if err := table(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if err := table(strings.NewReader("{}\nx\n"), &out); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a broken line: %v", err)
	}
}
