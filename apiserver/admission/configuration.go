// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podsecurityv1 "k8s.io/pod-security-admission/admission/api/v1"
	"sigs.k8s.io/yaml"

	"knarr.dev/apiserver/webhook"
)

// Configuration tunes single steps; the zero value is Kubernetes' default.
type Configuration struct {
	// PodSecurity holds pods to the Pod Security Standards.
	PodSecurity PodSecurity
	// EventLimits are those of EventRateLimit.
	EventLimits []EventLimit
	// ImagePolicy is what ImagePolicyWebhook asks.
	ImagePolicy *ImagePolicy
	// LimitedResources are consumed only where a ResourceQuota allows it.
	LimitedResources []LimitedResource
	// NodeSelectors are those of PodNodeSelector by namespace, and by clusterDefaultNodeSelector that of the others.
	NodeSelectors map[string]string
	// Tolerations are those of PodTolerationRestriction.
	Tolerations Tolerations
	// MutatingWebhooks and ValidatingWebhooks are what is shown to webhooks; nil is nothing.
	MutatingWebhooks, ValidatingWebhooks *webhook.Credentials
}

// LoadConfiguration reads an AdmissionConfiguration (apiserver.config.k8s.io/v1) and the files that it names. Plug-ins that need no
// configuration here are passed over, as those that Kubernetes does not know.
//
// See https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/.
func LoadConfiguration(file string) (*Configuration, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var c struct {
		metav1.TypeMeta `json:",inline"`
		Plugins         []struct {
			Name          string          `json:"name"`
			Path          string          `json:"path"`
			Configuration json.RawMessage `json:"configuration"`
		} `json:"plugins"`
	}
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, err
	}
	if c.APIVersion != "apiserver.config.k8s.io/v1" || c.Kind != "AdmissionConfiguration" {
		return nil, fmt.Errorf("it is a %s %s, not an apiserver.config.k8s.io/v1 AdmissionConfiguration", c.APIVersion, c.Kind)
	}
	out := &Configuration{}
	seen := map[string]bool{}
	for i := range c.Plugins {
		p := &c.Plugins[i]
		if seen[p.Name] {
			return nil, fmt.Errorf("plug-in %s is configured twice", p.Name)
		}
		seen[p.Name] = true
		raw := []byte(p.Configuration)
		if len(raw) == 0 && p.Path != "" {
			path := p.Path
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(file), path)
			}
			if raw, err = os.ReadFile(path); err != nil {
				return nil, fmt.Errorf("plug-in %s: %w", p.Name, err)
			}
		}
		if len(raw) == 0 {
			continue
		}
		if err := out.set(p.Name, raw); err != nil {
			return nil, fmt.Errorf("plug-in %s: %w", p.Name, err)
		}
	}
	return out, nil
}

// set reads the configuration of one plug-in.
func (c *Configuration) set(name string, raw []byte) (err error) {
	switch name {
	case "PodSecurity":
		return c.setPodSecurity(raw)
	case "EventRateLimit":
		return c.setEventLimits(raw)
	case "ImagePolicyWebhook":
		c.ImagePolicy, err = parseImagePolicy(raw)
	case "ResourceQuota":
		var q struct {
			metav1.TypeMeta  `json:",inline"`
			LimitedResources []LimitedResource `json:"limitedResources"`
		}
		err = decode(raw, &q, &q.TypeMeta, "apiserver.config.k8s.io/v1 ResourceQuotaConfiguration",
			"resourcequota.admission.k8s.io/v1beta1 Configuration", "resourcequota.admission.k8s.io/v1alpha1 Configuration")
		c.LimitedResources = q.LimitedResources
	case "PodNodeSelector":
		var s struct {
			Selectors map[string]string `json:"podNodeSelectorPluginConfig"`
		}
		err = yaml.Unmarshal(raw, &s)
		c.NodeSelectors = s.Selectors
	case "PodTolerationRestriction":
		var t struct {
			metav1.TypeMeta `json:",inline"`
			Tolerations     `json:",inline"`
		}
		err = decode(raw, &t, &t.TypeMeta, "podtolerationrestriction.admission.k8s.io/v1alpha1 Configuration")
		c.Tolerations = t.Tolerations
	case "MutatingAdmissionWebhook":
		c.MutatingWebhooks, err = credentials(raw)
	case "ValidatingAdmissionWebhook":
		c.ValidatingWebhooks, err = credentials(raw)
	}
	return err
}

