// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package images builds the container images that tests and examples use, as archives for `knarr image import`.
//
// Web is a small HTTP server of this repository, in folder web; Busybox is Debian's busybox-static. Nothing is
// downloaded. Building Web needs the Go tool chain, Busybox the package busybox-static.
package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"knarr.dev/internal/oci"
)

// Names of the images. Each image of an archive has the tags 1 and 2, so that there is something to roll out.
const (
	WebRef     = "knarr.dev/web:1"
	Web2Ref    = "knarr.dev/web:2"
	BusyboxRef = "knarr.dev/busybox:1"
)

// path is the search path in the images.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Build writes web.tar and busybox.tar into dir.
func Build(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, write := range map[string]func(context.Context, io.Writer) error{"web.tar": Web, "busybox.tar": Busybox} {
		if err := build(ctx, filepath.Join(dir, name), write); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
	}
	return nil
}

func build(ctx context.Context, file string, write func(context.Context, io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file))
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(ctx, f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// Web writes the archive of the web image to w. It differs in its two tags by the variable VERSION alone.
func Web(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "knarr-web")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "web")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "knarr.dev/test/images/web")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the web program: %w: %s", err, text)
	}
	program, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	layer := append(skeleton(), oci.File{Name: "web", Mode: 0o755, Data: program})
	var list []oci.Image
	for version, ref := range map[string]string{"1": WebRef, "2": Web2Ref} {
		list = append(list, oci.Image{
			Refs: []string{ref}, Layers: [][]oci.File{layer}, Architecture: runtime.GOARCH,
			Config: ocispec.ImageConfig{
				Entrypoint: []string{"/web"}, Env: []string{path, "VERSION=" + version}, WorkingDir: "/",
				ExposedPorts: map[string]struct{}{"8080/tcp": {}},
			},
		})
	}
	if list[0].Refs[0] > list[1].Refs[0] {
		list[0], list[1] = list[1], list[0]
	}
	return oci.Write(w, list...)
}

// Busybox writes the archive of the busybox image to w: the program, with a link for each of its tools.
func Busybox(ctx context.Context, w io.Writer) error {
	const program = "/bin/busybox"
	data, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("install the package busybox-static: %w", err)
	}
	if !static(data) {
		return fmt.Errorf("%s is linked dynamically: install the package busybox-static", program)
	}
	applets, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return fmt.Errorf("list the tools of busybox: %w", err)
	}
	layer := append(skeleton(), oci.File{Name: "bin/busybox", Mode: 0o755, Data: data}, oci.File{Name: "usr/bin/env", Symlink: "/bin/busybox"})
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			layer = append(layer, oci.File{Name: "bin/" + name, Mode: 0o755, Link: "bin/busybox"})
		}
	}
	return oci.Write(w, oci.Image{
		Refs: []string{BusyboxRef}, Layers: [][]oci.File{layer}, Architecture: runtime.GOARCH,
		Config: ocispec.ImageConfig{Cmd: []string{"sh"}, Env: []string{path}, WorkingDir: "/"},
	})
}

// static tells whether an ELF file names no dynamic linker.
func static(program []byte) bool { return !bytes.Contains(program, []byte("/ld-linux")) }

// skeleton is what a small userland expects.
func skeleton() []oci.File {
	files := []oci.File{
		{Name: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")},
		{Name: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\nnogroup:x:65534:\n")},
		{Name: "etc/nsswitch.conf", Mode: 0o644, Data: []byte("hosts: files dns\n")},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "root/", Mode: 0o700},
	}
	for _, dir := range []string{"dev/", "home/", "mnt/", "proc/", "run/", "sys/", "usr/bin/", "var/log/"} {
		files = append(files, oci.File{Name: dir, Mode: 0o755})
	}
	return files
}
