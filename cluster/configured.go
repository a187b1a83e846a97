// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"knarr.dev/api"
	"knarr.dev/apiserver/admission"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/authz"
	"knarr.dev/apiserver/callout"
	"knarr.dev/apiserver/encryption"
	"knarr.dev/apiserver/tracing"
)

// lookEvery is how often files are looked at that are read again when they change.
const lookEvery = 10 * time.Second

// follow applies a file now and, if it shall be read again, whenever it changes. Later contents that are not valid change nothing.
func (c *Cluster) follow(key, file string, again bool, apply func(data []byte) error) error {
	last, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	if err := apply(last); err != nil {
		return fmt.Errorf("%s %s: %w", key, file, err)
	}
	if !again {
		return nil
	}
	c.parts.run("file "+file, func(ctx context.Context) error {
		ticker := time.NewTicker(lookEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
			data, err := os.ReadFile(file)
			if err != nil || bytes.Equal(data, last) {
				continue
			}
			last = data
			if err := apply(data); err != nil {
				c.log.Error("configuration file is not valid: the last one stays in use", "key", key, "file", file, "err", err)
				continue
			}
			c.log.Info("read configuration file again", "key", key, "file", file)
		}
	})
	return nil
}

// tokenSources are who knows tokens beside the server itself.
func (c *Cluster) tokenSources(audiences []string) (sources []authn.Source, err error) {
	s := &c.config.Security
	jwts := authn.NewJWTs(authn.JWTOptions{})
	switch {
	case s.AuthenticationConfig != "":
		err = c.follow("authenticationConfig", s.AuthenticationConfig, true, func(data []byte) error {
			parsed, err := authn.ParseConfiguration(data)
			if err != nil {
				return err
			}
			if parsed.Anonymous != nil && s.AnonymousAuth != nil {
				return fmt.Errorf("anonymous: it excludes anonymousAuth")
			}
			if err := jwts.Set(parsed.JWT, nil); err != nil {
				return err
			}
			c.anonymousRules.Store(parsed.Anonymous)
			return nil
		})
		sources = append(sources, jwts)
	case s.OIDCIssuerURL != "":
		flags := authn.Flags{
			IssuerURL: s.OIDCIssuerURL, ClientID: s.OIDCClientID, UsernameClaim: s.OIDCUsernameClaim, UsernamePrefix: s.OIDCUsernamePrefix,
			GroupsClaim: s.OIDCGroupsClaim, GroupsPrefix: s.OIDCGroupsPrefix, RequiredClaims: map[string]string{},
		}
		for _, claim := range s.OIDCRequiredClaims {
			name, value, _ := strings.Cut(claim, "=")
			flags.RequiredClaims[name] = value
		}
		if s.OIDCCAFile != "" {
			ca, err := os.ReadFile(s.OIDCCAFile)
			if err != nil {
				return nil, fmt.Errorf("oidcCAFile: %w", err)
			}
			flags.CA = string(ca)
		}
		algorithms := s.OIDCSigningAlgs
		if len(algorithms) == 0 {
			algorithms = []string{"RS256"}
		}
		err = jwts.Set([]apiserverv1.JWTAuthenticator{flags.Authenticator()}, algorithms)
		sources = append(sources, jwts)
	}
	if err != nil || s.AuthenticationTokenWebhookConfigFile == "" {
		return sources, err
	}
	client, err := callout.New(callout.Config{File: s.AuthenticationTokenWebhookConfigFile, Timeout: 30 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("authenticationTokenWebhookConfigFile: %w", err)
	}
	return append(sources, authn.NewWebhook(authn.WebhookConfig{
		Client: client, Version: s.AuthenticationTokenWebhookVersion, TTL: orNumber(s.AuthenticationTokenWebhookCacheTTL, 2*time.Minute), Audiences: audiences,
	})), nil
}

// anonymous says where requests without credentials are served.
func (c *Cluster) anonymous() func(path string) bool {
	allowed := yes(c.config.Security.AnonymousAuth)
	return func(path string) bool { return allowed && authn.AnonymousAllowed(c.anonymousRules.Load(), path) }
}

// authorizer makes what decides about requests.
func (c *Cluster) authorizer(r admission.Reader) (authz.Authorizer, error) {
	s := &c.config.Security
	switch {
	case s.AuthorizationConfig != "":
		dynamic := &authz.Dynamic{}
		dynamic.Set(authz.Chain())
		return dynamic, c.follow("authorizationConfig", s.AuthorizationConfig, true, func(data []byte) error {
			built, err := authz.ParseConfiguration(data, r)
			if err == nil {
				dynamic.Set(authz.Chain(built.Members...))
			}
			return err
		})
	case len(s.AuthorizationModes) == 0:
		return authz.New(r), nil
	}
	var members []authz.Authorizer
	for _, mode := range s.AuthorizationModes {
		member, err := c.mode(mode, r)
		if err != nil {
			return authz.Chain(), fmt.Errorf("authorizationMode: %w", err)
		}
		members = append(members, member)
	}
	return authz.Chain(members...), nil
}

func (c *Cluster) mode(mode string, r admission.Reader) (authz.Authorizer, error) {
	if mode != "Webhook" {
		return authz.Mode(mode, r)
	}
	s := &c.config.Security
	client, err := callout.New(callout.Config{File: s.AuthorizationWebhookConfigFile, Timeout: 30 * time.Second})
	if err != nil {
		return nil, err
	}
	version := s.AuthorizationWebhookVersion
	if version == "" {
		version = "v1beta1"
	}
	return authz.NewWebhook(authz.WebhookConfig{
		Name: "default", Client: client, Version: version, AuthorizedTTL: orNumber(s.AuthorizationWebhookCacheAuthorizedTTL, 5*time.Minute),
		UnauthorizedTTL: orNumber(s.AuthorizationWebhookCacheUnauthorizedTTL, 30*time.Second),
	})
}

// tracer makes what the configuration asks for; nil is nothing. It ends after the API server.
func (c *Cluster) tracer() (*tracing.Tracer, error) {
	file := c.config.Serving.TracingConfigFile
	if file == "" {
		return nil, nil
	}
	var t *tracing.Tracer
	err := c.follow("tracingConfigFile", file, false, func(data []byte) error {
		config, err := tracing.ParseConfiguration(data)
		if err != nil {
			return err
		}
		identity, err := c.serverIdentity()
		if err != nil {
			return err
		}
		t, err = tracing.New(config, identity, c.log)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.parts.onStop("traces", t.Close)
	return t, nil
}

// encryptStore puts encryption in front of the store.
func (c *Cluster) encryptStore(context.Context) error {
	s := &c.config.Security
	c.encryption = encryption.NewConfig(api.Kinds())
	c.encryption.Count(c.figures)
	c.encrypted = encryption.Wrap(c.store, c.encryption)
	if e := c.config.Etcd; e.used() && e.Prefix != "" {
		c.encrypted.Stored(storeBase, strings.TrimSuffix(e.Prefix, "/"))
	}
	c.store = c.encrypted
	return c.follow("encryptionProviderConfig", s.EncryptionProviderConfig, s.EncryptionProviderConfigAutomaticReload, func(data []byte) error {
		return c.encryption.Set(data, c.log)
	})
}
