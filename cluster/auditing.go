// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"time"

	"knarr.dev/apiserver/audit"
	"knarr.dev/apiserver/callout"
)

// AuditConfig says what is recorded, and where. Nothing is without a policy file and a log or webhook.
type AuditConfig struct {
	// PolicyFile is a Policy of audit.k8s.io/v1.
	PolicyFile string `yaml:"auditPolicyFile"`

	// LogPath is the log file; "-" is standard output.
	LogPath string `yaml:"auditLogPath"`
	// LogMaxSize is in megabytes, LogMaxAge in days; defaults 100 and no bound.
	LogMaxSize   int `yaml:"auditLogMaxSize"`
	LogMaxAge    int `yaml:"auditLogMaxAge"`
	LogMaxBackup int `yaml:"auditLogMaxBackup"`
	// LogMode is blocking (the default) or batch.
	LogMode     string `yaml:"auditLogMode"`
	LogCompress bool   `yaml:"auditLogCompress"`
	// LogTruncateEnabled bounds events by LogTruncateMaxEventSize bytes, default 102400.
	LogTruncateEnabled      bool `yaml:"auditLogTruncateEnabled"`
	LogTruncateMaxEventSize int  `yaml:"auditLogTruncateMaxEventSize"`

	// WebhookConfigFile is a kubeconfig that names the webhook.
	WebhookConfigFile string `yaml:"auditWebhookConfigFile"`
	// WebhookMode is batch (the default) or blocking.
	WebhookMode                 string        `yaml:"auditWebhookMode"`
	WebhookInitialBackoff       time.Duration `yaml:"auditWebhookInitialBackoff"`
	WebhookBatchBufferSize      int           `yaml:"auditWebhookBatchBufferSize"`
	WebhookBatchMaxSize         int           `yaml:"auditWebhookBatchMaxSize"`
	WebhookBatchMaxWait         time.Duration `yaml:"auditWebhookBatchMaxWait"`
	WebhookTruncateEnabled      bool          `yaml:"auditWebhookTruncateEnabled"`
	WebhookTruncateMaxEventSize int           `yaml:"auditWebhookTruncateMaxEventSize"`
}

func (c *AuditConfig) validate(bad func(key, format string, args ...any)) {
	for _, m := range []struct{ key, mode string }{{"auditLogMode", c.LogMode}, {"auditWebhookMode", c.WebhookMode}} {
		switch m.mode {
		case "", "blocking", "blocking-strict", "batch":
		default:
			bad(m.key, "%q is none of blocking, blocking-strict, batch", m.mode)
		}
	}
	if c.PolicyFile == "" && (c.LogPath != "" || c.WebhookConfigFile != "") {
		bad("auditPolicyFile", "nothing is recorded without a policy")
	}
}

func orNumber[T int | time.Duration](n, otherwise T) T {
	if n == 0 {
		return otherwise
	}
	return n
}

// Defaults of Kubernetes.
const (
	auditBuffer   = 10000
	auditMaxEvent = 100 << 10
)

// auditor opens what the configuration asks for; nil is nothing.
func (c *Cluster) auditor() (*audit.Auditor, error) {
	a := &c.config.Audit
	if a.PolicyFile == "" || a.LogPath == "" && a.WebhookConfigFile == "" {
		return nil, nil
	}
	data, err := os.ReadFile(a.PolicyFile)
	if err != nil {
		return nil, fmt.Errorf("auditPolicyFile: %w", err)
	}
	policy, err := audit.ParsePolicy(data)
	if err != nil {
		return nil, fmt.Errorf("auditPolicyFile %s: %w", a.PolicyFile, err)
	}
	var sinks []audit.Sink
	if a.LogPath != "" {
		log, err := audit.OpenLog(audit.LogConfig{
			Path: a.LogPath, MaxSize: int64(orNumber(a.LogMaxSize, 100)) << 20, MaxBackups: orNumber(a.LogMaxBackup, 100),
			MaxAge: time.Duration(a.LogMaxAge) * 24 * time.Hour, Compress: a.LogCompress, Log: c.log,
		})
		if err != nil {
			return nil, err
		}
		c.parts.onStop("audit log", log.Close)
		sinks = append(sinks, c.auditSink("audit log writer", log, a.LogMode == "batch", audit.BatchConfig{Buffer: auditBuffer, MaxSize: 1, Log: c.log},
			a.LogTruncateEnabled, a.LogTruncateMaxEventSize))
	}
	if a.WebhookConfigFile != "" {
		client, err := callout.New(callout.Config{
			File: a.WebhookConfigFile, Timeout: 10 * time.Second, Backoff: orNumber(a.WebhookInitialBackoff, 10*time.Second),
		})
		if err != nil {
			return nil, fmt.Errorf("auditWebhookConfigFile: %w", err)
		}
		stopping, stop := context.WithCancel(context.Background())
		c.parts.onStop("audit webhook", func() error { stop(); return nil })
		sinks = append(sinks, c.auditSink("audit webhook sender", &audit.Webhook{Client: client, Log: c.log, Stopping: stopping},
			a.WebhookMode == "" || a.WebhookMode == "batch", audit.BatchConfig{
				Buffer: orNumber(a.WebhookBatchBufferSize, auditBuffer), MaxSize: orNumber(a.WebhookBatchMaxSize, 400),
				MaxWait: orNumber(a.WebhookBatchMaxWait, 30*time.Second), QPS: 10, Burst: 15, Log: c.log,
			}, a.WebhookTruncateEnabled, a.WebhookTruncateMaxEventSize))
	}
	return audit.New(policy, sinks, nil, c.metrics), nil
}

func (c *Cluster) auditSink(name string, to audit.Sink, batch bool, config audit.BatchConfig, truncate bool, most int) audit.Sink {
	if truncate {
		to = &audit.Truncate{To: to, MaxEvent: orNumber(most, auditMaxEvent), Log: c.log}
	}
	if !batch {
		return to
	}
	b := audit.NewBatch(to, config)
	c.parts.run(name, b.Run)
	return b
}
