// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/watchcache"
)

// gzipMin is the size from which answers are compressed for clients that take it.
const gzipMin = 128 << 10

// validationErrors are problems with the options of a request.
type validationErrors struct {
	kind string
	errs field.ErrorList
}

func (v validationErrors) err() error {
	if len(v.errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(metav1.SchemeGroupVersion.WithKind(v.kind).GroupKind(), "", v.errs)
}

// wrongKind is the error for a body of another kind than the resource's.
func (s *Server) wrongKind(got, want schema.GroupVersionKind) error {
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", got.Kind, got.Version, want.Kind, s.unconvertible(got, want)))
}

// unconvertible says why an object of one kind is none of another: the server may know both or not.
func (s *Server) unconvertible(got, want schema.GroupVersionKind) error {
	if !s.knows(got) {
		return fmt.Errorf("no kind %q is registered for version %q in scheme \"pkg/runtime/scheme.go:111\"", got.Kind, got.GroupVersion())
	}
	return fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", got.Version, got.Kind, internalGroup(want.Group), want.Kind)
}

// internalGroup is what Kubernetes' messages call a group in names of types.
func internalGroup(group string) string {
	group, _, _ = strings.Cut(group, ".")
	switch group {
	case "", "events":
		return "core"
	}
	return group
}

// knows says that a kind is one that the server has a use for: that of a resource, a subresource, a list or a request's options.
func (s *Server) knows(gvk schema.GroupVersionKind) bool {
	if !s.served.Load().versions[gvk.GroupVersion()] {
		return false
	}
	switch gvk.Kind {
	case "CreateOptions", "UpdateOptions", "PatchOptions", "DeleteOptions", "GetOptions", "ListOptions", "WatchEvent":
		return true
	case "Status", "APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "List", "Binding", "RangeAllocation", "SerializedReference",
		"PodExecOptions", "PodAttachOptions", "PodLogOptions", "PodPortForwardOptions", "PodProxyOptions", "NodeProxyOptions", "ServiceProxyOptions", "PodStatusResult":
		if gvk.GroupVersion() == (schema.GroupVersion{Version: "v1"}) {
			return true
		}
	case "Eviction", "Scale", "TokenRequest":
		switch gvk.Group {
		case "policy", "autoscaling", "apps", "authentication.k8s.io":
			return true
		}
	}
	name, isList := strings.CutSuffix(gvk.Kind, "List")
	for k := range s.served.Load().registries {
		if k.GroupVersion() == gvk.GroupVersion() && (k.Kind == gvk.Kind || isList && k.Kind == name && !k.Virtual) {
			return true
		}
	}
	return false
}

// otherVersion is the error for a body of another version than the path of a custom resource.
func otherVersion(got, want schema.GroupVersionKind) error {
	return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
		got.GroupVersion(), want.GroupVersion()))
}

// unrecognized is the error for a body that is no object.
func unrecognized(want schema.GroupVersionKind, err error, body []byte) error {
	const most = 30
	summary, more := string(body), ""
	if len(body) > most {
		summary, more = string(body[:most]), " ..."
	}
	switch {
	case len(body) == 0:
		summary = "<empty>"
	case body[0] != '{':
		summary = hex.EncodeToString([]byte(summary))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s%s)", want.Kind, err, summary, more))
}

func undecodable(want schema.GroupVersionKind, err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", want.Kind, want.Version, want.Kind, err))
}

func statusKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Version: "v1", Kind: "Status"}
}

// statusOf is the Status that an error means.
func statusOf(err error) *metav1.Status {
	var api apierrors.APIStatus
	var s metav1.Status
	if errors.As(err, &api) {
		s = api.Status()
	} else {
		s = metav1.Status{Message: err.Error()}
	}
	s.TypeMeta = metav1.TypeMeta{}
	if s.Status == "" {
		s.Status = metav1.StatusFailure
	}
	if s.Code == 0 {
		s.Code = http.StatusInternalServerError
	}
	return &s
}

// writeError answers with a Status, in the form that the client accepts.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	writeErrorWith(w, r, err, nil)
}

// writeErrorWith is writeError for a request that gathered warnings.
func writeErrorWith(w http.ResponseWriter, r *http.Request, err error, warnings []string) {
	s := statusOf(err)
	// What comes of a request after its time does not count, such as the error of a webhook that was waited for.
	late := s.Code >= http.StatusInternalServerError && r.Context().Err() == context.DeadlineExceeded
	if rec := recordOf(r); rec != nil {
		recordStatus(rec, s)
	}
	addWarnings(w, warnings)
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(s.Details.RetryAfterSeconds)))
	}
	if late {
		writeLate(w)
		return
	}
	writeObject(w, r, errorForm(r), int(s.Code), statusKind(), s)
}

