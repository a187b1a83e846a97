// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/extension"
)

type condition = apiextensionsv1.CustomResourceDefinitionCondition

// accept is the status that a definition is to have next to the others of its group, or nil if it has that already: which
// of its names are accepted, and whether it is established. A definition stays established when its names change to some
// that others have; the old ones remain accepted.
func accept(d *apiextensionsv1.CustomResourceDefinition, others []*apiextensionsv1.CustomResourceDefinition, now metav1.Time) *apiextensionsv1.CustomResourceDefinitionStatus {
	resources, kinds := map[string]bool{}, map[string]bool{}
	for _, o := range others {
		n := o.Status.AcceptedNames
		for _, name := range append([]string{n.Plural, n.Singular}, n.ShortNames...) {
			resources[name] = name != ""
		}
		for _, name := range []string{n.Kind, n.ListKind} {
			kinds[name] = name != ""
		}
	}
	want, status := d.Spec.Names, d.Status.DeepCopy()
	got := &status.AcceptedNames
	names := condition{Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found"}
	take := func(asked []string, taken map[string]bool, have []string, reason string, set func()) {
		var problems []string
		for _, name := range asked {
			if !slices.Contains(have, name) && taken[name] {
				problems = append(problems, fmt.Sprintf("%q is already in use", name))
			}
		}
		if len(problems) == 0 {
			set()
			return
		}
		text := problems[0]
		if len(problems) > 1 {
			text = "[" + strings.Join(problems, ", ") + "]"
		}
		names.Status, names.Reason, names.Message = apiextensionsv1.ConditionFalse, reason, text
	}
	take([]string{want.Plural}, resources, []string{got.Plural}, "PluralConflict", func() { got.Plural = want.Plural })
	take([]string{want.Singular}, resources, []string{got.Singular}, "SingularConflict", func() { got.Singular = want.Singular })
	take(want.ShortNames, resources, got.ShortNames, "ShortNamesConflict", func() { got.ShortNames = want.ShortNames })
	take([]string{want.Kind}, kinds, []string{got.Kind}, "KindConflict", func() { got.Kind = want.Kind })
	take([]string{want.ListKind}, kinds, []string{got.ListKind}, "ListKindConflict", func() { got.ListKind = want.ListKind })
	got.Categories = want.Categories
	setCondition(status, names, now)
	if !extension.Is(d, apiextensionsv1.Established) {
		established := condition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue,
			Reason: "InitialNamesAccepted", Message: "the initial names have been accepted",
		}
		if names.Status != apiextensionsv1.ConditionTrue {
			established.Status, established.Reason, established.Message = apiextensionsv1.ConditionFalse, "NotAccepted", "not all names are accepted"
		}
		setCondition(status, established, now)
	}
	if c := approval(d); c != nil {
		setCondition(status, *c, now)
	}
	if equality.Semantic.DeepEqual(*status, d.Status) {
		return nil
	}
	return status
}

// approval is the condition of definitions in groups that belong to Kubernetes, nil for others.
func approval(d *apiextensionsv1.CustomResourceDefinition) *condition {
	if !apihelpers.IsProtectedCommunityGroup(d.Spec.Group) {
		return nil
	}
	state, reason := apihelpers.GetAPIApprovalState(d.Annotations)
	c := &condition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse, Message: reason}
	switch state {
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Reason = "UnapprovedAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Reason = "MissingAnnotation"
	default:
		c.Reason = "InvalidAnnotation"
	}
	return c
}

// Terminate shows in the status of a definition that it is being deleted.
func Terminate(d *apiextensionsv1.CustomResourceDefinition, now time.Time) {
	setCondition(&d.Status, condition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	}, metav1.NewTime(now).Rfc3339Copy())
}

// setCondition puts a condition in the place of the one of its type; the time changes with the status alone.
func setCondition(status *apiextensionsv1.CustomResourceDefinitionStatus, c condition, now metav1.Time) {
	c.LastTransitionTime = now
	for i := range status.Conditions {
		old := &status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	status.Conditions = append(status.Conditions, c)
}
