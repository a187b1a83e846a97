// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/callout"
)

// Decision is what an authorizer thinks of a request.
type Decision int

// The decisions. Deny ends the matter: nobody further on is asked.
const (
	NoOpinion Decision = iota
	Allow
	Deny
)

// Decider is an Authorizer that can deny, so that nobody after it is asked.
type Decider interface {
	Decide(ctx context.Context, a *Attributes) (Decision, string, error)
}

// Decide asks an authorizer for its decision.
func Decide(ctx context.Context, by Authorizer, a *Attributes) (Decision, string, error) {
	if d, ok := by.(Decider); ok {
		return d.Decide(ctx, a)
	}
	allowed, reason, err := by.Authorize(ctx, a)
	if allowed {
		return Allow, reason, err
	}
	return NoOpinion, reason, err
}

// Unresolved says why the rules of a user cannot all be listed; nil if they can. Only RBAC has rules to list.
func Unresolved(by Authorizer, user *call.Identity) (problems []error) {
	switch a := by.(type) {
	case union:
		for _, member := range a {
			problems = append(problems, Unresolved(member, user)...)
		}
	case *Dynamic:
		return Unresolved(a.get(), user)
	case *Webhook:
		problems = append(problems, errors.New("webhook authorizer does not support user rule resolution"))
	case *Node:
		if NodeName(user) != "" {
			problems = append(problems, errors.New("node authorizer does not support user rule resolution"))
		}
	}
	return problems
}

// Chain asks the superuser rule and then each member, until one decides.
func Chain(members ...Authorizer) Authorizer { return append(union{superuser{}}, members...) }

// Decide implements Decider.
func (u union) Decide(ctx context.Context, a *Attributes) (Decision, string, error) {
	var reasons []string
	var problems []error
	for _, member := range u {
		decision, reason, err := Decide(ctx, member, a)
		if decision == Allow {
			return Allow, reason, nil
		}
		if err != nil {
			problems = append(problems, err)
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
		if decision == Deny {
			return Deny, reason, err
		}
	}
	return NoOpinion, strings.Join(reasons, "\n"), errors.Join(problems...)
}

// Always allows or denies everything.
type Always Decision

// Authorize implements Authorizer.
func (d Always) Authorize(context.Context, *Attributes) (bool, string, error) {
	if Decision(d) == Allow {
		return true, "", nil
	}
	return false, "Everything is forbidden.", nil
}

// Built is what a configuration comes to.
type Built struct {
	// Modes are the types of the authorizers in order.
	Modes   []string
	Members []Authorizer
}

// ParseConfiguration reads an AuthorizationConfiguration (apiserver.config.k8s.io) and makes its authorizers. It reports every problem.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/authorization/#using-configuration-file-for-authorization.
func ParseConfiguration(data []byte, reader Reader) (*Built, error) {
	var c apiserverv1.AuthorizationConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, fmt.Errorf("authorization configuration: %w", err)
	}
	group, version, _ := strings.Cut(c.APIVersion, "/")
	if group != apiserverv1.GroupName || !slices.Contains([]string{"v1", "v1beta1", "v1alpha1"}, version) || c.Kind != "AuthorizationConfiguration" {
		return nil, fmt.Errorf("authorization configuration: it is a %s %s", c.APIVersion, c.Kind)
	}
	if len(c.Authorizers) == 0 {
		return nil, errors.New("authorization configuration: authorizers: Required value: at least one authorization mode must be defined")
	}
	b := &Built{}
	var problems []error
	names := map[string]bool{}
	for i := range c.Authorizers {
		a := &c.Authorizers[i]
		path := fmt.Sprintf("authorizers[%d]", i)
		bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(path+format, args...)) }
		if a.Name == "" {
			bad(".name: Required value")
		} else if names[a.Name] {
			bad(".name: Duplicate value: %q", a.Name)
		}
		names[a.Name] = true
		if a.Type != "Webhook" {
			if slices.Contains(b.Modes, a.Type) {
				bad(".type: Duplicate value: %q", a.Type)
			}
			if a.Webhook != nil {
				bad(".webhook: Invalid value: may only be specified when type=Webhook")
			}
		}
		member, err := newMember(a, reader)
		if err != nil {
			bad("%w", err)
			continue
		}
		b.Modes, b.Members = append(b.Modes, a.Type), append(b.Members, member)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("authorization configuration: %w", errors.Join(problems...))
	}
	return b, nil
}

