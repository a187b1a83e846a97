// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/admissionregistration"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/fieldmanager"
)

// schemed is a store that knows ConfigMaps, as policies need it.
type schemed struct {
	*objects
	fields *fieldmanager.Fields
}

func (s schemed) KindOf(gvk schema.GroupVersionKind) *resource.Kind {
	if gvk == core.ConfigMaps.GroupVersionKind {
		return core.ConfigMaps.Kind
	}
	return nil
}

func (s schemed) Merge(kind *resource.Kind, obj resource.Object, configuration map[string]any) (resource.Object, error) {
	return s.fields.Merge(kind, obj, configuration)
}

func policyWorld() schemed {
	s := schemed{world(), fieldmanager.New([]*resource.Kind{core.ConfigMaps.Kind})}
	for name, limit := range map[string]string{"small": "1", "large": "9"} {
		s.add(core.ConfigMaps.Kind, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, Labels: map[string]string{"limits": "yes"}}, Data: map[string]string{"limit": limit}})
	}
	return s
}

func matchConfigMaps() *admissionv1.MatchResources {
	return &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{"*"}, Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
	}}}}
}

func TestValidatingPolicies(t *testing.T) {
	params := &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
	named := func(name string) *admissionv1.ParamRef {
		return &admissionv1.ParamRef{Name: name, ParameterNotFoundAction: pointer(admissionv1.DenyAction)}
	}
	selected := &admissionv1.ParamRef{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"limits": "yes"}}, ParameterNotFoundAction: pointer(admissionv1.DenyAction)}
	rule := func(text string) []admissionv1.Validation { return []admissionv1.Validation{{Expression: text}} }
	const denied = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: "
	for _, c := range []struct {
		name    string
		spec    admissionv1.ValidatingAdmissionPolicySpec
		params  *admissionv1.ParamRef
		actions []admissionv1.ValidationAction
		want    string
		warned  string
	}{
		{"true", admissionv1.ValidatingAdmissionPolicySpec{Validations: rule("object.data.a == 'b'")}, nil, nil, "", ""},
		{"false", admissionv1.ValidatingAdmissionPolicySpec{Validations: rule("object.data.a == 'c'")}, nil, nil, denied + "failed expression: object.data.a == 'c'", ""},
		{"warns", admissionv1.ValidatingAdmissionPolicySpec{Validations: rule("false")}, nil, []admissionv1.ValidationAction{admissionv1.Warn}, "",
			"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: false"},
		{"error", admissionv1.ValidatingAdmissionPolicySpec{Validations: rule("object.x == 1")}, nil, nil, denied + "expression 'object.x == 1' resulted in error: no such key: x", ""},
		{"error that may be", admissionv1.ValidatingAdmissionPolicySpec{Validations: rule("object.x == 1"), FailurePolicy: pointer(admissionv1.Ignore)}, nil, nil, "", ""},
		{"message", admissionv1.ValidatingAdmissionPolicySpec{Validations: []admissionv1.Validation{{Expression: "false", MessageExpression: "object.metadata.name + ' ' + request.operation"}}}, nil, nil, denied + "c CREATE", ""},
		{"variables", admissionv1.ValidatingAdmissionPolicySpec{
			Variables:   []admissionv1.Variable{{Name: "a", Expression: "object.data.a"}, {Name: "b", Expression: "variables.a + 'x'"}, {Name: "never", Expression: "object.x"}},
			Validations: rule("variables.b == 'bx'"),
		}, nil, nil, "", ""},
		{"condition", admissionv1.ValidatingAdmissionPolicySpec{Validations: rule("false"), MatchConditions: []admissionv1.MatchCondition{{Name: "other", Expression: "object.metadata.name == 'other'"}}}, nil, nil, "", ""},
		{"authorizer", admissionv1.ValidatingAdmissionPolicySpec{Validations: rule("authorizer.group('').resource('secrets').check('get').allowed()")}, nil, nil, denied + "failed expression: authorizer", ""},
		{"namespace", admissionv1.ValidatingAdmissionPolicySpec{Validations: rule("namespaceObject.metadata.name == 'n'")}, nil, nil, "", ""},
		{"parameter", admissionv1.ValidatingAdmissionPolicySpec{ParamKind: params, Validations: rule("size(object.data) <= int(params.data.limit)")}, named("small"), nil, "", ""},
		{"selected parameters", admissionv1.ValidatingAdmissionPolicySpec{ParamKind: params, Validations: rule("int(params.data.limit) < 5")}, selected, nil, denied + "failed expression", ""},
		{"missing parameter", admissionv1.ValidatingAdmissionPolicySpec{ParamKind: params, Validations: rule("true")}, named("none"), nil, denied + "failed to configure binding: no params found", ""},
		{"kind of parameters", admissionv1.ValidatingAdmissionPolicySpec{ParamKind: &admissionv1.ParamKind{APIVersion: "a/v1", Kind: "B"}, Validations: rule("true")}, named("x"), nil,
			"ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'a/v1, Kind=B'", ""},
		{"too dear", admissionv1.ValidatingAdmissionPolicySpec{Validations: rule(strings.Repeat("[1,2,3,4,5,6,7,8,9,10].all(a, ", 6) + "a > 0" + strings.Repeat(")", 6))}, nil, nil, "actual cost limit exceeded", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := policyWorld()
			c.spec.MatchConstraints = matchConfigMaps()
			if c.actions == nil {
				c.actions = []admissionv1.ValidationAction{admissionv1.Deny}
			}
			s.add(admissionregistration.ValidatingAdmissionPolicies.Kind, &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "p"}, Spec: c.spec})
			s.add(admissionregistration.ValidatingAdmissionPolicyBindings.Kind, &admissionv1.ValidatingAdmissionPolicyBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "b", UID: "b"},
				Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "p", ParamRef: c.params, ValidationActions: c.actions},
			})
			var warned []string
			r := configMap()
			r.Warn = func(s string) { warned = append(warned, s) }
			got := text(admit(t, Steps(s, nil, Config{Now: clock}), r))
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if w := strings.Join(warned, "\n"); w != c.warned {
				t.Errorf("warned %q, want %q", w, c.warned)
			}
		})
	}
}

