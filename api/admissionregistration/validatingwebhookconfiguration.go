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

// ValidatingWebhookConfigurations name servers that judge what is written.
var ValidatingWebhookConfigurations = resource.WithList(resource.Define(resource.Definition[admissionv1.ValidatingWebhookConfiguration]{
	Group: group, Version: "v1", Kind: "ValidatingWebhookConfiguration", Resource: "validatingwebhookconfigurations",
	Categories:    []string{"api-extensions"},
	StoragePath:   "validatingwebhookconfigurations",
	NeedsRevision: true,
	Default:       defaultValidating,
	PrepareCreate: func(c *admissionv1.ValidatingWebhookConfiguration) { c.Generation = 1 },
	PrepareUpdate: func(c, old *admissionv1.ValidatingWebhookConfiguration) {
		if c.Generation = old.Generation; core.Changed(c.Webhooks, old.Webhooks) {
			c.Generation++
		}
	},
	Validate: validateValidating,
	Columns: []resource.Column[admissionv1.ValidatingWebhookConfiguration]{
		{Name: "Webhooks", Type: "integer", Description: "Webhooks indicates the number of webhooks registered in this configuration",
			Value: func(c *admissionv1.ValidatingWebhookConfiguration, _ time.Time) any { return int64(len(c.Webhooks)) }},
	},
}), func() runtime.Object { return new(admissionv1.ValidatingWebhookConfigurationList) })

func defaultValidating(c *admissionv1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		defaultWebhook(&c.Webhooks[i])
	}
}

func validateValidating(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	return webhooksProblems(c.Webhooks, nil)
}
