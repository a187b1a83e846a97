// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"k8s.io/apimachinery/pkg/util/validation"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/condition"
)

// mapping turns the claims of a token into an identity.
type mapping struct {
	cfg *apiserverv1.JWTAuthenticator
	// What follows is nil where the configuration names a claim instead of an expression.
	username, groups, uid *condition.Program
	extra                 []*condition.Program
	claimRules            []*condition.Program
	userRules             []*condition.Program
}

func userType() *apiservercel.DeclType {
	return condition.Object("kubernetes.UserInfo", map[string]*apiservercel.DeclType{
		"username": apiservercel.StringType, "uid": apiservercel.StringType, "groups": condition.Strings(), "extra": condition.Extra(),
	})
}

// isExtraKey says whether a key is a lower-case domain with a path; see the field key of extra mappings.
func isExtraKey(key string) bool {
	domain, path, ok := strings.Cut(key, "/")
	return ok && path != "" && key == strings.ToLower(key) && !strings.ContainsAny(path, " \t\r\n") && len(validation.IsDNS1123Subdomain(domain)) == 0
}

// newMapping compiles the expressions and reports every problem.
func newMapping(cfg *apiserverv1.JWTAuthenticator) (*mapping, error) {
	m := &mapping{cfg: cfg}
	claims := condition.New(condition.Variable{Name: "claims", Type: cel.MapType(cel.StringType, cel.DynType)})
	users := condition.New(condition.Variable{Name: "user", Declaration: userType()})
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	compile := func(env *condition.Env, path, expression string, wanted ...*cel.Type) *condition.Program {
		p, err := env.Compile(expression, wanted...)
		if err != nil {
			bad("%s: %w", path, err)
		}
		return p
	}
	text, list := cel.StringType, cel.ListType(cel.StringType)
	c := &cfg.ClaimMappings
	switch u := &c.Username; {
	case u.Expression != "" && (u.Claim != "" || u.Prefix != nil):
		bad("claimMappings.username: expression excludes claim and prefix")
	case u.Expression != "":
		m.username = compile(claims, "claimMappings.username.expression", u.Expression, text)
	case u.Claim == "":
		bad("claimMappings.username: claim or expression is required")
	case u.Prefix == nil:
		bad("claimMappings.username.prefix: prefix is required when claim is set; it may be empty")
	}
	switch g := &c.Groups; {
	case g.Expression != "" && (g.Claim != "" || g.Prefix != nil):
		bad("claimMappings.groups: expression excludes claim and prefix")
	case g.Expression != "":
		m.groups = compile(claims, "claimMappings.groups.expression", g.Expression, text, list)
	case g.Claim != "" && g.Prefix == nil:
		bad("claimMappings.groups.prefix: prefix is required when claim is set; it may be empty")
	}
	if c.UID.Expression != "" {
		if c.UID.Claim != "" {
			bad("claimMappings.uid: expression excludes claim")
		}
		m.uid = compile(claims, "claimMappings.uid.expression", c.UID.Expression, text)
	}
	keys := map[string]bool{}
	for i, e := range c.Extra {
		path := fmt.Sprintf("claimMappings.extra[%d]", i)
		domain, _, _ := strings.Cut(e.Key, "/")
		switch {
		case !isExtraKey(e.Key):
			bad("%s.key: %q is not a lower-case domain with a path", path, e.Key)
		case domain == "kubernetes.io" || domain == "k8s.io" || strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io"):
			bad("%s.key: k8s.io, kubernetes.io and their subdomains are reserved", path)
		case keys[e.Key]:
			bad("%s.key: Duplicate value: %q", path, e.Key)
		}
		keys[e.Key] = true
		m.extra = append(m.extra, compile(claims, path+".valueExpression", e.ValueExpression, text, list))
	}
	for i, r := range cfg.ClaimValidationRules {
		path := fmt.Sprintf("claimValidationRules[%d]", i)
		switch {
		case r.Expression != "" && (r.Claim != "" || r.RequiredValue != ""), r.Claim != "" && r.Message != "":
			bad("%s: claim and requiredValue exclude expression and message", path)
		case r.Expression != "":
			m.claimRules = append(m.claimRules, compile(claims, path+".expression", r.Expression, cel.BoolType))
			continue
		case r.Claim == "":
			bad("%s: claim or expression is required", path)
		}
		m.claimRules = append(m.claimRules, nil)
	}
	for i, r := range cfg.UserValidationRules {
		m.userRules = append(m.userRules, compile(users, fmt.Sprintf("userValidationRules[%d].expression", i), r.Expression, cel.BoolType))
	}
	return m, errors.Join(problems...)
}

