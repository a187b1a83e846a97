// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const inline = "in the context of inline volumes"

func validatePersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	problems := validateVolumeSpec(&v.Spec, false, field.NewPath("spec"))
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; ok && !mountsWithOptions(&v.Spec.PersistentVolumeSource) {
		problems = append(problems, field.Forbidden(field.NewPath("metadata", "annotations", corev1.MountOptionAnnotation), "may not specify mount options for this volume type"))
	}
	return problems
}

// ValidateInlineVolume checks the spec of a volume that exists only in a VolumeAttachment.
func ValidateInlineVolume(s *corev1.PersistentVolumeSpec, at *field.Path) field.ErrorList {
	return validateVolumeSpec(s, true, at)
}

func validateVolumeSpec(s *corev1.PersistentVolumeSpec, inlined bool, at *field.Path) (problems field.ErrorList) {
	if inlined {
		problems = append(problems, validateInlined(s, at)...)
	}
	if len(s.AccessModes) == 0 {
		problems = append(problems, field.Required(at.Child("accessModes"), ""))
	}
	problems = append(problems, validateAccessModes(s.AccessModes, at.Child("accessModes"))...)
	if !inlined {
		problems = append(problems, validateVolumeCapacity(s.Capacity, at.Child("capacity"))...)
	}
	if p := s.PersistentVolumeReclaimPolicy; p != "" {
		if inlined && p != corev1.PersistentVolumeReclaimRetain {
			problems = append(problems, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may only be "+string(corev1.PersistentVolumeReclaimRetain)+" "+inline))
		} else {
			problems = append(problems, allowed(at.Child("persistentVolumeReclaimPolicy"), p,
				corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
		}
	}
	if s.NodeAffinity != nil {
		problems = append(problems, validateVolumeAffinity(s.NodeAffinity, inlined, at.Child("nodeAffinity"))...)
	}
	problems = append(problems, validatePersistentSource(s, at)...)
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		problems = append(problems, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if s.StorageClassName != "" {
		if inlined {
			problems = append(problems, field.Forbidden(at.Child("storageClassName"), "may not be specified "+inline))
		} else {
			problems = append(problems, subdomain(s.StorageClassName, at.Child("storageClassName"))...)
		}
	}
	if s.VolumeMode != nil {
		if inlined && *s.VolumeMode != corev1.PersistentVolumeFilesystem {
			problems = append(problems, field.Forbidden(at.Child("volumeMode"), "may not specify volumeMode other than "+string(corev1.PersistentVolumeFilesystem)+" "+inline))
		} else {
			problems = append(problems, allowed(at.Child("volumeMode"), *s.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
		}
	}
	return append(problems, validateAttributesClass(s, at)...)
}

func validateInlined(s *corev1.PersistentVolumeSpec, at *field.Path) (problems field.ErrorList) {
	if s.ClaimRef != nil {
		problems = append(problems, field.Forbidden(at.Child("claimRef"), "may not be specified "+inline))
	}
	if len(s.Capacity) > 0 {
		problems = append(problems, field.Forbidden(at.Child("capacity"), "may not be specified "+inline))
	}
	if s.CSI == nil {
		problems = append(problems, field.Required(at.Child("csi"), "has to be specified "+inline))
	}
	return problems
}

func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) (problems field.ErrorList) {
	single, others := false, false
	for _, mode := range modes {
		problems = append(problems, allowed(at, mode, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
		single = single || mode == corev1.ReadWriteOncePod
		others = others || mode != corev1.ReadWriteOncePod
	}
	if single && others {
		problems = append(problems, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return problems
}

func validateVolumeCapacity(capacity corev1.ResourceList, at *field.Path) (problems field.ErrorList) {
	if len(capacity) == 0 {
		problems = append(problems, field.Required(at, ""))
	}
	if _, ok := capacity[corev1.ResourceStorage]; !ok || len(capacity) > 1 {
		problems = append(problems, field.NotSupported(at, capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range slices.Sorted(maps.Keys(capacity)) {
		q := capacity[name]
		problems = append(problems, validQuantity(capacity, name, at)...)
		if q.Sign() <= 0 {
			problems = append(problems, field.Invalid(at.Key(string(name)), q.String(), "must be greater than zero"))
		}
	}
	return problems
}

// validQuantity refuses negative amounts, as a number.
func validQuantity(list corev1.ResourceList, name corev1.ResourceName, at *field.Path) field.ErrorList {
	if q := list[name]; q.Value() < 0 {
		return field.ErrorList{field.Invalid(at.Key(string(name)), q.Value(), "must be a valid resource quantity")}
	}
	return nil
}

func validateVolumeAffinity(a *corev1.VolumeNodeAffinity, inlined bool, at *field.Path) field.ErrorList {
	switch {
	case inlined:
		return field.ErrorList{field.Forbidden(at, "may not be specified "+inline)}
	case a.Required == nil:
		return field.ErrorList{field.Required(at.Child("required"), "must specify required node constraints")}
	}
	return ValidateNodeSelector(a.Required, at.Child("required"))
}

func validateAttributesClass(s *corev1.PersistentVolumeSpec, at *field.Path) (problems field.ErrorList) {
	class := s.VolumeAttributesClassName
	if class == nil {
		return nil
	}
	if *class == "" {
		problems = append(problems, field.Required(at.Child("volumeAttributesClassName"), "an empty string is disallowed"))
	} else {
		problems = append(problems, subdomain(*class, at.Child("volumeAttributesClassName"))...)
	}
	if s.CSI == nil {
		problems = append(problems, field.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName"))
	}
	return problems
}

// mountsWithOptions tells whether mount options mean something to this kind of storage.
func mountsWithOptions(s *corev1.PersistentVolumeSource) bool {
	return s.AWSElasticBlockStore != nil || s.AzureDisk != nil || s.AzureFile != nil || s.CephFS != nil || s.Cinder != nil ||
		s.GCEPersistentDisk != nil || s.Glusterfs != nil || s.ISCSI != nil || s.NFS != nil || s.PhotonPersistentDisk != nil ||
		s.Quobyte != nil || s.RBD != nil || s.VsphereVolume != nil
}

// immutable refuses changes.
func immutable(value, old any, at *field.Path) field.ErrorList {
	return apivalidation.ValidateImmutableField(value, old, at)
}

// difference is how Kubernetes shows a forbidden change.
func difference(old, now any) string { return diff.Diff(shown{old}, shown{now}) }

func equal(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

func inRange(n, low, high int, at *field.Path) field.ErrorList {
	if n < low || n > high {
		return field.ErrorList{field.Invalid(at, n, validation.InclusiveRangeError(low, high))}
	}
	return nil
}
