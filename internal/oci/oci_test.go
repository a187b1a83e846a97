// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func contents(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = raw
	}
}

func TestWrite(t *testing.T) {
	image := Image{
		Refs: []string{"x.dev/a:1"}, Architecture: "amd64", Config: ocispec.ImageConfig{Entrypoint: []string{"/a"}},
		Layers: [][]File{{{Name: "bin/b", Link: "bin/a"}, {Name: "bin/a", Mode: 0o755, Data: []byte("program")}}},
	}
	var first, second bytes.Buffer
	if err := errors.Join(Write(&first, image), Write(&second, image)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same image gave different bytes")
	}
	files := contents(t, first.Bytes())
	for name, data := range files {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
				t.Errorf("%s has another digest", name)
			}
		}
	}
	var index ocispec.Index
	var docker []dockerImage
	if err := errors.Join(json.Unmarshal(files["index.json"], &index), json.Unmarshal(files["manifest.json"], &docker)); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 1 || index.Manifests[0].Annotations["io.containerd.image.name"] != "x.dev/a:1" || docker[0].RepoTags[0] != "x.dev/a:1" {
		t.Errorf("index %+v, docker %+v", index, docker)
	}
	layer := contents(t, files[docker[0].Layers[0]])
	if string(layer["bin/a"]) != "program" {
		t.Errorf("layer: %v", layer)
	}
	if _, ok := layer["bin/"]; !ok {
		t.Error("the layer has no entry for the parent directory")
	}
}