// Bounds of the warnings of one answer, in characters; each of a longer lot is cut.
const (
	allWarnings = 4 << 10
	eachWarning = 256
)

// addWarnings sends warnings, each once and together no more than a client can be expected to read.
func addWarnings(w http.ResponseWriter, warnings []string) {
	seen := map[string]bool{}
	var texts []string
	total, cut := 0, false
	for _, text := range warnings {
		if seen[text] || cut && total > allWarnings {
			continue
		}
		seen[text] = true
		size := utf8.RuneCountInString(text)
		if !cut && total+size > allWarnings {
			cut, total = true, 0
			for i := range texts {
				texts[i] = head(texts[i], eachWarning)
				total += utf8.RuneCountInString(texts[i])
			}
		}
		if cut {
			text = head(text, eachWarning)
			size = utf8.RuneCountInString(text)
		}
		texts, total = append(texts, text), total+size
	}
	for _, text := range texts {
		w.Header().Add("Warning", "299 - "+quoteWarning(text))
	}
}

// head is the first n characters of a text, or all.
func head(text string, n int) string {
	for i := range text {
		if n == 0 {
			return text[:i]
		}
		n--
	}
	return text
}

func quoteWarning(text string) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, text)
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// writeObject answers with one object that has no cached encodings.
func writeObject(w http.ResponseWriter, r *http.Request, form accepted, code int, gvk schema.GroupVersionKind, obj any) {
	if form.media == codec.Proto {
		b, err := codec.EncodeProto(gvk, obj)
		if err == nil {
			writeBytes(w, r, form.media, code, b)
			return
		}
		form.media = codec.JSON
	}
	b, err := codec.EncodeJSON(gvk, obj)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, r, form, code, b)
}

// writeJSON answers with JSON bytes, in YAML or indented if that was asked for.
func writeJSON(w http.ResponseWriter, r *http.Request, form accepted, code int, b []byte) {
	switch {
	case form.media == codec.YAML:
		y, err := yaml.JSONToYAML(b)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeBytes(w, r, codec.YAML, code, y)
		return
	case form.pretty:
		var buf bytes.Buffer
		if json.Indent(&buf, b, "", "  ") == nil {
			b = buf.Bytes()
		}
	default:
		b = append(b, '\n')
	}
	_ = writeBytes(w, r, codec.JSON, code, b)
}

// writeBytes writes an answer. Without an error b may be used again.
func writeBytes(w http.ResponseWriter, r *http.Request, media string, code int, b []byte) error {
	w.Header().Set("Content-Type", media)
	if len(b) >= gzipMin && acceptsGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Add("Vary", "Accept-Encoding")
		w.WriteHeader(code)
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
		_, err := z.Write(b)
		return errors.Join(err, z.Close())
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(code)
	_, err := w.Write(b)
	return err
}

// acceptsGzip says whether a client takes compressed answers.
func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		coding, parameters, _ := strings.Cut(part, ";")
		if strings.TrimSpace(coding) == "gzip" {
			return strings.TrimSpace(parameters) != "q=0"
		}
	}
	return false
}

// answerMax is how large a buffer for answers may be to be kept.
const answerMax = 64 << 10

// encodeStored encodes an object as it is stored, in memory that release got.
func (s *Server) encodeStored(k *resource.Kind, obj resource.Object) ([]byte, error) {
	room, _ := s.values.Get().(*[]byte)
	if room == nil {
		room = new([]byte)
	}
	return codec.EncodeStoredIn(*room, k, obj)
}

// release takes back the memory of an encoded object or of a body that nobody reads any more.
func release(to *sync.Pool, b []byte) {
	if cap(b) > 0 && cap(b) <= answerMax {
		to.Put(&b)
	}
}

// writeFrom writes an answer that encode makes in a buffer of the server's.
func (s *Server) writeFrom(w http.ResponseWriter, r *http.Request, media string, code int, encode func(dst []byte) ([]byte, bool)) bool {
	room, _ := s.answers.Get().(*[]byte)
	if room == nil {
		room = new([]byte)
	}
	b, ok := encode((*room)[:0])
	if ok && writeBytes(w, r, media, code, b) != nil {
		return true // the connection may still be busy with it
	}
	if *room = b; cap(b) <= answerMax {
		s.answers.Put(room)
	}
	return ok
}

