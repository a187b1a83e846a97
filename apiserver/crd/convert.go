// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"context"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"knarr.dev/api/resource"
)

// Converter asks the webhook of a definition for objects in another version; it returns them in the same order.
type Converter func(ctx context.Context, webhook *apiextensionsv1.WebhookConversion, apiVersion string, objects []*unstructured.Unstructured) ([]*unstructured.Unstructured, error)

// convert is an object in another version, a new one. What that version does not know is dropped.
func (r *family) convert(o resource.Object, to *resource.Kind) (resource.Object, error) {
	u, err := r.convertWhole(o, to)
	if err != nil {
		return nil, err
	}
	return u, r.schemas[to.Version].coerce(u, true, nil)
}

// convertWhole is convert that drops nothing.
func (r *family) convertWhole(o resource.Object, to *resource.Kind) (*unstructured.Unstructured, error) {
	converted, err := r.convertAll([]*unstructured.Unstructured{asCustom(o)}, to.GroupVersion().String())
	if err != nil {
		return nil, err
	}
	return converted[0], nil
}

// convertMany is convert for stored objects.
func (r *family) convertMany(objects []resource.Object, to *resource.Kind) ([]resource.Object, error) {
	in := make([]*unstructured.Unstructured, len(objects))
	for i, o := range objects {
		in[i] = asCustom(o)
	}
	converted, err := r.convertAll(in, to.GroupVersion().String())
	if err != nil {
		return nil, err
	}
	out := make([]resource.Object, len(objects))
	for i, u := range converted {
		if err := r.schemas[to.Version].coerce(u, true, nil); err != nil {
			return nil, err
		}
		out[i] = u
	}
	return out, nil
}

// unknownSchema is that of a version which the definition does not have.
func unknownSchema() *compiled { return &compiled{structural: &structural.Structural{}} }
