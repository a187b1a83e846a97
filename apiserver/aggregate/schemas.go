// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxSchemas bounds a server's document of OpenAPI v2.
const maxSchemas = 16 << 20

// schemas are a server's document of OpenAPI v2.
type schemas struct {
	etag       string
	compressed []byte // gzip of JSON
}

// readSchemas reads the document again if it is another than before. A server without one has none.
func (r *remote) readSchemas(ctx context.Context) {
	header, before := http.Header{}, r.schemas.Load()
	if before != nil && before.etag != "" {
		header.Set("If-None-Match", before.etag)
	}
	response, err := r.get(ctx, "/openapi/v2", header)
	if err != nil {
		return // the next check asks again
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxSchemas+1))
	if err != nil || len(body) > maxSchemas || !json.Valid(body) {
		return
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(body) // a buffer takes everything
	_ = z.Close()
	if before != nil && bytes.Equal(before.compressed, b.Bytes()) {
		return
	}
	r.schemas.Store(&schemas{etag: response.Header.Get("ETag"), compressed: bytes.Clone(b.Bytes())})
}

// description is comparable: two that differ say that a document did.
type description struct {
	plain     *metav1.APIResourceList
	described *apidiscoveryv2.APIVersionDiscovery
	v2        *schemas
	v3        string
}

func (r *remote) description() description {
	d := description{plain: r.resources.Load(), v2: r.schemas.Load()}
	if at := r.openapi.Load(); at != nil {
		d.v3 = *at
	}
	if said := r.described.Load(); said != nil {
		d.described = said.version
	}
	return d
}
