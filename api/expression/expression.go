// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package expression compiles and evaluates the CEL expressions of admission: match conditions of webhooks, and what
// policies say.
//
// A Compiler makes environments, each when it is first needed, for CEL is large and most clusters have no policy. An
// Environment compiles expressions that see the same names (Scope); a Program is a compiled expression. What an
// expression may cost is bounded for each call by the library and for a whole policy by a Budget. See
// https://kubernetes.io/docs/reference/using-api/cel/.
package expression

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/mutation"
)

// Names that expressions see.
const (
	Object          = "object"
	OldObject       = "oldObject"
	Request         = "request"
	Namespace       = "namespaceObject"
	Params          = "params"
	Variables       = "variables"
	Authorizer      = "authorizer"
	RequestResource = "authorizer.requestResource"
)

// Scope says what expressions see beside the object, the old one, the request and the namespace.
type Scope struct {
	Params, Authorizer bool
	// Mutation adds the types Object and JSONPatch.
	Mutation bool
}

// Compiler makes environments. The zero value is ready.
type Compiler struct {
	mu   sync.Mutex
	sets map[Scope]*environment.EnvSet
}

// Environment compiles expressions of one policy, or of many without variables.
type Environment struct {
	env    *cel.Env
	fields *fields // nil without variables
}

// Environment returns the environment of a scope, without variables.
func (c *Compiler) Environment(s Scope) (*Environment, error) {
	set, err := c.set(s)
	if err != nil {
		return nil, err
	}
	return &Environment{env: set.StoredExpressionsEnv()}, nil
}

// WithVariables returns environments of several scopes that share the variables that Declare makes known, in order.
func (c *Compiler) WithVariables(scopes ...Scope) ([]*Environment, error) {
	f := &fields{known: map[string]*types.Type{}}
	var out []*Environment
	for _, s := range scopes {
		plain := s
		plain.Mutation = false // resolvers do not stack
		set, err := c.set(plain)
		if err != nil {
			return nil, err
		}
		e, err := withVariables(set, f, s.Mutation)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// withVariables adds variables to a set.
func withVariables(set *environment.EnvSet, f *fields, patches bool) (*Environment, error) {
	resolver := &resolver{fields: f}
	options := []cel.EnvOption{cel.Variable(Variables, types.NewObjectType(variablesType)), common.ResolverEnvOption(resolver)}
	if patches {
		resolver.next = &mutation.DynamicTypeResolver{}
		options = append(options, library.JSONPatch())
	}
	set, err := set.Extend(environment.VersionedOptions{IntroducedVersion: since(), EnvOptions: options})
	if err != nil {
		return nil, fmt.Errorf("environment of variables: %w", err)
	}
	return &Environment{env: set.StoredExpressionsEnv(), fields: f}, nil
}

func since() *version.Version { return version.MajorMinor(1, 0) }

// set is the environment set of a scope.
func (c *Compiler) set(s Scope) (*environment.EnvSet, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if set := c.sets[s]; set != nil {
		return set, nil
	}
	set, err := build(s, typedNames{})
	if err == nil && s.Mutation { // a second step, for the types of the first would hide these
		set, err = set.Extend(environment.VersionedOptions{IntroducedVersion: since(), EnvOptions: []cel.EnvOption{
			library.JSONPatch(), common.ResolverEnvOption(&mutation.DynamicTypeResolver{}),
		}})
	}
	if err != nil {
		return nil, err
	}
	if c.sets == nil {
		c.sets = map[Scope]*environment.EnvSet{}
	}
	c.sets[s] = set
	return set, nil
}

// typedNames are the types of what is dynamic for evaluation, for checks.
type typedNames struct{ object, params *apiservercel.DeclType }

// build makes the environment set of a scope, without its types of mutations.
func build(s Scope, typed typedNames) (*environment.EnvSet, error) {
	request, namespace := requestType(), namespaceType()
	declared := []*apiservercel.DeclType{namespace, request}
	typeOf := func(t *apiservercel.DeclType) *cel.Type {
		if t == nil {
			return cel.DynType
		}
		declared = append(declared, t)
		return t.CelType()
	}
	object := typeOf(typed.object)
	options := []cel.EnvOption{
		cel.Variable(Object, object), cel.Variable(OldObject, object),
		cel.Variable(Request, request.CelType()), cel.Variable(Namespace, namespace.CelType()),
	}
	if s.Params {
		options = append(options, cel.Variable(Params, typeOf(typed.params)))
	}
	if s.Authorizer {
		options = append(options, cel.Variable(Authorizer, library.AuthorizerType), cel.Variable(RequestResource, library.ResourceCheckType))
	}
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: since(), EnvOptions: options, DeclTypes: declared,
	}, environment.StrictCostOpt)
	if err != nil {
		return nil, fmt.Errorf("environment of expressions: %w", err)
	}
	return set, nil
}

// Declare makes a variable known to the expressions that are compiled from now on.
func (e *Environment) Declare(name string, t *cel.Type) { e.fields.known[name] = t }

// Program is a compiled expression.
type Program struct {
	Text    string
	Type    *cel.Type // of the result
	program cel.Program
}

// Compile compiles an expression that must have one of some types; none allows all. The error is a sentence about the
// expression, in Kubernetes' words.
func (e *Environment) Compile(text string, returns ...*cel.Type) (*Program, error) {
	ast, issues := e.env.Compile(text)
	if issues != nil {
		return nil, errors.New("compilation failed: " + issues.String())
	}
	found := len(returns) == 0
	for _, t := range returns {
		found = found || ast.OutputType().IsExactType(t) || cel.AnyType.IsExactType(ast.OutputType())
	}
	switch {
	case found:
	case len(returns) == 1:
		return nil, fmt.Errorf("must evaluate to %v but got %v", returns[0], ast.OutputType())
	default:
		return nil, fmt.Errorf("must evaluate to one of %v but got %v", returns, ast.OutputType())
	}
	if _, err := cel.AstToCheckedExpr(ast); err != nil {
		return nil, fmt.Errorf("unexpected compilation error: %w", err)
	}
	program, err := e.env.Program(ast, cel.InterruptCheckFrequency(celconfig.CheckFrequency))
	if err != nil {
		return nil, fmt.Errorf("program instantiation failed: %w", err)
	}
	return &Program{Text: text, Type: ast.OutputType(), program: program}, nil
}

// Budget is what a policy may still spend, in CEL's units of cost.
type Budget int64

// The budgets of a policy, and of the match conditions of a webhook or policy.
const (
	PolicyBudget    Budget = celconfig.RuntimeCELCostBudget
	ConditionBudget Budget = celconfig.RuntimeCELCostBudgetMatchConditions
)

// ErrBudget means that a budget is used up.
var ErrBudget = errors.New("validation failed due to running out of cost budget, no further validation rules will be run")

// Evaluate runs the program and pays for it. The second error is that of the budget, after which nothing more may run.
func (p *Program) Evaluate(ctx context.Context, names interpreter.Activation, b *Budget) (ref.Val, error, error) {
	value, details, err := p.program.ContextEval(ctx, names)
	if details == nil || details.ActualCost() == nil {
		return nil, err, errors.New("runtime cost could not be calculated for expression: " + p.Text + ", no further expression will be run")
	}
	cost := *details.ActualCost()
	if cost > uint64(max(*b, 0)) {
		*b = -1
		return nil, err, ErrBudget
	}
	*b -= Budget(cost)
	return value, err, nil
}
