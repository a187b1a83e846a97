// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
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
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/streaming/pkg/httpstream"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/call"
	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/table"
)

// maxBody bounds request bodies.
const maxBody = 3 << 20

// serveResource answers a request for a resource of a kind that is served here.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, reg *registry) {
	sc := scopeOf(r)
	if err := s.reachable(reg, sc.info, r.Method); err != nil {
		if errors.Is(err, errNoPage) {
			http.NotFound(w, r)
		} else {
			writeError(w, r, err)
		}
		return
	}
	serve := s.serveReachable
	if s.cfg.Tracer != nil {
		serve = s.serveTraced
	}
	s.measure(w, r, reg, serve)
}

// serveReachable answers a request for a path and method that the resource has.
func (s *Server) serveReachable(w http.ResponseWriter, r *http.Request, reg *registry) {
	sc := scopeOf(r)
	if isConnect(reg.kind, sc.info.subresource) {
		if err := s.serveConnect(w, r, reg); err != nil {
			writeError(w, r, err)
		}
		return
	}
	form, err := s.chooseForm(w, r, reg)
	if err != nil {
		writeError(w, r, err)
		return
	}
	q, warnings, err := s.decodeRequest(w, r, reg)
	if err != nil {
		writeErrorWith(w, r, err, warnings)
		return
	}
	if sc.record.WantsRequest() {
		recordRequest(sc.record, reg, q)
	}
	warnings = append(warnings, orphansWarning(q)...)
	if q.Verb == "watch" {
		if err := watchable(sc.info, q, form); err != nil {
			writeError(w, r, err)
			return
		}
		stream, err := s.watch(r.Context(), q)
		if err != nil {
			writeError(w, r, err)
			return
		}
		defer stream.close()
		if len(stream.pending) == 0 {
			sc.begun()
		}
		s.serveWatch(w, r, stream, form)
		return
	}
	a, err := s.execute(r.Context(), sc.user, q, &sc.spent)
	if err != nil {
		if a != nil {
			warnings = append(warnings, a.warnings...)
		}
		writeErrorWith(w, r, err, warnings)
		return
	}
	a.warnings = append(warnings, a.warnings...)
	if sc.record != nil {
		recordAnswer(sc.record, reg, q.Subresource, a)
	}
	_, span := s.cfg.Tracer.Start(r.Context(), "SerializeObject")
	s.writeAnswer(w, r, reg, form, a)
	span.End()
}

// tableless says of a subresource that Kubernetes has no Tables of it.
func tableless(k *resource.Kind, sub string) bool {
	switch k.Resource {
	case "pods":
		return sub == "ephemeralcontainers" || sub == "resize"
	case "namespaces":
		return sub == "finalize"
	case "certificatesigningrequests":
		return sub == "approval"
	case "apiservices", "customresourcedefinitions", "resourceclaims":
		return sub == "status"
	}
	return false
}

// watchable refuses what can be seen to be wrong with a watch before it begins.
func watchable(i *requestInfo, q *call.Request, form accepted) error {
	if _, err := table.ParseInclude(form.include); err != nil && form.as == "Table" {
		return err
	}
	if name, ok := exactName(q.Fields); ok && i.pathName != "" && name != i.pathName {
		return apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
	}
	return nil
}

// chooseForm finds the form of the answer. A request whose media types no handler takes gets no warning about its kind.
func (s *Server) chooseForm(w http.ResponseWriter, r *http.Request, reg *registry) (accepted, error) {
	sc := scopeOf(r)
	if sc.info.verb == "patch" {
		if _, err := patchType(r, reg.kind); err != nil {
			return accepted{}, err
		}
	}
	verb := sc.info.verb
	o := offer{
		custom: reg.kind.Custom != nil, proto: reg.proto(),
		noTable: verb == "create" && (reg.kind.Virtual || sc.info.subresource != "") || tableless(reg.kind, sc.info.subresource),
	}
	if (verb == "list" || verb == "watch") && !o.routable(acceptOf(r)) {
		return accepted{}, notAcceptable(strings.Join(o.medias(), ", ") + ", " + streams)
	}
	choose := negotiate
	if verb == "watch" {
		choose = negotiateWatch
	}
	form, err := choose(r, o)
	if text := deprecated(reg.kind); text != "" && !unroutable(err) {
		addWarnings(w, []string{text})
		k := reg.kind
		s.metrics.deprecated.With(k.Group, "", k.Resource, sc.info.subresource, k.Version).Set(1)
	}
	return form, err
}

// unroutable says that err is that of a form which no handler has, as opposed to one that the resource has not.
func unroutable(err error) bool {
	var status *apierrors.StatusError
	return errors.As(err, &status) && status.ErrStatus.Code == http.StatusNotAcceptable && status.ErrStatus.Details != nil
}

