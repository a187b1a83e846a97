// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	openapi2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Remote is what another server says of a group and version that it serves.
type Remote struct {
	// Name is that of the version's document of v3: apis/GROUP/VERSION. Address is where the document is, empty if there is none.
	Name, Address string
	// V2 is the server's document of v2 in JSON, compressed with gzip; nil if it has none.
	V2 []byte
}

// maxForeign bounds the document of v2 of another server, uncompressed.
const maxForeign = 32 << 20

// kindsKey names the kinds of a definition.
const kindsKey = "x-kubernetes-group-version-kind"

// foreign is what the document of v2 has from other servers, by name in JSON. A definition that is in it replaces our own.
type foreign struct {
	paths, definitions, parameters map[string]json.RawMessage
}

// join adds to the document of v2 what other servers have in theirs below /apis/, as kube-aggregator does: a path that is there already
// stays as it is; a definition of the same name and another content gets a new name (NAME_v2); of two that are the same the lists of kinds
// are joined. A document that cannot be read is left out.
func (o *outline) join(remotes []Remote) {
	var sources []*spec.Swagger
	for _, document := range foreignDocuments(remotes) {
		if source, err := readForeign(document); err == nil {
			sources = append(sources, aggregator.FilterSpecByPathsWithoutSideEffects(source, []string{"/apis/"}))
		}
	}
	if len(sources) == 0 {
		return
	}
	joined, err := o.common(sources)
	if err != nil {
		return // what we wrote ourselves is readable
	}
	ownPaths, ownKinds := slices.Collect(maps.Keys(joined.Paths.Paths)), map[string]int{}
	for name, definition := range joined.Definitions {
		ownKinds[name] = kindCount(definition)
	}
	for _, source := range sources {
		_ = aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(joined, source) // one that does not fit is left out
	}
	for _, name := range ownPaths {
		delete(joined.Paths.Paths, name)
	}
	for name, count := range ownKinds {
		if kindCount(joined.Definitions[name]) == count {
			delete(joined.Definitions, name)
		}
	}
	o.foreign.paths, o.foreign.definitions, o.foreign.parameters = raw(joined.Paths.Paths), raw(joined.Definitions), raw(joined.Parameters)
	o.definitions = slices.DeleteFunc(o.definitions, func(name string) bool { return o.foreign.definitions[name] != nil })
}

// foreignDocuments are those that remotes have, each once: a server with several versions has one.
func foreignDocuments(remotes []Remote) [][]byte {
	var out [][]byte
	for _, r := range remotes {
		if len(r.V2) > 0 && !slices.ContainsFunc(out, func(b []byte) bool { return bytes.Equal(b, r.V2) }) {
			out = append(out, r.V2)
		}
	}
	return out
}

func readForeign(compressed []byte) (*spec.Swagger, error) {
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(z, maxForeign))
	if err != nil {
		return nil, err
	}
	source := &spec.Swagger{}
	if err := source.UnmarshalJSON(b); err != nil {
		return nil, err
	}
	if source.Paths == nil {
		return nil, fmt.Errorf("a document without paths")
	}
	return source, nil
}

// common is the part of our document that others' may be in conflict with. Of paths it has names only.
func (o *outline) common(sources []*spec.Swagger) (*spec.Swagger, error) {
	part := outline{models: o.models, about: o.about}
	for _, name := range o.definitions {
		if slices.ContainsFunc(sources, func(s *spec.Swagger) bool { _, has := s.Definitions[name]; return has }) {
			part.definitions = append(part.definitions, name)
		}
	}
	out := &spec.Swagger{}
	if err := out.UnmarshalJSON(part.json2(nil)); err != nil {
		return nil, err
	}
	out.Paths = &spec.Paths{Paths: map[string]spec.PathItem{}}
	for _, p := range o.paths {
		if strings.HasPrefix(p.name, "/apis/") {
			out.Paths.Paths[p.name] = spec.PathItem{}
		}
	}
	out.Parameters = map[string]spec.Parameter{}
	return out, nil
}

func kindCount(s spec.Schema) int {
	list, _ := s.Extensions[kindsKey].([]any)
	return len(list)
}

func raw[T any](values map[string]T) map[string]json.RawMessage {
	out := make(map[string]json.RawMessage, len(values))
	for name, v := range values {
		if b, err := json.Marshal(v); err == nil { // what was read can be written
			out[name] = b
		}
	}
	return out
}

// members writes what is foreign into an open object.
func (w *writer) members(values map[string]json.RawMessage) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		w.key(name)
		w.raw(string(values[name]))
	}
}

// proto is what is foreign in the form of a message Document, to follow our own: messages that follow each other are one.
func (f *foreign) proto() []byte {
	if len(f.paths) == 0 {
		return nil
	}
	w := &writer{}
	w.open('{')
	w.field("swagger", "2.0")
	w.info()
	for _, section := range []struct {
		name   string
		values map[string]json.RawMessage
	}{{"paths", f.paths}, {"definitions", f.definitions}, {"parameters", f.parameters}} {
		w.key(section.name)
		w.open('{')
		w.members(section.values)
		w.close('}')
	}
	w.close('}')
	document, err := openapi2.ParseDocument(w.b)
	if err != nil {
		return nil // then it is in JSON only
	}
	b, err := proto.Marshal(&openapi2.Document{Paths: document.Paths, Definitions: document.Definitions, Parameters: document.Parameters})
	if err != nil {
		return nil
	}
	return b
}