func TestMutatingPolicies(t *testing.T) {
	for _, c := range []struct {
		name, expression string
		labels, data     string
		want             string
	}{
		{"configuration", "Object{metadata: Object.metadata{labels: {'seen': object.data.a}}}", "b", "b", ""},
		{"patch", "[JSONPatch{op: 'replace', path: '/data/a', value: 'z'}, JSONPatch{op: 'add', path: '/metadata/labels', value: {'seen': 'y'}}]", "y", "z", ""},
		{"failed test", "[JSONPatch{op: 'test', path: '/data/a', value: 'z'}, JSONPatch{op: 'remove', path: '/data/a'}]", "", "b", ""},
		{"unknown field", "Object{spec: 1}", "", "", "policy 'p' with binding 'b' denied request: error applying patch: failed to convert patch object to typed object: .spec: field not declared in schema"},
		{"error", "Object{data: {'a': object.x}}", "", "", "resulted in error: no such key: x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := policyWorld()
			m := admissionv1.Mutation{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: c.expression}}
			if c.expression[0] == '[' {
				m = admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: c.expression}}
			}
			s.add(admissionregistration.MutatingAdmissionPolicies.Kind, &admissionv1.MutatingAdmissionPolicy{
				ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "p"}, Spec: admissionv1.MutatingAdmissionPolicySpec{MatchConstraints: matchConfigMaps(), Mutations: []admissionv1.Mutation{m}},
			})
			s.add(admissionregistration.MutatingAdmissionPolicyBindings.Kind, &admissionv1.MutatingAdmissionPolicyBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "b", UID: "b"}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p"},
			})
			r := configMap()
			if got := text(admit(t, Steps(s, nil, Config{Now: clock}), r)); c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Fatalf("got %q, want %q", got, c.want)
			}
			if made := core.ConfigMaps.Cast(r.Object); c.want == "" && (made.Labels["seen"] != c.labels || made.Data["a"] != c.data) {
				t.Errorf("made %v %v, want %s %s", made.Labels, made.Data, c.labels, c.data)
			}
		})
	}
}

// A change takes effect policyRefresh after it was asked for, whenever the policies were last read.
func TestPoliciesInForce(t *testing.T) {
	s, now := policyWorld(), clock()
	steps := Steps(s, nil, Config{Now: func() time.Time { return now }})
	asked := func() *Request {
		return &Request{Verb: "create", Kind: admissionregistration.ValidatingAdmissionPolicyBindings.Kind, Name: "b", Object: &admissionv1.ValidatingAdmissionPolicyBinding{}}
	}
	s.add(admissionregistration.ValidatingAdmissionPolicies.Kind, &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "p"},
		Spec:       admissionv1.ValidatingAdmissionPolicySpec{MatchConstraints: matchConfigMaps(), Validations: []admissionv1.Validation{{Expression: "false"}}},
	})
	admit(t, steps, configMap())
	now = now.Add(policyRefresh - time.Millisecond)
	if err := admit(t, steps, asked()); err != nil {
		t.Fatal(err)
	}
	s.add(admissionregistration.ValidatingAdmissionPolicyBindings.Kind, &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "b", UID: "b"},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "p", ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	})
	for _, c := range []struct {
		later  time.Duration
		denied bool
	}{{time.Millisecond, false}, {policyRefresh - 2*time.Millisecond, false}, {time.Millisecond, true}} {
		now = now.Add(c.later)
		if err := admit(t, steps, configMap()); (err != nil) != c.denied {
			t.Errorf("%v after: %v, want denied %v", now.Sub(clock()), err, c.denied)
		}
	}
}
