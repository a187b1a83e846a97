// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/authn"
	"knarr.dev/client"
	"knarr.dev/pki"
)

// SecurityConfig says who is recognised and what they may do. The keys are Kubernetes' flags in the form of other keys; the zero value
// is Kubernetes' default, with the cluster's own authorities.
type SecurityConfig struct {
	// TLSCertFile and TLSPrivateKeyFile are what an API server alone serves instead of a certificate of the cluster's own authority, which
	// is the one that kubeconfig files written by it name.
	TLSCertFile       string `yaml:"tlsCertFile"`
	TLSPrivateKeyFile string `yaml:"tlsPrivateKeyFile"`

	// ClientCAFile holds further authorities of client certificates.
	ClientCAFile string `yaml:"clientCAFile"`

	// RequestHeader is which front proxies are believed. By default those with a certificate of the cluster's front-proxy-ca.
	RequestHeaderClientCAFile        string   `yaml:"requestheaderClientCAFile"`
	RequestHeaderAllowedNames        []string `yaml:"requestheaderAllowedNames"`
	RequestHeaderUsernameHeaders     []string `yaml:"requestheaderUsernameHeaders"`
	RequestHeaderUIDHeaders          []string `yaml:"requestheaderUIDHeaders"`
	RequestHeaderGroupHeaders        []string `yaml:"requestheaderGroupHeaders"`
	RequestHeaderExtraHeaderPrefixes []string `yaml:"requestheaderExtraHeadersPrefix"`

	// ServiceAccountIssuers name the issuer of tokens: the first one signs, all are accepted.
	ServiceAccountIssuers []string `yaml:"serviceAccountIssuer"`
	// APIAudiences are the audiences of the API server; by default the first issuer.
	APIAudiences []string `yaml:"apiAudiences"`
	// ServiceAccountSigningKeyFile is the key that signs; by default the cluster's own.
	ServiceAccountSigningKeyFile string `yaml:"serviceAccountSigningKeyFile"`
	// ServiceAccountKeyFiles hold further keys whose signatures are accepted.
	ServiceAccountKeyFiles []string `yaml:"serviceAccountKeyFile"`
	// ServiceAccountJWKSURI is where others find the keys.
	ServiceAccountJWKSURI string `yaml:"serviceAccountJWKSURI"`
	// ServiceAccountMaxTokenExpiration bounds the lifetime of tokens, at least an hour; 0 is no bound.
	ServiceAccountMaxTokenExpiration time.Duration `yaml:"serviceAccountMaxTokenExpiration"`
	// ServiceAccountExtendTokenExpiration, true by default, gives the tokens that pods mount a year.
	ServiceAccountExtendTokenExpiration *bool `yaml:"serviceAccountExtendTokenExpiration"`

	// AuthenticationConfig is an AuthenticationConfiguration (apiserver.config.k8s.io); it is read again when it changes.
	AuthenticationConfig string `yaml:"authenticationConfig"`
	// AuthenticationTokenWebhook is asked for tokens that nobody here knows.
	AuthenticationTokenWebhookConfigFile string        `yaml:"authenticationTokenWebhookConfigFile"`
	AuthenticationTokenWebhookVersion    string        `yaml:"authenticationTokenWebhookVersion"`
	AuthenticationTokenWebhookCacheTTL   time.Duration `yaml:"authenticationTokenWebhookCacheTTL"`
	// OIDC is one issuer of tokens without a configuration file.
	OIDCIssuerURL      string   `yaml:"oidcIssuerURL"`
	OIDCClientID       string   `yaml:"oidcClientID"`
	OIDCCAFile         string   `yaml:"oidcCAFile"`
	OIDCUsernameClaim  string   `yaml:"oidcUsernameClaim"`
	OIDCUsernamePrefix string   `yaml:"oidcUsernamePrefix"`
	OIDCGroupsClaim    string   `yaml:"oidcGroupsClaim"`
	OIDCGroupsPrefix   string   `yaml:"oidcGroupsPrefix"`
	OIDCRequiredClaims []string `yaml:"oidcRequiredClaim"`
	OIDCSigningAlgs    []string `yaml:"oidcSigningAlgs"`

	// AuthorizationModes are Node,RBAC by default; others are Webhook, AlwaysAllow and AlwaysDeny.
	AuthorizationModes []string `yaml:"authorizationMode"`
	// AuthorizationConfig is an AuthorizationConfiguration (apiserver.config.k8s.io) instead of modes; it is read again when it changes.
	AuthorizationConfig                      string        `yaml:"authorizationConfig"`
	AuthorizationWebhookConfigFile           string        `yaml:"authorizationWebhookConfigFile"`
	AuthorizationWebhookVersion              string        `yaml:"authorizationWebhookVersion"`
	AuthorizationWebhookCacheAuthorizedTTL   time.Duration `yaml:"authorizationWebhookCacheAuthorizedTTL"`
	AuthorizationWebhookCacheUnauthorizedTTL time.Duration `yaml:"authorizationWebhookCacheUnauthorizedTTL"`

	// EncryptionProviderConfig is an EncryptionConfiguration (apiserver.config.k8s.io).
	EncryptionProviderConfig string `yaml:"encryptionProviderConfig"`
	// EncryptionProviderConfigAutomaticReload reads it again when it changes.
	EncryptionProviderConfigAutomaticReload bool `yaml:"encryptionProviderConfigAutomaticReload"`

	// AnonymousAuth, true by default, serves requests without credentials as system:anonymous.
	AnonymousAuth *bool `yaml:"anonymousAuth"`
}

