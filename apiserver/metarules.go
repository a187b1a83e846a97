// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// admissionGroup has kinds whose metadata is checked less.
const admissionGroup = "admissionregistration.k8s.io"

// metaRules says how often metadata is checked: Kubernetes checks that of an update once for all kinds and then again by rules of each kind,
// which one sees in the causes of an error.
type metaRules struct {
	// changes counts checks of what changed beside that for all kinds, whole those of the new metadata as if the object were new.
	changes, whole int
	// wholeFirst checks the whole before the changes.
	wholeFirst bool
}

// metaRulesOf are the rules for updates of a kind, or of its status.
func metaRulesOf(k *resource.Kind, status bool) metaRules {
	if k.Group == admissionGroup {
		if status { // whose writers cannot change metadata
			return metaRules{}
		}
		return metaRules{whole: 1}
	}
	switch k.Resource {
	case "events":
		if k.Group != "" {
			return metaRules{changes: 1}
		}
		return metaRules{}
	case "poddisruptionbudgets":
		return metaRules{}
	case "certificatesigningrequests":
		return metaRules{changes: 1, whole: 1, wholeFirst: true}
	case "cronjobs", "prioritylevelconfigurations", "flowschemas":
		if status {
			return metaRules{}
		}
	case "volumeattachments":
		return metaRules{whole: 1}
	}
	if status || k.Custom != nil {
		return metaRules{changes: 1}
	}
	switch k.Resource {
	case "services", "resourcequotas", "deployments", "replicasets", "statefulsets", "daemonsets", "replicationcontrollers", "cronjobs",
		"leases", "priorityclasses", "networkpolicies", "podtemplates", "csidrivers", "resourceslices", "servicecidrs",
		"horizontalpodautoscalers", "customresourcedefinitions":
		return metaRules{changes: 1}
	case "limitranges", "endpointslices", "csinodes", "prioritylevelconfigurations", "flowschemas":
		return metaRules{whole: 1}
	case "persistentvolumes":
		return metaRules{whole: 2}
	case "namespaces", "nodes", "jobs", "ipaddresses", "roles", "rolebindings", "clusterroles", "clusterrolebindings", "deviceclasses",
		"resourceclaims", "resourceclaimtemplates", "csistoragecapacities", "storageclasses":
		return metaRules{changes: 1, whole: 1, wholeFirst: true}
	}
	return metaRules{changes: 1, whole: 1}
}

// withMeta are the problems of an update: own, those of the kind, behind those of the metadata.
func withMeta(k *resource.Kind, obj, old resource.Object, own field.ErrorList) field.ErrorList {
	first, last := metaProblems(k, obj, old, false)
	if k.Group != "" || k.Resource != "configmaps" && k.Resource != "secrets" {
		return append(append(first, last...), own...)
	}
	n := 0 // what may not change is looked at before the whole
	for n < len(own) && (own[n].Type == field.ErrorTypeForbidden || own[n].Field == "type") {
		n++
	}
	return slices.Concat(first, own[:n], last, own[n:])
}

// metaProblems are the problems of the metadata of an update: all but those of the rules of each kind for the whole object, and those,
// which come last. Kinds that look at the whole first have all among the first.
func metaProblems(k *resource.Kind, obj, old resource.Object, status bool) (first, last field.ErrorList) {
	if plainMeta(k, obj) && plainChange(obj, old) {
		return nil, nil
	}
	meta := field.NewPath("metadata")
	rules := metaRulesOf(k, status)
	changes := validation.ValidateObjectMetaAccessorUpdate(obj, old, meta)
	errs := validation.ValidateObjectMetaAccessor(obj, bool(k.Scope), path.ValidatePathSegmentName, meta)
	errs = append(errs, changes...)
	var change, whole field.ErrorList
	for range rules.changes {
		change = append(change, changes...)
		change = append(change, finalizerProblems(k, obj, meta)...)
	}
	for range rules.whole {
		whole = append(whole, newMetaProblems(k, obj)...)
	}
	if rules.wholeFirst {
		return append(append(errs, whole...), change...), nil
	}
	return append(errs, change...), whole
}

