// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/expression"
)

// Limits of Kubernetes.
const (
	maxConditions       = 64
	maxAuditAnnotations = 20
	maxValueExpression  = 5 * 1024
	maxMessage          = 5 * 1024
)

// compiler remembers environments, nothing else: what it answers depends on what it is asked alone.
var compiler = new(expression.Compiler)

// identifier is the form of names of variables.
var identifier = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$") })

func isIdentifier(name string) bool {
	return identifier().MatchString(name) && !slices.Contains(reserved(), name)
}

// reserved are the words of CEL that may name nothing.
func reserved() []string {
	return strings.Fields("as break const continue else false for function if import in let loop package namespace null return true var void while")
}

// environments compile the expressions of one policy: main those that see everything, messages those of messages, which
// may not ask the authorizer, conditions those of match conditions, which see no variables.
type environments struct{ main, messages, conditions *expression.Environment }

func newEnvironments(s expression.Scope, variables bool) (*environments, error) {
	quiet := s
	quiet.Authorizer, quiet.Mutation = false, false
	plain := s
	plain.Mutation = false
	conditions, err := compiler.Environment(plain)
	if err != nil {
		return nil, err
	}
	if variables {
		both, err := compiler.WithVariables(s, quiet)
		if err != nil {
			return nil, err
		}
		return &environments{both[0], both[1], conditions}, nil
	}
	main, err := compiler.Environment(s)
	if err != nil {
		return nil, err
	}
	messages, err := compiler.Environment(quiet)
	return &environments{main, messages, conditions}, err
}

// expressionProblems are those of one expression that must have one of some types.
func expressionProblems(e *expression.Environment, text string, at *field.Path, required string, types ...*cel.Type) (*expression.Program, field.ErrorList) {
	if strings.TrimSpace(text) == "" {
		return nil, field.ErrorList{field.Required(at, required)}
	}
	p, err := e.Compile(text, types...)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(at, text, err.Error())}
	}
	return p, nil
}

func webhookConditionProblems(conditions []admissionv1.MatchCondition, at *field.Path) field.ErrorList {
	if len(conditions) == 0 {
		return nil
	}
	e, err := compiler.Environment(expression.Scope{Authorizer: true})
	if err != nil {
		return field.ErrorList{field.InternalError(at, err)}
	}
	return conditionProblems(e, conditions, at)
}

// conditionProblems are the problems of match conditions.
func conditionProblems(e *expression.Environment, conditions []admissionv1.MatchCondition, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	names := map[string]bool{}
	if len(conditions) > maxConditions {
		problems = append(problems, field.TooMany(at, len(conditions), maxConditions))
	}
	for i, c := range conditions {
		at := at.Index(i)
		_, errs := expressionProblems(e, c.Expression, at.Child("expression"), "", expression.Bool)
		problems = append(problems, errs...)
		if c.Name == "" {
			problems = append(problems, field.Required(at.Child("name"), ""))
			continue
		}
		for _, text := range validation.IsQualifiedName(c.Name) {
			problems = append(problems, field.Invalid(at.Child("name"), c.Name, text))
		}
		if names[c.Name] {
			problems = append(problems, field.Duplicate(at.Child("name"), c.Name))
		}
		names[c.Name] = true
	}
	return problems
}

// variableProblems are those of variables; it declares them, so that what follows sees them.
func variableProblems(e *expression.Environment, variables []admissionv1.Variable, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	for i := range variables {
		v, at := &variables[i], at.Index(i)
		switch {
		case strings.TrimSpace(v.Name) == "":
			problems = append(problems, field.Required(at.Child("name"), "name is not specified"))
		case !isIdentifier(v.Name):
			problems = append(problems, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		p, errs := expressionProblems(e, v.Expression, at.Child("expression"), "expression is not specified")
		problems = append(problems, errs...)
		if p != nil {
			e.Declare(v.Name, p.Type)
		} else {
			e.Declare(v.Name, cel.DynType)
		}
	}
	return problems
}

func validationProblems(e *environments, v *admissionv1.Validation, at *field.Path) field.ErrorList {
	_, problems := expressionProblems(e.main, v.Expression, at.Child("expression"), "expression is not specified", expression.Bool)
	if v.MessageExpression != "" {
		if strings.TrimSpace(v.MessageExpression) == "" {
			problems = append(problems, field.Invalid(at.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
		} else {
			_, errs := expressionProblems(e.messages, v.MessageExpression, at.Child("messageExpression"), "", expression.String)
			problems = append(problems, errs...)
		}
	}
	message := strings.TrimSpace(v.Message)
	switch {
	case len(v.Message) > 0 && message == "":
		problems = append(problems, field.Invalid(at.Child("message"), v.Message, "must be non-empty if specified"))
	case strings.Contains(message, "\n"):
		problems = append(problems, field.Invalid(at.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(problems, oneOf(v.Reason, at.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)...)
}

func auditProblems(e *expression.Environment, policy string, annotations []admissionv1.AuditAnnotation, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	if len(annotations) > maxAuditAnnotations {
		var shown []struct{ Key, ValueExpression string } // as Kubernetes names the fields here
		for _, a := range annotations {
			shown = append(shown, struct{ Key, ValueExpression string }{a.Key, a.ValueExpression})
		}
		problems = append(problems, field.Invalid(at, shown, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	keys := map[string]bool{}
	for i, a := range annotations {
		at := at.Index(i)
		key := policy + "/" + a.Key
		for _, text := range validation.IsQualifiedName(key) {
			problems = append(problems, field.Invalid(at.Child("key"), key, text))
		}
		if len(a.ValueExpression) > maxValueExpression {
			problems = append(problems, field.Required(at.Child("valueExpression"), fmt.Sprintf("must not exceed %d bytes in length", maxValueExpression)))
		} else {
			_, errs := expressionProblems(e, a.ValueExpression, at.Child("valueExpression"), "valueExpression is not specified", expression.String, expression.Null)
			problems = append(problems, errs...)
		}
		if keys[a.Key] {
			problems = append(problems, field.Duplicate(at.Child("key"), a.Key))
		}
		keys[a.Key] = true
	}
	return problems
}
