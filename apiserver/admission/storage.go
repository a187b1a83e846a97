// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/api/storage"
)

// defaultStorageClass gives claims that name no class the default one: of several the newest, of those the first by name.
func defaultStorageClass(reader Reader) Step {
	return Step{Name: "DefaultStorageClass", Mutate: func(ctx context.Context, r *Request) error {
		if !creates(r, core.PersistentVolumeClaims.Kind) {
			return nil
		}
		claim := core.PersistentVolumeClaims.Cast(r.Object)
		if _, annotated := claim.Annotations[corev1.BetaStorageClassAnnotation]; annotated || claim.Spec.StorageClassName != nil {
			return nil
		}
		var found *storagev1.StorageClass
		err := reader.List(ctx, storage.StorageClasses.Kind, "", func(o resource.Object) bool {
			c := storage.StorageClasses.Cast(o)
			if storage.IsDefault(c) && (found == nil || found.CreationTimestamp.Before(&c.CreationTimestamp)) {
				found = c
			}
			return true
		})
		if err != nil || found == nil {
			return notServed(err)
		}
		name := found.Name
		claim.Spec.StorageClassName = &name
		return nil
	}}
}

// storageProtection keeps volumes, claims and attribute classes until a controller says that nobody uses them.
func storageProtection() Step {
	return Step{Name: "StorageObjectInUseProtection", Mutate: func(_ context.Context, r *Request) error {
		if r.Verb != "create" || r.Subresource != "" {
			return nil
		}
		var finalizer string
		switch r.Kind {
		case core.PersistentVolumes.Kind:
			finalizer = "kubernetes.io/pv-protection"
		case core.PersistentVolumeClaims.Kind:
			finalizer = "kubernetes.io/pvc-protection"
		case storage.VolumeAttributesClasses.Kind:
			finalizer = "kubernetes.io/vac-protection"
		default:
			return nil
		}
		if have := r.Object.GetFinalizers(); !slices.Contains(have, finalizer) {
			r.Object.SetFinalizers(append(slices.Clone(have), finalizer))
		}
		return nil
	}}
}

// claimResize lets claims grow only if their class can grow volumes.
func claimResize(reader Reader) Step {
	return Step{Name: "PersistentVolumeClaimResize", Validate: func(ctx context.Context, r *Request) error {
		if !updates(r, core.PersistentVolumeClaims.Kind) {
			return nil
		}
		claim, old := core.PersistentVolumeClaims.Cast(r.Object), core.PersistentVolumeClaims.Cast(r.Old)
		now, was := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
		if now.Cmp(was) <= 0 {
			return nil
		}
		if old.Status.Phase != corev1.ClaimBound {
			return forbidden(r, "Only bound persistent volume claims can be expanded")
		}
		if class := core.ClaimClass(claim); class != "" {
			o, err := reader.Get(ctx, storage.StorageClasses.Kind, "", class)
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			if err == nil {
				if grows := storage.StorageClasses.Cast(o).AllowVolumeExpansion; grows != nil && *grows {
					return nil
				}
			}
		}
		return forbidden(r, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
	}}
}

// notServed forgives that a server does not serve a kind that a step looks up.
func notServed(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