// newMetaProblems are the problems of the metadata of an object by itself.
func newMetaProblems(k *resource.Kind, obj resource.Object) field.ErrorList {
	if plainMeta(k, obj) {
		return nil
	}
	name := nameRule(k, obj)
	meta := field.NewPath("metadata")
	errs := validation.ValidateObjectMetaAccessor(obj, bool(k.Scope), name, meta)
	if obj.GetName() != "" && (k.Resource == "events" && k.Group == "" || k.Resource == "deviceclasses" || k.Resource == "certificatesigningrequests") { // which look at names alone
		errs = slices.DeleteFunc(errs, func(e *field.Error) bool { return e.Field == "metadata.generateName" })
	}
	if k.Resource == "deviceclasses" { // whose names are checked by declared rules
		for _, e := range errs {
			if e.Field == "metadata.name" {
				e.Detail = strings.ReplaceAll(e.Detail, "no more than 253 characters", "no more than 253 bytes")
			}
		}
	}
	return append(errs, finalizerProblems(k, obj, meta)...)
}

// inOrder puts the problems of a new object's metadata and its own into the order in which Kubernetes tells them, and leaves out
// what it does not look at any more.
func inOrder(k *resource.Kind, meta, own field.ErrorList) field.ErrorList {
	switch {
	case len(own) == 0 || len(meta) == 0:
		return append(meta, own...)
	case k.Custom != nil: // of another kind or version
		if i := slices.IndexFunc(own, func(e *field.Error) bool { return e.Field == "kind" || e.Field == "apiVersion" }); i >= 0 {
			return own[i:]
		}
	case k.Resource == "certificatesigningrequests": // whose names are looked at last
		meta = slices.DeleteFunc(meta, func(e *field.Error) bool { return e.Field == "metadata.name" && e.Type == field.ErrorTypeInvalid })
	case k.Resource == "events":
		if k.Group == "" {
			return own
		}
		first := 0
		for first < len(own) && !laterOfEvents(own[first].Field) {
			first++
		}
		return append(append(own[:first:first], meta...), own[first:]...)
	}
	return append(meta, own...)
}

// laterOfEvents tells which fields of events are looked at after the metadata.
func laterOfEvents(name string) bool {
	name, _, _ = strings.Cut(name, ".")
	return slices.Contains([]string{"series", "eventTime", "type", "firstTimestamp", "lastTimestamp", "count", "source"}, name)
}

func nameRule(k *resource.Kind, obj resource.Object) validation.ValidateNameFunc {
	switch {
	case k.NameOf != nil:
		return k.NameOf(obj)
	case k.Name != nil:
		return k.Name
	case k.Group == "rbac.authorization.k8s.io", k.Resource == "certificatesigningrequests", k.Resource == "events" && k.Group == "":
		return path.ValidatePathSegmentName
	}
	return validation.NameIsDNSSubdomain
}

// plainMeta says of most metadata, in little time, that no rule finds a problem in it.
func plainMeta(k *resource.Kind, obj resource.Object) bool {
	rule, usual := nameRule(k, obj), k.Name == nil && k.NameOf == nil && k.Group != "rbac.authorization.k8s.io"
	name := obj.GetName()
	if !(usual && resource.IsSubdomain(name)) && (name == "" || len(rule(name, false)) > 0 || len(path.ValidatePathSegmentName(name, false)) > 0) {
		return false
	}
	if prefix := obj.GetGenerateName(); prefix != "" && len(rule(prefix, true)) > 0 {
		return false
	}
	if bool(k.Scope) != resource.IsLabel(obj.GetNamespace()) || !bool(k.Scope) && obj.GetNamespace() != "" {
		return false
	}
	if obj.GetGeneration() < 0 || len(obj.GetFinalizers()) > 0 {
		return false
	}
	for key, value := range obj.GetLabels() {
		if !resource.IsQualifiedName(key) || !resource.IsLabelValue(value) {
			return false
		}
	}
	size := 0
	for key, value := range obj.GetAnnotations() {
		if size += len(key) + len(value); !resource.IsAnnotationName(key) {
			return false
		}
	}
	return size <= validation.TotalAnnotationSizeLimitB && plainOwners(obj.GetOwnerReferences()) && plainManagers(obj.GetManagedFields())
}

