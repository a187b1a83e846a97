// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package discovery tells clients which groups, versions and resources there are.
//
// New makes the documents of a list of kinds: /api, /apis, /api/v1, /apis/GROUP, /apis/GROUP/VERSION and the aggregated
// form of the first two (apidiscovery.k8s.io/v2). Their order depends on the kinds alone: groups as Kubernetes orders
// them, newer versions first, resources by name. The package does not know what is reachable or who asks. Start with
// Handler.
package discovery

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
)

// Handler serves /api, /apis and the documents below them that are not objects.
type Handler struct {
	address string
	current atomic.Pointer[documents]

	mu      sync.Mutex // of what the documents are made of
	kinds   []*resource.Kind
	remotes []Remote
}

// New returns the handler of kinds. address is HOST:PORT of the server as clients reach it, which /api tells; if it is
// empty, the Host of the request is told.
func New(kinds []*resource.Kind, address string) *Handler {
	h := &Handler{address: address}
	h.Set(kinds)
	return h
}

// Set replaces the kinds, for servers whose kinds change while they run.
func (h *Handler) Set(kinds []*resource.Kind) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kinds = kinds
	h.current.Store(build(h.kinds, h.remotes))
}

// SetRemotes replaces the versions that other servers serve.
func (h *Handler) SetRemotes(remotes []Remote) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remotes = remotes
	h.current.Store(build(h.kinds, h.remotes))
}

// Paths are the prefixes to serve the handler at, in the form of http.ServeMux.
func Paths() []string { return []string{"/api", "/api/", "/apis", "/apis/"} }

// documents are all answers, by path without a slash at the end.
type documents struct {
	plain map[string]*document
	// aggregated has /api and /apis.
	aggregated map[string]*document
	// own are the groups of kinds that are no custom ones: below them all paths are the server's.
	own map[string]bool
}

type document struct {
	gvk  schema.GroupVersionKind
	body any // has a protobuf form
	etag func() string
}

func newDocument(gvk schema.GroupVersionKind, body any) *document {
	d := &document{gvk: gvk, body: body}
	d.etag = sync.OnceValue(func() string {
		b, err := json.Marshal(body)
		if err != nil {
			return ""
		}
		return fmt.Sprintf("%q", fmt.Sprintf("%X", sha512.Sum512(b)))
	})
	return d
}

// ServeHTTP answers with the documents of paths, and refuses others.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	docs := h.current.Load()
	path := strings.TrimSuffix(r.URL.Path, "/")
	d := docs.plain[path]
	if d == nil {
		if group, _, _ := strings.Cut(strings.TrimPrefix(path, "/apis/"), "/"); strings.HasPrefix(path, "/api/") || docs.own[group] {
			status(w, r, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
			return
		}
		http.NotFound(w, r)
		return
	}
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if below := strings.Count(path, "/"); path == "/api" || path == "/api/v1" || below == 3 && docs.own[strings.Split(path, "/")[2]] { // only GET has a route; groups take all methods
		switch {
		case r.Method != http.MethodGet:
			status(w, r, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
			return
		case !routable(accept):
			status(w, r, http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
				"406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf")
			return
		}
	}
	f, ok := choose(accept, docs.aggregated[path] != nil)
	if !ok {
		status(w, r, http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
			"only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf")
		return
	}
	contentType := f.media
	if a := docs.aggregated[path]; a != nil {
		if f.aggregated {
			w.Header().Add("Vary", "Accept")
			d = a
			contentType += ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
			w.Header().Set("ETag", d.etag())
			w.Header().Set("Cache-Control", "public")
			if matches(r.Header.Get("If-None-Match"), d.etag()) {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
	}
	if v, ok := d.body.(*metav1.APIVersions); ok {
		d = newDocument(d.gvk, h.addressed(v, r.Host))
	}
	b, err := d.encode(f.media, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b)
}

func matches(header, etag string) bool {
	for tag := range strings.SplitSeq(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag {
			return true
		}
	}
	return false
}

func (h *Handler) addressed(v *metav1.APIVersions, host string) *metav1.APIVersions {
	out := v.DeepCopy()
	if h.address != "" {
		host = h.address
	}
	out.ServerAddressByClientCIDRs = []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: host}}
	return out
}

func (d *document) encode(media string, r *http.Request) ([]byte, error) {
	if media == codec.Proto {
		return codec.EncodeProto(d.gvk, d.body)
	}
	b, err := codec.EncodeJSON(d.gvk, d.body)
	if err != nil {
		return nil, err
	}
	if media == codec.YAML {
		return yaml.JSONToYAML(b)
	}
	return indented(b, wantsPretty(r))
}

// wantsPretty says whether a client wants indented JSON or is likely to be a person's.
func wantsPretty(r *http.Request) bool {
	if p := r.URL.Query().Get("pretty"); p != "" {
		pretty, _ := strconv.ParseBool(p)
		return pretty
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// indented is JSON in the form that a client wants.
func indented(b []byte, pretty bool) ([]byte, error) {
	if !pretty {
		return append(b, '\n'), nil
	}
	var out bytes.Buffer
	err := json.Indent(&out, b, "", "  ")
	return out.Bytes(), err
}

func status(w http.ResponseWriter, r *http.Request, code int, reason metav1.StatusReason, message string) {
	refusal := &metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message}
	if code != http.StatusNotAcceptable || strings.HasPrefix(message, "406") {
		refusal.Details = &metav1.StatusDetails{}
	}
	b, err := codec.EncodeJSON(schema.GroupVersionKind{Version: "v1", Kind: "Status"}, refusal)
	if err == nil {
		b, err = indented(b, wantsPretty(r) || code == http.StatusNotAcceptable)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", codec.JSON)
	w.WriteHeader(code)
	_, _ = w.Write(b)
}

func metaKind(kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Version: "v1", Kind: kind}
}

func aggregatedKind() schema.GroupVersionKind {
	return apidiscoveryv2.SchemeGroupVersion.WithKind("APIGroupDiscoveryList")
}
