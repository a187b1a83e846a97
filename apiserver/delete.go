// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/crd"
	"knarr.dev/apiserver/watchcache"
	"knarr.dev/store"
)

// delete answers DELETE of one object.
func (r *registry) delete(ctx context.Context, o *operation) (*answer, error) {
	options := o.Delete
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if err := checkDeleteOptions(options); err != nil {
		return nil, err
	}
	find := r.current
	if r.server.cfg.Shared && options.Preconditions != nil {
		find = r.fresh
	}
	cur, err := find(ctx, o.Namespace, o.Name)
	for attempt := 0; attempt < updateAttempts; attempt++ {
		if err != nil {
			return nil, err
		}
		var a *answer
		var rec store.Record
		a, rec, err = r.deleteOnce(ctx, o, options, cur)
		if !errors.Is(err, store.ErrConflict) {
			return a, err
		}
		cur, _, err = r.retry(o, rec, true)
	}
	return nil, r.conflict(o.Name)
}

// orphansWarning tells who deletes a Job without saying what becomes of its pods that they stay.
func orphansWarning(q *call.Request) []string {
	if q.Kind.Group != "batch" || q.Kind.DefaultPropagation != metav1.DeletePropagationOrphan || q.Verb != "delete" && q.Verb != "deletecollection" {
		return nil
	}
	if q.Delete != nil && (q.Delete.PropagationPolicy != nil || q.Delete.OrphanDependents != nil) { //nolint:staticcheck // clients still send it
		return nil
	}
	return []string{"child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning"}
}

func checkDeleteOptions(options *metav1.DeleteOptions) error {
	if errs := validation.ValidateDeleteOptions(options); len(errs) > 0 {
		return apierrors.NewInvalid(metav1.SchemeGroupVersion.WithKind("DeleteOptions").GroupKind(), "", errs)
	}
	return nil
}

func (r *registry) deleteOnce(ctx context.Context, o *operation, options *metav1.DeleteOptions, cur *watchcache.Entry) (*answer, store.Record, error) {
	if err := r.preconditions(o, options, cur.Object); err != nil {
		return nil, store.Record{}, err
	}
	old := cur.Object
	if r.kind.Custom != nil && r.kind.Stored != nil { // rules see the version that was asked for
		var err error
		if old, err = r.kind.Stored.FromHub(old); err != nil {
			return nil, store.Record{}, err
		}
	}
	a := r.admitted(o, "delete", nil, old)
	a.Name, a.Delete = cur.Object.GetName(), o.Request
	if err := r.server.mutate(ctx, a); err != nil {
		return nil, store.Record{}, err
	}
	if err := r.server.validate(ctx, a); err != nil {
		return nil, store.Record{}, err
	}
	obj := shallow(cur.Object)
	stays := r.markDeleted(obj, options)
	waits := stays && options.OrphanDependents != nil && !*options.OrphanDependents //nolint:staticcheck // clients still send it
	if o.DryRun {
		result, rec, err := r.deleted(obj, r.dry(cur.Key, obj, cur.Revision), stays)
		if err == nil {
			result.accepted = waits
		}
		return result, rec, err
	}
	var e *watchcache.Entry
	var rec store.Record
	var last []byte
	var err error
	switch {
	case stays && r.unchanged(obj, cur):
		e = cur
	case stays:
		e, rec, err = r.rewrite(ctx, cur.Key, obj, cur.Revision)
		last = rec.Value
	case r.hub.Grace != nil && !r.unchanged(obj, cur):
		// Watchers see such objects being deleted before they are gone.
		e, rec, last, err = r.end(ctx, cur.Key, obj, cur.Revision)
	default:
		e, rec, err = r.remove(ctx, cur.Key, obj, cur.Revision)
	}
	if err != nil {
		return nil, rec, err
	}
	o.done = true
	result, rec, err := r.deleted(e.Object, e, stays)
	if err == nil {
		result.stored, result.accepted = last, waits
	}
	return result, rec, err
}

// deleted is the answer to a deletion: the object if it stays for now or if its kind always answers so, else a Status.
func (r *registry) deleted(obj resource.Object, e *watchcache.Entry, stays bool) (*answer, store.Record, error) {
	if stays || returnsDeleted(r.kind) {
		f, err := e.As(r.kind)
		return &answer{entry: f}, store.Record{}, err
	}
	return &answer{status: &metav1.Status{
		Status:  metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: obj.GetName(), Group: r.kind.Group, Kind: r.kind.Resource, UID: obj.GetUID()},
	}}, store.Record{}, nil
}

