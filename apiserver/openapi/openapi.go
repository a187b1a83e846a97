// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package openapi describes the API to clients in OpenAPI v2 and v3.
//
// New makes the documents of a list of kinds: /openapi/v2, which has everything, and below /openapi/v3 one document for
// each group and version and for a few other paths. Schemas come from the Go types by reflection, descriptions from
// their SwaggerDoc methods, the rest (list types, enumerations, what is required) from markers.txt, which a test makes
// from the comments of the types; paths come from the kinds' verbs and subresources. The documents say what Kubernetes'
// do, about the kinds that there are.
//
// Nothing is built before someone asks; then a document is built once and only its compressed form is kept. Start with
// Handler; document.go has the documents' outlines, operations.go the paths, schema.go the definitions.
package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"knarr.dev/api/resource"
)

// Handler serves /openapi/v2, /openapi/v3 and the documents below the latter.
type Handler struct {
	current atomic.Pointer[documents]

	mu sync.Mutex // of those who replace current
}

// New returns the handler of kinds.
func New(kinds []*resource.Kind) *Handler {
	h := &Handler{}
	h.Set(kinds)
	return h
}

// Set replaces the kinds, for servers whose kinds change while they run. Documents of groups that stay as they are stay
// too.
func (h *Handler) Set(kinds []*resource.Kind) {
	h.replace(func(d *documents) { d.kinds = kinds })
}

// SetRemotes says what other servers have. The index of v3 lists their documents too, requests for which go elsewhere; the document of v2
// has all of theirs.
func (h *Handler) SetRemotes(remotes []Remote) {
	h.replace(func(d *documents) { d.remotes = remotes })
}

func (h *Handler) replace(change func(*documents)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := &documents{made: map[form]*document{}, etags: map[string]string{}}
	old := h.current.Load()
	if old != nil {
		d.kinds, d.remotes = old.kinds, old.remotes
	}
	change(d)
	if old != nil {
		d.keep(old)
	}
	h.current.Store(d)
}

