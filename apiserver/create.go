// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
	"knarr.dev/apiserver/watchcache"
	"knarr.dev/store"
)

// Generated names end in five characters of an alphabet that makes no words.
const (
	nameAlphabet     = "bcdfghjklmnpqrstvwxz2456789"
	nameSuffix       = 5
	generatedNameMax = 63 - nameSuffix
	generateAttempts = 8
)

// create answers POST.
func (r *registry) create(ctx context.Context, o *operation) (*answer, error) {
	h := r.hook("")
	if h == nil || h.Create == nil {
		if r.kind.Virtual {
			return nil, apierrors.NewMethodNotSupported(r.kind.GroupResource(), "create")
		}
		return r.createStored(ctx, o)
	}
	obj := o.Object
	if r.kind.Default != nil {
		r.kind.Default(obj)
	}
	if err := r.server.ownCreate(r, o, obj); err != nil {
		return nil, err
	}
	a := r.admitted(o, "create", obj, nil)
	if err := r.server.mutate(ctx, a); err != nil {
		return nil, err
	}
	o.Object = a.Object
	if r.kind.Validate != nil {
		if errs := r.kind.Validate(o.Object); len(errs) > 0 {
			return nil, apierrors.NewInvalid(r.kind.GroupVersionKind.GroupKind(), o.Object.GetName(), errs)
		}
	}
	if err := r.server.validate(ctx, a); err != nil {
		return nil, err
	}
	made, err := h.Create(ctx, o.user, o.Request)
	if err != nil {
		return nil, err
	}
	return &answer{object: made, gvk: r.kind.GroupVersionKind, created: true}, nil
}

func (r *registry) createStored(ctx context.Context, o *operation) (*answer, error) {
	obj := o.Object
	if err := r.checkPlace(o, obj); err != nil {
		return nil, err
	}
	if rv, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64); err == nil && rv != 0 && !o.DryRun { // which storage refuses
		return nil, errStatus500("resourceVersion should not be set on objects to be created")
	}
	if r.kind.Default != nil {
		r.kind.Default(obj)
	}
	obj.SetCreationTimestamp(metav1.Time{})
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetUID("")
	obj.SetSelfLink("")
	if err := r.server.ownCreate(r, o, obj); err != nil {
		return nil, err
	}
	b := birth{uid: uuid.NewUUID(), at: metav1.NewTime(time.Now().Truncate(time.Second))}
	if obj.GetName() != "" || obj.GetGenerateName() == "" {
		return r.createOnce(ctx, o, obj, b)
	}
	for attempt := 1; ; attempt++ {
		b.name = generateName(obj.GetGenerateName())
		a, err := r.createOnce(ctx, o, obj.DeepCopyObject().(resource.Object), b)
		if attempt == generateAttempts || !apierrors.IsAlreadyExists(err) {
			return a, err
		}
	}
}

// birth is what the server gives a new object, after the steps that may change it.
type birth struct {
	name string // if it is generated
	uid  types.UID
	at   metav1.Time
}

func (b *birth) give(k *resource.Kind, obj resource.Object) {
	obj.SetUID(b.uid)
	obj.SetCreationTimestamp(b.at)
	if b.name == "" || obj.GetName() != "" {
		return
	}
	obj.SetName(b.name)
	if k.Default != nil {
		k.Default(obj)
	}
}

func (r *registry) createOnce(ctx context.Context, o *operation, obj resource.Object, b birth) (*answer, error) {
	hub, err := r.toHub(obj)
	if err != nil {
		return nil, err
	}
	a := r.admitted(o, "create", hub, nil)
	if err := r.server.mutate(ctx, a); err != nil {
		return nil, err
	}
	if hub = a.Object; r.kind.Scope == resource.Namespaced {
		if hub.GetNamespace() == "" {
			hub.SetNamespace(o.Namespace)
		}
		if hub.GetNamespace() != o.Namespace {
			return nil, apierrors.NewBadRequest(otherNamespace)
		}
	}
	if err := checkChanged(o, hub); err != nil {
		return nil, err
	}
	b.give(r.rules(), hub)
	a.Name = hub.GetName()
	if service, ok := hub.(*corev1.Service); ok && o.Subresource == "status" {
		service.Status = corev1.ServiceStatus{}
	} else if r.rules().PrepareCreate != nil {
		r.rules().PrepareCreate(hub)
	}
	if h := r.hook(""); h != nil && h.BeforeCreate != nil && o.Subresource == "" {
		if err := h.BeforeCreate(ctx, a); err != nil {
			return nil, err
		}
	}
	if errs := r.problems(hub, nil); len(errs) > 0 {
		return nil, apierrors.NewInvalid(r.named(hub), hub.GetName(), errs)
	}
	warnings := r.warningsFor(hub)
	if create := r.rules().WarningsCreate; create != nil {
		warnings = append(create(hub), warnings...)
	}
	o.warnings = append(o.warnings, warnings...) // also of a write that is then refused
	if err := r.server.validate(ctx, a); err != nil {
		return nil, err
	}
	r.redefault(hub)
	key := r.key(o.Namespace, hub.GetName())
	if o.DryRun {
		if there, err := r.current(ctx, o.Namespace, hub.GetName()); err == nil {
			return nil, r.exists(hub.GetName(), there)
		}
		e, err := r.unwritten(key, hub).As(r.kind)
		return &answer{entry: e, created: true}, err
	}
	if hub, err = r.stored(hub); err != nil {
		return nil, err
	}
	ctx, span := r.storing(ctx, "Create etcd3", o)
	e, rec, err := r.write(ctx, key, hub, store.Absent)
	span.End()
	if errors.Is(err, store.ErrConflict) {
		there, _ := r.current(ctx, o.Namespace, hub.GetName()) //nolint:errcheck // it may be gone by now
		return nil, r.exists(hub.GetName(), there)
	}
	if err != nil {
		return nil, err
	}
	o.done = true
	e, err = e.As(r.kind)
	return &answer{entry: e, stored: rec.Value, created: true}, err
}

