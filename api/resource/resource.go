// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package resource says what an API kind is: one value per kind.
//
// Define turns a Definition of a Go type into a Type, which is at once the server's description of the kind (through
// Kind, the form without type parameter that custom resources fill in too) and the typed token that clients, caches
// and controllers name it with. Everything here is a pure function of objects: what needs other objects is an
// admission step or a server hook.
//
// Objects of built-in kinds carry no TypeMeta inside the process; encoders add it.
package resource

import (
	"maps"
	"slices"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is an API object: a pointer to a type of k8s.io/api, or an unstructured one.
type Object interface {
	runtime.Object
	metav1.Object
}

// Scope tells whether objects live in namespaces.
type Scope bool

// The two scopes.
const (
	Cluster    Scope = false
	Namespaced Scope = true
)

// Definition describes a kind in terms of its Go type. The zero value of a field is the common case; nil functions do
// nothing. *T must implement Object.
type Definition[T any] struct {
	Group, Version, Kind string
	// Resource is the plural name in paths; Singular is the lower-case kind unless set.
	Resource, Singular     string
	ShortNames, Categories []string
	Scope                  Scope
	// StoragePath is the folder below /registry; "GROUP/RESOURCE" or for the core group "RESOURCE" unless set.
	// Kubernetes keeps apps/v1 ReplicaSets in "replicasets": give it wherever its layout differs from the rule.
	StoragePath string
	// StorageVersion is the version that stored objects name, if not Version: one that encodes them to the same bytes.
	StorageVersion string

	// Default fills in defaults, as Kubernetes' does when it decodes; must be idempotent.
	Default func(*T)
	// PrepareCreate resets what a creator may not set (status, generation); PrepareUpdate what an update of the
	// main resource may not change (usually status) and raises generation when the desired state changed.
	PrepareCreate func(*T)
	PrepareUpdate func(obj, old *T)
	// Validate returns every problem with its field path. Metadata is checked by the server, with Name.
	Validate func(*T) field.ErrorList
	// ValidateCreate returns the problems that only new objects have; Validate runs too.
	ValidateCreate func(*T) field.ErrorList
	// Revalidate takes the place of Validate in updates of objects that were validated before: it may pass over what
	// did not change.
	Revalidate func(obj, old *T) field.ErrorList
	// ValidateUpdate returns only the problems of the change, such as immutable fields; Validate runs too.
	ValidateUpdate func(obj, old *T) field.ErrorList
	// Name checks metadata.name; DNS-1123 subdomains unless set. The strings are the problems.
	Name func(name string, prefix bool) []string
	// NameOf, if set, is Name for a kind whose names depend on the rest of the object.
	NameOf func(*T) func(name string, prefix bool) []string
	// Warnings are sent as Warning headers with a successful write.
	Warnings func(*T) []string
	// WarningsUpdate, if set, are sent with a successful update instead of Warnings; obj is what PrepareUpdate made. An update of
	// status has none.
	WarningsUpdate func(obj, old *T) []string
	// WarningsCreate are sent with a successful create, before the others.
	WarningsCreate func(*T) []string

	// Readable returns why an object that was decoded cannot be understood at all; it comes before everything else.
	Readable func(*T) error

	// Share replaces parts of an object that many objects have in common by those in memory already. It is called before
	// an object is published.
	Share func(*T, *Shared)

	Columns []Column[T]
	// Ageless leaves the column Age out.
	Ageless bool
	// Hidden are annotations that stand for something else and do not show where only metadata is asked for.
	Hidden []string
	// Fields are the selectable fields beside metadata.name and metadata.namespace: all names with their values.
	Fields func(*T) fields.Set
	// FieldNames lists the names that Fields returns; others are refused.
	FieldNames []string

	Subresources Subresources[T]

	// CreateOnUpdate makes PUT of an absent object create it.
	CreateOnUpdate bool
	// NeedsRevision refuses an update without resourceVersion.
	NeedsRevision bool
	// Grace, if set, decides graceful deletion, in seconds: it may look at the object and at what was asked (nil:
	// nothing). 0 deletes at once. Kinds without it ignore gracePeriodSeconds.
	Grace func(obj *T, asked *int64) int64
	// TTL deletes objects that long after their last write (Events).
	TTL time.Duration
	// Virtual kinds are not stored (reviews); the server needs a hook that answers their create.
	Virtual bool
	// Verbs limits the verbs; nil means all that the storage offers.
	Verbs []string
	// DefaultPropagation is what happens to dependents if the deleter does not say; background unless set.
	DefaultPropagation metav1.DeletionPropagation
}

// Subresources names what a kind has below its objects' paths.
type Subresources[T any] struct {
	// Status, if set, makes /status: PrepareUpdate keeps the old spec and metadata except what status writers may change.
	Status *Status[T]
	Scale  *Scale[T]
	// Others are served by hooks in the server; listed here for discovery.
	Others []Subresource
}

// Status describes the /status subresource.
type Status[T any] struct {
	// Prepare resets everything but status to old; nil copies by the usual rule: obj.Status stays, spec, labels and the
	// rest of metadata but managedFields come from old. It must be given: Go has no generic access to Status.
	Prepare  func(obj, old *T)
	Validate func(obj, old *T) field.ErrorList
	// Copy, if set, is a copy of an object for a patch of nothing but metadata and status: it may share the rest. Default then
	// fills in what Definition.Default would, without touching the rest.
	Copy    func(*T) *T
	Default func(*T)
	// KeepMetadata ignores what a status writer says of labels, annotations and finalizers.
	KeepMetadata bool
	// Warnings are those for a change of status; Definition.Warnings are for the object itself.
	Warnings func(*T) []string
}

// Scale describes the /scale subresource.
type Scale[T any] struct {
	Get func(*T) (replicas, ready int32, selector string)
	Set func(obj *T, replicas int32)
	// Path is the field that managed fields record, such as .spec.replicas.
	Path string
}

// Subresource is one that a server hook answers.
type Subresource struct {
	Name  string // such as binding
	Kind  schema.GroupVersionKind
	Verbs []string
}

// Column is one column of kubectl get. The first, Name, is added by the server and so is Age unless a column has that name.
type Column[T any] struct {
	Name string
	Type string // "string" unless set
	// Format and Description go into the table header.
	Format, Description string
	// Wide columns have priority 1 and show with -o wide only.
	Wide  bool
	Value func(obj *T, now time.Time) any
}

// Type is the typed token of a kind.
type Type[T any] struct{ *Kind }

// Kind is a kind without its Go type. The server works on it alone, so custom resources are Kinds too. Functions
// may be nil like those of Definition.
type Kind struct {
	schema.GroupVersionKind
	Resource, Singular     string
	ShortNames, Categories []string
	Scope                  Scope
	StoragePath            string
	StorageVersion         string
	// EncodeStored and DecodeStored, if set, are the kind's own form in storage.
	EncodeStored func(Object) ([]byte, error)
	DecodeStored func([]byte) (Object, error)

	New     func() Object
	NewList func() runtime.Object // the typed list, for encoders that need one

	Default        func(Object)
	PrepareCreate  func(Object)
	PrepareUpdate  func(obj, old Object)
	Validate       func(Object) field.ErrorList
	ValidateCreate func(Object) field.ErrorList
	Revalidate     func(obj, old Object) field.ErrorList
	ValidateUpdate func(obj, old Object) field.ErrorList
	Name           func(name string, prefix bool) []string
	NameOf         func(Object) func(name string, prefix bool) []string
	Warnings       func(Object) []string
	WarningsCreate func(Object) []string
	WarningsUpdate func(obj, old Object) []string
	Readable       func(Object) error
	Share          func(Object, *Shared)
	Columns        []KindColumn
	Ageless        bool
	Hidden         []string
	Fields         func(Object) fields.Set
	FieldNames     []string

	// Stored is set for kinds that are another form of a stored kind.
	Stored *Stored

	Status *KindStatus
	Scale  *KindScale
	Others []Subresource

	CreateOnUpdate, NeedsRevision bool
	Grace                         func(obj Object, asked *int64) int64
	TTL                           time.Duration
	Virtual                       bool
	Verbs                         []string
	DefaultPropagation            metav1.DeletionPropagation

	// Custom is set for kinds of CustomResourceDefinitions: their objects are unstructured and state their kind.
	Custom *Custom
}

// Custom is what only kinds without Go type have. Functions may be nil.
type Custom struct {
	// ListKind is the kind of lists.
	ListKind string
	// Warning is sent with every answer, empty is none: the version is deprecated.
	Warning string
	// Coerce brings an object that a client sent into the form of its schema, before defaults, and returns the paths of the
	// fields that it dropped.
	Coerce func(Object) (unknown []string, err error)
	// Stored brings an object that was just decoded from storage into the form of the kind: it may be of an older version.
	Stored func(Object) (Object, error)
	// Convert brings an object of another version into that of the kind and drops nothing, for the comparison of owned fields.
	Convert func(Object) (Object, error)
	// Types is the merge schema of all versions of the resource; nil deduces it from the objects.
	Types func() (managedfields.TypeConverter, error)
	// Schema is the OpenAPI v3 schema of the version (a *apiextensions/v1 JSONSchemaProps); nil if it has none.
	Schema any
}

// KindColumn is Column without its Go type.
type KindColumn struct {
	Name, Type, Format, Description string
	Wide                            bool
	// Priority is that of a column that is not Wide; 0 is always shown.
	Priority int32
	Value    func(obj Object, now time.Time) any
}

// KindStatus is Status without its Go type.
type KindStatus struct {
	Prepare      func(obj, old Object)
	Validate     func(obj, old Object) field.ErrorList
	Copy         func(Object) Object
	Default      func(Object)
	KeepMetadata bool
	Warnings     func(Object) []string
}

// KindScale is Scale without its Go type.
type KindScale struct {
	Get  func(Object) *autoscalingv1.Scale // metadata filled in too
	Set  func(obj Object, replicas int32)
	Path string
	// Check, if set, says why an object has no scale now (custom resources may lack the field of replicas).
	Check func(Object) error
}

// ListKind is the kind of lists of k.
func (k *Kind) ListKind() string {
	if k.Custom != nil && k.Custom.ListKind != "" {
		return k.Custom.ListKind
	}
	return k.Kind + "List"
}

// Shown is metadata as it shows where only metadata is asked for.
func (k *Kind) Shown(meta metav1.ObjectMeta) metav1.ObjectMeta {
	for _, key := range k.Hidden {
		if _, ok := meta.Annotations[key]; ok {
			meta.Annotations = maps.Clone(meta.Annotations)
			delete(meta.Annotations, key)
		}
	}
	return meta
}

// ServedVerbs are the verbs of the kind's main resource, in no certain order. The caller owns them.
func (k *Kind) ServedVerbs() []string {
	var verbs []string
	switch {
	case k.Verbs != nil:
		verbs = slices.Clone(k.Verbs)
	case k.Virtual:
		return []string{"create"}
	default:
		verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	}
	if k.Group == "" && k.Resource == "namespaces" {
		verbs = slices.DeleteFunc(verbs, func(v string) bool { return v == "deletecollection" })
	}
	return verbs
}

// ServedSubresources are all subresources: the kind's own ones, then status and scale if it has them. The caller owns them.
func (k *Kind) ServedSubresources() []Subresource {
	out := slices.Clone(k.Others)
	objectVerbs := []string{"get", "patch", "update"}
	if k.Status != nil {
		out = append(out, Subresource{Name: "status", Kind: k.GroupVersionKind, Verbs: objectVerbs})
	}
	if k.Scale != nil {
		out = append(out, Subresource{Name: "scale", Kind: schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}, Verbs: objectVerbs})
	}
	return out
}

// GroupResource names the resource in errors and rules.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// GroupVersionResource names the resource in paths.
func (k *Kind) GroupVersionResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: k.Version, Resource: k.Resource}
}

// Key is the storage key of an object; with an empty name, the prefix of a namespace or of the kind, ending in "/".
func (k *Kind) Key(namespace, name string) string {
	key := "/registry/" + k.StoragePath + "/"
	if k.Scope == Namespaced && namespace != "" {
		key += namespace + "/"
	}
	return key + name
}
