// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/certificates"
	"knarr.dev/api/resource"
)

// Approval lets approvers of certificate signing requests write conditions, and nothing else. Who may is the matter of an
// admission step.
func Approval() Hook {
	kind := certificates.CertificateSigningRequests
	return Hook{Kind: kind.Kind, Subresource: "approval", Update: func(_ context.Context, obj, stored resource.Object) error {
		old := kind.Cast(stored.DeepCopyObject().(resource.Object))
		takeMetadata(obj, stored)
		certificates.Approve(kind.Cast(obj), kind.Cast(stored))
		if problems := certificates.ValidateChange(kind.Cast(stored), old); len(problems) > 0 {
			return apierrors.NewInvalid(kind.GroupVersionKind.GroupKind(), stored.GetName(), problems)
		}
		return nil
	}}
}
