// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// PersistentVolumeClaims ask for storage.
var PersistentVolumeClaims = resource.WithList(resource.Define(resource.Definition[corev1.PersistentVolumeClaim]{
	Group: "", Version: "v1", Kind: "PersistentVolumeClaim", Resource: "persistentvolumeclaims",
	ShortNames: []string{"pvc"},
	Scope:      resource.Namespaced,
	Default: func(c *corev1.PersistentVolumeClaim) {
		orDefault(&c.Status.Phase, corev1.ClaimPending)
		setDefault(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	},
	PrepareCreate: func(c *corev1.PersistentVolumeClaim) {
		c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		dropForeignSources(&c.Spec)
		agreeSources(&c.Spec)
	},
	PrepareUpdate: func(c, old *corev1.PersistentVolumeClaim) {
		c.Status = *old.Status.DeepCopy()
		if old.Spec.DataSource == nil && old.Spec.DataSourceRef == nil {
			dropForeignSources(&c.Spec)
		}
		agreeSources(&c.Spec)
	},
	Validate: func(c *corev1.PersistentVolumeClaim) field.ErrorList {
		return validateClaimSpec(&c.Spec, field.NewPath("spec"))
	},
	ValidateUpdate: validateClaimChange,
	Warnings: func(c *corev1.PersistentVolumeClaim) (out []string) {
		if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
			out = append(out, field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation).String()+
				": deprecated since v1.8; use \"storageClassName\" attribute instead")
		}
		return append(out, ClaimWarnings(&c.Spec, field.NewPath("spec"))...)
	},
	Columns: []resource.Column[corev1.PersistentVolumeClaim]{
		{Name: "Status", Value: func(c *corev1.PersistentVolumeClaim, _ time.Time) any {
			return phaseText(c.DeletionTimestamp, string(c.Status.Phase))
		}},
		{Name: "Volume", Value: func(c *corev1.PersistentVolumeClaim, _ time.Time) any { return c.Spec.VolumeName }},
		{Name: "Capacity", Value: func(c *corev1.PersistentVolumeClaim, _ time.Time) any {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return storageAmount(c.Status.Capacity)
		}},
		{Name: "Access Modes", Value: func(c *corev1.PersistentVolumeClaim, _ time.Time) any {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return accessModesText(c.Status.AccessModes)
		}},
		{Name: "StorageClass", Value: func(c *corev1.PersistentVolumeClaim, _ time.Time) any { return ClaimClass(c) }},
		{Name: "VolumeAttributesClass", Value: func(c *corev1.PersistentVolumeClaim, _ time.Time) any {
			return orUnset(c.Spec.VolumeAttributesClassName)
		}},
		{Name: "Age", Value: func(c *corev1.PersistentVolumeClaim, now time.Time) any { return age(c.CreationTimestamp, now) }},
		{Name: "VolumeMode", Wide: true, Value: func(c *corev1.PersistentVolumeClaim, _ time.Time) any { return orUnset(c.Spec.VolumeMode) }},
	},
	Subresources: resource.Subresources[corev1.PersistentVolumeClaim]{
		Status: &resource.Status[corev1.PersistentVolumeClaim]{Prepare: func(c, old *corev1.PersistentVolumeClaim) {
			status := c.Status
			*c = *old.DeepCopy()
			c.Status = status
		}, Validate: validateClaimStatus},
	},
}), func() runtime.Object { return new(corev1.PersistentVolumeClaimList) })

// ClaimClass is the storage class that a claim asks for: its old annotation comes before the field.
func ClaimClass(c *corev1.PersistentVolumeClaim) string {
	if class, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if c.Spec.StorageClassName != nil {
		return *c.Spec.StorageClassName
	}
	return ""
}

// dropForeignSources forgets sources of data that Kubernetes has no use for: in dataSource all but claims and snapshots, in
// dataSourceRef those of other namespaces.
func dropForeignSources(s *corev1.PersistentVolumeClaimSpec) {
	if r := s.DataSourceRef; r != nil && r.Namespace != nil && *r.Namespace != "" {
		s.DataSourceRef = nil
	}
	if s.DataSource == nil {
		return
	}
	group := ""
	if s.DataSource.APIGroup != nil {
		group = *s.DataSource.APIGroup
	}
	claim := group == "" && s.DataSource.Kind == "PersistentVolumeClaim"
	snapshot := group == "snapshot.storage.k8s.io" && s.DataSource.Kind == "VolumeSnapshot"
	if !claim && !snapshot {
		s.DataSource = nil
	}
}

// agreeSources copies the one way to name a source of data to the other.
func agreeSources(s *corev1.PersistentVolumeClaimSpec) {
	switch {
	case s.DataSource != nil && s.DataSourceRef == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: copied(s.DataSource.APIGroup), Kind: s.DataSource.Kind, Name: s.DataSource.Name}
	case s.DataSource == nil && s.DataSourceRef != nil && (s.DataSourceRef.Namespace == nil || *s.DataSourceRef.Namespace == ""):
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: copied(s.DataSourceRef.APIGroup), Kind: s.DataSourceRef.Kind, Name: s.DataSourceRef.Name}
	}
}

func copied(s *string) *string {
	if s == nil {
		return nil
	}
	c := *s
	return &c
}

