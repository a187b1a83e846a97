// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Command table prints what test/bench/compare.sh measured as a Markdown table, Knarr beside Kubernetes.
//
//	go run ./test/bench/table results.jsonl
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// A figure is a measured value of a case: the name that kbench gives it, its unit, and whether less of it is better.
type figure struct {
	key, unit string
	less      bool
}

// The figures that the table shows, in this order. Others stay in the file.
var figures = []figure{
	{"ready_ms", "ms to ready", true}, {"start_cpu_s", "s CPU of a start", true},
	{"idle_pss_MiB", "MiB PSS idle", true}, {"cpu_s_in_30s", "s CPU in 30 s idle", true},
	{"rate/s", "/s", false}, {"p50_ms", "ms p50", true}, {"p99_ms", "ms p99", true},
	{"srv_us/op", "us CPU", true}, {"events/s", "events/s", false}, {"srv_s/Mevent", "s CPU per million events", true},
	{"sync_s", "s to sync", true}, {"pss_MiB", "MiB PSS", true}, {"disk_B/pod", "B of disk per pod", true},
}

// The cells that tell cases of one name apart.
var identity = []string{"case", "enc", "conc", "rate", "pods"}

// line is one run of kbench.
type line struct {
	Label string           `json:"label"`
	Bench string           `json:"bench"`
	Rows  []map[string]any `json:"rows"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: table FILE")
		os.Exit(2)
	}
	f, err := os.Open(os.Args[1])
	if err == nil {
		defer f.Close()
		err = table(f, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// table reads runs, one line of JSON each, and writes the Markdown. A case that was measured twice counts with its last run.
func table(r io.Reader, w io.Writer) error {
	var names []string
	cases := map[string]map[string]map[string]any{} // case, label
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for n := 1; in.Scan(); n++ {
		var l line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		for _, row := range l.Rows {
			name := nameOf(l.Bench, row)
			if cases[name] == nil {
				cases[name] = map[string]map[string]any{}
				names = append(names, name)
			}
			cases[name][l.Label] = row
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	fmt.Fprint(w, "| case | Knarr | Kubernetes | ratio |\n|---|---|---|---|\n")
	for _, name := range names {
		by := cases[name]
		if floor := by["floor"]; floor != nil {
			fmt.Fprintf(w, "| floor: %s | %s | | |\n", name, cells(floor))
			continue
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", name, cells(by["knarr"]), cells(by["kubernetes"]), ratios(by["knarr"], by["kubernetes"]))
	}
	return nil
}

func nameOf(bench string, row map[string]any) string {
	parts := []string{bench}
	for _, k := range identity {
		v, ok := row[k]
		switch {
		case !ok, v == "":
		case k == "case", k == "enc":
			parts = append(parts, fmt.Sprint(v))
		case k == "pods":
			parts = append(parts, fmt.Sprintf("%v pods", v))
		case k == "rate":
			parts = append(parts, fmt.Sprintf("%v writes/s", v))
		default:
			parts = append(parts, fmt.Sprintf("%v clients", v))
		}
	}
	return strings.Join(parts, ", ")
}

func cells(row map[string]any) string {
	var parts []string
	for _, f := range figures {
		if v, ok := row[f.key].(float64); ok {
			parts = append(parts, fmt.Sprintf("%v %s", v, f.unit))
		}
	}
	return strings.Join(parts, ", ")
}

// ratios tells how many times better a is than b, for each figure that both have.
func ratios(a, b map[string]any) string {
	var parts []string
	for _, f := range figures {
		x, ok := a[f.key].(float64)
		y, ok2 := b[f.key].(float64)
		if !ok || !ok2 {
			continue
		}
		if f.less {
			x, y = y, x
		}
		if y == 0 {
			parts = append(parts, "-")
			continue
		}
		parts = append(parts, fmt.Sprintf("%.1f", x/y))
	}
	return strings.Join(parts, ", ")
}
