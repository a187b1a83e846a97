// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// file is a file of a volume that the API describes.
type file struct {
	data []byte
	mode os.FileMode
	// uid owns the file; gid too unless it is negative.
	uid, gid int
}

// dataLink is the symbolic link that an update replaces: all files of a volume change at once.
const dataLink = "..data"

// write makes dir hold exactly these files, by relative path. Readers see either all the old files or all the new ones:
// each visible name is a link through ..data into a directory of its own.
func write(dir string, files map[string]file, now time.Time) error {
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if current != "" && same(filepath.Join(dir, current), files) {
		return nil
	}
	fresh, err := os.MkdirTemp(dir, now.UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	if err := fill(fresh, files); err != nil {
		_ = os.RemoveAll(fresh)
		return err
	}
	link := filepath.Join(dir, "..data_tmp")
	_ = os.Remove(link)
	if err := os.Symlink(filepath.Base(fresh), link); err != nil {
		return err
	}
	if err := os.Rename(link, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := expose(dir, files); err != nil {
		return err
	}
	if current != "" {
		return os.RemoveAll(filepath.Join(dir, current))
	}
	return nil
}

func fill(dir string, files map[string]file) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.data, f.mode); err != nil {
			return err
		}
		if f.uid >= 0 || f.gid >= 0 {
			if err := os.Lchown(path, f.uid, f.gid); err != nil {
				return err
			}
		}
		if err := os.Chmod(path, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// expose makes the visible names and removes those that are gone.
func expose(dir string, files map[string]file) error {
	tops := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		tops[top] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if !tops[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		delete(tops, e.Name())
	}
	for top := range tops {
		if err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(dir, top)); err != nil {
			return err
		}
	}
	return nil
}

// same tells whether dir holds exactly these files.
func same(dir string, files map[string]file) bool {
	var names []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		names = append(names, name)
		return err
	})
	if err != nil || len(names) != len(files) {
		return false
	}
	return !slices.ContainsFunc(names, func(name string) bool {
		f, ok := files[name]
		if !ok {
			return true
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(data, f.data) {
			return true
		}
		info, err := os.Stat(filepath.Join(dir, name))
		return err != nil || info.Mode().Perm() != f.mode.Perm()
	})
}

// local checks a relative path of the API, which must not leave the volume.
func local(path string) error {
	if !filepath.IsLocal(path) || strings.HasPrefix(path, "..") {
		return fmt.Errorf("invalid path %q: must be relative and stay in the volume", path)
	}
	return nil
}
