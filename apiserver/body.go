// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"slices"
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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/call"
	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
)

// maxBody bounds request bodies.
const maxBody = 3 << 20

// readBody reads a body that is neither too large nor too slow.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, tooLargeBody()
	}
	if r.ContentLength == 0 {
		return nil, nil
	}
	began, limit := time.Now(), s.limitBody(w)
	from := r.Body
	if r.ContentLength < 0 { // else it is no longer than it says
		from = http.MaxBytesReader(w, from, maxBody)
	}
	room, _ := s.bodies.Get().(*[]byte)
	if room == nil {
		room = new([]byte)
	}
	body, err := readAll(from, r.ContentLength, *room)
	limit.finish(err)
	sc := scopeOf(r)
	sc.body = body
	sc.spent.body.add(time.Since(began))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, tooLargeBody()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusRequestTimeout, Reason: metav1.StatusReasonTimeout,
			Message: fmt.Sprintf("the body of the request did not arrive within %s", s.cfg.BodyTimeout),
		}}
	case err != nil:
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if i := sc.info; len(body) > 0 && i.isResource {
		s.metrics.bodies.With(i.group, i.resource, i.verb).Observe(int64(len(body)))
	}
	return body, nil
}

// bodyLimit makes reads of a body fail that come too late, until it is finished. A deadline would say the same, but is a message to the
// goroutine of the connection, twice.
type bodyLimit struct {
	answer http.ResponseWriter
	timer  *time.Timer
	fired  sync.WaitGroup
}

func (s *Server) limitBody(w http.ResponseWriter) *bodyLimit {
	l := &bodyLimit{answer: w}
	l.fired.Add(1)
	l.timer = time.AfterFunc(s.cfg.BodyTimeout, l.fire)
	return l
}

func (l *bodyLimit) fire() {
	_ = http.NewResponseController(l.answer).SetReadDeadline(time.Unix(1, 0)) // some writers of tests have no deadlines
	l.fired.Done()
}

// finish is told what came of reading.
func (l *bodyLimit) finish(err error) {
	if l.timer.Stop() {
		return
	}
	l.fired.Wait()
	if err == nil { // else it stays: what is left of the body shall not hold up the answer
		_ = http.NewResponseController(l.answer).SetReadDeadline(time.Time{})
	}
}

// bodyGuess is how much room a body gets because its sender says so.
const bodyGuess = 64 << 10

// readAll is io.ReadAll for what is said to be of a size; negative is unknown. It reads into room, if that is large enough.
func readAll(r io.Reader, size int64, room []byte) ([]byte, error) {
	if size <= 0 || size > bodyGuess {
		return io.ReadAll(r)
	}
	body := slices.Grow(room[:0], int(size)+1)[:size+1] // one more, to find the end without growing
	n := 0
	for n < len(body) {
		m, err := r.Read(body[n:])
		n += m
		if err == io.EOF {
			return body[:n], nil
		}
		if err != nil {
			return body[:n], err
		}
	}
	rest, err := io.ReadAll(r)
	return append(body, rest...), err
}

func tooLargeBody() error {
	return apierrors.NewRequestEntityTooLargeError("limit is " + strconv.Itoa(maxBody))
}

// bodyOf is an empty body for a write to a resource or subresource.
func bodyOf(k *resource.Kind, subresource string) (resource.Object, error) {
	switch subresource {
	case "", "status", "finalize", "ephemeralcontainers", "resize", "approval":
		return k.New(), nil
	case "scale":
		return new(autoscalingv1.Scale), nil
	case "binding":
		return new(corev1.Binding), nil
	case "eviction":
		return new(policyv1.Eviction), nil
	case "token":
		return new(authenticationv1.TokenRequest), nil
	}
	return nil, notFoundPath()
}

// decodeBody decodes the object of create and update, and reports unknown fields as the client wants it.
func (s *Server) decodeBody(r *http.Request, reg *registry, q *call.Request, body []byte) ([]string, error) {
	media, err := bodyMedia(r)
	if err != nil {
		return nil, err
	}
	obj, err := bodyOf(reg.kind, q.Subresource)
	if err != nil {
		return nil, err
	}
	want := reg.subKind(q.Subresource)
	if d, err := codec.Decode(media, body, obj); err == nil && d.Plain && reg.kind.Custom == nil && reg.kind.Readable == nil && stated(d.Kind, want) == want {
		q.Object = obj
		if q.Verb == "update" && (q.Subresource == "" || q.Subresource == "status") {
			q.Renew = func() (resource.Object, error) {
				again := reg.kind.New()
				_, err := codec.Decode(media, body, again)
				return again, err
			}
		}
		return nil, nil
	}
	if obj, err = bodyOf(reg.kind, q.Subresource); err != nil { // the first is spoilt
		return nil, err
	}
	if media == codec.Proto && len(body) == 0 {
		return nil, unrecognized(want, errors.New("empty data"), body)
	}
	said, err := codec.PeekKind(media, body)
	if err != nil {
		return nil, unrecognized(want, err, body)
	}
	if reg.kind.Custom != nil && q.Subresource != "scale" {
		if said.Kind == "" && q.FieldValidation == metav1.FieldValidationIgnore {
			return nil, undecodable(want, runtime.NewMissingKindErr(asJSON(media, body)))
		}
		if said.Kind == "" {
			return nil, unrecognized(want, runtime.NewMissingKindErr(string(body)), body)
		}
		if said.Version == "" {
			return nil, otherVersion(said, want)
		}
	}
	got := stated(said, want)
	if q.Subresource == "eviction" && got.Group == want.Group && got.Kind == want.Kind && got.Version == "v1beta1" {
		got = want // it reads the same
	}
	if got != want {
		custom := reg.kind.Custom != nil && q.Subresource != "scale"
		switch {
		case !custom:
			return nil, s.wrongKind(got, want)
		case got.GroupVersion() != want.GroupVersion():
			return s.strangeVersion(media, reg, q, body, got)
		} // another kind is found by validation
	}
	d, err := codec.Decode(media, body, obj)
	if err != nil {
		return nil, undecodable(want, err)
	}
	unknown, err := coerce(reg.kind, obj)
	if err != nil {
		return nil, undecodable(want, err)
	}
	d.Strict = append(d.Strict, unknown...)
	q.Object = obj
	o := &operation{Request: q}
	err = o.strict(want, d.Strict)
	return o.warnings, err
}