// validate adds the problems of the part.
func (c *SecurityConfig) validate(bad func(key, format string, args ...any)) {
	if n := c.ServiceAccountMaxTokenExpiration; n != 0 && n < time.Hour {
		bad("serviceAccountMaxTokenExpiration", "%v is less than an hour", n)
	}
	if c.AuthenticationConfig != "" && c.OIDCIssuerURL != "" {
		bad("authenticationConfig", "it excludes oidcIssuerURL")
	}
	if (c.OIDCIssuerURL == "") != (c.OIDCClientID == "") {
		bad("oidcClientID", "oidcIssuerURL and oidcClientID belong together")
	}
	for _, claim := range c.OIDCRequiredClaims {
		if !strings.Contains(claim, "=") {
			bad("oidcRequiredClaim", "%q is not of the form NAME=VALUE", claim)
		}
	}
	if c.AuthorizationConfig != "" && (len(c.AuthorizationModes) > 0 || c.AuthorizationWebhookConfigFile != "") {
		bad("authorizationConfig", "it excludes authorizationMode and authorizationWebhookConfigFile")
	}
	if slices.Contains(c.AuthorizationModes, "Webhook") != (c.AuthorizationWebhookConfigFile != "") {
		bad("authorizationWebhookConfigFile", "it and the mode Webhook belong together")
	}
	for _, v := range []struct{ key, version string }{
		{"authenticationTokenWebhookVersion", c.AuthenticationTokenWebhookVersion}, {"authorizationWebhookVersion", c.AuthorizationWebhookVersion},
	} {
		if v.version != "" && v.version != "v1" && v.version != "v1beta1" {
			bad(v.key, "%q is none of v1, v1beta1", v.version)
		}
	}
}

func yes(b *bool) bool { return b == nil || *b }

