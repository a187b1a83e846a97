// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/hooks"
)

// bootstrap makes the objects that exist from the start, those of this package first.
func (s *Server) bootstrap(ctx context.Context) error {
	for _, b := range append(s.firstObjects(), s.cfg.Bootstrap...) {
		if err := s.bootstrapOne(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) bootstrapOne(ctx context.Context, b Bootstrap) error {
	store := s.objects()
	namespace, name := b.Object.GetNamespace(), b.Object.GetName()
	_, err := store.Get(ctx, b.Kind, namespace, name)
	if apierrors.IsNotFound(err) {
		_, err = store.Do(ctx, &call.Request{
			Verb: "create", Kind: b.Kind, Namespace: namespace, Object: b.Object.DeepCopyObject().(resource.Object),
			FieldManager: "knarr",
		})
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	if err != nil && !apierrors.IsAlreadyExists(err) || b.Reconcile == nil {
		return err
	}
	_, err = store.Update(ctx, b.Kind, namespace, name, false, func(o resource.Object) error {
		b.Reconcile(o)
		return nil
	})
	return err
}

func (s *Server) firstObjects() []Bootstrap { return nil }

func (s *Server) builtinHooks() []hooks.Hook { return nil }
