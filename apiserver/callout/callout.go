// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package callout calls the webhooks that the server's configuration names in files of kubeconfig form: token reviews, access
// reviews and audit events go out through it.
//
// It sends JSON and reads JSON, and tries again where that may help. It keeps no state but connections.
package callout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"knarr.dev/apiserver/tracing"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 3 << 20

// Config says how a webhook is called.
type Config struct {
	// File is a kubeconfig; its current context names server and credentials.
	File string
	// Timeout bounds one try; 0 is no bound.
	Timeout time.Duration
	// Tries is how often is tried, 5 if 0; Backoff the first pause, half a second if 0, of which each next one is half as long again.
	Tries   int
	Backoff time.Duration
}

// Client calls one webhook.
type Client struct {
	cfg  Config
	url  string
	http *http.Client
}

// New reads the file and returns a client. It calls nobody.
func New(cfg Config) (*Client, error) {
	loaded, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: cfg.File}, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("webhook configuration %s: %w", cfg.File, err)
	}
	if _, err := url.Parse(loaded.Host); err != nil {
		return nil, fmt.Errorf("webhook configuration %s: %w", cfg.File, err)
	}
	loaded.UserAgent = "knarr"
	client, err := rest.HTTPClientFor(loaded)
	if err != nil {
		return nil, fmt.Errorf("webhook configuration %s: %w", cfg.File, err)
	}
	if cfg.Tries == 0 {
		cfg.Tries = 5
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = 500 * time.Millisecond
	}
	return &Client{cfg: cfg, url: loaded.Host, http: client}, nil
}

// StatusError says that the webhook answered with a status that is no success.
type StatusError struct {
	Code int
	Body string
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the webhook answered %d: %s", e.Code, e.Body)
}

// Post sends in and reads the answer into out, unless that is nil.
func (c *Client) Post(ctx context.Context, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	pause := c.cfg.Backoff
	for try := 1; ; try++ {
		err = c.once(ctx, body, out)
		if err == nil || try >= c.cfg.Tries || !again(err) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		pause += pause / 2
	}
}

// again says whether another try may help.
func again(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return status.Code >= 500 || status.Code == http.StatusTooManyRequests
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

func (c *Client) once(ctx context.Context, body []byte, out any) error {
	if c.cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.cfg.Timeout)
		defer cancel()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, */*")
	r, span := tracing.Call(r)
	answer, err := c.http.Do(r)
	if err != nil {
		span.Answered(0, err)
		return err
	}
	defer func() { span.Answered(answer.StatusCode, nil) }()
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return err
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return &StatusError{Code: answer.StatusCode, Body: string(data[:min(len(data), 512)])}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}
