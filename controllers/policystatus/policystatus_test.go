// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package policystatus

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"knarr.dev/api/apps"
	"knarr.dev/api/core"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
)

func rules(groups, versions, resources []string) *admissionv1.MatchResources {
	return &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
		Rule: admissionv1.Rule{APIGroups: groups, APIVersions: versions, Resources: resources},
	}}}}
}

func definition() *apiextensionsv1.CustomResourceDefinition {
	spec := apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"schedule": {Type: "string"}, "replicas": {Type: "integer"},
	}}
	d := &apiextensionsv1.CustomResourceDefinition{Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "stable.example.com", Scope: apiextensionsv1.NamespaceScoped,
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
			OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": spec}},
		}}},
	}}
	d.Status.AcceptedNames = apiextensionsv1.CustomResourceDefinitionNames{Plural: "crontabs", Kind: "CronTab"}
	d.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
	return d
}

func TestPlan(t *testing.T) {
	r := &reconciler{}
	kinds := append([]*resource.Kind{core.ConfigMaps.Kind, apps.Deployments.Kind, apps.ReplicaSets.Kind}, extension.Kinds(definition())...)
	v1, deployments := []string{"v1"}, []string{"deployments"}
	params := &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
	for _, c := range []struct {
		name, text string
		match      *admissionv1.MatchResources
		params     *admissionv1.ParamKind
		want       string
	}{
		{"right", "object.spec.replicas > 1 && object.metadata.labels.x == 'y'", rules([]string{"apps"}, v1, deployments), nil, ""},
		{"undefined", "object.spec.foo > 1", rules([]string{"apps"}, v1, deployments), nil,
			"apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'foo'\n | object.spec.foo > 1\n | ...........^\n"},
		{"type", "oldObject.spec.replicas == 'x'", rules([]string{"apps"}, v1, deployments), nil,
			"apps/v1, Kind=Deployment: ERROR: <input>:1:25: found no matching overload for '_==_' applied to '(int, string)'\n | oldObject.spec.replicas == 'x'\n | ........................^\n"},
		{"two kinds", "object.data.x == 'y'", rules([]string{"apps", ""}, v1, []string{"configmaps", "replicasets"}), nil,
			"apps/v1, Kind=ReplicaSet: ERROR: <input>:1:7: undefined field 'data'\n | object.data.x == 'y'\n | ......^\n"},
		{"wildcard", "object.spec.foo > 1", rules([]string{"*"}, v1, deployments), nil, ""},
		{"parameters", "params.foo == object.metadata.name", rules([]string{"apps"}, v1, deployments), params,
			"apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'foo'\n | params.foo == object.metadata.name\n | ......^\n"},
		{"custom", "object.spec.schedule == '* * * * *' && object.metadata.labels.x == 'y' && object.kind == 'CronTab'", rules([]string{"stable.example.com"}, v1, []string{"crontabs"}), nil, ""},
		{"custom, undefined", "object.spec.foo > 1", rules([]string{"stable.example.com"}, v1, []string{"crontabs"}), nil,
			"stable.example.com/v1, Kind=CronTab: ERROR: <input>:1:12: undefined field 'foo'\n | object.spec.foo > 1\n | ...........^\n"},
		{"custom, type", "object.spec.replicas == 'x'", rules([]string{"stable.example.com"}, v1, []string{"crontabs"}), nil,
			"stable.example.com/v1, Kind=CronTab: ERROR: <input>:1:22: found no matching overload for '_==_' applied to '(int, string)'\n | object.spec.replicas == 'x'\n | .....................^\n"},
		{"variables", "variables.a > 1", rules([]string{"apps"}, v1, deployments), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := r.plan(&admissionv1.ValidatingAdmissionPolicySpec{
				MatchConstraints: c.match, ParamKind: c.params, Validations: []admissionv1.Validation{{Expression: c.text}},
				Variables: []admissionv1.Variable{{Name: "a", Expression: "object.spec.foo"}},
			}, kinds)
			if err != nil {
				t.Fatal(err)
			}
			text := ""
			if len(got) > 0 {
				text = got[0].Warning
			}
			if text != c.want || len(got) > 0 && got[0].FieldRef != "spec.validations[0].expression" {
				t.Errorf("got %q at %v, want %q", text, got, c.want)
			}
		})
	}
}
