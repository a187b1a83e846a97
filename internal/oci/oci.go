// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package oci writes container image archives.
//
// An archive is an OCI image layout and a docker-save archive at once, so containerd, docker, skopeo and crane all take
// it. The same images give the same bytes: times are fixed, names are sorted. It writes; it does not read.
package oci

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// File is one entry of a layer.
type File struct {
	// Name is the path without leading slash; directories end in a slash. Parents are made as needed, with mode 0755.
	Name string
	// Mode holds permission bits, setuid and sticky included.
	Mode     int64
	UID, GID int
	// Data is the content of a regular file.
	Data []byte
	// Symlink and Link, if set, make the entry a symbolic or a hard link.
	Symlink, Link string
}

// Image is an image to write.
type Image struct {
	// Refs are full names, such as knarr.dev/pause:1.
	Refs   []string
	Layers [][]File
	Config ocispec.ImageConfig
	// Architecture is a GOARCH value.
	Architecture string
}

// Created is the time of creation of everything in an archive.
func Created() time.Time { return time.Unix(1700000000, 0).UTC() }

// Write writes an archive of images to w.
func Write(w io.Writer, images ...Image) error {
	a := archive{blobs: map[string][]byte{}}
	for _, image := range images {
		if err := a.add(image); err != nil {
			return fmt.Errorf("image %s: %w", strings.Join(image.Refs, ", "), err)
		}
	}
	return a.write(w)
}

type archive struct {
	blobs  map[string][]byte // by hex digest
	index  []ocispec.Descriptor
	docker []dockerImage
}

// dockerImage is an entry of manifest.json, as docker save writes it.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *archive) blob(media string, data []byte) ocispec.Descriptor {
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	a.blobs[name] = data
	return ocispec.Descriptor{MediaType: media, Digest: digest.NewDigestFromEncoded(digest.SHA256, name), Size: int64(len(data))}
}

func (a *archive) add(image Image) error {
	created := Created()
	config := ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{Architecture: image.Architecture, OS: "linux"},
		Config:   image.Config,
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	docker := dockerImage{RepoTags: image.Refs}
	for _, files := range image.Layers {
		data, err := layer(files)
		if err != nil {
			return err
		}
		descriptor := a.blob(ocispec.MediaTypeImageLayer, data)
		manifest.Layers = append(manifest.Layers, descriptor)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, descriptor.Digest)
		config.History = append(config.History, ocispec.History{Created: &created})
		docker.Layers = append(docker.Layers, "blobs/sha256/"+descriptor.Digest.Encoded())
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return err
	}
	manifest.Config = a.blob(ocispec.MediaTypeImageConfig, raw)
	docker.Config = "blobs/sha256/" + manifest.Config.Digest.Encoded()
	raw, err = json.Marshal(manifest)
	if err != nil {
		return err
	}
	for _, ref := range image.Refs {
		descriptor := a.blob(ocispec.MediaTypeImageManifest, raw)
		descriptor.Platform = &config.Platform
		descriptor.Annotations = map[string]string{
			"io.containerd.image.name": ref,
			ocispec.AnnotationRefName:  ref[strings.LastIndex(ref, ":")+1:],
		}
		a.index = append(a.index, descriptor)
	}
	a.docker = append(a.docker, docker)
	return nil
}

func (a *archive) write(w io.Writer) error {
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: a.index,
	})
	if err != nil {
		return err
	}
	docker, err := json.Marshal(a.docker)
	if err != nil {
		return err
	}
	files := []File{
		{Name: "oci-layout", Mode: 0o644, Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Name: "index.json", Mode: 0o644, Data: index},
		{Name: "manifest.json", Mode: 0o644, Data: docker},
	}
	names := make([]string, 0, len(a.blobs))
	for name := range a.blobs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		files = append(files, File{Name: "blobs/sha256/" + name, Mode: 0o644, Data: a.blobs[name]})
	}
	return writeTar(w, files)
}

// layer packs files, with the directories above them, in the order of their names but links last.
func layer(files []File) ([]byte, error) {
	all := map[string]File{}
	for _, f := range files {
		parts := strings.Split(strings.TrimSuffix(f.Name, "/"), "/")
		for i := 1; i < len(parts); i++ {
			dir := strings.Join(parts[:i], "/") + "/"
			if _, ok := all[dir]; !ok {
				all[dir] = File{Name: dir, Mode: 0o755}
			}
		}
		all[f.Name] = f
	}
	sorted := make([]File, 0, len(all))
	for _, f := range all {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b File) int {
		if (a.Link == "") != (b.Link == "") {
			if a.Link == "" {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	var buffer bytes.Buffer
	if err := writeTar(&buffer, sorted); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

func writeTar(w io.Writer, files []File) error {
	t := tar.NewWriter(w)
	for _, f := range files {
		header := &tar.Header{
			Name: f.Name, Mode: f.Mode, Uid: f.UID, Gid: f.GID, ModTime: Created(), Typeflag: tar.TypeReg, Size: int64(len(f.Data)),
		}
		switch {
		case f.Symlink != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.Symlink
		case f.Link != "":
			header.Typeflag, header.Linkname = tar.TypeLink, f.Link
		case strings.HasSuffix(f.Name, "/"):
			header.Typeflag = tar.TypeDir
		}
		if err := t.WriteHeader(header); err != nil {
			return fmt.Errorf("archive %s: %w", f.Name, err)
		}
		if _, err := t.Write(f.Data); err != nil {
			return fmt.Errorf("archive %s: %w", f.Name, err)
		}
	}
	return t.Close()
}
