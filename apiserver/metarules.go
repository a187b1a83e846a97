// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
}

// metaRulesOf are the rules for updates of a kind, or of its status.
func metaRulesOf(k *resource.Kind, status bool) metaRules {
	if k.Group == admissionGroup {
		return metaRules{whole: 1}
	}
	switch k.Resource {
	case "events", "poddisruptionbudgets":
		return metaRules{}
	case "cronjobs", "volumeattachments", "prioritylevelconfigurations", "flowschemas":
		if status {
			return metaRules{}
		}
	}
	if status {
		return metaRules{changes: 1}
	}
	switch k.Resource {
	case "services", "resourcequotas", "deployments", "replicasets", "statefulsets", "daemonsets", "replicationcontrollers", "cronjobs",
		"leases", "priorityclasses", "networkpolicies", "podtemplates", "csidrivers", "resourceslices", "servicecidrs":
		return metaRules{changes: 1}
	case "limitranges", "endpointslices", "csinodes", "volumeattachments", "prioritylevelconfigurations", "flowschemas":
		return metaRules{whole: 1}
	case "persistentvolumes":
		return metaRules{whole: 2}
	}
	return metaRules{changes: 1, whole: 1}
}

// metaProblems are the problems of the metadata of an update.
func metaProblems(k *resource.Kind, obj, old resource.Object, status bool) field.ErrorList {
	meta := field.NewPath("metadata")
	rules := metaRulesOf(k, status)
	changes := validation.ValidateObjectMetaAccessorUpdate(obj, old, meta)
	errs := validation.ValidateObjectMetaAccessor(obj, bool(k.Scope), path.ValidatePathSegmentName, meta)
	errs = append(errs, changes...)
	for range rules.changes {
		errs = append(errs, changes...)
		errs = append(errs, finalizerProblems(k, obj, meta)...)
	}
	for range rules.whole {
		errs = append(errs, newMetaProblems(k, obj)...)
	}
	return errs
}

// newMetaProblems are the problems of the metadata of an object by itself.
func newMetaProblems(k *resource.Kind, obj resource.Object) field.ErrorList {
	name := validation.ValidateNameFunc(validation.NameIsDNSSubdomain)
	if k.Name != nil {
		name = k.Name
	} else if k.Group == "rbac.authorization.k8s.io" {
		name = path.ValidatePathSegmentName
	}
	meta := field.NewPath("metadata")
	errs := validation.ValidateObjectMetaAccessor(obj, bool(k.Scope), name, meta)
	return append(errs, finalizerProblems(k, obj, meta)...)
}

// finalizerProblems finds finalizers that are neither standard nor have a domain, which most kinds refuse.
func finalizerProblems(k *resource.Kind, obj resource.Object, meta *field.Path) field.ErrorList {
	switch k.Resource {
	case "events", "leases", "poddisruptionbudgets", "runtimeclasses", "apiservices":
		return nil
	}
	if k.Group == admissionGroup {
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
		asked.OwnerReferences = was.OwnerReferences
	case "prioritylevelconfigurations", "flowschemas":
		owners := asked.ManagedFields
		*asked = was
		asked.ManagedFields = owners
	default:
		if k.Status.KeepMetadata {
			asked.Labels, asked.Annotations, asked.Finalizers, asked.OwnerReferences = was.Labels, was.Annotations, was.Finalizers, was.OwnerReferences
		}
	}
	setObjectMeta(obj, asked)
}
