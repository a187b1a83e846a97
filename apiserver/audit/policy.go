// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/call"
)

// Policy says what is recorded about which requests: the first rule that matches decides, without one nothing is recorded.
//
// See https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/.
type Policy struct{ policy auditv1.Policy }

// Request is what a policy looks at.
type Request struct {
	// User is nil for a request whose credentials were refused.
	User *call.Identity
	Verb string
	// Path is set, and the rest empty, for requests that name no resource.
	Path                                                   string
	Group, Version, Resource, Subresource, Namespace, Name string
}

// verdict is what a policy asks for.
type verdict struct {
	level             auditv1.Level
	omitStages        []auditv1.Stage
	omitManagedFields bool
}

// ParsePolicy reads a policy file (audit.k8s.io/v1, YAML or JSON). It reports every problem.
func ParsePolicy(data []byte) (*Policy, error) {
	p := &Policy{}
	if err := yaml.UnmarshalStrict(data, &p.policy); err != nil {
		return nil, fmt.Errorf("audit policy: %w", err)
	}
	if p.policy.APIVersion != auditv1.SchemeGroupVersion.String() || p.policy.Kind != "Policy" {
		return nil, fmt.Errorf("audit policy: it is a %s %s, not a Policy of %s", p.policy.APIVersion, p.policy.Kind, auditv1.SchemeGroupVersion)
	}
	if len(p.policy.Rules) == 0 {
		return nil, errors.New("audit policy: it has no rules")
	}
	problems := checkStages("omitStages", p.policy.OmitStages)
	for i := range p.policy.Rules {
		problems = append(problems, checkRule(fmt.Sprintf("rules[%d]", i), &p.policy.Rules[i])...)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("audit policy: %w", errors.Join(problems...))
	}
	return p, nil
}

func checkStages(path string, stages []auditv1.Stage) (problems []error) {
	known := []auditv1.Stage{auditv1.StageRequestReceived, auditv1.StageResponseStarted, auditv1.StageResponseComplete, auditv1.StagePanic}
	for i, s := range stages {
		if !slices.Contains(known, s) {
			problems = append(problems, fmt.Errorf("%s[%d]: unknown stage %q", path, i, s))
		}
	}
	return problems
}

func checkRule(path string, r *auditv1.PolicyRule) []error {
	problems := checkStages(path+".omitStages", r.OmitStages)
	switch r.Level {
	case auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequest, auditv1.LevelRequestResponse:
	default:
		problems = append(problems, fmt.Errorf("%s.level: unknown level %q", path, r.Level))
	}
	if len(r.NonResourceURLs) > 0 && (len(r.Resources) > 0 || len(r.Namespaces) > 0) {
		problems = append(problems, fmt.Errorf("%s: rules cannot apply to both regular resources and non-resource URLs", path))
	}
	for i, url := range r.NonResourceURLs {
		if url != "*" && (!strings.HasPrefix(url, "/") || strings.Contains(strings.TrimSuffix(url, "*"), "*")) {
			problems = append(problems, fmt.Errorf("%s.nonResourceURLs[%d]: %q is not a path that may end in *", path, i, url))
		}
	}
	for i := range r.Resources {
		g := &r.Resources[i]
		if len(g.ResourceNames) > 0 && len(g.Resources) == 0 {
			problems = append(problems, fmt.Errorf("%s.resources[%d]: resourceNames needs resources", path, i))
		}
	}
	return problems
}

func (p *Policy) decide(r *Request) verdict {
	for i := range p.policy.Rules {
		rule := &p.policy.Rules[i]
		if !ruleMatches(rule, r) {
			continue
		}
		v := verdict{level: rule.Level, omitManagedFields: p.policy.OmitManagedFields}
		if rule.OmitManagedFields != nil {
			v.omitManagedFields = *rule.OmitManagedFields
		}
		v.omitStages = append(slices.Clone(p.policy.OmitStages), rule.OmitStages...)
		return v
	}
	return verdict{level: auditv1.LevelNone}
}

func ruleMatches(rule *auditv1.PolicyRule, r *Request) bool {
	if len(rule.Users) > 0 && (r.User == nil || !slices.Contains(rule.Users, r.User.Name)) {
		return false
	}
	if len(rule.UserGroups) > 0 && (r.User == nil || !slices.ContainsFunc(r.User.Groups, func(g string) bool { return slices.Contains(rule.UserGroups, g) })) {
		return false
	}
	if len(rule.Verbs) > 0 && !slices.Contains(rule.Verbs, r.Verb) {
		return false
	}
	if len(rule.Namespaces) > 0 || len(rule.Resources) > 0 {
		return r.Path == "" && ruleMatchesResource(rule, r)
	}
	if len(rule.NonResourceURLs) == 0 {
		return true
	}
	return r.Path != "" && slices.ContainsFunc(rule.NonResourceURLs, func(url string) bool {
		prefix, wild := strings.CutSuffix(url, "*")
		return url == r.Path || wild && strings.HasPrefix(r.Path, prefix)
	})
}

func ruleMatchesResource(rule *auditv1.PolicyRule, r *Request) bool {
	if len(rule.Namespaces) > 0 && !slices.Contains(rule.Namespaces, r.Namespace) {
		return false
	}
	if len(rule.Resources) == 0 {
		return true
	}
	combined := r.Resource
	if r.Subresource != "" {
		combined += "/" + r.Subresource
	}
	for i := range rule.Resources {
		g := &rule.Resources[i]
		if g.Group != r.Group {
			continue
		}
		if len(g.Resources) == 0 {
			return true
		}
		if len(g.ResourceNames) > 0 && !slices.Contains(g.ResourceNames, r.Name) {
			continue
		}
		for _, res := range g.Resources {
			switch {
			case res == "*", res == combined,
				r.Subresource != "" && res == r.Resource+"/*",
				r.Subresource != "" && res == "*/"+r.Subresource:
				return true
			}
		}
	}
	return false
}