// exists is the error for a name that is taken. there is by what, or nil.
func (r *registry) exists(name string, there *watchcache.Entry) error {
	err := apierrors.NewAlreadyExists(r.kind.GroupResource(), name)
	if there != nil && there.Object.GetDeletionTimestamp() != nil {
		err.ErrStatus.Message = "object is being deleted: " + err.ErrStatus.Message
	}
	return err
}

// checkChanged looks at what admission may have made of a new object that cannot be.
func checkChanged(o *operation, obj resource.Object) error {
	obj.SetSelfLink("")
	if rv := obj.GetResourceVersion(); rv != "" && rv != "0" && !o.DryRun {
		return errStatus500("resourceVersion should not be set on objects to be created")
	}
	if name := obj.GetName(); o.Verb != "create" && o.Name != "" && name != o.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, o.Name))
	}
	return nil
}

const otherNamespace = "the namespace of the provided object does not match the namespace sent on the request"

// redefault fills in what depends on what was prepared: Kubernetes does when it reads what it stored.
func (r *registry) redefault(hub resource.Object) {
	if k := r.rules(); k.Default != nil {
		k.Default(hub)
	}
}

// checkPlace compares the namespace and name of a body with those of the path.
func (r *registry) checkPlace(o *operation, obj resource.Object) error {
	if r.kind.Scope == resource.Namespaced {
		switch obj.GetNamespace() {
		case "":
			obj.SetNamespace(o.Namespace)
		case o.Namespace:
		default:
			return apierrors.NewBadRequest(otherNamespace)
		}
	} else {
		obj.SetNamespace("")
	}
	if o.Name == "" {
		return nil
	}
	if obj.GetName() == "" && o.Verb != "create" {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", o.Name))
	}
	if obj.GetName() != o.Name {
		return apierrors.NewBadRequest(fmt.Sprintf(
			"the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), o.Name))
	}
	return nil
}

// problems are all problems of an object; old is nil for a new one.
func (r *registry) problems(obj, old resource.Object) field.ErrorList {
	k := r.rules()
	if r.kind.Custom == nil && r.kind.Stored != nil && r.kind.ValidateCreate != nil { // which has rules of its own
		k = r.kind
		obj = r.served(obj)
		if old != nil {
			old = r.served(old)
		}
	}
	var own field.ErrorList
	if old == nil {
		if k.Validate != nil {
			own = k.Validate(obj)
		}
		if k.ValidateCreate != nil {
			own = append(own, k.ValidateCreate(obj)...)
		}
		return inOrder(k, newMetaProblems(k, obj), own)
	}
	switch {
	case k.Revalidate != nil:
		own = k.Revalidate(obj, old)
	case k.Validate != nil:
		own = k.Validate(obj)
	}
	if k.ValidateUpdate != nil {
		own = append(own, k.ValidateUpdate(obj, old)...)
	}
	return withMeta(k, obj, old, own)
}

// served is the form of a stored object in which it is asked for.
func (r *registry) served(hub resource.Object) resource.Object {
	if obj, err := r.kind.Stored.FromHub(hub); err == nil {
		return obj
	}
	return hub
}

// ownerWarnings drops repeated owners of an object; the warning may say when they were found.
func ownerWarnings(obj resource.Object, when string) []string {
	if len(obj.GetOwnerReferences()) < 2 {
		return nil
	}
	return dedupOwners(obj, when)
}

func (r *registry) warningsFor(obj resource.Object) []string {
	out := ownerWarnings(obj, "")
	if warn := r.rules().Warnings; warn != nil {
		out = append(out, warn(obj)...)
	}
	return out
}

// dedupOwners removes repeated owner references, with a warning that may say when they were found.
func dedupOwners(obj resource.Object, when string) []string {
	refs := obj.GetOwnerReferences()
	seen := map[string]bool{}
	var kept []metav1.OwnerReference
	var again []string
	for _, ref := range refs {
		id := ownerID(ref)
		if seen[id] {
			again = append(again, string(ref.UID))
			continue
		}
		seen[id] = true
		kept = append(kept, ref)
	}
	if len(again) == 0 {
		return nil
	}
	obj.SetOwnerReferences(kept)
	return []string{fmt.Sprintf(".metadata.ownerReferences contains duplicate entries%s; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %v", when, strings.Join(again, ", "))}
}

func ownerID(ref metav1.OwnerReference) string {
	flag := func(b *bool) string {
		if b == nil {
			return "-"
		}
		return fmt.Sprint(*b)
	}
	return fmt.Sprintf("%s|%s|%s|%s|%s|%s", ref.APIVersion, ref.Kind, ref.Name, ref.UID, flag(ref.Controller), flag(ref.BlockOwnerDeletion))
}

func generateName(prefix string) string {
	if len(prefix) > generatedNameMax {
		prefix = prefix[:generatedNameMax]
	}
	suffix := make([]byte, nameSuffix)
	for i := range suffix {
		suffix[i] = nameAlphabet[rand.IntN(len(nameAlphabet))]
	}
	return prefix + string(suffix)
}

// errStatus500 is a status 500 without a reason, as Kubernetes gives where it has no API error.
func errStatus500(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: 500, Message: message}}
}
