// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/watchcache"
	"knarr.dev/store"
)

// continueToken is what metadata.continue holds, in base64.
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
}

const continueVersion = "meta.k8s.io/v1"

func encodeContinue(key, prefix string, revision int64) string {
	start, _ := strings.CutPrefix(key, prefix)
	b, err := json.Marshal(continueToken{Version: continueVersion, Revision: revision, Start: "/" + start + "\x00"})
	if err != nil {
		panic(fmt.Sprintf("encode continue token: %v", err))
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeContinue returns the key after which a list goes on, and the revision.
func decodeContinue(token, prefix string) (after string, revision int64, err error) {
	bad := func(format string, args ...any) (string, int64, error) {
		return "", 0, apierrors.NewBadRequest("invalid continue token: " + fmt.Sprintf(format, args...))
	}
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return bad("continue key is not valid: %v", err)
	}
	var c continueToken
	if err := json.Unmarshal(data, &c); err != nil { // the type is called as clients know it
		return bad("continue key is not valid: %s", strings.ReplaceAll(err.Error(), "apiserver.continueToken", "storage.continueToken"))
	}
	switch {
	case c.Version != continueVersion:
		return bad("continue key is not valid: server does not recognize this encoded version %v", c.Version)
	case c.Revision == 0:
		return bad("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	case c.Start == "":
		return bad("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
	case strings.Contains(c.Start, "../"):
		return bad("continue key is not valid: %s", c.Start)
	}
	last, next := strings.CutSuffix(prefix+strings.TrimPrefix(c.Start, "/"), "\x00")
	if !next { // the list goes on with that key
		n := len(last) - 1
		last = last[:n] + string([]byte{last[n] - 1}) + "\xff" // a byte, not a rune
	}
	return last, c.Revision, nil
}

// list answers GET of a collection.
func (r *registry) list(ctx context.Context, o *operation) (*answer, error) {
	if err := r.checkListOptions(o.Request, false); err != nil {
		return nil, err
	}
	ctx, span := r.storing(ctx, "cacher.GetList", o)
	defer span.End()
	prefix := r.key(o.Namespace, "")
	if o.Name == "" {
		if name, ok := exactName(o.Fields); ok {
			o.Name = name
		}
	}
	s, after, err := r.listState(ctx, o.Request, prefix)
	if err != nil {
		return nil, err
	}
	if err := r.convertListed(s, o.Request, prefix, after); err != nil {
		return nil, err
	}
	match, required := r.matcher(o.Request), watchcache.Required(o.Labels)
	out := &listAnswer{}
	out.meta.ResourceVersion = strconv.FormatInt(s.Revision, 10)
	limit := int(max(o.Limit, 0))
	if o.ResourceVersion == "0" && o.ResourceVersionMatch != metav1.ResourceVersionMatchExact {
		limit = 0 // what is in memory comes at once, as with Kubernetes
	}
	more, remaining, read := false, int64(0), 0
	var failed error
	s.RangeLabelled(prefix, after, required, func(e *watchcache.Entry) bool {
		read++
		f, err := e.As(r.kind)
		if err != nil {
			failed = err
			return false
		}
		if match != nil && !match(f.Object) {
			return true
		}
		if limit > 0 && len(out.entries) == limit {
			more = true
			remaining++
			return true
		}
		out.entries = append(out.entries, f)
		if match != nil && len(out.entries) == limit {
			more = !r.single(o.Request) && follows(s, r.key(oneNamespace(o.Request), ""), e.Key)
			return false
		}
		return true
	})
	if failed != nil {
		return nil, failed
	}
	r.figures().count(read, len(out.entries))
	if more {
		out.meta.Continue = encodeContinue(out.entries[limit-1].Key, prefix, s.Revision)
		if match == nil {
			out.meta.RemainingItemCount = &remaining
		}
	}
	return &answer{list: out}, nil
}

// single says that a list can hold but one object.
func (r *registry) single(q *call.Request) bool {
	_, named := exactName(q.Fields)
	return named && (r.kind.Scope != resource.Namespaced || oneNamespace(q) != "")
}

// oneNamespace is the namespace that all objects of a list are in, empty if there is no such.
func oneNamespace(q *call.Request) string {
	if q.Namespace == "" && q.Fields != nil {
		name, _ := q.Fields.RequiresExactMatch("metadata.namespace")
		return name
	}
	return q.Namespace
}

// follows says whether there is anything in a list after a key, be it selected or not: clients learn it only by asking.
func follows(s *watchcache.Snapshot, prefix, key string) (more bool) {
	s.Range(prefix, key, func(*watchcache.Entry) bool {
		more = true
		return false
	})
	return more
}

// convertListed converts the objects that a list may show, at once where that costs less.
func (r *registry) convertListed(s *watchcache.Snapshot, q *call.Request, prefix, after string) error {
	if r.kind.Stored == nil || r.kind.Stored.FromHubAll == nil {
		return nil
	}
	most := 0 // all: selectors look at the form
	if q.Limit > 0 && q.Labels == nil && q.Fields == nil {
		most = int(q.Limit)
	}
	var entries []*watchcache.Entry
	s.Range(prefix, after, func(e *watchcache.Entry) bool {
		entries = append(entries, e)
		return most == 0 || len(entries) < most
	})
	return watchcache.Convert(entries, r.kind)
}

// listState is the state that a list shows, and the key after which it starts.
func (r *registry) listState(ctx context.Context, q *call.Request, prefix string) (*watchcache.Snapshot, string, error) {
	if q.Continue != "" {
		after, revision, err := decodeContinue(q.Continue, prefix)
		if err != nil {
			return nil, "", err
		}
		if q.ResourceVersion != "" && q.ResourceVersion != "0" {
			return nil, "", apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		if revision < 0 {
			s, err := r.cache.Fresh(ctx)
			return s, after, err
		}
		s, err := r.exact(ctx, revision)
		if errors.Is(err, store.ErrCompacted) {
			return nil, "", r.expired(ctx, after, prefix)
		}
		return s, after, err
	}
	switch {
	case q.ResourceVersion == "":
		began := time.Now()
		s, err := r.cache.Fresh(ctx)
		r.freshened(began, err)
		return s, "", err
	case q.ResourceVersion == "0" && q.ResourceVersionMatch != metav1.ResourceVersionMatchExact:
		s, err := r.cache.WaitFor(ctx, 0)
		return s, "", err
	}
	revision, err := parseRevision(q.ResourceVersion)
	if err != nil {
		return nil, "", apierrors.NewBadRequest("invalid resource version: " + err.Error())
	}
	if q.ResourceVersionMatch == metav1.ResourceVersionMatchExact || q.ResourceVersionMatch == "" && q.Limit > 0 {
		s, err := r.exact(ctx, revision)
		if errors.Is(err, store.ErrCompacted) {
			return nil, "", apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
		}
		return s, "", err
	}
	s, err := r.notOlder(ctx, q.ResourceVersion)
	return s, "", err
}

// exact is the state at a revision: from the cache if its history reaches so far, else from the store. What the store has forgotten
// is gone, even if the cache could tell: so pages of a list end with the history on every server.
func (r *registry) exact(ctx context.Context, revision int64) (*watchcache.Snapshot, error) {
	newest, err := r.cache.Fresh(ctx)
	if err != nil {
		return nil, err
	}
	if revision > newest.Revision {
		return nil, tooLargeError(revision, newest.Revision)
	}
	if s, err := r.cache.At(revision); !errors.Is(err, watchcache.ErrGone) {
		if err == nil && revision < newest.Revision {
			_, err = r.server.cfg.Store.Read(ctx, store.Query{Key: r.hub.Key("", ""), Revision: revision}) // no such key
		}
		return s, err
	}
	page, err := r.server.cfg.Store.Read(ctx, store.Query{Key: r.hub.Key("", ""), Prefix: true, Revision: revision})
	if err != nil {
		return nil, err
	}
	return r.cache.Snapshot(&page)
}

// expired is the error for a continue token whose revision is gone; it carries a token to go on with, inconsistently.
func (r *registry) expired(ctx context.Context, after, prefix string) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = encodeContinue(after, prefix, -1)
	return err
}

// checkListOptions applies the rules for resourceVersion, resourceVersionMatch and selectors.
func (r *registry) checkListOptions(q *call.Request, watching bool) error {
	opts := &metainternal.ListOptions{
		Watch: watching, ResourceVersion: q.ResourceVersion, ResourceVersionMatch: q.ResourceVersionMatch,
		SendInitialEvents: q.SendInitialEvents, Continue: q.Continue, Limit: q.Limit, AllowWatchBookmarks: q.AllowBookmarks,
	}
	metainternal.SetListOptionsDefaults(opts, true)
	if errs := internalvalidation.ValidateListOptions(opts, true); len(errs) > 0 {
		return apierrors.NewInvalid(metav1.SchemeGroupVersion.WithKind("ListOptions").GroupKind(), "", errs)
	}
	if q.Fields == nil {
		return nil
	}
	for _, req := range q.Fields.Requirements() {
		if !r.knowsField(req.Field) {
			if len(r.kind.FieldNames) == 0 && r.kind.Custom == nil {
				return apierrors.NewBadRequest(fmt.Sprintf(`%q is not a known field selector: only "metadata.name", "metadata.namespace"`, req.Field))
			}
			if r.kind.Group == "batch" {
				return apierrors.NewBadRequest(fmt.Sprintf("field label %q not supported for %s", req.Field, r.kind.Kind))
			}
			if r.kind.Resource == "resourceslices" {
				return apierrors.NewBadRequest(fmt.Sprintf("field label not supported for %s: %s", r.kind.GroupVersionKind, req.Field))
			}
			return apierrors.NewBadRequest(fmt.Sprintf("field label not supported: %s", req.Field))
		}
	}
	return nil
}

func (r *registry) knowsField(name string) bool {
	if name == "metadata.name" || name == "metadata.namespace" && (r.kind.Scope == resource.Namespaced || len(r.kind.FieldNames) == 0 && r.kind.Custom == nil) {
		return true
	}
	for _, f := range r.kind.FieldNames {
		if f == name {
			return true
		}
	}
	return false
}

// matcher is the filter of a request's selectors, nil if everything matches.
func (r *registry) matcher(q *call.Request) func(resource.Object) bool {
	byLabel, byField := q.Labels != nil && !q.Labels.Empty(), q.Fields != nil && !q.Fields.Empty()
	if !byLabel && !byField {
		return nil
	}
	return func(o resource.Object) bool {
		if byLabel && !q.Labels.Matches(objectLabels{o}) {
			return false
		}
		return !byField || q.Fields.Matches(fieldsOf(r.kind, o))
	}
}

type objectLabels struct{ resource.Object }

func (o objectLabels) Has(label string) bool   { _, ok := o.GetLabels()[label]; return ok }
func (o objectLabels) Get(label string) string { return o.GetLabels()[label] }
func (o objectLabels) Lookup(label string) (string, bool) {
	v, ok := o.GetLabels()[label]
	return v, ok
}

func fieldsOf(k *resource.Kind, o resource.Object) fields.Set {
	var set fields.Set
	if k.Fields != nil {
		set = k.Fields(o)
	}
	if set == nil {
		set = fields.Set{}
	}
	set["metadata.name"] = o.GetName()
	set["metadata.namespace"] = o.GetNamespace()
	return set
}

func exactName(f fields.Selector) (string, bool) {
	if f == nil {
		return "", false
	}
	return f.RequiresExactMatch("metadata.name")
}
