// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"slices"

	"knarr.dev/apiserver/admission"
)

// AdmissionConfig says which of Kubernetes' admission plug-ins act, and how; the zero value is Kubernetes' choice, and NodeRestriction.
type AdmissionConfig struct {
	// EnablePlugins adds plug-ins, DisablePlugins takes them away.
	EnablePlugins  []string `yaml:"enableAdmissionPlugins"`
	DisablePlugins []string `yaml:"disableAdmissionPlugins"`
	// ConfigFile is an AdmissionConfiguration (apiserver.config.k8s.io).
	ConfigFile string `yaml:"admissionControlConfigFile"`
}

func (c *AdmissionConfig) plugins() admission.Plugins {
	return admission.Plugins{Enable: c.EnablePlugins, Disable: c.DisablePlugins}
}

func (c *AdmissionConfig) validate(bad func(key, format string, args ...any)) {
	if err := c.plugins().Validate(); err != nil {
		bad("enableAdmissionPlugins", "%v", err)
	}
}

// load reads the file, if there is one.
func (c *AdmissionConfig) load() (*admission.Configuration, error) {
	loaded := &admission.Configuration{}
	if c.ConfigFile != "" {
		var err error
		if loaded, err = admission.LoadConfiguration(c.ConfigFile); err != nil {
			return nil, fmt.Errorf("admissionControlConfigFile %s: %w", c.ConfigFile, err)
		}
	}
	if loaded.ImagePolicy == nil && slices.Contains(c.EnablePlugins, "ImagePolicyWebhook") {
		return nil, errors.New("admissionControlConfigFile: admission plug-in ImagePolicyWebhook is enabled and not configured")
	}
	return loaded, nil
}