// tokenIssuer makes the issuer of service account tokens.
func (c *Cluster) tokenIssuer() (*authn.Issuer, error) {
	s := &c.config.Security
	config := authn.IssuerConfig{
		Key: c.pki.TokenKey(), URLs: s.ServiceAccountIssuers, Audiences: s.APIAudiences, KeysURI: s.ServiceAccountJWKSURI,
		MaxLifetime: s.ServiceAccountMaxTokenExpiration, NoExtension: !yes(s.ServiceAccountExtendTokenExpiration),
	}
	if s.ServiceAccountSigningKeyFile != "" {
		keys, err := readKeys(s.ServiceAccountSigningKeyFile)
		if err != nil {
			return nil, fmt.Errorf("serviceAccountSigningKeyFile: %w", err)
		}
		private, ok := keys[0].(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("serviceAccountSigningKeyFile: %s holds no private key", s.ServiceAccountSigningKeyFile)
		}
		config.Key = private
	}
	for _, file := range s.ServiceAccountKeyFiles {
		keys, err := readKeys(file)
		if err != nil {
			return nil, fmt.Errorf("serviceAccountKeyFile: %w", err)
		}
		for _, k := range keys {
			if private, ok := k.(crypto.Signer); ok {
				k = private.Public()
			}
			config.Keys = append(config.Keys, k)
		}
	}
	return authn.NewIssuer(config)
}

// readKeys reads the private and public keys of a PEM file, at least one.
func readKeys(file string) (keys []any, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		var key any
		switch block.Type {
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "PUBLIC KEY":
			key, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			key, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var certificate *x509.Certificate
			if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
				key = certificate.PublicKey
			}
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no key", file)
	}
	return keys, nil
}

