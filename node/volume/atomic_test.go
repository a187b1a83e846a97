// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWriteReplacesAllAtOnce(t *testing.T) {
	dir, now := t.TempDir(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := func(text string) file { return file{data: []byte(text), mode: 0o640, uid: -1, gid: -1} }
	var last string
	for _, step := range []struct {
		files   map[string]file
		visible string
		again   bool // nothing changes on disk
	}{
		{map[string]file{"a": f("1"), "deep/b": f("2")}, "a=1 deep/b=2", false},
		{map[string]file{"a": f("1"), "deep/b": f("2")}, "a=1 deep/b=2", true},
		{map[string]file{"a": f("3"), "c": f("4")}, "a=3 c=4", false},
		{map[string]file{}, "", false},
	} {
		if err := write(dir, step.files, now); err != nil {
			t.Fatal(err)
		}
		if got := visible(t, dir); got != step.visible {
			t.Errorf("visible: %q, want %q", got, step.visible)
		}
		link, err := os.Readlink(filepath.Join(dir, dataLink))
		if err != nil {
			t.Fatal(err)
		}
		if (link == last) != step.again {
			t.Errorf("data directory %s after %s, want the same: %v", link, last, step.again)
		}
		last = link
		hidden, err := filepath.Glob(filepath.Join(dir, "..2026*"))
		if err != nil || len(hidden) != 1 {
			t.Errorf("old data is left: %v %v", hidden, err)
		}
	}
}

// visible lists the files that a container sees, with their contents.
func visible(t *testing.T, dir string) string {
	t.Helper()
	var words []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		root, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			words = append(words, e.Name()+strings.TrimPrefix(path, root)+"="+string(raw))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

func TestLocal(t *testing.T) {
	for path, ok := range map[string]bool{"a": true, "a/b": true, "/a": false, "../a": false, "a/../../b": false, "..data": false, "": false} {
		if (local(path) == nil) != ok {
			t.Errorf("%q: %v", path, local(path))
		}
	}
}
