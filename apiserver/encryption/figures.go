// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"time"

	"google.golang.org/grpc/status"

	"knarr.dev/apiserver/measure"
)

// figures are those of key services, under Kubernetes' names. All methods do nothing on nil.
type figures struct {
	took    *measure.Family[measure.Histogram]
	sources *measure.Family[measure.Gauge]
}

// Count adds figures of the key services that are configured from now on to a set; nil adds none.
func (c *Config) Count(set *measure.Set) {
	if set == nil {
		return
	}
	bounds := make([]float64, 0, 14)
	for bound := 0.0001; len(bounds) < cap(bounds); bound *= 2 {
		bounds = append(bounds, bound)
	}
	c.figures = &figures{
		took: set.Histograms(measure.Seconds(bounds...), "apiserver_envelope_encryption_kms_operations_latency_seconds",
			"[ALPHA] KMS operation duration with gRPC error code status total.", "grpc_status_code", "method_name", "provider_name"),
		sources: set.Gauges("apiserver_envelope_encryption_dek_source_cache_size",
			"[ALPHA] Number of records in data encryption key (DEK) source cache. On a restart, this value is an approximation of the number of decrypt RPC calls the server will make to the KMS plugin.",
			"provider_name"),
	}
}

func (f *figures) called(k *kms, method string, began time.Time, err error) {
	if f != nil {
		f.took.With(status.Code(err).String(), "/v2.KeyManagementService/"+method, k.name).Took(k.now().Sub(began))
	}
}

func (f *figures) remembers(k *kms, sources int) {
	if f != nil {
		f.sources.With(k.name).Set(int64(sources))
	}
}
