// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func definition(plural, kind string, short ...string) *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com",
			Names: apiextensionsv1.CustomResourceDefinitionNames{
				Plural: plural, Singular: "s" + plural, Kind: kind, ListKind: kind + "List", ShortNames: short,
			},
		},
	}
}

func TestAccept(t *testing.T) {
	now := metav1.Now()
	accepted := func(d *apiextensionsv1.CustomResourceDefinition, others ...*apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinition {
		if status := accept(d, others, now); status != nil {
			d.Status = *status
		}
		return d
	}
	first := accepted(definition("things", "Thing", "th"))
	for _, test := range []struct {
		name                          string
		definition                    *apiextensionsv1.CustomResourceDefinition
		names, reason, message, ready string
		kind                          string
	}{
		{"alone", first, "True", "NoConflicts", "no conflicts found", "True", "Thing"},
		{"another", accepted(definition("others", "Other"), first), "True", "NoConflicts", "no conflicts found", "True", "Other"},
		{"same kind", accepted(definition("others", "Thing"), first), "False", "ListKindConflict", `"ThingList" is already in use`, "False", ""},
		{"short name", accepted(definition("others", "Other", "th"), first), "False", "ShortNamesConflict", `"th" is already in use`, "False", "Other"},
		{"short name is a resource", accepted(definition("others", "Other", "x", "things"), first), "False", "ShortNamesConflict", `"things" is already in use`, "False", "Other"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status := test.definition.Status
			if len(status.Conditions) != 2 {
				t.Fatalf("conditions %v", status.Conditions)
			}
			names, established := status.Conditions[0], status.Conditions[1]
			if string(names.Status) != test.names || names.Reason != test.reason || names.Message != test.message {
				t.Errorf("names: %+v", names)
			}
			if string(established.Status) != test.ready || status.AcceptedNames.Kind != test.kind {
				t.Errorf("established %+v, accepted %+v", established, status.AcceptedNames)
			}
			if again := accept(test.definition, nil, now); test.ready == "True" && again != nil {
				t.Errorf("changes again: %+v", again)
			}
		})
	}
}

func TestAcceptChangedNames(t *testing.T) {
	now := metav1.Now()
	first, second := definition("things", "Thing"), definition("others", "Other")
	first.Status = *accept(first, nil, now)
	second.Status = *accept(second, []*apiextensionsv1.CustomResourceDefinition{first}, now)
	second.Spec.Names.Kind = "Thing"
	status := accept(second, []*apiextensionsv1.CustomResourceDefinition{first}, now)
	if status == nil || status.AcceptedNames.Kind != "Other" || status.Conditions[0].Status != "False" || status.Conditions[1].Status != "True" {
		t.Errorf("a kind that is taken: %+v", status)
	}
}