// deprecated is the warning with every answer about a kind that has a successor.
func deprecated(k *resource.Kind) string {
	if k.Custom != nil {
		return k.Custom.Warning
	}
	if k.Group == "" && k.Resource == "endpoints" {
		return "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
	}
	if k.Group == "" && k.Resource == "componentstatuses" {
		return "v1 ComponentStatus is deprecated in v1.19+"
	}
	return ""
}

func notFoundPath() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
	}}
}

func notAllowed() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: "the server does not allow this method on the requested resource", Details: &metav1.StatusDetails{},
	}}
}

// reachable refuses paths and methods that the resource does not have.
func (s *Server) reachable(reg *registry, i *requestInfo, method string) error {
	k := reg.kind
	namespaced := k.Scope == resource.Namespaced
	named := i.name != "" && pathHasName(i)
	if k.Custom != nil {
		if err := customPath(k, i, named); err != nil {
			return err
		}
	}
	if i.subresource != "" && (!s.hasSubresource(reg, i.subresource) || i.rest != "" && i.subresource != "proxy") {
		if k.Custom != nil {
			return apierrors.NewNotFound(k.GroupResource(), i.name)
		}
		return notFoundPath()
	}
	if strings.Contains(i.path, "/watch/") && i.verb == "watch" && (i.subresource != "" || k.Virtual) {
		return notFoundPath()
	}
	if !namespaced && i.namespace != "" && k.Resource != "namespaces" || namespaced && i.namespace == "" && (named || k.Virtual) {
		return notFoundPath()
	}
	if k.Custom != nil {
		switch {
		case !named && (i.verb == "update" || i.verb == "patch"):
			return apierrors.NewBadRequest("name must be provided")
		case i.subresource != "" && !s.subresourceHas(reg, i.subresource, i.verb) && (i.verb == "create" || i.verb == "delete"):
			return apierrors.NewMethodNotSupported(k.GroupResource(), i.verb)
		}
	}
	if named && k.Virtual && i.subresource == "" && !slices.Contains(k.Verbs, "get") {
		return notFoundPath()
	}
	if isConnect(k, i.subresource) {
		if !connectHas(i.subresource, method) {
			return notAllowed()
		}
		return segment(i)
	}
	verb := i.verb
	if method == http.MethodHead || verb == "watch" && method != http.MethodGet {
		return notAllowed()
	}
	if k.Virtual && k.Verbs == nil && (verb != "create" || named) || named && verb == "create" && i.subresource == "" && k.Custom == nil {
		return notAllowed()
	}
	if namespaced && i.namespace == "" && (verb == "create" || verb == "deletecollection") && !named && i.subresource == "" {
		return notAllowed()
	}
	if i.subresource != "" && !s.subresourceHas(reg, i.subresource, verb) || verb == "deletecollection" && k.Resource == "namespaces" && k.Group == "" {
		return notAllowed()
	}
	if !named && (verb == "update" || verb == "patch") || i.subresource == "" && k.Verbs != nil && !slices.Contains(k.Verbs, verb) {
		return notAllowed()
	}
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return segment(i)
	}
	return notAllowed()
}

// segment refuses names that cannot be part of a path.
func segment(i *requestInfo) error {
	if i.name == "" && i.subresource != "" && i.resource != "bindings" {
		return apierrors.NewBadRequest("name must be provided")
	}
	if problems := path.IsValidPathSegmentName(i.name); i.name != "" && i.verb != "list" && i.verb != "watch" && i.verb != "deletecollection" && len(problems) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("Name parameter invalid: %q: %s", i.name, strings.Join(problems, ";")))
	}
	return nil
}

// errNoPage says that a path means nothing, not even to clients of the API.
var errNoPage = errors.New("no such page")

// customPath refuses paths of the wrong scope as Kubernetes does for custom resources.
func customPath(k *resource.Kind, i *requestInfo, named bool) error {
	across := !named && (i.verb == "list" || i.verb == "watch")
	if bool(k.Scope) == (i.namespace != "") || bool(k.Scope) && across {
		return nil
	}
	return errNoPage
}

// pathHasName tells a name in the path from one in a field selector.
func pathHasName(i *requestInfo) bool {
	return i.subresource != "" || strings.HasSuffix(strings.TrimSuffix(i.path, "/"), "/"+i.name) &&
		!strings.HasSuffix(strings.TrimSuffix(i.path, "/"), "/"+i.resource) || i.verb == "get" || i.verb == "update" || i.verb == "patch"
}

func (s *Server) hasSubresource(reg *registry, name string) bool {
	switch {
	case name == "status":
		return reg.kind.Status != nil
	case name == "scale":
		return reg.kind.Scale != nil
	case isConnect(reg.kind, name):
		return true
	}
	return reg.hook(name) != nil
}