// identities is how requests are recognised.
func (c *Cluster) identities(issuer *authn.Issuer) (authn.Config, error) {
	s := &c.config.Security
	config := authn.Config{ClientCAs: c.pki.ClientCAs, Issuer: issuer, Objects: &authn.Objects{}, Used: c.tokenUsed}
	var err error
	if config.Static, err = staticTokens(c.config.TokenFile); err != nil {
		return config, err
	}
	if s.ClientCAFile != "" {
		extra, err := os.ReadFile(s.ClientCAFile)
		if err != nil {
			return config, fmt.Errorf("clientCAFile: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(extra) {
			return config, fmt.Errorf("clientCAFile: %s holds no certificate", s.ClientCAFile)
		}
		config.ClientCAs = joined(c.pki.ClientCAs, extra)
	}
	if config.FrontProxy, err = c.frontProxy(); err != nil {
		return config, err
	}
	config.Sources, err = c.tokenSources(issuer.Audiences())
	return config, err
}

// acceptedCAs are the authorities that the server names when it asks for client certificates: clients show no others. Whether a
// certificate is good is decided by authn.
func (c *Cluster) acceptedCAs() *x509.CertPool {
	pool := c.pki.ClientCAs().Clone()
	pool.AppendCertsFromPEM(c.pki.Certificate(pki.FrontProxyCA))
	for _, file := range []string{c.config.Security.ClientCAFile, c.config.Security.RequestHeaderClientCAFile} {
		if data, err := os.ReadFile(file); file != "" && err == nil { // what is wrong with it has been said
			pool.AppendCertsFromPEM(data)
		}
	}
	return pool
}

// joined adds certificates to a pool that may change; the result changes only when the pool does.
func joined(own func() *x509.CertPool, extra []byte) func() *x509.CertPool {
	type pair struct{ of, both *x509.CertPool }
	last := make(chan pair, 1)
	last <- pair{}
	return func() *x509.CertPool {
		p := <-last
		defer func() { last <- p }()
		if now := own(); p.of != now {
			p = pair{now, now.Clone()}
			p.both.AppendCertsFromPEM(extra)
		}
		return p.both
	}
}

// frontProxy is which front proxies are believed.
func (c *Cluster) frontProxy() (*authn.FrontProxy, error) {
	s := &c.config.Security
	f := &authn.FrontProxy{
		CAs: func() *x509.CertPool { return c.pki.Pool(pki.FrontProxyCA) }, AllowedNames: s.RequestHeaderAllowedNames,
		UsernameHeaders:     or(s.RequestHeaderUsernameHeaders, "X-Remote-User"),
		UIDHeaders:          or(s.RequestHeaderUIDHeaders, "X-Remote-Uid"),
		GroupHeaders:        or(s.RequestHeaderGroupHeaders, "X-Remote-Group"),
		ExtraHeaderPrefixes: or(s.RequestHeaderExtraHeaderPrefixes, "X-Remote-Extra-"),
	}
	if s.RequestHeaderClientCAFile == "" {
		if len(f.AllowedNames) == 0 {
			f.AllowedNames = []string{"front-proxy-client"}
		}
		return f, nil
	}
	data, err := os.ReadFile(s.RequestHeaderClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("requestheaderClientCAFile: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("requestheaderClientCAFile: %s holds no certificate", s.RequestHeaderClientCAFile)
	}
	f.CAs = func() *x509.CertPool { return pool }
	return f, nil
}

func or(list []string, otherwise string) []string {
	if len(list) == 0 {
		return []string{otherwise}
	}
	return list
}

// tokenUsed writes into a Secret that its token was used today.
func (c *Cluster) tokenUsed(ctx context.Context, secret *corev1.Secret) {
	day := time.Now().UTC().Format(time.DateOnly)
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"labels":{%q:%q}}}`, secret.UID, authn.LastUsedLabel, day)
	secrets := client.Of(c.Client(Administrator()), core.Secrets)
	secrets.Manager = "kube-apiserver"
	_, err := secrets.Patch(ctx, client.KeyOf(secret), "application/merge-patch+json", patch, "")
	if err != nil {
		c.log.Debug("note the use of a token", "secret", client.KeyOf(secret), "err", err)
	}
}

// authenticationConfigMap tells aggregated API servers whom to believe: kube-system/extension-apiserver-authentication.
func (c *Cluster) authenticationConfigMap(proxy *authn.FrontProxy) (apiserver.Bootstrap, error) {
	s := &c.config.Security
	clients, err := withFile(c.pki.Certificate(pki.ClientCA), s.ClientCAFile)
	if err != nil {
		return apiserver.Bootstrap{}, err
	}
	fronts := c.pki.Certificate(pki.FrontProxyCA)
	if s.RequestHeaderClientCAFile != "" {
		if fronts, err = os.ReadFile(s.RequestHeaderClientCAFile); err != nil {
			return apiserver.Bootstrap{}, err
		}
	}
	data := map[string]string{
		"client-ca-file":                     string(clients),
		"requestheader-client-ca-file":       string(fronts),
		"requestheader-allowed-names":        jsonList(proxy.AllowedNames),
		"requestheader-username-headers":     jsonList(proxy.UsernameHeaders),
		"requestheader-uid-headers":          jsonList(proxy.UIDHeaders),
		"requestheader-group-headers":        jsonList(proxy.GroupHeaders),
		"requestheader-extra-headers-prefix": jsonList(proxy.ExtraHeaderPrefixes),
	}
	return apiserver.Bootstrap{
		Kind:   core.ConfigMaps.Kind,
		Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "extension-apiserver-authentication"}, Data: data},
		Reconcile: func(o resource.Object) bool {
			have := core.ConfigMaps.Cast(o)
			changed := false
			for k, v := range data {
				if have.Data[k] != v {
					if have.Data == nil {
						have.Data = map[string]string{}
					}
					have.Data[k], changed = v, true
				}
			}
			return changed
		},
	}, nil
}

func withFile(data []byte, file string) ([]byte, error) {
	if file == "" {
		return data, nil
	}
	more, err := os.ReadFile(file)
	return append(append([]byte{}, data...), more...), err
}

// publicBase is the URL at which others reach the server, for the document that tells where the keys are.
func (c *Cluster) publicBase() string {
	if c.listener == nil {
		return ""
	}
	address := c.listener.Addr().(*net.TCPAddr)
	host := address.IP.String()
	if ip, ok := c.outside(); ok {
		host = ip.String()
	} else if c.config.Nodes > 0 {
		host = c.network.Gateway().String()
	}
	return "https://" + net.JoinHostPort(host, fmt.Sprint(address.Port))
}

func jsonList(list []string) string {
	if list == nil {
		list = []string{}
	}
	b, err := json.Marshal(list)
	if err != nil {
		panic(err) // a list of strings
	}
	return string(b)
}