// decode reads one of several kinds, each "apiVersion kind".
func decode(raw []byte, into any, meta *metav1.TypeMeta, kinds ...string) error {
	if err := yaml.UnmarshalStrict(raw, into); err != nil {
		return err
	}
	for _, kind := range kinds {
		if meta.APIVersion+" "+meta.Kind == kind {
			return nil
		}
	}
	return fmt.Errorf("it is a %s %s, not a %s", meta.APIVersion, meta.Kind, kinds[0])
}

func credentials(raw []byte) (*webhook.Credentials, error) {
	var c struct {
		metav1.TypeMeta `json:",inline"`
		File            string `json:"kubeConfigFile"`
	}
	if err := decode(raw, &c, &c.TypeMeta, "apiserver.config.k8s.io/v1 WebhookAdmissionConfiguration",
		"apiserver.config.k8s.io/v1alpha1 WebhookAdmission"); err != nil || c.File == "" {
		return nil, err
	}
	if !filepath.IsAbs(c.File) {
		return nil, fmt.Errorf("kubeConfigFile must be an absolute file path; got %q", c.File)
	}
	return webhook.LoadCredentials(c.File)
}

func (c *Configuration) setEventLimits(raw []byte) error {
	var l struct {
		metav1.TypeMeta `json:",inline"`
		Limits          []EventLimit `json:"limits"`
	}
	if err := decode(raw, &l, &l.TypeMeta, "eventratelimit.admission.k8s.io/v1alpha1 Configuration"); err != nil {
		return err
	}
	var problems []error
	if len(l.Limits) == 0 {
		problems = append(problems, errors.New("limits: Required value: must be specified"))
	}
	for i := range l.Limits {
		limit := &l.Limits[i]
		switch limit.Type {
		case "Server", "Namespace", "User", "SourceAndObject":
		default:
			problems = append(problems, fmt.Errorf("limits[%d].type: %q is none of Server, Namespace, User, SourceAndObject", i, limit.Type))
		}
		if limit.QPS <= 0 || limit.Burst <= 0 || limit.CacheSize < 0 {
			problems = append(problems, fmt.Errorf("limits[%d]: qps and burst must be positive, cacheSize not negative", i))
		}
	}
	c.EventLimits = l.Limits
	return errors.Join(problems...)
}

func (c *Configuration) setPodSecurity(raw []byte) error {
	var p podsecurityv1.PodSecurityConfiguration
	group := "pod-security.admission.config.k8s.io/"
	if err := decode(raw, &p, &p.TypeMeta, group+"v1 PodSecurityConfiguration", group+"v1beta1 PodSecurityConfiguration",
		group+"v1alpha1 PodSecurityConfiguration"); err != nil {
		return err
	}
	d, e := p.Defaults, p.Exemptions
	c.PodSecurity = PodSecurity{
		Defaults: map[string]string{
			"enforce": d.Enforce, "enforce-version": d.EnforceVersion, "audit": d.Audit, "audit-version": d.AuditVersion,
			"warn": d.Warn, "warn-version": d.WarnVersion,
		},
		Usernames: e.Usernames, RuntimeClasses: e.RuntimeClasses, Namespaces: e.Namespaces,
	}
	for _, name := range append(e.Namespaces, e.Usernames...) {
		if strings.TrimSpace(name) == "" {
			return errors.New("exemptions: a name is empty")
		}
	}
	_, err := defaultPolicy(c.PodSecurity.Defaults)
	return err
}
