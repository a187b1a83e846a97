// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
	"knarr.dev/apiserver/watchcache"
)

// ownCreate records who set which field of a new object.
func (s *Server) ownCreate(r *registry, o *operation, obj resource.Object) error {
	obj.SetManagedFields(nil)
	return nil
}

// ownUpdate records who changed which field.
func (s *Server) ownUpdate(r *registry, o *operation, obj resource.Object, cur *watchcache.Entry) error {
	return nil
}

func metaUpdateProblems(obj, old resource.Object) field.ErrorList {
	return validation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata"))
}
