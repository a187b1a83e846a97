// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"knarr.dev/apiserver/webhook"
)

// conversionTimeout bounds one call of a conversion webhook.
const conversionTimeout = 30 * time.Second

// Webhooks returns a Converter that calls webhooks with a client. See
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/#webhook-conversion.
func Webhooks(client *webhook.Client) Converter {
	return func(ctx context.Context, w *apiextensionsv1.WebhookConversion, apiVersion string, objects []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
		if w == nil || w.ClientConfig == nil {
			return nil, errors.New("the definition names no webhook")
		}
		version := reviewVersion(w.ConversionReviewVersions)
		if version == "" {
			return nil, errors.New("the webhook does not accept any version of ConversionReview that is known here")
		}
		ctx, cancel := context.WithTimeout(ctx, conversionTimeout)
		defer cancel()
		q := review{TypeMeta: metav1.TypeMeta{Kind: "ConversionReview", APIVersion: apiextensionsv1.GroupName + "/" + version}}
		q.Request = &reviewRequest{UID: uuid.NewUUID(), DesiredAPIVersion: apiVersion}
		for _, o := range objects {
			q.Request.Objects = append(q.Request.Objects, o.Object)
		}
		body, err := json.Marshal(q)
		if err != nil {
			return nil, err
		}
		answer, err := client.Post(ctx, target(w.ClientConfig), "timeout="+conversionTimeout.String(), body)
		if err != nil {
			return nil, err
		}
		return readReview(answer, &q, objects)
	}
}

// The documents of the protocol, with objects as they are.
type (
	review struct {
		metav1.TypeMeta
		Request  *reviewRequest  `json:"request,omitempty"`
		Response *reviewResponse `json:"response,omitempty"`
	}
	reviewRequest struct {
		UID               types.UID        `json:"uid"`
		DesiredAPIVersion string           `json:"desiredAPIVersion"`
		Objects           []map[string]any `json:"objects"`
	}
	reviewResponse struct {
		UID              types.UID         `json:"uid"`
		ConvertedObjects []json.RawMessage `json:"convertedObjects"`
		Result           metav1.Status     `json:"result"`
	}
)

// reviewVersion is the first version of ConversionReview that a webhook accepts and this server knows.
func reviewVersion(accepted []string) string {
	for _, v := range accepted {
		if v == "v1" || v == "v1beta1" {
			return v
		}
	}
	return ""
}

func target(c *apiextensionsv1.WebhookClientConfig) *webhook.Target {
	t := &webhook.Target{CABundle: c.CABundle}
	if c.URL != nil {
		t.URL = *c.URL
	}
	if s := c.Service; s != nil {
		t.Service = &webhook.Service{Namespace: s.Namespace, Name: s.Name, Port: 443}
		if s.Path != nil {
			t.Service.Path = *s.Path
		}
		if s.Port != nil {
			t.Service.Port = *s.Port
		}
	}
	return t
}

// readReview takes the objects out of an answer; each must be the same object in the version that was asked for.
func readReview(answer []byte, q *review, objects []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	var a review
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, err
	}
	switch {
	case a.GroupVersionKind() != q.GroupVersionKind():
		return nil, fmt.Errorf("expected webhook response of %s, got %s", q.GroupVersionKind(), a.GroupVersionKind())
	case a.Response == nil:
		return nil, errors.New("no response provided")
	case a.Response.UID != q.Request.UID:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", q.Request.UID, a.Response.UID)
	case a.Response.Result.Status != metav1.StatusSuccess:
		if text := a.Response.Result.Message; text != "" {
			return nil, errors.New(text)
		}
		return nil, fmt.Errorf("response.result.status was %q, not \"Success\"", a.Response.Result.Status)
	case len(a.Response.ConvertedObjects) != len(objects):
		return nil, fmt.Errorf("returned %d objects, expected %d", len(a.Response.ConvertedObjects), len(objects))
	}
	out := make([]*unstructured.Unstructured, len(objects))
	for i, raw := range a.Response.ConvertedObjects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw); err != nil {
			return nil, fmt.Errorf("invalid converted object at index %d: %w", i, err)
		}
		if got := u.GetAPIVersion(); got != q.Request.DesiredAPIVersion {
			return nil, fmt.Errorf("invalid converted object at index %d: invalid groupVersion (expected %s, received %s)", i, q.Request.DesiredAPIVersion, got)
		}
		if got := u.GetKind(); got != objects[i].GetKind() {
			return nil, fmt.Errorf("invalid converted object at index %d: invalid kind (expected %s, received %s)", i, objects[i].GetKind(), got)
		}
		if err := restoreMetadata(u, objects[i]); err != nil {
			return nil, fmt.Errorf("invalid metadata in object at index %d: %w", i, err)
		}
		out[i] = u
	}
	return out, nil
}

// restoreMetadata takes all metadata but labels and annotations from the object before, whose identity must be the same.
func restoreMetadata(u, before *unstructured.Unstructured) error {
	if u.GetName() != before.GetName() || u.GetNamespace() != before.GetNamespace() {
		return fmt.Errorf("metadata of %s/%s became that of %s/%s", before.GetNamespace(), before.GetName(), u.GetNamespace(), u.GetName())
	}
	if u.GetUID() != before.GetUID() {
		return fmt.Errorf("metadata.uid changed from %q to %q", before.GetUID(), u.GetUID())
	}
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	if meta, ok := before.Object["metadata"].(map[string]any); ok {
		u.Object["metadata"] = (&unstructured.Unstructured{Object: meta}).DeepCopy().Object
	}
	if !equality.Semantic.DeepEqual(labels, before.GetLabels()) {
		u.SetLabels(labels)
	}
	if !equality.Semantic.DeepEqual(annotations, before.GetAnnotations()) {
		u.SetAnnotations(annotations)
	}
	return nil
}

// convertAll is convert for many stored objects, in as few calls of the webhook as the versions of the objects allow.
func (r *family) convertAll(objects []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error) {
	c := r.definition.Spec.Conversion
	out := make([]*unstructured.Unstructured, len(objects))
	var asked []*unstructured.Unstructured
	var at []int
	for i, u := range objects {
		out[i] = u.DeepCopy()
		if u.GetAPIVersion() == apiVersion {
			continue
		}
		if c != nil && c.Strategy == apiextensionsv1.WebhookConverter {
			asked, at = append(asked, u), append(at, i)
			continue
		}
		out[i].SetAPIVersion(apiVersion)
	}
	for n := 0; n < len(asked); n += conversionBatch {
		some := asked[n:min(n+conversionBatch, len(asked))]
		if r.converter == nil {
			return nil, fmt.Errorf("conversion webhook for %s: not available", r.definition.Name)
		}
		converted, err := r.converter(context.Background(), c.Webhook, apiVersion, some)
		if err != nil {
			return nil, fmt.Errorf("conversion webhook for %s failed: %w", some[0].GroupVersionKind(), err)
		}
		for i, u := range converted {
			out[at[n+i]] = u
		}
	}
	return out, nil
}

// conversionBatch bounds the objects of one call.
const conversionBatch = 500