// subresourceHas says whether a subresource answers a verb.
func (s *Server) subresourceHas(reg *registry, name, verb string) bool {
	if name == "status" || name == "scale" {
		return verb == "get" || verb == "update" || verb == "patch"
	}
	h := reg.hook(name)
	if verb == "create" {
		return h.Create != nil
	}
	return h.Update != nil && (verb == "update" || (verb == "get" || verb == "patch") && name != "finalize")
}

// isConnect says that a subresource is a stream or proxy, which does not answer with an object.
func isConnect(k *resource.Kind, sub string) bool {
	if k.Group != "" {
		return false
	}
	switch k.Resource {
	case "pods":
		return sub == "exec" || sub == "attach" || sub == "portforward" || sub == "log" || sub == "proxy"
	case "services", "nodes":
		return sub == "proxy"
	}
	return false
}

// connectHas says whether a stream or proxy answers a method.
func connectHas(sub, method string) bool {
	switch method {
	case http.MethodGet:
		return true
	case http.MethodPost:
		return sub != "log"
	case http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return sub == "proxy"
	}
	return false
}

// serveConnect hands a request over to streams and proxies; it ends with the server.
func (s *Server) serveConnect(w http.ResponseWriter, r *http.Request, reg *registry) error {
	sc := scopeOf(r)
	if s.cfg.Connect == nil {
		return notFoundPath()
	}
	if r.Method == http.MethodGet && sc.info.subresource != "log" && sc.info.subresource != "proxy" && httpstream.IsUpgradeRequest(r) {
		// A command is no reading, though WebSockets open with GET: who may start one with POST may do so with GET.
		a := sc.info.attributes()
		a.User, a.Verb = sc.user, "create"
		if err := s.authorize(r.Context(), a); err != nil {
			return err
		}
	}
	q := &call.Request{
		Verb: "connect", Kind: reg.kind, Namespace: sc.info.namespace, Name: sc.info.name, Subresource: sc.info.subresource,
	}
	if err := s.admitConnect(w, r, reg, q); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s.connects.RLock()
	defer s.connects.RUnlock()
	go func() {
		select {
		case <-s.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	s.cfg.Connect(w, r.WithContext(ctx), sc.user, q)
	return nil
}

// decodeRequest makes a call.Request of an HTTP request.
func (s *Server) decodeRequest(w http.ResponseWriter, r *http.Request, reg *registry) (*call.Request, []string, error) {
	i := scopeOf(r).info
	q := &call.Request{Verb: i.verb, Kind: reg.kind, Namespace: i.namespace, Name: i.name, Subresource: i.subresource}
	if reg.kind.Resource == "namespaces" && reg.kind.Group == "" {
		q.Namespace = ""
	}
	if reg.kind.Custom != nil && i.verb == "create" && i.subresource == "" {
		q.Name = "" // the path may name one, of which only authorization takes notice
	}
	query := queryOf(r)
	switch i.verb {
	case "get":
		q.ResourceVersion = query.Get("resourceVersion")
		return q, nil, nil
	case "list", "watch":
		return q, nil, listOptions(q, query)
	}
	if i.verb != "delete" && i.verb != "deletecollection" {
		if err := writeOptions(q, query); err != nil {
			return nil, nil, err
		}
	}
	var warnings []string
	if i.verb == "patch" {
		var err error
		if q.PatchType, err = patchType(r, reg.kind); err != nil {
			return nil, nil, err
		}
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return nil, nil, err
	}
	if i.verb == "patch" {
		if err := patchOptions(q, query); err != nil {
			return nil, nil, err
		}
	}
	if q.FieldManager == "" && q.PatchType != types.ApplyYAMLPatchType {
		q.FieldManager = managerOf(r.UserAgent())
	}
	switch i.verb {
	case "create", "update":
		warnings, err = s.decodeBody(r, reg, q, body)
	case "patch":
		q.Patch = body
	case "delete", "deletecollection":
		if i.verb == "deletecollection" {
			if err := listOptions(q, query); err != nil {
				return nil, nil, err
			}
		}
		err = deleteOptions(q, r, body)
	}
	return q, warnings, err
}

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
	body, err := readAll(from, r.ContentLength)
	limit.finish(err)
	sc := scopeOf(r)
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

// readAll is io.ReadAll for what is said to be of a size; negative is unknown.
func readAll(r io.Reader, size int64) ([]byte, error) {
	if size <= 0 || size > bodyGuess {
		return io.ReadAll(r)
	}
	body := make([]byte, size+1) // one more, to find the end without growing
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

// managerOf derives a field manager from a user agent.
func managerOf(agent string) string {
	name, _, _ := strings.Cut(agent, "/")
	name = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, name)
	return name[:min(len(name), validation.FieldManagerMaxLength)]
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
