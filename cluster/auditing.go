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
	// LogMaxSize is in megabytes, LogMaxAge in days; defaults 100 and 366, and no bound if negative.
	LogMaxSize   int `yaml:"auditLogMaxSize"`
	LogMaxAge    int `yaml:"auditLogMaxAge"`
	LogMaxBackup int `yaml:"auditLogMaxBackup"`
	// LogMode is blocking (the default), blocking-strict or batch.
	LogMode     string `yaml:"auditLogMode"`
	LogCompress bool   `yaml:"auditLogCompress"`
	// LogFormat is json (the default) or legacy.
	LogFormat string `yaml:"auditLogFormat"`
	// LogBatch tunes the mode batch: batches of one event by default, without throttle.
	LogBatchBufferSize     int           `yaml:"auditLogBatchBufferSize"`
	LogBatchMaxSize        int           `yaml:"auditLogBatchMaxSize"`
	LogBatchMaxWait        time.Duration `yaml:"auditLogBatchMaxWait"`
	LogBatchThrottleEnable bool          `yaml:"auditLogBatchThrottleEnable"`
	LogBatchThrottleQPS    int           `yaml:"auditLogBatchThrottleQPS"`
	LogBatchThrottleBurst  int           `yaml:"auditLogBatchThrottleBurst"`
	// LogTruncateEnabled bounds events by LogTruncateMaxEventSize bytes, default 102400, and batches by LogTruncateMaxBatchSize, default 10485760.
	LogTruncateEnabled      bool `yaml:"auditLogTruncateEnabled"`
	LogTruncateMaxEventSize int  `yaml:"auditLogTruncateMaxEventSize"`
	LogTruncateMaxBatchSize int  `yaml:"auditLogTruncateMaxBatchSize"`

	// WebhookConfigFile is a kubeconfig that names the webhook.
	WebhookConfigFile string `yaml:"auditWebhookConfigFile"`
	// WebhookMode is batch (the default), blocking or blocking-strict.
	WebhookMode                 string        `yaml:"auditWebhookMode"`
	WebhookInitialBackoff       time.Duration `yaml:"auditWebhookInitialBackoff"`
	WebhookBatchBufferSize      int           `yaml:"auditWebhookBatchBufferSize"`
	WebhookBatchMaxSize         int           `yaml:"auditWebhookBatchMaxSize"`
	WebhookBatchMaxWait         time.Duration `yaml:"auditWebhookBatchMaxWait"`
	WebhookTruncateEnabled      bool          `yaml:"auditWebhookTruncateEnabled"`
	WebhookTruncateMaxEventSize int           `yaml:"auditWebhookTruncateMaxEventSize"`
	WebhookTruncateMaxBatchSize int           `yaml:"auditWebhookTruncateMaxBatchSize"`
	// WebhookBatchThrottleEnable, true by default, bounds batches a second: 10, and 15 at once.
	WebhookBatchThrottleEnable *bool `yaml:"auditWebhookBatchThrottleEnable"`
	WebhookBatchThrottleQPS    int   `yaml:"auditWebhookBatchThrottleQPS"`
	WebhookBatchThrottleBurst  int   `yaml:"auditWebhookBatchThrottleBurst"`
}

func (c *AuditConfig) validate(bad func(key, format string, args ...any)) {
	for _, m := range []struct{ key, mode string }{{"auditLogMode", c.LogMode}, {"auditWebhookMode", c.WebhookMode}} {
		switch m.mode {
		case "", "blocking", "blocking-strict", "batch":
		default:
			bad(m.key, "%q is none of blocking, blocking-strict, batch", m.mode)
		}
	}
	switch c.LogFormat {
	case "", "json", "legacy":
	default:
		bad("auditLogFormat", "%q is none of json, legacy", c.LogFormat)
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
	auditMaxBatch = 10 << 20
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
			MaxAge: time.Duration(max(orNumber(a.LogMaxAge, 366), 0)) * 24 * time.Hour, Compress: a.LogCompress, Legacy: a.LogFormat == "legacy", Log: c.log,
		})
		if err != nil {
			return nil, err
		}
		c.parts.onStop("audit log", log.Close)
		config := audit.BatchConfig{
			Buffer: orNumber(a.LogBatchBufferSize, auditBuffer), MaxSize: orNumber(a.LogBatchMaxSize, 1), MaxWait: a.LogBatchMaxWait, Log: c.log,
		}
		if a.LogBatchThrottleEnable {
			config.QPS, config.Burst = float32(a.LogBatchThrottleQPS), a.LogBatchThrottleBurst
		}
		var sink audit.Sink = log
		if a.LogTruncateEnabled {
			sink = c.truncated(sink, a.LogTruncateMaxEventSize, a.LogTruncateMaxBatchSize)
		}
		sinks = append(sinks, c.auditSink("audit log writer", sink, orText(a.LogMode, "blocking"), config))
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
		config := audit.BatchConfig{
			Buffer: orNumber(a.WebhookBatchBufferSize, auditBuffer), MaxSize: orNumber(a.WebhookBatchMaxSize, 400),
			MaxWait: orNumber(a.WebhookBatchMaxWait, 30*time.Second), Log: c.log,
		}
		if yes(a.WebhookBatchThrottleEnable) {
			config.QPS, config.Burst = float32(orNumber(a.WebhookBatchThrottleQPS, 10)), orNumber(a.WebhookBatchThrottleBurst, 15)
		}
		var sink audit.Sink = &audit.Webhook{Client: client, Log: c.log, Stopping: stopping}
		if a.WebhookTruncateEnabled {
			sink = c.truncated(sink, a.WebhookTruncateMaxEventSize, a.WebhookTruncateMaxBatchSize)
		}
		sinks = append(sinks, c.auditSink("audit webhook sender", sink, orText(a.WebhookMode, "batch"), config))
	}
	return audit.New(policy, sinks, nil, c.metrics), nil
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (c *Cluster) truncated(to audit.Sink, event, batch int) audit.Sink {
	return &audit.Truncate{To: to, MaxEvent: orNumber(event, auditMaxEvent), MaxBatch: orNumber(batch, auditMaxBatch), Log: c.log}
}

// auditSink puts what a mode needs in front of a sink.
func (c *Cluster) auditSink(name string, to audit.Sink, mode string, config audit.BatchConfig) audit.Sink {
	switch mode {
	case "blocking-strict":
		return audit.Strict{Sink: to}
	case "batch":
		b := audit.NewBatch(to, config)
		c.parts.run(name, b.Run)
		return b
	}
	return to
}