// returnsDeleted names the kinds whose deletion is answered with the object, as Kubernetes does.
func returnsDeleted(k *resource.Kind) bool {
	switch k.Group {
	case "":
		switch k.Resource {
		case "pods", "services", "serviceaccounts", "podtemplates", "resourcequotas", "persistentvolumes", "persistentvolumeclaims":
			return true
		}
	case "storage.k8s.io":
		switch k.Resource {
		case "storageclasses", "volumeattachments", "csinodes", "csidrivers", "volumeattributesclasses":
			return true
		}
	case "resource.k8s.io":
		return true
	}
	return false
}

func (r *registry) preconditions(o *operation, options *metav1.DeleteOptions, obj resource.Object) error {
	p := options.Preconditions
	if p == nil {
		return nil
	}
	if held(obj) { // which Kubernetes checks where it writes
		conflict := func(what string, asked, have any) error {
			text := fmt.Sprintf("Precondition failed: %s in precondition: %v, %s in object meta: %v", what, asked, what, have)
			return apierrors.NewConflict(r.kind.GroupResource(), obj.GetName(), errors.New(text))
		}
		switch {
		case p.UID != nil && *p.UID != obj.GetUID():
			return conflict("UID", *p.UID, obj.GetUID())
		case p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion():
			return conflict("ResourceVersion", *p.ResourceVersion, obj.GetResourceVersion())
		}
		return nil
	}
	conflict := func(text string) error {
		gr := r.hub.GroupResource()
		gr.Resource = r.hub.Kind
		return apierrors.NewConflict(gr, obj.GetName(), errors.New(text))
	}
	if d, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok && d.DeletionTimestamp == nil {
		return r.definitionPreconditions(p, d)
	}
	if p.UID != nil && *p.UID != obj.GetUID() {
		return conflict(fmt.Sprintf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, obj.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion() {
		return conflict(fmt.Sprintf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, obj.GetResourceVersion()))
	}
	return nil
}

// definitionPreconditions words as Kubernetes does for definitions, whose deletion begins with an update.
func (r *registry) definitionPreconditions(p *metav1.Preconditions, d *apiextensionsv1.CustomResourceDefinition) error {
	var problem error
	switch {
	case p.UID != nil && *p.UID != d.UID:
		//lint:ignore ST1005 Kubernetes' words
		problem = fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, d.UID)
	case p.ResourceVersion != nil && *p.ResourceVersion != d.ResourceVersion:
		//lint:ignore ST1005 Kubernetes' words
		problem = fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *p.ResourceVersion, d.ResourceVersion)
	default:
		return nil
	}
	return apierrors.NewConflict(r.kind.GroupResource(), d.Name, problem)
}

// markDeleted sets on obj what a deletion sets, and says whether the object stays for now: for its grace period or its finalizers.
func (r *registry) markDeleted(obj resource.Object, options *metav1.DeleteOptions) bool {
	finalizers := r.deletionFinalizers(obj, options)
	var grace int64
	if r.hub.Grace != nil {
		grace = max(r.hub.Grace(obj, options.GracePeriodSeconds), 0)
	}
	already := obj.GetDeletionTimestamp() != nil
	if already {
		if r.hub.Grace != nil && obj.GetDeletionGracePeriodSeconds() != nil {
			was := *obj.GetDeletionGracePeriodSeconds()
			shorter := options.GracePeriodSeconds != nil && grace < was
			if !shorter {
				if was > 0 || len(finalizers) > 0 {
					obj.SetFinalizers(finalizers)
					return true
				}
				return len(finalizers) > 0
			}
			if grace > 0 || len(finalizers) > 0 {
				since := obj.GetDeletionTimestamp().Add(-time.Duration(was) * time.Second)
				at := metav1.NewTime(since.Add(time.Duration(grace) * time.Second))
				obj.SetDeletionTimestamp(&at)
				obj.SetDeletionGracePeriodSeconds(&grace)
				obj.SetFinalizers(finalizers)
				return true
			}
			obj.SetDeletionGracePeriodSeconds(&grace)
			return false
		}
		obj.SetFinalizers(finalizers)
		return len(finalizers) > 0 || held(obj)
	}
	stays := grace > 0 || len(finalizers) > 0 || held(obj)
	if !stays && r.hub.Grace == nil {
		return false
	}
	at := metav1.NewTime(time.Now().Truncate(time.Second).Add(time.Duration(grace) * time.Second))
	obj.SetDeletionTimestamp(&at)
	inSteps := r.hub == core.Namespaces.Kind || r.hub == extension.CustomResourceDefinitions.Kind
	if !inSteps {
		obj.SetDeletionGracePeriodSeconds(&grace)
	}
	obj.SetFinalizers(finalizers)
	terminate(obj)
	if g := obj.GetGeneration(); g > 0 && !inSteps {
		obj.SetGeneration(g + 1)
	}
	return stays
}

