// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/call"
	"knarr.dev/api/codec"
)

// flagged says whether a query has a boolean parameter and it is true: anything is, but "0" and "false".
func flagged(query url.Values, name string) bool {
	values := query[name]
	var on bool
	_ = runtime.Convert_Slice_string_To_bool(&values, &on, nil) // which cannot fail
	return on
}

// listOptions reads the options of list, watch and deletecollection.
func listOptions(q *call.Request, query url.Values) error {
	var o metav1.ListOptions
	err := metav1.Convert_url_Values_To_v1_ListOptions(&query, &o, nil)
	if err == nil && o.LabelSelector != "" {
		q.Labels, err = labels.Parse(o.LabelSelector)
	}
	if err == nil && o.FieldSelector != "" {
		q.Fields, err = fields.ParseSelector(o.FieldSelector)
	}
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	q.Limit, q.Continue = o.Limit, o.Continue
	q.ResourceVersion, q.ResourceVersionMatch = o.ResourceVersion, o.ResourceVersionMatch
	q.AllowBookmarks, q.SendInitialEvents = o.AllowWatchBookmarks, o.SendInitialEvents
	if o.TimeoutSeconds != nil {
		q.Timeout = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	return nil
}

// writeOptions reads the options of create, update and patch, and checks them; those of a patch are checked when its body was
// read. Options of deletions are in deleteOptions.
func writeOptions(q *call.Request, query url.Values) error {
	var o metav1.PatchOptions
	if err := metav1.Convert_url_Values_To_v1_PatchOptions(&query, &o, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	q.FieldManager, q.FieldValidation = o.FieldManager, o.FieldValidation
	q.DryRun = len(o.DryRun) > 0
	q.Force = o.Force != nil && *o.Force
	if q.FieldManager == "" && q.FieldValidation == "" && len(o.DryRun) == 0 { // as most are
		return nil
	}
	var problems validationErrors
	switch q.Verb {
	case "create":
		problems = validationErrors{"CreateOptions", validation.ValidateCreateOptions(&metav1.CreateOptions{
			DryRun: o.DryRun, FieldManager: q.FieldManager, FieldValidation: q.FieldValidation})}
	case "update":
		problems = validationErrors{"UpdateOptions", validation.ValidateUpdateOptions(&metav1.UpdateOptions{
			DryRun: o.DryRun, FieldManager: q.FieldManager, FieldValidation: q.FieldValidation})}
	}
	return problems.err()
}

// patchOptions checks the options of a patch.
func patchOptions(q *call.Request, query url.Values) error {
	var o metav1.PatchOptions
	if err := metav1.Convert_url_Values_To_v1_PatchOptions(&query, &o, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if q.PatchType != types.ApplyYAMLPatchType && o.FieldManager == "" && o.FieldValidation == "" && len(o.DryRun) == 0 && o.Force == nil { // as most are
		return nil
	}
	return validationErrors{"PatchOptions", validation.ValidatePatchOptions(&o, q.PatchType)}.err()
}

// deleteOptions reads the options of a deletion: from its body or, if it has none, from the query.
func deleteOptions(q *call.Request, r *http.Request, body []byte) error {
	q.Delete = &metav1.DeleteOptions{}
	if len(body) > 0 {
		if err := decodeDeleteOptions(q.Delete, r, body); err != nil {
			return err
		}
	} else {
		query := queryOf(r)
		if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&query, q.Delete, nil); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	q.DryRun = len(q.Delete.DryRun) > 0
	q.Delete.IgnoreStoreReadErrorWithClusterBreakingPotential = nil // which is of an alpha feature
	return validationErrors{"DeleteOptions", validation.ValidateDeleteOptions(q.Delete)}.err()
}

func decodeDeleteOptions(into *metav1.DeleteOptions, r *http.Request, body []byte) error {
	media, err := bodyMedia(r)
	if err != nil {
		return err
	}
	stated, err := codec.PeekKind(media, body)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if stated.Kind != "" && stated.Kind != "DeleteOptions" {
		if stated.Version == "" {
			stated.Group, stated.Version = metav1.GroupName, "v1"
		}
		return apierrors.NewBadRequest(fmt.Sprintf("no kind %q is registered for version %q in scheme \"pkg/runtime/scheme.go:111\"", stated.Kind, stated.GroupVersion()))
	}
	if _, err := codec.Decode(media, body, into); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}
