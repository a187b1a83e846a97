// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"

	"knarr.dev/api/call"
	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
)

// wireRequest is a request as it goes out; the body can be sent again.
type wireRequest struct {
	method, contentType, accept string
	url                         *url.URL
	body                        []byte
	request                     *call.Request
}

// encode makes the HTTP request of a call.
func (h *HTTP) encode(q *call.Request) (*wireRequest, error) {
	w := &wireRequest{method: call.Method(q.Verb), accept: codec.JSON, request: q}
	if w.method == "" {
		return nil, apierrors.NewMethodNotSupported(q.Kind.GroupResource(), q.Verb)
	}
	if codec.HasProto(q.Kind) {
		w.accept = codec.Proto + "," + codec.JSON
	}
	u := *h.base
	u.Path, u.RawPath = h.path(q)
	query := url.Values{}
	h.writeQuery(q, query)
	listQuery(q, query)
	u.RawQuery = query.Encode()
	w.url = &u
	return w, w.encodeBody(q)
}

// path is the path of a request's resource, plain and escaped.
func (h *HTTP) path(q *call.Request) (plain, escaped string) {
	parts := []string{"api", q.Kind.Version}
	if q.Kind.Group != "" {
		parts = []string{"apis", q.Kind.Group, q.Kind.Version}
	}
	if q.Kind.Scope == resource.Namespaced && q.Namespace != "" {
		parts = append(parts, "namespaces", q.Namespace)
	}
	parts = append(parts, q.Kind.Resource)
	switch q.Verb {
	case "list", "watch", "deletecollection":
	case "create":
		if q.Subresource != "" {
			parts = append(parts, q.Name, q.Subresource)
		}
	default:
		parts = append(parts, q.Name)
		if q.Subresource != "" {
			parts = append(parts, q.Subresource)
		}
	}
	plain, escaped = h.base.Path, h.base.EscapedPath()
	for _, p := range parts {
		plain += "/" + p
		escaped += "/" + url.PathEscape(p)
	}
	return plain, escaped
}

// writeQuery sets the options of writes.
func (h *HTTP) writeQuery(q *call.Request, query url.Values) {
	switch q.Verb {
	case "create", "update", "patch":
	default:
		return
	}
	manager := q.FieldManager
	if manager == "" {
		manager = h.manager
	}
	query.Set("fieldManager", manager)
	if q.FieldValidation != "" {
		query.Set("fieldValidation", q.FieldValidation)
	}
	if q.DryRun {
		query.Set("dryRun", metav1.DryRunAll)
	}
	if q.Force {
		query.Set("force", "true")
	}
}

// listQuery sets what selects and positions reads.
func listQuery(q *call.Request, query url.Values) {
	set := func(name, value string) {
		if value != "" {
			query.Set(name, value)
		}
	}
	if q.Verb == "get" {
		set("resourceVersion", q.ResourceVersion)
	}
	if q.Verb != "list" && q.Verb != "watch" && q.Verb != "deletecollection" {
		return
	}
	if q.Labels != nil {
		set("labelSelector", q.Labels.String())
	}
	selector := q.Fields
	if q.Name != "" {
		named := fields.OneTermEqualSelector("metadata.name", q.Name)
		if selector == nil || selector.Empty() {
			selector = named
		} else if _, ok := selector.RequiresExactMatch("metadata.name"); !ok {
			selector = fields.AndSelectors(named, selector)
		}
	}
	if selector != nil {
		set("fieldSelector", selector.String())
	}
	if q.Limit > 0 {
		set("limit", strconv.FormatInt(q.Limit, 10))
	}
	set("continue", q.Continue)
	set("resourceVersion", q.ResourceVersion)
	set("resourceVersionMatch", string(q.ResourceVersionMatch))
	if q.SendInitialEvents != nil {
		set("sendInitialEvents", strconv.FormatBool(*q.SendInitialEvents))
	}
	if q.Verb != "watch" {
		return
	}
	query.Set("watch", "true")
	if q.AllowBookmarks {
		query.Set("allowWatchBookmarks", "true")
	}
	if q.Timeout > 0 {
		set("timeoutSeconds", strconv.Itoa(int((q.Timeout+time.Second-1)/time.Second)))
	}
}

func (w *wireRequest) encodeBody(q *call.Request) (err error) {
	switch q.Verb {
	case "create", "update":
		if q.Object == nil {
			return apierrors.NewBadRequest(q.Verb + " needs an object")
		}
		gvk := bodyKind(q)
		if _, ok := q.Object.(*unstructured.Unstructured); !ok {
			if w.body, err = codec.EncodeProto(gvk, q.Object); err == nil {
				w.contentType = codec.Proto
				return nil
			}
		}
		w.contentType = codec.JSON
		w.body, err = codec.EncodeJSON(gvk, q.Object)
	case "patch":
		w.contentType, w.body = string(q.PatchType), q.Patch
	case "delete", "deletecollection":
		options := metav1.DeleteOptions{}
		if q.Delete != nil {
			options = *q.Delete
		}
		if q.DryRun {
			options.DryRun = []string{metav1.DryRunAll}
		}
		w.contentType = codec.JSON
		w.body, err = codec.EncodeJSON(schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}, &options)
	}
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}

// bodyKind is the kind of a request's object.
func bodyKind(q *call.Request) schema.GroupVersionKind {
	switch any(q.Object).(type) {
	case *corev1.Binding:
		return corev1.SchemeGroupVersion.WithKind("Binding")
	case *policyv1.Eviction:
		return policyv1.SchemeGroupVersion.WithKind("Eviction")
	case *autoscalingv1.Scale:
		return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
	case *authenticationv1.TokenRequest:
		return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
	}
	return q.Kind.GroupVersionKind
}

