// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

// Config says which requests are traced, and who is told.
type Config struct {
	// Endpoint is HOST:PORT of the collector; empty is what the standard variables of OpenTelemetry say, else localhost:4317.
	Endpoint string
	// SamplingRatePerMillion is how many of a million requests are traced that do not belong to a trace.
	SamplingRatePerMillion int32
}

// ParseConfiguration reads a TracingConfiguration (apiserver.config.k8s.io, YAML or JSON).
func ParseConfiguration(data []byte) (*Config, error) {
	var c apiserverv1.TracingConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, fmt.Errorf("tracing configuration: %w", err)
	}
	group, version, _ := strings.Cut(c.APIVersion, "/")
	if group != apiserverv1.GroupName || !slices.Contains([]string{"v1", "v1beta1", "v1alpha1"}, version) || c.Kind != "TracingConfiguration" {
		return nil, fmt.Errorf("tracing configuration: it is a %s %s", c.APIVersion, c.Kind)
	}
	var problems field.ErrorList
	out := &Config{}
	if rate := c.SamplingRatePerMillion; rate != nil {
		path := field.NewPath("samplingRatePerMillion")
		switch {
		case *rate < 0:
			problems = append(problems, field.Invalid(path, *rate, "sampling rate must be positive"))
		case *rate > million:
			problems = append(problems, field.Invalid(path, *rate, "sampling rate per million must be less than or equal to one million"))
		}
		out.SamplingRatePerMillion = *rate
	}
	if c.Endpoint != nil {
		out.Endpoint = *c.Endpoint
		if err := checkEndpoint(out.Endpoint); err != nil {
			problems = append(problems, field.Invalid(field.NewPath("endpoint"), out.Endpoint, err.Error()))
		}
	}
	if err := problems.ToAggregate(); err != nil {
		return nil, fmt.Errorf("tracing configuration: %w", err)
	}
	return out, nil
}

// checkEndpoint refuses what is no target of gRPC without TLS.
func checkEndpoint(endpoint string) error {
	if !strings.Contains(endpoint, "//") {
		endpoint = "dns://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "dns", "unix", "unix-abstract":
		return nil
	}
	return errors.New("unsupported scheme: " + u.Scheme + ".  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md")
}