// Paths are the prefixes to serve the handler at, in the form of http.ServeMux.
func Paths() []string { return []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/"} }

// documents are what was asked for of one list of kinds and others' versions.
type documents struct {
	kinds   []*resource.Kind
	remotes []Remote

	mu    sync.Mutex
	made  map[form]*document
	etags map[string]string // of the JSON forms, by name
	index []byte
}

// form names an encoding of a document; v2 has the empty name.
type form struct {
	name  string
	proto bool
}

// document is an encoded document.
type document struct {
	etag       string
	compressed []byte // gzip
	length     int    // of what is compressed
	made       time.Time
}

const (
	proto2Media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	proto3Media = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
	jsonMedia   = "application/json"
)

// ServeHTTP answers with the documents, whatever the method.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := h.current.Load()
	switch path := r.URL.Path; path {
	case "/openapi/v2":
		d.serve2(w, r)
	case "/openapi/v3":
		d.serveIndex(w, r)
	default:
		if name := strings.TrimPrefix(path, "/openapi/v3/"); name != "" {
			d.serve3(w, r, name)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}
}

// keep takes over what old has of groups with the same kinds.
func (d *documents) keep(old *documents) {
	old.mu.Lock()
	defer old.mu.Unlock()
	before, now := parts(old.kinds), parts(d.kinds)
	whole := slices.Equal(old.kinds, d.kinds) && slices.EqualFunc(foreignDocuments(old.remotes), foreignDocuments(d.remotes), bytes.Equal)
	same := func(name string) bool {
		if name == "" {
			return whole
		}
		a, is := before[name]
		b, will := now[name]
		return is && will && slices.Equal(a.kinds, b.kinds)
	}
	for name, etag := range old.etags {
		if same(name) {
			d.etags[name] = etag
		}
	}
	for f, doc := range old.made {
		if same(f.name) {
			d.made[f] = doc
		}
	}
}

// serveIndex lists the documents of v3, with addresses that change with their content.
func (d *documents) serveIndex(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8") // as Kubernetes says
	b := d.list()
	if len(d.remotes) == 0 {
		http.ServeContent(w, r, "", time.Now(), bytes.NewReader(b))
		return
	}
	more := &writer{b: slices.Clone(bytes.TrimSuffix(b, []byte("}}")))}
	for _, r := range d.remotes {
		if r.Address == "" {
			continue
		}
		more.key(r.Name)
		more.open('{')
		more.field("serverRelativeURL", r.Address)
		more.close('}')
	}
	http.ServeContent(w, r, "", time.Now(), bytes.NewReader(append(more.b, "}}"...)))
}

func (d *documents) serve3(w http.ResponseWriter, r *http.Request, name string) {
	proto, ok := choose(r.Header.Values("Accept"), proto3Media)
	if !ok {
		w.Header().Add("Vary", "Accept")
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	doc := d.get(form{name: name, proto: proto})
	if doc == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Add("Vary", "Accept")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Add("Vary", "Accept-Encoding")
	}
	media := jsonMedia
	if proto {
		media = proto3Media
	}
	if hash := r.URL.Query().Get("hash"); hash != "" {
		if hash != doc.etag {
			w.Header().Set("Content-Type", media)
			w.Header().Set("ETag", strconv.Quote(doc.etag))
			w.Header().Set("Location", address(name, doc.etag))
			w.WriteHeader(http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	doc.serve(w, r, media)
}

func (d *documents) serve2(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept-Encoding")
	w.Header().Add("Vary", "Accept")
	proto, ok := choose(r.Header.Values("Accept"), proto2Media)
	if !ok {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	media := jsonMedia
	if proto {
		media = proto2Media
	}
	d.get(form{proto: proto}).serve(w, r, media)
}

// serve answers with a document, or the part of it that was asked for, unless the client has it.
func (doc *document) serve(w http.ResponseWriter, r *http.Request, media string) {
	header := w.Header()
	header.Set("ETag", strconv.Quote(doc.etag))
	header.Set("Content-Type", media)
	var body io.ReadSeeker = &unpacked{doc: doc}
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && r.Header.Get("Range") == "" && r.Method != http.MethodHead {
		header.Set("Content-Encoding", "gzip")
		header.Set("Content-Length", strconv.Itoa(len(doc.compressed)))
		body = bytes.NewReader(doc.compressed)
	}
	http.ServeContent(w, r, "", doc.made, body)
}

// unpacked reads a document as it was before it was compressed.
type unpacked struct {
	doc    *document
	gzip   *gzip.Reader
	at     int64 // of what gzip gives next
	wanted int64
}

// Seek implements io.Seeker.
func (u *unpacked) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += u.wanted
	case io.SeekEnd:
		offset += int64(u.doc.length)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d", offset)
	}
	u.wanted = offset
	return offset, nil
}

// Read implements io.Reader.
func (u *unpacked) Read(p []byte) (int, error) {
	if u.gzip == nil || u.at > u.wanted {
		z, err := gzip.NewReader(bytes.NewReader(u.doc.compressed))
		if err != nil {
			return 0, err
		}
		u.gzip, u.at = z, 0
	}
	if skip := u.wanted - u.at; skip > 0 {
		n, err := io.CopyN(io.Discard, u.gzip, skip)
		if u.at += n; err != nil {
			return 0, err
		}
	}
	n, err := u.gzip.Read(p)
	u.at += int64(n)
	u.wanted = u.at
	return n, err
}

// get returns a document, building it if it is asked for the first time; nil if there is none of that name.
func (d *documents) get(f form) *document {
	d.mu.Lock()
	defer d.mu.Unlock()
	if doc := d.made[f]; doc != nil {
		return doc
	}
	m, all := newModels(d.kinds), parts(d.kinds)
	var o outline
	var encode, encodeProto func([]byte) []byte
	if f.name == "" {
		o = outline2(m, all)
		o.join(d.remotes)
		encode, encodeProto = o.json2, o.proto2
	} else {
		p, ok := all[f.name]
		if !ok {
			return nil
		}
		o = outline3(m, p)
		encode, encodeProto = o.json3, o.proto3
	}
	body := encode(nil)
	if d.etags[f.name] == "" {
		d.etags[f.name] = hash(body)
	}
	if f.proto {
		body = encodeProto(body)
	}
	doc := &document{etag: d.etags[f.name], length: len(body), compressed: compress(body), made: time.Now()}
	d.made[f] = doc
	return doc
}

// list returns the index of v3. It needs the hashes of all documents, which are built for that and forgotten.
func (d *documents) list() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.index != nil {
		return d.index
	}
	m, all := newModels(d.kinds), parts(d.kinds)
	w := &writer{}
	w.open('{')
	w.key("paths")
	w.open('{')
	var b []byte // of one document after the other
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if d.etags[name] == "" {
			b = outline3(m, all[name]).json3(b)
			d.etags[name] = hash(b)
		}
		w.key(name)
		w.open('{')
		w.field("serverRelativeURL", address(name, d.etags[name]))
		w.close('}')
	}
	w.close('}')
	w.close('}')
	d.index = w.b
	return d.index
}

func address(name, etag string) string { return "/openapi/v3/" + name + "?hash=" + etag }

func hash(b []byte) string { return fmt.Sprintf("%X", sha512.Sum512(b)) }

func compress(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b) // a buffer takes everything
	_ = z.Close()
	return bytes.Clone(out.Bytes())
}
