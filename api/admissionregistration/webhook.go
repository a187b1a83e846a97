// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// defaultWebhook fills in what both kinds of webhooks share; a validating webhook has all fields of it.
func defaultWebhook(w *admissionv1.ValidatingWebhook) {
	fill(&w.FailurePolicy, admissionv1.Fail)
	fill(&w.MatchPolicy, admissionv1.Equivalent)
	fillSelectors(&w.NamespaceSelector, &w.ObjectSelector)
	fill(&w.TimeoutSeconds, 10)
	for i := range w.Rules {
		defaultRule(&w.Rules[i])
	}
	if s := w.ClientConfig.Service; s != nil {
		fill(&s.Port, 443)
	}
}

// Common is a mutating webhook as far as it has what a validating one has; the two share memory.
func Common(w *admissionv1.MutatingWebhook) admissionv1.ValidatingWebhook {
	return admissionv1.ValidatingWebhook{
		Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
		NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
		TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
	}
}

// webhooksProblems are the problems of the webhooks of a configuration. mutating, if not empty, are the same webhooks.
func webhooksProblems(hooks []admissionv1.ValidatingWebhook, mutating []admissionv1.MutatingWebhook) field.ErrorList {
	var problems field.ErrorList
	names := map[string]bool{}
	for i := range hooks {
		w, at := &hooks[i], field.NewPath("webhooks").Index(i)
		var again *admissionv1.ReinvocationPolicyType
		if mutating != nil {
			again = mutating[i].ReinvocationPolicy
		}
		problems = append(problems, webhookProblems(w, again, at)...)
		problems = append(problems, reviewVersionProblems(w.AdmissionReviewVersions, at.Child("admissionReviewVersions"))...)
		if names[w.Name] {
			problems = append(problems, field.Duplicate(at.Child("name"), w.Name))
		}
		names[w.Name] = true
	}
	return problems
}

func webhookProblems(w *admissionv1.ValidatingWebhook, again *admissionv1.ReinvocationPolicyType, at *field.Path) field.ErrorList {
	problems := validation.IsFullyQualifiedName(at.Child("name"), w.Name)
	for i := range w.Rules {
		problems = append(problems, ruleProblems(&w.Rules[i], at.Child("rules").Index(i))...)
	}
	problems = append(problems, failurePolicyProblems(w.FailurePolicy, at.Child("failurePolicy"))...)
	problems = append(problems, matchPolicyProblems(w.MatchPolicy, at.Child("matchPolicy"))...)
	if w.SideEffects == nil {
		problems = append(problems, field.Required(at.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	}
	problems = append(problems, oneOf(w.SideEffects, at.Child("sideEffects"), admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)...)
	if t := w.TimeoutSeconds; t != nil && (*t > 30 || *t < 1) {
		problems = append(problems, field.Invalid(at.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	problems = append(problems, selectorProblems(w.NamespaceSelector, at.Child("namespaceSelector"))...)
	problems = append(problems, selectorProblems(w.ObjectSelector, at.Child("objectSelector"))...)
	problems = append(problems, oneOf(again, at.Child("reinvocationPolicy"), admissionv1.NeverReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy)...)
	problems = append(problems, clientProblems(&w.ClientConfig, at.Child("clientConfig"))...)
	return append(problems, webhookConditionProblems(w.MatchConditions, at.Child("matchConditions"))...)
}

// clientProblems are the problems of the address of a webhook.
func clientProblems(c *admissionv1.WebhookClientConfig, at *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case c.URL != nil:
		return urlProblems(*c.URL, at.Child("url"))
	}
	return serviceProblems(c.Service, at.Child("service"))
}

func urlProblems(text string, at *field.Path) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Required(at, "url must be a valid URL: "+err.Error()+form)}
	}
	var problems field.ErrorList
	if u.Scheme != "https" {
		problems = append(problems, field.Invalid(at, u.Scheme, "'https' is the only allowed URL scheme"+form))
	}
	if u.Host == "" {
		problems = append(problems, field.Invalid(at, u.Host, "host must be specified"+form))
	}
	if u.User != nil {
		problems = append(problems, field.Invalid(at, u.User.String(), "user information is not permitted in the URL"))
	}
	if u.Fragment != "" {
		problems = append(problems, field.Invalid(at, u.Fragment, "fragments are not permitted in the URL"))
	}
	if u.RawQuery != "" {
		problems = append(problems, field.Invalid(at, u.RawQuery, "query parameters are not permitted in the URL"))
	}
	return problems
}

func serviceProblems(s *admissionv1.ServiceReference, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	if s.Name == "" {
		problems = append(problems, field.Required(at.Child("name"), ""))
	}
	if s.Namespace == "" {
		problems = append(problems, field.Required(at.Child("namespace"), ""))
	}
	for _, text := range validation.IsValidPortNum(int(*s.Port)) {
		problems = append(problems, field.Invalid(at.Child("port"), *s.Port, "port is not valid: "+text))
	}
	if s.Path == nil {
		return problems
	}
	return append(problems, servicePathProblems(*s.Path, at.Child("path"))...)
}

func servicePathProblems(path string, at *field.Path) field.ErrorList {
	if path == "/" || path == "" {
		return nil
	}
	if path == "//" {
		return field.ErrorList{field.Invalid(at, path, "segment[0] may not be empty")}
	}
	var problems field.ErrorList
	if !strings.HasPrefix(path, "/") {
		problems = append(problems, field.Invalid(at, path, "must start with a '/'"))
	}
	inner := strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
	for i, step := range strings.Split(inner, "/") {
		if step == "" {
			problems = append(problems, field.Invalid(at, path, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, text := range validation.IsDNS1123Subdomain(step) {
			problems = append(problems, field.Invalid(at, path, fmt.Sprintf("segment[%d]: %v", i, text)))
		}
	}
	return problems
}

// reviewVersions are the versions of AdmissionReview that the server speaks.
func reviewVersions() []string { return []string{"v1", "v1beta1"} }

func reviewVersionProblems(versions []string, at *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, fmt.Sprintf("must specify one of %v", strings.Join(reviewVersions(), ", ")))}
	}
	var problems field.ErrorList
	seen, known := map[string]bool{}, false
	for i, v := range versions {
		if seen[v] {
			problems = append(problems, field.Invalid(at.Index(i), v, "duplicate version"))
			continue
		}
		seen[v] = true
		for _, text := range validation.IsDNS1035Label(v) {
			problems = append(problems, field.Invalid(at.Index(i), v, text))
		}
		known = known || slices.Contains(reviewVersions(), v)
	}
	if !known {
		problems = append(problems, field.Invalid(at, versions, fmt.Sprintf("must include at least one of %v", strings.Join(reviewVersions(), ", "))))
	}
	return problems
}