// emptyOf is an empty object of a kind that an answer stated.
func emptyOf(k *resource.Kind, gvk schema.GroupVersionKind) resource.Object {
	switch gvk {
	case k.GroupVersionKind:
		return k.New()
	case corev1.SchemeGroupVersion.WithKind("Binding"):
		return new(corev1.Binding)
	case policyv1.SchemeGroupVersion.WithKind("Eviction"):
		return new(policyv1.Eviction)
	case autoscalingv1.SchemeGroupVersion.WithKind("Scale"):
		return new(autoscalingv1.Scale)
	case authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"):
		return new(authenticationv1.TokenRequest)
	}
	return nil
}

func statusKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Version: "v1", Kind: "Status"}
}

func mediaOf(res *http.Response) string {
	media, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		return codec.JSON
	}
	return media
}

// decodeResult reads a successful answer.
func decodeResult(q *call.Request, res *http.Response, body []byte) (*call.Result, error) {
	out := &call.Result{Created: res.StatusCode == http.StatusCreated}
	warnings, _ := utilnet.ParseWarningHeaders(res.Header.Values("Warning")) // what is malformed is left out
	for _, w := range warnings {
		out.Warnings = append(out.Warnings, w.Text)
	}
	media := mediaOf(res)
	gvk, err := codec.PeekKind(media, body)
	if err != nil {
		return nil, err
	}
	list := q.Kind.GroupVersionKind
	list.Kind += "List"
	switch gvk {
	case statusKind():
		out.Status = new(metav1.Status)
		_, err = codec.Decode(media, body, out.Status)
		return out, err
	case list:
		items, meta, err := codec.DecodeList(media, body, q.Kind)
		out.List = &call.List{
			Items: items, ResourceVersion: meta.ResourceVersion, Continue: meta.Continue, Remaining: meta.RemainingItemCount,
		}
		return out, err
	}
	if out.Object = emptyOf(q.Kind, gvk); out.Object == nil {
		return nil, fmt.Errorf("kind %s is not expected here", gvk)
	}
	_, err = codec.Decode(media, body, out.Object)
	return out, err
}

// readFailure is the error of an answer that is no success; it closes the answer.
func readFailure(res *http.Response, w *wireRequest) error {
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil {
		media := mediaOf(res)
		if gvk, err := codec.PeekKind(media, body); err == nil && gvk == statusKind() {
			s := metav1.Status{}
			if _, err := codec.Decode(media, body, &s); err == nil && s.Status != metav1.StatusSuccess {
				return &apierrors.StatusError{ErrStatus: s}
			}
		}
	}
	q := w.request
	seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
	return apierrors.NewGenericServerResponse(res.StatusCode, strings.ToLower(w.method), q.Kind.GroupResource(), q.Name,
		strings.TrimSpace(string(body)), seconds, true)
}

// streamBuffer is how many events of a watch are read ahead.
const streamBuffer = 256

type watchItem struct {
	event watch.Event
	err   error
}

// httpStream is a call.Stream: a goroutine reads ahead, so that Next can be given up.
type httpStream struct {
	kind   *resource.Kind
	frames *codec.Frames
	body   io.Closer
	events chan watchItem
	cancel context.CancelFunc
	done   <-chan struct{}
	once   sync.Once
	ended  error // for Next alone
}

// read passes events on until the stream ends.
func (s *httpStream) read(ctx context.Context) {
	defer s.body.Close()
	defer close(s.events)
	for {
		item := s.decode()
		select {
		case s.events <- item:
		case <-ctx.Done():
			return
		}
		if item.err != nil || item.event.Type == watch.Error {
			return
		}
	}
}

func (s *httpStream) decode() watchItem {
	event, media, data, err := s.frames.Next()
	if err != nil {
		return watchItem{err: err}
	}
	e := watch.Event{Type: watch.EventType(event)}
	var into runtime.Object = s.kind.New()
	if e.Type == watch.Error {
		into = new(metav1.Status)
	}
	if _, err := codec.Decode(media, data, into); err != nil {
		return watchItem{err: fmt.Errorf("decode a watch event of %s: %w", s.kind.Kind, err)}
	}
	e.Object = into
	return watchItem{event: e}
}

// Next implements call.Stream.
func (s *httpStream) Next(ctx context.Context) (watch.Event, error) {
	if s.ended != nil {
		return watch.Event{}, s.ended
	}
	select {
	case item, ok := <-s.events:
		if s.takes(item, ok) {
			return item.event, nil
		}
		return watch.Event{}, s.ended
	case <-s.done:
		return watch.Event{}, io.EOF
	case <-ctx.Done():
		return watch.Event{}, ctx.Err()
	}
}

// more returns an event that is there already.
func (s *httpStream) more() (watch.Event, bool) {
	select {
	case item, ok := <-s.events:
		return item.event, s.takes(item, ok)
	default:
	}
	return watch.Event{}, false
}

// takes says whether what was received is an event; otherwise the stream has ended.
func (s *httpStream) takes(item watchItem, received bool) bool {
	switch {
	case !received:
		s.ended = io.EOF
	case item.err != nil:
		s.ended = item.err
	}
	return s.ended == nil
}

// Close implements call.Stream.
func (s *httpStream) Close() { s.once.Do(s.cancel) }