// writeAnswer answers with what the registry came to.
func (s *Server) writeAnswer(w http.ResponseWriter, r *http.Request, reg *registry, form accepted, a *answer) {
	addWarnings(w, a.warnings)
	code := http.StatusOK
	switch {
	case a.created:
		code = http.StatusCreated
	case a.accepted:
		code = http.StatusAccepted
	}
	var err error
	switch {
	case form.as != "" && (a.entry != nil || a.list != nil || a.object != nil):
		err = s.writeTransformed(w, r, reg, form, code, a)
	case a.entry != nil:
		if form.media == codec.Proto && reg.kind.Stored == nil && reg.kind.EncodeStored == nil {
			if s.writeFrom(w, r, codec.Proto, code, func(dst []byte) ([]byte, bool) {
				return codec.AppendAtRevision(dst, a.stored, a.entry.Kind.GroupVersionKind, a.entry.Object.GetResourceVersion())
			}) {
				return
			}
		}
		if form.media == codec.JSON && !form.pretty && a.stored != nil { // nobody may ask for this encoding again: it is not kept
			if s.writeFrom(w, r, codec.JSON, code, func(dst []byte) ([]byte, bool) {
				b, err := codec.AppendJSON(dst, a.entry.Kind.GroupVersionKind, a.entry.Object)
				return append(b, '\n'), err == nil
			}) {
				return
			}
		}
		err = s.writeEntry(w, r, form, code, a.entry)
	case a.list != nil:
		err = s.writeList(w, r, reg, form, a.list)
	case a.object != nil:
		writeObject(w, r, form, code, a.gvk, a.object)
	case a.status != nil:
		writeObject(w, r, form, code, statusKind(), a.status)
	default:
		writeObject(w, r, form, code, statusKind(), &metav1.Status{Status: metav1.StatusSuccess, Code: int32(code)})
	}
	if err != nil {
		writeError(w, r, err)
	}
}

func (s *Server) writeEntry(w http.ResponseWriter, r *http.Request, form accepted, code int, e *watchcache.Entry) error {
	if form.media == codec.Proto {
		raw, err := e.Proto()
		if err != nil {
			return err
		}
		s.writeFrom(w, r, codec.Proto, code, func(dst []byte) ([]byte, bool) {
			return codec.AppendProto(dst, e.Kind.GroupVersionKind, raw), true
		})
		return nil
	}
	b, err := e.JSON()
	if err != nil {
		return err
	}
	if form.media != codec.JSON || form.pretty {
		writeJSON(w, r, form, code, codec.WithKind(nil, e.Kind.GroupVersionKind, b))
		return nil
	}
	s.writeFrom(w, r, codec.JSON, code, func(dst []byte) ([]byte, bool) {
		return append(codec.WithKind(dst, e.Kind.GroupVersionKind, b), '\n'), true
	})
	return nil
}

// writeTransformed answers with a Table or with metadata alone.
func (s *Server) writeTransformed(w http.ResponseWriter, r *http.Request, reg *registry, form accepted, code int, a *answer) error {
	gvk := schema.GroupVersionKind{Group: "meta.k8s.io", Version: form.version, Kind: form.as}
	switch {
	case form.as == "PartialObjectMetadata" && a.entry != nil:
		writeObject(w, r, form, code, gvk, partial(a.entry, form, false))
	case form.as == "PartialObjectMetadataList" && a.list != nil:
		out := metav1.PartialObjectMetadataList{ListMeta: a.list.meta}
		for _, e := range a.list.entries {
			out.Items = append(out.Items, *partial(e, form, true))
		}
		writeObject(w, r, form, code, gvk, &out)
	case form.as == "Table":
		return s.writeTable(w, r, reg, form, code, a)
	case form.as == "PartialObjectMetadata" && a.object != nil:
		writeObject(w, r, form, code, gvk, &metav1.PartialObjectMetadata{ObjectMeta: objectMeta(a.object)})
	case reg.kind.Custom != nil && form.as == "PartialObjectMetadata":
		return notAcceptableText("you requested PartialObjectMetadata, but the requested object is a list (*unstructured.UnstructuredList)")
	case reg.kind.Custom != nil:
		return errStatus500("content is not a list")
	case form.as == "PartialObjectMetadata":
		return notAcceptableText(fmt.Sprintf("you requested PartialObjectMetadata, but the requested object is a list (*%s.%sList)", internalGroup(reg.kind.Group), reg.kind.Kind))
	default:
		kind := a.gvk
		if a.entry != nil {
			kind = reg.kind.GroupVersionKind
		}
		return notAcceptableText(fmt.Sprintf("you requested PartialObjectMetadataList, but the requested object is not a list (*%s.%s)", internalGroup(kind.Group), kind.Kind))
	}
	return nil
}

// partial is the metadata of an entry; with kind and apiVersion in lists, where nobody adds them.
func partial(e *watchcache.Entry, form accepted, inList bool) *metav1.PartialObjectMetadata {
	var p metav1.PartialObjectMetadata
	if inList && form.media != codec.Proto {
		p.Kind, p.APIVersion = "PartialObjectMetadata", "meta.k8s.io/"+form.version
	}
	p.ObjectMeta = e.Kind.Shown(objectMeta(e.Object))
	return &p
}
