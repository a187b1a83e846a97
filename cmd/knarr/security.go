// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"knarr.dev/cluster"
)

// flag is one flag and where its value goes: a *string, *[]string, *int, *time.Duration, *bool or **bool.
type flag struct {
	name, usage string
	value       any
}

// securityFlags are named as those of kube-apiserver.
func securityFlags(c *cluster.SecurityConfig) []flag {
	return []flag{
		{"tls-cert-file", "`FILE` of the certificate that is served, instead of one of the cluster's own authority (apiserver only)", &c.TLSCertFile},
		{"tls-private-key-file", "`FILE` of its key", &c.TLSPrivateKeyFile},
		{"client-ca-file", "`FILE` of further authorities of client certificates", &c.ClientCAFile},
		{"requestheader-client-ca-file", "`FILE` of the authorities of front proxies (default the cluster's own)", &c.RequestHeaderClientCAFile},
		{"requestheader-allowed-names", "common names of front proxies (default front-proxy-client, or any with a CA file)", &c.RequestHeaderAllowedNames},
		{"requestheader-username-headers", "headers with the user's name (default X-Remote-User)", &c.RequestHeaderUsernameHeaders},
		{"requestheader-uid-headers", "headers with the user's UID (default X-Remote-Uid)", &c.RequestHeaderUIDHeaders},
		{"requestheader-group-headers", "headers with groups (default X-Remote-Group)", &c.RequestHeaderGroupHeaders},
		{"requestheader-extra-headers-prefix", "prefixes of headers with more about the user (default X-Remote-Extra-)", &c.RequestHeaderExtraHeaderPrefixes},
		{"service-account-issuer", "issuer of service account tokens; the first signs, all are accepted", &c.ServiceAccountIssuers},
		{"api-audiences", "audiences of the API server (default the first issuer)", &c.APIAudiences},
		{"service-account-signing-key-file", "private key that signs service account tokens (default the cluster's own)", &c.ServiceAccountSigningKeyFile},
		{"service-account-key-file", "further keys whose service account tokens are accepted", &c.ServiceAccountKeyFiles},
		{"service-account-jwks-uri", "where others find the keys of service account tokens", &c.ServiceAccountJWKSURI},
		{"service-account-max-token-expiration", "longest lifetime of service account tokens (default no bound)", &c.ServiceAccountMaxTokenExpiration},
		{"service-account-extend-token-expiration", "let the tokens that pods mount live a year (default true)", &c.ServiceAccountExtendTokenExpiration},
		{"authentication-config", "`FILE` with issuers of tokens and rules for anonymous requests; read again when it changes", &c.AuthenticationConfig},
		{"authentication-token-webhook-config-file", "`FILE` in kubeconfig form that names a webhook which knows tokens", &c.AuthenticationTokenWebhookConfigFile},
		{"authentication-token-webhook-version", "version of the TokenReview that is sent: v1 or v1beta1 (default v1beta1)", &c.AuthenticationTokenWebhookVersion},
		{"authentication-token-webhook-cache-ttl", "how long its answers are remembered (default 2m)", &c.AuthenticationTokenWebhookCacheTTL},
		{"oidc-issuer-url", "issuer of OpenID Connect tokens", &c.OIDCIssuerURL},
		{"oidc-client-id", "audience of OpenID Connect tokens", &c.OIDCClientID},
		{"oidc-ca-file", "`FILE` of the authorities of the issuer (default those of this machine)", &c.OIDCCAFile},
		{"oidc-username-claim", "claim with the user's name (default sub)", &c.OIDCUsernameClaim},
		{"oidc-username-prefix", "prefix of users' names; - is none (default the issuer and #, none for email)", &c.OIDCUsernamePrefix},
		{"oidc-groups-claim", "claim with the user's groups", &c.OIDCGroupsClaim},
		{"oidc-groups-prefix", "prefix of groups", &c.OIDCGroupsPrefix},
		{"oidc-required-claim", "NAME=VALUE that tokens must have; repeatable", &c.OIDCRequiredClaims},
		{"oidc-signing-algs", "algorithms of signatures (default RS256)", &c.OIDCSigningAlgs},
		{"authorization-mode", "authorizers in order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny (default Node,RBAC)", &c.AuthorizationModes},
		{"authorization-config", "`FILE` with authorizers; read again when it changes", &c.AuthorizationConfig},
		{"authorization-webhook-config-file", "`FILE` in kubeconfig form that names a webhook which decides about requests", &c.AuthorizationWebhookConfigFile},
		{"authorization-webhook-version", "version of the SubjectAccessReview that is sent: v1 or v1beta1 (default v1beta1)", &c.AuthorizationWebhookVersion},
		{"authorization-webhook-cache-authorized-ttl", "how long yes is remembered (default 5m)", &c.AuthorizationWebhookCacheAuthorizedTTL},
		{"authorization-webhook-cache-unauthorized-ttl", "how long no is remembered (default 30s)", &c.AuthorizationWebhookCacheUnauthorizedTTL},
		{"encryption-provider-config", "`FILE` that says what is stored encrypted, and how", &c.EncryptionProviderConfig},
		{"encryption-provider-config-automatic-reload", "read that file again when it changes", &c.EncryptionProviderConfigAutomaticReload},
		{"anonymous-auth", "serve requests without credentials as system:anonymous (default true)", &c.AnonymousAuth},
	}
}

// admissionFlags are named as those of kube-apiserver.
func admissionFlags(c *cluster.AdmissionConfig) []flag {
	return []flag{
		{"enable-admission-plugins", "admission plug-ins that act beside the usual ones", &c.EnablePlugins},
		{"disable-admission-plugins", "admission plug-ins that do not act", &c.DisablePlugins},
		{"admission-control-config-file", "`FILE` that configures admission plug-ins (apiserver.config.k8s.io AdmissionConfiguration)", &c.ConfigFile},
	}
}

