// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/admission"
	"knarr.dev/apiserver/audit"
	"knarr.dev/apiserver/hooks"
	"knarr.dev/apiserver/watchcache"
	"knarr.dev/store"
)

// registry serves the objects of one kind. For a kind that is stored as another one, hub is that one, and the cache is
// the hub's.
type registry struct {
	server    *Server
	kind, hub *resource.Kind
	cache     *watchcache.Cache // nil for virtual kinds
	listed    atomic.Pointer[listFigures]
	// media says whether objects of kind have a protobuf form, once somebody asked.
	media atomic.Int32
}

// Values of registry.media.
const (
	mediaUnknown = iota
	mediaText
	mediaProto
)

// proto says whether objects of the kind have a protobuf form.
func (r *registry) proto() bool {
	if r.media.Load() == mediaUnknown {
		known := int32(mediaText)
		if codec.HasProto(r.kind) {
			known = mediaProto
		}
		r.media.Store(known)
	}
	return r.media.Load() == mediaProto
}

// answer is what a request came to.
type answer struct {
	// One of these is set, or none for an empty answer.
	entry *watchcache.Entry
	// stored is what was just written to make entry, or nil; Server.release takes it back.
	stored []byte
	object resource.Object // of kind gvk, not cached
	gvk    schema.GroupVersionKind
	list   *listAnswer
	status *metav1.Status

	created, accepted bool
	warnings          []string
}

type listAnswer struct {
	entries []*watchcache.Entry
	meta    metav1.ListMeta
}

// operation is a request on its way through the registry, with what it gathers.
type operation struct {
	*call.Request
	user     *call.Identity
	record   *audit.Record
	spent    *spent
	warnings []string
	undo     []func()
	finally  []func()
	done     bool

	// applied says that the new state came from server-side apply, which made owners its managedFields.
	applied bool
	owners  []metav1.ManagedFieldsEntry
}

func (o *operation) warn(text string) { o.warnings = append(o.warnings, text) }

// finish takes back reservations if the write did not happen.
func (o *operation) finish() {
	for _, f := range o.finally {
		f()
	}
	o.finally = nil
	if o.done {
		return
	}
	for i := len(o.undo) - 1; i >= 0; i-- {
		o.undo[i]()
	}
}

// execute carries out an authorized request other than watch. With an error the answer has nothing but warnings, and may
// be nil.
func (s *Server) execute(ctx context.Context, user *call.Identity, q *call.Request, parts *spent) (*answer, error) {
	r := s.registry(q.Kind)
	if r == nil {
		return nil, apierrors.NewNotFound(q.Kind.GroupResource(), q.Name)
	}
	o := &operation{Request: q, user: user, record: audit.Of(ctx), spent: parts}
	defer o.finish()
	a, err := r.dispatch(ctx, o)
	if err != nil {
		return &answer{warnings: o.warnings}, r.status(q.Name, err)
	}
	a.warnings = append(o.warnings, a.warnings...)
	return a, nil
}

func (r *registry) dispatch(ctx context.Context, o *operation) (*answer, error) {
	if o.Subresource != "" && o.Subresource != "status" {
		return r.subresource(ctx, o)
	}
	if r.kind.Virtual && o.Verb != "create" {
		return r.readVirtual(ctx, o)
	}
	switch o.Verb {
	case "get":
		return r.get(ctx, o)
	case "list":
		return r.list(ctx, o)
	case "create":
		return r.create(ctx, o)
	case "update":
		return r.put(ctx, o)
	case "patch":
		return r.patch(ctx, o)
	case "delete":
		return r.delete(ctx, o)
	case "deletecollection":
		return r.deleteCollection(ctx, o)
	}
	return nil, apierrors.NewMethodNotSupported(r.kind.GroupResource(), o.Verb)
}

// status is the one place that turns errors of the store into API errors.
func (r *registry) status(name string, err error) error {
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &status):
		return err
	case errors.Is(err, store.ErrTooLarge):
		return errStatus500("etcdserver: request is too large") // as etcd's clients pass it on
	case errors.Is(err, store.ErrCompacted), errors.Is(err, watchcache.ErrGone):
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	case errors.Is(err, store.ErrConflict):
		return r.conflict(name)
	case errors.Is(err, watchcache.ErrClosed): // its CustomResourceDefinition changed meanwhile
		return apierrors.NewTooManyRequests("the resource is changing, please try again", 1)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
	}
	return errStatus500(err.Error())
}

