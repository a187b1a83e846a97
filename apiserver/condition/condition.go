// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package condition compiles and evaluates the CEL expressions of the server's own configuration: claim mappings and rules of
// authentication, match conditions of authorization webhooks.
//
// Expressions have Kubernetes' libraries and cost limits. An environment is made at the first use, because it is large.
package condition

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Variable is what expressions may refer to. Objects have a Declaration, all else a Type.
type Variable struct {
	Name        string
	Type        *cel.Type
	Declaration *apiservercel.DeclType
}

// Env is where expressions are compiled.
type Env struct {
	make func() (*cel.Env, error)
}

// New returns an environment with variables. It costs nothing before the first Compile.
func New(variables ...Variable) *Env {
	return &Env{make: sync.OnceValues(func() (*cel.Env, error) {
		options := environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0)}
		for _, v := range variables {
			if v.Declaration != nil {
				options.DeclTypes = append(options.DeclTypes, v.Declaration)
				v.Type = v.Declaration.CelType()
			}
			options.EnvOptions = append(options.EnvOptions, cel.Variable(v.Name, v.Type))
		}
		set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(options)
		if err != nil {
			return nil, err
		}
		return set.NewExpressionsEnv(), nil
	})}
}

// Program is a compiled expression. It is safe for concurrent use.
type Program struct {
	program cel.Program
	text    string
}

// Compile compiles an expression that must be of one of the types wanted, or dynamic.
func (e *Env) Compile(expression string, wanted ...*cel.Type) (*Program, error) {
	if strings.TrimSpace(expression) == "" {
		return nil, fmt.Errorf("the expression is empty")
	}
	env, err := e.make()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(expression)
	if issues != nil && issues.Err() != nil {
		return nil, fmt.Errorf("compile %q: %w", expression, issues.Err())
	}
	fits := ast.OutputType().IsExactType(cel.DynType) || ast.OutputType().IsExactType(cel.AnyType)
	names := make([]string, 0, len(wanted))
	for _, t := range wanted {
		fits = fits || ast.OutputType().IsAssignableType(t)
		names = append(names, t.String())
	}
	if !fits {
		return nil, fmt.Errorf("compile %q: it must evaluate to %s, not %s", expression, strings.Join(names, " or "), ast.OutputType())
	}
	program, err := env.Program(ast, cel.InterruptCheckFrequency(celconfig.CheckFrequency), cel.CostLimit(celconfig.PerCallLimit))
	if err != nil {
		return nil, fmt.Errorf("compile %q: %w", expression, err)
	}
	return &Program{program: program, text: expression}, nil
}

// Evaluate evaluates the program.
func (p *Program) Evaluate(ctx context.Context, variables map[string]any) (ref.Val, error) {
	v, _, err := p.program.ContextEval(ctx, variables)
	if err != nil {
		return nil, fmt.Errorf("expression %q: %w", p.text, err)
	}
	return v, nil
}

// True evaluates a program that must be boolean.
func (p *Program) True(ctx context.Context, variables map[string]any) (bool, error) {
	v, err := p.Evaluate(ctx, variables)
	if err != nil {
		return false, err
	}
	b, ok := v.Value().(bool)
	if !ok {
		return false, fmt.Errorf("expression %q: it evaluated to %s, not to a bool", p.text, v.Type().TypeName())
	}
	return b, nil
}

// Object declares an object type by the names and types of its fields.
func Object(name string, fields map[string]*apiservercel.DeclType) *apiservercel.DeclType {
	declared := make(map[string]*apiservercel.DeclField, len(fields))
	for field, t := range fields {
		declared[field] = apiservercel.NewDeclField(field, t, false, nil, nil)
	}
	return apiservercel.NewObjectType(name, declared)
}

// Strings is the type of a list of strings, Extra that of more about a user.
func Strings() *apiservercel.DeclType {
	return apiservercel.NewListType(apiservercel.StringType, -1)
}

// Extra is the type of what else is known about a user.
func Extra() *apiservercel.DeclType {
	return apiservercel.NewMapType(apiservercel.StringType, Strings(), -1)
}
