// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// MutatingWebhookConfigurations name servers that change what is written.
var MutatingWebhookConfigurations = resource.WithList(resource.Define(resource.Definition[admissionv1.MutatingWebhookConfiguration]{
	Group: group, Version: "v1", Kind: "MutatingWebhookConfiguration", Resource: "mutatingwebhookconfigurations",
	Categories:    []string{"api-extensions"},
	StoragePath:   "mutatingwebhookconfigurations",
	NeedsRevision: true,
	Default:       defaultMutating,
	PrepareCreate: func(c *admissionv1.MutatingWebhookConfiguration) { c.Generation = 1 },
	PrepareUpdate: func(c, old *admissionv1.MutatingWebhookConfiguration) {
		if c.Generation = old.Generation; core.Changed(c.Webhooks, old.Webhooks) {
			c.Generation++
		}
	},
	Validate: validateMutating,
	Columns: []resource.Column[admissionv1.MutatingWebhookConfiguration]{
		{Name: "Webhooks", Type: "integer", Description: "Webhooks indicates the number of webhooks registered in this configuration",
			Value: func(c *admissionv1.MutatingWebhookConfiguration, _ time.Time) any { return int64(len(c.Webhooks)) }},
	},
}), func() runtime.Object { return new(admissionv1.MutatingWebhookConfigurationList) })

func defaultMutating(c *admissionv1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := Common(&c.Webhooks[i])
		defaultWebhook(&w)
		m := &c.Webhooks[i]
		m.FailurePolicy, m.MatchPolicy, m.TimeoutSeconds = w.FailurePolicy, w.MatchPolicy, w.TimeoutSeconds
		m.NamespaceSelector, m.ObjectSelector = w.NamespaceSelector, w.ObjectSelector
		fill(&m.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
	}
}

func validateMutating(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	hooks := make([]admissionv1.ValidatingWebhook, len(c.Webhooks))
	for i := range c.Webhooks {
		hooks[i] = Common(&c.Webhooks[i])
	}
	return webhooksProblems(hooks, c.Webhooks)
}