// Messages of Kubernetes for stale updates.
const modified = "the object has been modified; please apply your changes to the latest version and try again"

func (r *registry) conflict(name string) error {
	return apierrors.NewConflict(r.kind.GroupResource(), name, errors.New(modified))
}

func (r *registry) key(namespace, name string) string { return r.hub.Key(namespace, name) }

// current is the stored state of an object, or NotFound. It shows every acknowledged write of this process; of other
// processes, it shows every creation.
func (r *registry) current(ctx context.Context, namespace, name string) (*watchcache.Entry, error) {
	s, err := r.cache.Recent(ctx)
	if err != nil {
		return nil, err
	}
	if e := s.Get(r.key(namespace, name)); e != nil {
		return e, nil
	}
	if r.server.cfg.Shared {
		return r.fresh(ctx, namespace, name)
	}
	return nil, apierrors.NewNotFound(r.kind.GroupResource(), name)
}

// fresh is current for what depends on writes of other processes.
func (r *registry) fresh(ctx context.Context, namespace, name string) (*watchcache.Entry, error) {
	s, err := r.cache.Fresh(ctx)
	if err != nil {
		return nil, err
	}
	if e := s.Get(r.key(namespace, name)); e != nil {
		return e, nil
	}
	return nil, apierrors.NewNotFound(r.kind.GroupResource(), name)
}

func (r *registry) get(ctx context.Context, o *operation) (*answer, error) {
	e, err := r.read(ctx, o)
	if err != nil {
		return nil, err
	}
	f, err := e.As(r.kind)
	if err != nil {
		return nil, err
	}
	return &answer{entry: f}, nil
}

func (r *registry) read(ctx context.Context, o *operation) (*watchcache.Entry, error) {
	ctx, span := r.storing(ctx, "cacher.Get", o)
	defer span.End()
	var s *watchcache.Snapshot
	var err error
	switch o.ResourceVersion {
	case "":
		s, err = r.cache.Fresh(ctx)
	case "0":
		s, err = r.cache.WaitFor(ctx, 0)
	default:
		s, err = r.notOlder(ctx, o.ResourceVersion)
	}
	if err != nil {
		return nil, err
	}
	if e := s.Get(r.key(o.Namespace, o.Name)); e != nil {
		return e, nil
	}
	return nil, apierrors.NewNotFound(r.kind.GroupResource(), o.Name)
}

// tooLarge is how long a read waits for a revision that the store has not reached.
const tooLarge = 3 * time.Second