// deletionFinalizers are the finalizers of obj with those of the garbage collector as the deleter wants them.
func (r *registry) deletionFinalizers(obj resource.Object, options *metav1.DeleteOptions) []string {
	have := obj.GetFinalizers()
	if r.hub.Resource == "events" || held(obj) { // which have no dependents, or lose them first
		return have
	}
	orphan := slices.Contains(have, metav1.FinalizerOrphanDependents)
	foreground := slices.Contains(have, metav1.FinalizerDeleteDependents)
	switch {
	case options.OrphanDependents != nil: //nolint:staticcheck // clients still send it
		orphan, foreground = *options.OrphanDependents, false //nolint:staticcheck
	case options.PropagationPolicy != nil:
		orphan = *options.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *options.PropagationPolicy == metav1.DeletePropagationForeground
	case !orphan && !foreground:
		orphan = r.hub.DefaultPropagation == metav1.DeletePropagationOrphan
		foreground = r.hub.DefaultPropagation == metav1.DeletePropagationForeground
	}
	var out []string
	same := orphan == slices.Contains(have, metav1.FinalizerOrphanDependents) && foreground == slices.Contains(have, metav1.FinalizerDeleteDependents)
	if same { // then they stay in their order
		orphan, foreground = false, false
	}
	for _, f := range have {
		if same || f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			out = append(out, f)
		}
	}
	if orphan {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	if d, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok && d.DeletionTimestamp == nil && !slices.Contains(out, crd.Finalizer) {
		out = append(out, crd.Finalizer) // until its objects are gone
	}
	return out
}

// remove deletes a key. obj, the last state, gets the revision of the deletion.
func (r *registry) remove(ctx context.Context, key string, obj resource.Object, expect int64) (*watchcache.Entry, store.Record, error) {
	w := watchcache.NewWritten(r.hub, obj)
	rec, err := r.server.cfg.Store.Write(ctx, store.Op{Key: key, Expect: expect, Attachment: w})
	if err != nil {
		return nil, rec, err
	}
	return r.removed(ctx, w, key, rec), rec, nil
}

// removed makes the entry of a deletion, and has the kind's hook do what follows from it.
func (r *registry) removed(ctx context.Context, w *watchcache.Written, key string, rec store.Record) *watchcache.Entry {
	r.cache.Wrote(rec.Modified)
	e := w.Entry(key, rec.Modified)
	if h := r.hook(""); h != nil && h.AfterDelete != nil {
		h.AfterDelete(ctx, e.Object)
	}
	return e
}

// end stores obj and deletes it right after. It returns, beside the entry of the deletion, what was stored.
func (r *registry) end(ctx context.Context, key string, obj resource.Object, expect int64) (*watchcache.Entry, store.Record, []byte, error) {
	obj.SetResourceVersion("")
	value, err := r.server.encodeStored(r.hub, obj)
	if err != nil {
		return nil, store.Record{}, nil, err
	}
	gone := watchcache.NewWritten(r.hub, shallow(obj))
	rec, err := r.server.cfg.Store.Write(ctx, store.Op{
		Key: key, Value: value, Expect: expect, TTL: r.hub.TTL, Attachment: watchcache.NewWritten(r.hub, obj),
		End: &store.End{Attachment: gone},
	})
	if err != nil {
		return nil, rec, nil, err
	}
	return r.removed(ctx, gone, key, rec), rec, value, nil
}

// deleteCollection deletes every object that matches and answers with them.
func (r *registry) deleteCollection(ctx context.Context, o *operation) (*answer, error) {
	options := o.Delete
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if err := checkDeleteOptions(options); err != nil {
		return nil, err
	}
	if o.ResourceVersion != "" && o.ResourceVersion != "0" && o.ResourceVersionMatch == "" && o.Continue == "" {
		o.ResourceVersionMatch = metav1.ResourceVersionMatchExact
	}
	listed, err := r.list(ctx, o)
	if err != nil {
		return nil, err
	}
	var gone []*watchcache.Entry
	for _, e := range listed.list.entries {
		one := *o.Request
		one.Name, one.Verb = e.Object.GetName(), "delete"
		one.Namespace = e.Object.GetNamespace()
		op := &operation{Request: &one, user: o.user, spent: o.spent}
		_, err := r.delete(ctx, op)
		op.finish()
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		gone = append(gone, e)
	}
	listed.list.entries = gone
	return listed, nil
}