// identity applies the rules and mappings to verified claims.
func (m *mapping) identity(ctx context.Context, claims map[string]any) (*call.Identity, error) {
	variables := map[string]any{"claims": claims}
	if err := m.checkClaims(ctx, claims, variables); err != nil {
		return nil, err
	}
	c := &m.cfg.ClaimMappings
	user := &call.Identity{}
	var err error
	if user.Name, err = m.name(ctx, claims, variables); err != nil {
		return nil, err
	}
	switch {
	case m.groups != nil:
		if user.Groups, err = evaluateStrings(ctx, m.groups, variables); err != nil {
			return nil, fmt.Errorf("groups: %w", err)
		}
	case c.Groups.Claim != "":
		if user.Groups, err = claimStrings(claims, c.Groups.Claim); err != nil {
			return nil, err
		}
		for i := range user.Groups {
			user.Groups[i] = *c.Groups.Prefix + user.Groups[i]
		}
	}
	switch {
	case m.uid != nil:
		if user.UID, err = evaluateString(ctx, m.uid, variables); err != nil {
			return nil, fmt.Errorf("uid: %w", err)
		}
	case c.UID.Claim != "":
		uid, ok := claims[c.UID.Claim].(string)
		if !ok {
			return nil, fmt.Errorf("claim %q is not present or not a string", c.UID.Claim)
		}
		user.UID = uid
	}
	if jti, ok := claims["jti"].(string); ok && jti != "" {
		user.Extra = map[string][]string{credentialKey: {"JTI=" + jti}}
	}
	for i, p := range m.extra {
		values, err := evaluateStrings(ctx, p, variables)
		if err != nil {
			return nil, fmt.Errorf("extra %s: %w", c.Extra[i].Key, err)
		}
		if len(values) == 0 {
			continue
		}
		if user.Extra == nil {
			user.Extra = map[string][]string{}
		}
		user.Extra[c.Extra[i].Key] = values
	}
	return user, m.checkUser(ctx, user)
}

func (m *mapping) name(ctx context.Context, claims, variables map[string]any) (string, error) {
	if m.username != nil {
		name, err := evaluateString(ctx, m.username, variables)
		if err != nil {
			return "", fmt.Errorf("username: %w", err)
		}
		if name == "" {
			return "", errors.New("username: the expression evaluated to an empty string")
		}
		return name, nil
	}
	u := &m.cfg.ClaimMappings.Username
	name, ok := claims[u.Claim].(string)
	if !ok {
		return "", fmt.Errorf("claim %q is not present or not a string", u.Claim)
	}
	if u.Claim == "email" {
		if verified, stated := claims["email_verified"]; stated {
			if yes, ok := verified.(bool); !ok || !yes {
				return "", errors.New("email not verified")
			}
		}
	}
	return *u.Prefix + name, nil
}

func (m *mapping) checkClaims(ctx context.Context, claims, variables map[string]any) error {
	for i, r := range m.cfg.ClaimValidationRules {
		if m.claimRules[i] == nil {
			value, ok := claims[r.Claim].(string)
			switch {
			case !ok:
				return fmt.Errorf("required claim %s not present in ID token", r.Claim)
			case value != r.RequiredValue:
				return fmt.Errorf("required claim %s value does not match. Got = %s, want = %s", r.Claim, value, r.RequiredValue)
			}
			continue
		}
		if err := mustBeTrue(ctx, m.claimRules[i], variables, r.Expression, r.Message); err != nil {
			return err
		}
	}
	return nil
}

func (m *mapping) checkUser(ctx context.Context, user *call.Identity) error {
	if len(m.userRules) == 0 {
		return nil
	}
	groups, extra := make([]any, 0, len(user.Groups)), map[string]any{}
	for _, g := range user.Groups {
		groups = append(groups, g)
	}
	for k, values := range user.Extra {
		list := make([]any, 0, len(values))
		for _, v := range values {
			list = append(list, v)
		}
		extra[k] = list
	}
	variables := map[string]any{"user": map[string]any{"username": user.Name, "uid": user.UID, "groups": groups, "extra": extra}}
	for i, r := range m.cfg.UserValidationRules {
		if err := mustBeTrue(ctx, m.userRules[i], variables, r.Expression, r.Message); err != nil {
			return err
		}
	}
	return nil
}

func mustBeTrue(ctx context.Context, p *condition.Program, variables map[string]any, expression, message string) error {
	ok, err := p.True(ctx, variables)
	switch {
	case err != nil:
		return err
	case !ok && message != "":
		return fmt.Errorf("validation expression '%s' failed: %s", expression, message)
	case !ok:
		return fmt.Errorf("validation expression '%s' failed", expression)
	}
	return nil
}

func evaluateString(ctx context.Context, p *condition.Program, variables map[string]any) (string, error) {
	v, err := p.Evaluate(ctx, variables)
	if err != nil {
		return "", err
	}
	s, ok := v.Value().(string)
	if !ok {
		return "", fmt.Errorf("the expression evaluated to %s, not to a string", v.Type().TypeName())
	}
	return s, nil
}

// evaluateStrings takes a string, a list of strings or null; what is empty is left out.
func evaluateStrings(ctx context.Context, p *condition.Program, variables map[string]any) ([]string, error) {
	v, err := p.Evaluate(ctx, variables)
	if err != nil {
		return nil, err
	}
	return stringsOf(v)
}

func stringsOf(v ref.Val) (out []string, err error) {
	if v.Type() == types.NullType {
		return nil, nil
	}
	if s, ok := v.Value().(string); ok {
		if s == "" {
			return nil, nil
		}
		return []string{s}, nil
	}
	list, ok := v.(traits.Lister)
	if !ok {
		return nil, fmt.Errorf("the expression evaluated to %s, not to a string or a list of strings", v.Type().TypeName())
	}
	for it := list.Iterator(); it.HasNext() == types.True; {
		s, ok := it.Next().Value().(string)
		if !ok {
			return nil, errors.New("the expression evaluated to a list with something that is no string")
		}
		if s != "" {
			out = append(out, s)
		}
	}
	return out, nil
}

// claimStrings reads a claim that is a string or a list of strings; absent is empty.
func claimStrings(claims map[string]any, name string) ([]string, error) {
	switch v := claims[name].(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var out []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("parse groups claim %q: a value is no string", name)
			}
			out = append(out, s)
		}
		return out, nil
	}
	return nil, fmt.Errorf("parse groups claim %q: it is neither a string nor a list of strings", name)
}