// Mode returns the authorizer of a mode that needs no further configuration.
func Mode(mode string, reader Reader) (Authorizer, error) {
	switch mode {
	case "Node":
		return NewNode(reader), nil
	case "RBAC":
		return NewRBAC(reader), nil
	case "AlwaysAllow":
		return Always(Allow), nil
	case "AlwaysDeny":
		return Always(NoOpinion), nil
	}
	return nil, fmt.Errorf("unknown authorization mode %q", mode)
}

func newMember(a *apiserverv1.AuthorizerConfiguration, reader Reader) (Authorizer, error) {
	if a.Type != "Webhook" {
		m, err := Mode(a.Type, reader)
		if err != nil {
			return nil, fmt.Errorf(".type: %w", err)
		}
		return m, nil
	}
	w := a.Webhook
	if w == nil {
		return nil, errors.New(".webhook: Required value: required when type=Webhook")
	}
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(".webhook"+format, args...)) }
	if w.Timeout.Duration <= 0 || w.Timeout.Duration > 30*time.Second {
		bad(".timeout: %v is not between 0 and 30s", w.Timeout.Duration)
	}
	if w.SubjectAccessReviewVersion != "v1" && w.SubjectAccessReviewVersion != "v1beta1" {
		bad(".subjectAccessReviewVersion: %q is none of v1, v1beta1", w.SubjectAccessReviewVersion)
	}
	if v := w.MatchConditionSubjectAccessReviewVersion; v != "v1" && (v != "" || len(w.MatchConditions) > 0) {
		bad(".matchConditionSubjectAccessReviewVersion: %q is not v1", v)
	}
	if w.FailurePolicy != apiserverv1.FailurePolicyNoOpinion && w.FailurePolicy != apiserverv1.FailurePolicyDeny {
		bad(".failurePolicy: %q is none of NoOpinion, Deny", w.FailurePolicy)
	}
	if w.ConnectionInfo.Type != apiserverv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile || w.ConnectionInfo.KubeConfigFile == nil {
		bad(".connectionInfo: type must be KubeConfigFile, with a kubeConfigFile")
	}
	if len(w.MatchConditions) > 64 {
		bad(".matchConditions: at most 64")
	}
	if w.AuthorizedTTL.Duration < 0 || w.UnauthorizedTTL.Duration < 0 {
		bad(".authorizedTTL, unauthorizedTTL: must not be negative")
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	client, err := callout.New(callout.Config{File: *w.ConnectionInfo.KubeConfigFile, Timeout: w.Timeout.Duration})
	if err != nil {
		return nil, fmt.Errorf(".webhook.connectionInfo: %w", err)
	}
	cfg := WebhookConfig{
		Name: a.Name, Client: client, Version: w.SubjectAccessReviewVersion, DenyOnFailure: w.FailurePolicy == apiserverv1.FailurePolicyDeny,
		AuthorizedTTL:   ttl(w.AuthorizedTTL.Duration, w.CacheAuthorizedRequests, 5*time.Minute),
		UnauthorizedTTL: ttl(w.UnauthorizedTTL.Duration, w.CacheUnauthorizedRequests, 30*time.Second),
	}
	for _, c := range w.MatchConditions {
		cfg.Conditions = append(cfg.Conditions, c.Expression)
	}
	m, err := NewWebhook(cfg)
	if err != nil {
		return nil, fmt.Errorf(".webhook.%w", err)
	}
	return m, nil
}

func ttl(d time.Duration, cached *bool, otherwise time.Duration) time.Duration {
	switch {
	case cached != nil && !*cached:
		return 0
	case d == 0:
		return otherwise
	}
	return d
}
