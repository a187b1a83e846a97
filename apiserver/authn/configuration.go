// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

// ParseConfiguration reads an AuthenticationConfiguration (apiserver.config.k8s.io, YAML or JSON). The expressions are checked by JWTs.Set.
func ParseConfiguration(data []byte) (*apiserverv1.AuthenticationConfiguration, error) {
	var c apiserverv1.AuthenticationConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, fmt.Errorf("authentication configuration: %w", err)
	}
	group, version, _ := strings.Cut(c.APIVersion, "/")
	if group != apiserverv1.GroupName || !slices.Contains([]string{"v1", "v1beta1", "v1alpha1"}, version) || c.Kind != "AuthenticationConfiguration" {
		return nil, fmt.Errorf("authentication configuration: it is a %s %s", c.APIVersion, c.Kind)
	}
	var problems []error
	seen := map[string]bool{}
	for i := range c.JWT {
		issuer := &c.JWT[i].Issuer
		urls := []string{issuer.URL}
		if issuer.DiscoveryURL != nil {
			urls = append(urls, *issuer.DiscoveryURL)
		}
		for _, url := range urls {
			if url != "" && seen[url] {
				problems = append(problems, fmt.Errorf("jwt[%d].issuer: Duplicate value: %q", i, url))
			}
			seen[url] = true
		}
	}
	if a := c.Anonymous; a != nil {
		if !a.Enabled && len(a.Conditions) > 0 {
			problems = append(problems, errors.New("anonymous.conditions: conditions need enabled: true"))
		}
		for i, condition := range a.Conditions {
			if condition.Path == "" {
				problems = append(problems, fmt.Errorf("anonymous.conditions[%d].path: Required value", i))
			}
		}
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("authentication configuration: %w", errors.Join(problems...))
	}
	return &c, nil
}

// AnonymousAllowed says for which paths requests without credentials are served, as a configuration says.
func AnonymousAllowed(a *apiserverv1.AnonymousAuthConfig, path string) bool {
	if a == nil {
		return true
	}
	return a.Enabled && (len(a.Conditions) == 0 || slices.ContainsFunc(a.Conditions, func(c apiserverv1.AnonymousAuthCondition) bool { return c.Path == path }))
}

// Flags are the --oidc flags: one issuer without a configuration file.
type Flags struct {
	IssuerURL, ClientID, UsernameClaim, UsernamePrefix, GroupsClaim, GroupsPrefix string
	// CA is in PEM form.
	CA             string
	RequiredClaims map[string]string
}

// Authenticator is the flags as one issuer of a configuration.
func (f *Flags) Authenticator() apiserverv1.JWTAuthenticator {
	claim, prefix := f.UsernameClaim, f.UsernamePrefix
	if claim == "" {
		claim = "sub"
	}
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && claim != "email":
		prefix = f.IssuerURL + "#"
	}
	a := apiserverv1.JWTAuthenticator{
		Issuer:        apiserverv1.Issuer{URL: f.IssuerURL, CertificateAuthority: f.CA, Audiences: []string{f.ClientID}},
		ClaimMappings: apiserverv1.ClaimMappings{Username: apiserverv1.PrefixedClaimOrExpression{Claim: claim, Prefix: &prefix}},
	}
	if f.GroupsClaim != "" {
		a.ClaimMappings.Groups = apiserverv1.PrefixedClaimOrExpression{Claim: f.GroupsClaim, Prefix: &f.GroupsPrefix}
	}
	for name, value := range f.RequiredClaims {
		a.ClaimValidationRules = append(a.ClaimValidationRules, apiserverv1.ClaimValidationRule{Claim: name, RequiredValue: value})
	}
	slices.SortFunc(a.ClaimValidationRules, func(x, y apiserverv1.ClaimValidationRule) int { return strings.Compare(x.Claim, y.Claim) })
	return a
}