// asJSON is a body in JSON or YAML as the JSON that errors show.
func asJSON(media string, body []byte) string {
	if media == codec.YAML {
		if j, err := yaml.YAMLToJSON(body); err == nil {
			return string(j)
		}
	}
	return string(body)
}

// strangeVersion refuses a custom object of another version than that of the path, and warns of all that is unknown of it.
func (s *Server) strangeVersion(media string, reg *registry, q *call.Request, body []byte, got schema.GroupVersionKind) ([]string, error) {
	want := reg.subKind(q.Subresource)
	obj, err := bodyOf(reg.kind, q.Subresource)
	if err != nil {
		return nil, err
	}
	d, err := codec.Decode(media, body, obj)
	if err != nil {
		return nil, otherVersion(got, want)
	}
	unknown, err := coerce(reg.kind, obj)
	if err != nil {
		return nil, otherVersion(got, want)
	}
	o := &operation{Request: q}
	if err := o.strict(want, append(d.Strict, unknown...)); err != nil {
		return nil, err
	}
	return o.warnings, otherVersion(got, want)
}

// stated is the kind that a body says it is of: what it leaves out is as wanted.
func stated(said, want schema.GroupVersionKind) schema.GroupVersionKind {
	if said.Kind == "" {
		said.Kind = want.Kind
	}
	if said.Version == "" {
		said.Group, said.Version = want.Group, want.Version
	}
	return said
}

// readable returns why a decoded object of a kind cannot be understood, if so.
func readable(k *resource.Kind, obj resource.Object) error {
	if k.Readable == nil || reflect.TypeOf(obj) != reflect.TypeOf(k.New()) {
		return nil
	}
	return k.Readable(obj)
}

// coerce brings a decoded custom object into the form of its schema, and returns what it dropped as problems.
func coerce(k *resource.Kind, obj resource.Object) ([]error, error) {
	if err := readable(k, obj); err != nil {
		return nil, err
	}
	if _, custom := obj.(*unstructured.Unstructured); !custom || k.Custom == nil || k.Custom.Coerce == nil {
		return nil, nil
	}
	unknown, err := k.Custom.Coerce(obj)
	if err != nil {
		return nil, err
	}
	problems := make([]error, len(unknown))
	for i, path := range unknown {
		problems[i] = fmt.Errorf("unknown field %q", path)
	}
	return problems, nil
}

// strict reports unknown and duplicate fields as the client wants it: as an error, as warnings, or not at all.
func (o *operation) strict(gvk schema.GroupVersionKind, problems []error) error {
	if len(problems) == 0 || o.FieldValidation == metav1.FieldValidationIgnore {
		return nil
	}
	if o.FieldValidation == metav1.FieldValidationStrict {
		return undecodable(gvk, runtime.NewStrictDecodingError(problems))
	}
	for _, p := range problems {
		text, isYAML := strings.CutPrefix(p.Error(), "yaml: unmarshal errors:\n")
		if !isYAML {
			o.warn(text)
			continue
		}
		for line := range strings.SplitSeq(text, "\n") {
			o.warn(strings.TrimSpace(line))
		}
	}
	return nil
}

func patchType(r *http.Request, k *resource.Kind) (types.PatchType, error) {
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	t := types.PatchType(strings.TrimSpace(media))
	switch t {
	case types.JSONPatchType, types.MergePatchType, types.ApplyYAMLPatchType:
		return t, nil
	case types.StrategicMergePatchType:
		if k.Custom == nil {
			return t, nil
		}
	}
	known := []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}
	if k.Custom != nil {
		return "", unsupportedMedia(strings.Join(slices.Delete(known, 2, 3), ", "))
	}
	for part := range strings.SplitSeq(r.Header.Get("Content-Type"), ",") { // one of several leads to the handler, which knows no lists
		media, _, _ := strings.Cut(part, ";")
		if slices.Contains(known, strings.TrimSpace(media)) {
			return "", unsupportedMedia(strings.Join(known, ", "))
		}
	}
	return "", unsupportedPatch()
}

func unsupportedPatch() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: "415: Unsupported Media Type", Details: &metav1.StatusDetails{},
	}}
}
