// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

const sample = `2026-01-01T00:00:01.000000001Z stdout F one
2026-01-01T00:00:02.5Z stderr F two
garbage
2026-01-01T00:00:03Z stdout P thr
2026-01-01T00:00:03Z stdout F ee
2026-01-01T00:00:04Z stdout F 
`

func TestLogs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 0, 0, 5, 0, time.UTC)
	for _, c := range []struct {
		name    string
		options corev1.PodLogOptions
		want    string
	}{
		{"all", corev1.PodLogOptions{}, "one\ntwo\nthree\n\n"},
		{"tail", corev1.PodLogOptions{TailLines: ptr.To[int64](1)}, "\n"},
		{"nothing", corev1.PodLogOptions{TailLines: ptr.To[int64](0)}, ""},
		{"more than there is", corev1.PodLogOptions{TailLines: ptr.To[int64](99)}, "one\ntwo\nthree\n\n"},
		{"since", corev1.PodLogOptions{SinceSeconds: ptr.To[int64](2)}, "three\n\n"},
		{"limit", corev1.PodLogOptions{LimitBytes: ptr.To[int64](6)}, "one\ntw"},
		{"one stream", corev1.PodLogOptions{Stream: ptr.To(corev1.LogStreamStderr)}, "two\n"},
		{"times", corev1.PodLogOptions{Timestamps: true, LimitBytes: ptr.To[int64](35)}, "2026-01-01T00:00:01.000000001Z one\n"},
		{"followed to the end", corev1.PodLogOptions{Follow: true, TailLines: ptr.To[int64](1)}, "\nlast\n"},
	} {
		var out bytes.Buffer
		err := newLogReader(path, &c.options, now, &out).send(context.Background(), func(context.Context) bool {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString("2026-01-01T00:00:05Z stdout F last\n"); err != nil {
				t.Fatal(err)
			}
			return false
		})
		if err != nil || out.String() != c.want {
			t.Errorf("%s: %q %v, want %q", c.name, out.String(), err, c.want)
		}
	}
}