func plainOwners(owners []metav1.OwnerReference) bool {
	for i := range owners {
		o := &owners[i]
		if i > 0 || o.APIVersion == "" || strings.HasSuffix(o.APIVersion, "/") || strings.Count(o.APIVersion, "/") > 1 || o.Kind == "" || o.Kind == "Event" || o.Name == "" || o.UID == "" {
			return false
		}
	}
	return true
}

func plainManagers(managers []metav1.ManagedFieldsEntry) bool {
	for i := range managers {
		m := &managers[i]
		if m.Operation != metav1.ManagedFieldsOperationUpdate && m.Operation != metav1.ManagedFieldsOperationApply || m.FieldsType != "FieldsV1" ||
			len(m.Manager) > metavalidation.FieldManagerMaxLength || len(m.Subresource) > metavalidation.MaxSubresourceNameLength {
			return false
		}
		for j := range len(m.Manager) {
			if c := m.Manager[j]; c < ' ' || c > '~' {
				return false
			}
		}
	}
	return true
}

// plainChange says of most updates of metadata, in little time, that no rule finds a problem in what changed.
func plainChange(obj, old resource.Object) bool {
	if old.GetDeletionTimestamp() != nil || obj.GetDeletionTimestamp() != nil ||
		old.GetDeletionGracePeriodSeconds() != nil || obj.GetDeletionGracePeriodSeconds() != nil {
		return false
	}
	made, was := obj.GetCreationTimestamp(), old.GetCreationTimestamp()
	return obj.GetResourceVersion() != "" && obj.GetGeneration() >= old.GetGeneration() && obj.GetName() == old.GetName() &&
		obj.GetNamespace() == old.GetNamespace() && obj.GetUID() == old.GetUID() && made.Equal(&was)
}

// finalizerProblems finds finalizers that are neither standard nor have a domain, which most kinds refuse.
func finalizerProblems(k *resource.Kind, obj resource.Object, meta *field.Path) field.ErrorList {
	switch k.Resource {
	case "leases", "poddisruptionbudgets", "runtimeclasses", "apiservices", "customresourcedefinitions":
		return nil
	}
	if k.Group == admissionGroup || k.Custom != nil || k.Resource == "events" && k.Group == "" { // custom resources warn
		return nil
	}
	var errs field.ErrorList
	for i, f := range obj.GetFinalizers() {
		switch f {
		case "kubernetes", metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
			continue
		}
		if !strings.Contains(f, "/") {
			errs = append(errs, field.Invalid(meta.Child("finalizers").Index(i), f, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// statusMeta gives an object whose status is written the metadata that was asked for, except for what writers of the status of its
// kind cannot change.
func statusMeta(k *resource.Kind, obj, old resource.Object, asked *metav1.ObjectMeta) {
	was := objectMeta(old)
	asked.ResourceVersion, asked.Name, asked.Namespace = was.ResourceVersion, was.Name, was.Namespace
	switch k.Resource {
	case "deployments":
		asked.Labels = was.Labels
	case "pods":
		asked.OwnerReferences, asked.DeletionTimestamp = was.OwnerReferences, was.DeletionTimestamp
	case "prioritylevelconfigurations", "flowschemas":
		owners := asked.ManagedFields
		*asked = was
		asked.ManagedFields = owners
	default:
		if k.Status.KeepMetadata {
			asked.Labels, asked.Annotations, asked.Finalizers, asked.OwnerReferences = was.Labels, was.Annotations, was.Finalizers, was.OwnerReferences
			asked.DeletionTimestamp, asked.SelfLink = was.DeletionTimestamp, was.SelfLink
		}
	}
	setObjectMeta(obj, asked)
}