func (r *registry) notOlder(ctx context.Context, resourceVersion string) (*watchcache.Snapshot, error) {
	revision, err := parseRevision(resourceVersion)
	if err != nil {
		return nil, errStatus500(err.Error())
	}
	if s, err := r.cache.Fresh(ctx); err != nil || s.Revision >= revision {
		return s, err
	}
	waiting, cancel := context.WithTimeout(ctx, tooLarge)
	defer cancel()
	s, err := r.cache.WaitFor(waiting, revision)
	if err == nil {
		return s, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if s, err = r.cache.Fresh(ctx); err != nil || s.Revision >= revision {
		return s, err
	}
	return nil, tooLargeError(revision, s.Revision)
}

// tooLargeError says that a revision lies in the future.
func tooLargeError(asked, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{
		{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"},
	}
	return err
}

func parseRevision(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resourceVersion: Invalid value: %q: %w", s, err)
	}
	return int64(n), nil
}

// write stores obj, which the store's readers share from now on, and returns its entry. obj carries no revision that
// matters: expect is the condition.
func (r *registry) write(ctx context.Context, key string, obj resource.Object, expect int64) (*watchcache.Entry, store.Record, error) {
	r.cache.Share(obj)
	return r.rewrite(ctx, key, obj, expect)
}

// rewrite is write for what is a stored object but for fields of its metadata, and so shares its parts already.
func (r *registry) rewrite(ctx context.Context, key string, obj resource.Object, expect int64) (*watchcache.Entry, store.Record, error) {
	obj.SetResourceVersion("")
	value, err := r.server.encodeStored(r.hub, obj)
	if err != nil {
		return nil, store.Record{}, err
	}
	w := watchcache.NewWritten(r.hub, obj)
	rec, err := r.server.cfg.Store.Write(ctx, store.Op{Key: key, Value: value, Expect: expect, TTL: r.hub.TTL, Attachment: w})
	if errors.Is(err, store.ErrTooLarge) {
		err = overLimit(len(key), len(value), err)
	}
	if err != nil {
		return nil, rec, err
	}
	r.cache.Wrote(rec.Modified)
	return w.Entry(key, rec.Modified), rec, nil
}

// overLimit is how Kubernetes says that an object is too large to be stored: in etcd's words, or, if it is not even sent, in those of
// etcd's client.
func overLimit(key, value int, err error) error {
	const most, around = 2 << 20, 29 // a message, and what a transaction has beside key and value
	if size := 2*key + value + around; size > most {
		return errStatus500(fmt.Sprintf("rpc error: code = ResourceExhausted desc = trying to send message larger than max (%d vs. %d)", size, most))
	}
	return err
}

// unchanged says whether storing obj instead of old would change nothing.
func (r *registry) unchanged(obj resource.Object, old *watchcache.Entry) bool {
	version := obj.GetResourceVersion()
	obj.SetResourceVersion(old.Object.GetResourceVersion())
	defer obj.SetResourceVersion(version)
	if reflect.TypeOf(obj) == reflect.TypeOf(old.Object) {
		memory := r.server.memory.Of(reflect.TypeOf(obj).Elem())
		switch memory.CompareAt(reflect.ValueOf(obj), reflect.ValueOf(old.Object)) {
		case resource.Same:
			return true
		case resource.Differ:
			return false
		}
	}
	raw, err := codec.MarshalProto(obj)
	var before []byte
	if errors.Is(err, codec.ErrNoProto) {
		raw, err = codec.MarshalJSON(obj)
		if err == nil {
			before, err = old.JSON()
		}
	} else if err == nil {
		before, err = old.Proto()
	}
	return err == nil && bytes.Equal(raw, before)
}

// dry makes the entry of a write that does not happen.
func (r *registry) dry(key string, obj resource.Object, revision int64) *watchcache.Entry {
	obj.SetResourceVersion("")
	if revision > 0 {
		obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	}
	return watchcache.NewEntry(r.rules(), key, obj, revision)
}

// unwritten is the entry of a creation that does not happen: it keeps the resourceVersion that storage would have refused.
func (r *registry) unwritten(key string, obj resource.Object) *watchcache.Entry {
	return watchcache.NewEntry(r.hub, key, obj, 0)
}

// admitted is the admission request of an operation.
func (r *registry) admitted(o *operation, verb string, obj, old resource.Object) *admission.Request {
	if o.spent == nil {
		o.spent = &spent{}
	}
	name := o.Name
	if name == "" && obj != nil {
		name = obj.GetName()
	}
	return &admission.Request{
		Verb: verb, Kind: r.rules(), Subresource: o.Subresource, Namespace: o.Namespace, Name: name, User: o.user,
		Served: r.kind, Forms: r.forms, Body: r.subKind(o.Subresource), Call: o.Request,
		Object: obj, Old: old, DryRun: o.DryRun, Warn: o.warn, Annotate: o.record.Annotate, Spent: &o.spent.admission,
		Undo:    func(f func()) { o.undo = append(o.undo, f) },
		Finally: func(f func()) { o.finally = append(o.finally, f) },
	}
}

// forms are the kinds as which the objects are served.
func (r *registry) forms() []*resource.Kind {
	var out []*resource.Kind
	served := r.server.served.Load()
	for _, k := range served.all {
		if served.registries[k].hub == r.hub {
			out = append(out, k)
		}
	}
	return out
}

func (r *registry) hook(subresource string) *hooks.Hook {
	if h := r.server.hooks[hookKey{r.kind, subresource}]; h != nil {
		return h
	}
	return r.server.hooks[hookKey{r.hub, subresource}]
}

// rules is the kind whose rules apply to writes, and whose form admission sees: the stored one, but for custom kinds the one
// that was asked for, since each version has its own schema.
func (r *registry) rules() *resource.Kind {
	if r.kind.Custom != nil {
		return r.kind
	}
	return r.hub
}

// stored brings an object that went through rules into the stored form.
func (r *registry) stored(obj resource.Object) (resource.Object, error) {
	if r.kind.Custom == nil || r.kind.Stored == nil {
		return obj, nil
	}
	return r.kind.Stored.ToHub(obj)
}

// toHub brings a decoded object into the form that rules apply to.
func (r *registry) toHub(obj resource.Object) (resource.Object, error) {
	if r.kind.Stored == nil || r.kind.Custom != nil {
		return obj, nil
	}
	hub, err := r.kind.Stored.ToHub(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return hub, nil
}
