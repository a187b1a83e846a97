// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"math"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Bounds of what drivers write into the status of an attachment.
const (
	attachmentMax   = 256 << 10
	errorMessageMax = 1 << 10 // though Kubernetes tells people that it is attachmentMax
)

// VolumeAttachments ask a driver to attach a volume to a node.
var VolumeAttachments = resource.WithList(resource.Define(resource.Definition[storagev1.VolumeAttachment]{
	Group: "storage.k8s.io", Version: "v1", Kind: "VolumeAttachment", Resource: "volumeattachments",
	Scope:         resource.Cluster,
	StoragePath:   "volumeattachments",
	NeedsRevision: true,
	Default: func(a *storagev1.VolumeAttachment) {
		if s := a.Spec.Source.InlineVolumeSpec; s != nil {
			core.DefaultPersistentVolumeSpec(s)
		}
	},
	PrepareCreate: func(a *storagev1.VolumeAttachment) { a.Status = storagev1.VolumeAttachmentStatus{} },
	PrepareUpdate: func(a, old *storagev1.VolumeAttachment) { a.Status = *old.Status.DeepCopy() },
	Validate:      validateAttachment,
	ValidateUpdate: func(a, old *storagev1.VolumeAttachment) field.ErrorList {
		return immutableShown(a.Spec, old.Spec, field.NewPath("spec"))
	},
	Columns: []resource.Column[storagev1.VolumeAttachment]{
		{Name: "Attacher", Format: "name", Value: func(a *storagev1.VolumeAttachment, _ time.Time) any { return a.Spec.Attacher }},
		{Name: "PV", Value: func(a *storagev1.VolumeAttachment, _ time.Time) any {
			if n := a.Spec.Source.PersistentVolumeName; n != nil {
				return *n
			}
			return ""
		}},
		{Name: "Node", Value: func(a *storagev1.VolumeAttachment, _ time.Time) any { return a.Spec.NodeName }},
		{Name: "Attached", Type: "boolean", Value: func(a *storagev1.VolumeAttachment, _ time.Time) any { return a.Status.Attached }},
	},
	Subresources: resource.Subresources[storagev1.VolumeAttachment]{
		Status: &resource.Status[storagev1.VolumeAttachment]{Prepare: func(a, old *storagev1.VolumeAttachment) {
			status := a.Status
			*a = *old.DeepCopy()
			a.Status = status
		}, Validate: func(a, _ *storagev1.VolumeAttachment) field.ErrorList { return validateAttachment(a) }, KeepMetadata: true},
	},
}), func() runtime.Object { return new(storagev1.VolumeAttachmentList) })

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	at, status := field.NewPath("spec"), field.NewPath("status")
	problems := core.DriverName(a.Spec.Attacher, at.Child("attacher"))
	problems = append(problems, validateAttachmentSource(&a.Spec.Source, at.Child("source"))...)
	problems = append(problems, core.Subdomain(a.Spec.NodeName, at.Child("nodeName"))...)
	size := 0
	for key, value := range a.Status.AttachmentMetadata {
		size += len(key) + len(value)
	}
	if size > attachmentMax {
		problems = append(problems, field.TooLong(status.Child("attachmentMetadata"), "", attachmentMax))
	}
	problems = append(problems, validateVolumeError(a.Status.AttachError, status.Child("attachError"))...)
	return append(problems, validateVolumeError(a.Status.DetachError, status.Child("detachError"))...)
}

func validateAttachmentSource(s *storagev1.VolumeAttachmentSource, at *field.Path) (problems field.ErrorList) {
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch {
	case s.InlineVolumeSpec == nil && s.PersistentVolumeName == nil:
		return field.ErrorList{field.Required(at, one)}
	case s.InlineVolumeSpec != nil && s.PersistentVolumeName != nil:
		return field.ErrorList{field.Forbidden(at, one)}
	case s.InlineVolumeSpec != nil:
		return core.ValidateInlineVolume(s.InlineVolumeSpec, at.Child("inlineVolumeSpec"))
	}
	name, at := *s.PersistentVolumeName, at.Child("persistentVolumeName")
	if name == "" {
		problems = append(problems, field.Required(at, "must specify non empty persistentVolumeName"))
	}
	return append(problems, core.Subdomain(name, at)...)
}

func validateVolumeError(e *storagev1.VolumeError, at *field.Path) (problems field.ErrorList) {
	if e == nil {
		return nil
	}
	if len(e.Message) > errorMessageMax {
		problems = append(problems, field.TooLong(at.Child("message"), "", attachmentMax))
	}
	if e.ErrorCode != nil && *e.ErrorCode < 0 {
		problems = append(problems, field.Invalid(at.Child("errorCode"), *e.ErrorCode, validation.InclusiveRangeError(0, math.MaxInt32)))
	}
	return problems
}

// immutableShown refuses changes and shows the value with the names of Go fields.
func immutableShown(now, old any, at *field.Path) field.ErrorList {
	if len(core.Immutable(now, old, at)) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, core.Shown(now), "field is immutable")}
}