// ClaimWarnings are those for the spec of a claim.
func ClaimWarnings(s *corev1.PersistentVolumeClaimSpec, at *field.Path) (out []string) {
	fraction := func(list corev1.ResourceList, at *field.Path) {
		if q := list[corev1.ResourceStorage]; q.MilliValue()%1000 != 0 {
			out = append(out, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer", at.Key("storage"), q.String()))
		}
	}
	fraction(s.Resources.Requests, at.Child("resources", "requests"))
	fraction(s.Resources.Limits, at.Child("resources", "limits"))
	return out
}

// validateClaimSpec checks what claims and templates of claims have in common.
func validateClaimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) (problems field.ErrorList) {
	if len(s.AccessModes) == 0 {
		problems = append(problems, field.Required(at.Child("accessModes"), "at least 1 access mode is required"))
	}
	if s.Selector != nil {
		problems = append(problems, metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	}
	problems = append(problems, validateAccessModes(s.AccessModes, at.Child("accessModes"))...)
	key := at.Child("resources").Key(string(corev1.ResourceStorage))
	switch storage, ok := s.Resources.Requests[corev1.ResourceStorage]; {
	case !ok:
		problems = append(problems, field.Required(key, ""))
	case storage.Sign() <= 0:
		problems = append(problems, field.Invalid(key, storage.String(), "must be greater than zero"))
	}
	if s.StorageClassName != nil && *s.StorageClassName != "" {
		problems = append(problems, subdomain(*s.StorageClassName, at.Child("storageClassName"))...)
	}
	if s.VolumeMode != nil {
		problems = append(problems, allowed(at.Child("volumeMode"), *s.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	problems = append(problems, validateSources(s, at)...)
	if c := s.VolumeAttributesClassName; c != nil && *c != "" {
		problems = append(problems, subdomain(*c, at.Child("volumeAttributesClassName"))...)
	}
	return problems
}

func validateSources(s *corev1.PersistentVolumeClaimSpec, at *field.Path) (problems field.ErrorList) {
	source := func(group *string, kind, name string, at *field.Path) {
		problems = append(problems, needed(at, "name", name, "kind", kind)...)
		if group == nil || *group == "" {
			if kind != "PersistentVolumeClaim" {
				problems = append(problems, field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
			}
			return
		}
		problems = append(problems, subdomain(*group, at.Child("apiGroup"))...)
	}
	if d := s.DataSource; d != nil {
		source(d.APIGroup, d.Kind, d.Name, at.Child("dataSource"))
	}
	r := s.DataSourceRef
	if r == nil {
		return problems
	}
	source(r.APIGroup, r.Kind, r.Name, at.Child("dataSourceRef"))
	if r.Namespace != nil && *r.Namespace != "" {
		problems = append(problems, dnsLabel(*r.Namespace, at.Child("dataSourceRef", "namespace"))...)
		if s.DataSource != nil {
			problems = append(problems, field.Invalid(at, at.Child("dataSource").String(), "may not be specified when dataSourceRef.namespace is specified"))
		}
		return problems
	}
	if d := s.DataSource; d != nil && (!equal(d.APIGroup, r.APIGroup) || d.Kind != r.Kind || d.Name != r.Name) {
		problems = append(problems, field.Invalid(at, struct{}{}, "must match dataSourceRef"))
	}
	return problems
}

// validateClaimChange lets a claim be bound, given a class, and grow.
func validateClaimChange(c, old *corev1.PersistentVolumeClaim) (problems field.ErrorList) {
	at := field.NewPath("spec")
	now, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = now.VolumeName
	}
	if was.StorageClassName == nil {
		_, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
		if !annotated || now.StorageClassName != nil && *now.StorageClassName == ClaimClass(old) {
			was.StorageClassName = now.StorageClassName
		}
	}
	if c.Status.Phase == corev1.ClaimBound {
		if now.Resources.Requests != nil {
			now.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
		was.VolumeAttributesClassName = now.VolumeAttributesClassName
	}
	if !equal(now, was) {
		problems = append(problems, field.Forbidden(at, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+difference(was, now)))
	}
	size, before := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if has := old.Status.Capacity[corev1.ResourceStorage]; size.Cmp(before) < 0 && size.Cmp(has) <= 0 {
		problems = append(problems, field.Forbidden(at.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	problems = append(problems, immutable(c.Annotations[corev1.BetaStorageClassAnnotation], old.Annotations[corev1.BetaStorageClassAnnotation],
		field.NewPath("metadata", "annotations", corev1.BetaStorageClassAnnotation))...)
	return append(problems, immutable(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
}

func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) (problems field.ErrorList) {
	s, at := &c.Status, field.NewPath("status")
	for _, name := range slices.Sorted(maps.Keys(s.Capacity)) {
		problems = append(problems, validQuantity(s.Capacity, name, at.Child("capacity"))...)
	}
	states := []corev1.ClaimResourceStatus{
		corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
		corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
	}
	for _, name := range slices.Sorted(maps.Keys(s.AllocatedResourceStatuses)) {
		at := at.Child("allocatedResourceStatuses")
		if bad := claimResource(string(name), at); len(bad) > 0 {
			problems = append(problems, bad...)
		}
		if !slices.Contains(states, s.AllocatedResourceStatuses[name]) {
			problems = append(problems, field.NotSupported(at, name, states))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.AllocatedResources)) {
		at := at.Child("allocatedResources")
		if bad := claimResource(string(name), at); len(bad) > 0 {
			problems = append(problems, bad...)
			continue
		}
		problems = append(problems, validQuantity(s.AllocatedResources, name, at)...)
	}
	return problems
}

// claimResource allows storage, and what others define.
func claimResource(name string, at *field.Path) (problems field.ErrorList) {
	for _, m := range validation.IsQualifiedName(name) {
		problems = append(problems, field.Invalid(at, name, m))
	}
	if len(problems) == 0 && !strings.Contains(name, "/") && name != string(corev1.ResourceStorage) {
		problems = append(problems, field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	return problems
}