// auditFlags are named as those of kube-apiserver.
func auditFlags(c *cluster.AuditConfig) []flag {
	return []flag{
		{"audit-policy-file", "`FILE` that says what is recorded (audit.k8s.io/v1)", &c.PolicyFile},
		{"audit-log-path", "file of audit events; - is standard output", &c.LogPath},
		{"audit-log-maxsize", "megabytes from which the file is rotated (default 100)", &c.LogMaxSize},
		{"audit-log-maxage", "days that rotated files are kept (default 366; negative is no bound)", &c.LogMaxAge},
		{"audit-log-maxbackup", "rotated files that are kept (default 100)", &c.LogMaxBackup},
		{"audit-log-mode", "blocking, blocking-strict or batch (default blocking)", &c.LogMode},
		{"audit-log-format", "json or legacy (default json)", &c.LogFormat},
		{"audit-log-batch-buffer-size", "events that wait at most (default 10000)", &c.LogBatchBufferSize},
		{"audit-log-batch-max-size", "events of a batch (default 1)", &c.LogBatchMaxSize},
		{"audit-log-batch-max-wait", "longest wait for a full batch (default no bound)", &c.LogBatchMaxWait},
		{"audit-log-batch-throttle-enable", "bound batches a second", &c.LogBatchThrottleEnable},
		{"audit-log-batch-throttle-qps", "batches a second", &c.LogBatchThrottleQPS},
		{"audit-log-batch-throttle-burst", "batches at once", &c.LogBatchThrottleBurst},
		{"audit-log-compress", "compress rotated files", &c.LogCompress},
		{"audit-log-truncate-enabled", "take the bodies from events that are too large", &c.LogTruncateEnabled},
		{"audit-log-truncate-max-event-size", "bytes of an event (default 102400)", &c.LogTruncateMaxEventSize},
		{"audit-log-truncate-max-batch-size", "bytes of a batch (default 10485760)", &c.LogTruncateMaxBatchSize},
		{"audit-webhook-config-file", "`FILE` in kubeconfig form that names a webhook for audit events", &c.WebhookConfigFile},
		{"audit-webhook-mode", "batch, blocking or blocking-strict (default batch)", &c.WebhookMode},
		{"audit-webhook-initial-backoff", "pause before the second try (default 10s)", &c.WebhookInitialBackoff},
		{"audit-webhook-batch-buffer-size", "events that wait at most (default 10000)", &c.WebhookBatchBufferSize},
		{"audit-webhook-batch-max-size", "events of a batch (default 400)", &c.WebhookBatchMaxSize},
		{"audit-webhook-batch-max-wait", "longest wait for a full batch (default 30s)", &c.WebhookBatchMaxWait},
		{"audit-webhook-truncate-enabled", "take the bodies from events that are too large", &c.WebhookTruncateEnabled},
		{"audit-webhook-truncate-max-event-size", "bytes of an event (default 102400)", &c.WebhookTruncateMaxEventSize},
		{"audit-webhook-truncate-max-batch-size", "bytes of a batch (default 10485760)", &c.WebhookTruncateMaxBatchSize},
		{"audit-webhook-batch-throttle-enable", "bound batches a second (default true)", &c.WebhookBatchThrottleEnable},
		{"audit-webhook-batch-throttle-qps", "batches a second (default 10)", &c.WebhookBatchThrottleQPS},
		{"audit-webhook-batch-throttle-burst", "batches at once (default 15)", &c.WebhookBatchThrottleBurst},
	}
}

// bindFlags adds flags to f.
func bindFlags(f *pflag.FlagSet, flags []flag) {
	for _, g := range flags {
		switch v := g.value.(type) {
		case *string:
			f.StringVar(v, g.name, "", g.usage)
		case *[]string:
			f.StringSliceVar(v, g.name, nil, g.usage)
		case *int:
			f.IntVar(v, g.name, 0, g.usage)
		case *bool:
			f.BoolVar(v, g.name, false, g.usage)
		case *float64:
			f.Float64Var(v, g.name, 0, g.usage)
		case **int:
			f.Var(optionalInt{v}, g.name, g.usage)
		case *time.Duration:
			f.DurationVar(v, g.name, 0, g.usage)
		case **bool:
			f.Var(optional{v}, g.name, g.usage)
			f.Lookup(g.name).NoOptDefVal = "true"
		}
	}
}

// overrideFlags copies what was given on the command line from one set to the same of another configuration.
func overrideFlags(to, from []flag, changed func(string) bool) {
	for i := range to {
		if !changed(to[i].name) {
			continue
		}
		switch v := to[i].value.(type) {
		case *string:
			*v = *from[i].value.(*string)
		case *[]string:
			*v = *from[i].value.(*[]string)
		case *int:
			*v = *from[i].value.(*int)
		case *bool:
			*v = *from[i].value.(*bool)
		case *float64:
			*v = *from[i].value.(*float64)
		case **int:
			*v = *from[i].value.(**int)
		case *time.Duration:
			*v = *from[i].value.(*time.Duration)
		case **bool:
			*v = *from[i].value.(**bool)
		}
	}
}

// optional is a boolean flag that may be unset.
type optional struct{ value **bool }

// Set implements pflag.Value.
func (o optional) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err == nil {
		*o.value = &b
	}
	return err
}

// Type implements pflag.Value.
func (o optional) Type() string { return "bool" }

// String implements pflag.Value.
func (o optional) String() string {
	if o.value == nil || *o.value == nil {
		return ""
	}
	return strconv.FormatBool(**o.value)
}
