// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/equality"
)

// aggregatedForms are the forms of aggregated discovery, the best first. Their JSON is the same.
const aggregatedForms = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList," +
	"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"

// described is what a server says of a version in the aggregated form of discovery.
type described struct {
	etag    string
	version *apidiscoveryv2.APIVersionDiscovery // empty if it leaves the version out
}

// describe asks the server for the aggregated form of discovery again. A server that has none is described by its plain lists.
func (r *remote) describe(ctx context.Context) {
	header, before := http.Header{"Accept": {aggregatedForms}}, r.described.Load()
	if before != nil && before.etag != "" {
		header.Set("If-None-Match", before.etag)
	}
	response, err := r.get(ctx, "/apis", header)
	if err != nil {
		return // the next check asks again
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotModified:
		return
	case response.StatusCode != http.StatusOK || !isAggregated(response.Header.Get("Content-Type")):
		r.described.Store(nil)
		return
	}
	var list apidiscoveryv2.APIGroupDiscoveryList
	body, err := io.ReadAll(io.LimitReader(response.Body, maxDiscovery))
	if err != nil || json.Unmarshal(body, &list) != nil {
		return
	}
	now := &described{etag: response.Header.Get("ETag"), version: versionIn(&list, r.service.Spec.Group, r.service.Spec.Version)}
	if before != nil && equality.Semantic.DeepEqual(before.version, now.version) {
		now.version = before.version // so that nothing has changed
	}
	r.described.Store(now)
}

func isAggregated(contentType string) bool {
	media, params, err := mime.ParseMediaType(contentType)
	return err == nil && media == "application/json" && params["g"] == apidiscoveryv2.GroupName && params["as"] == "APIGroupDiscoveryList" &&
		(params["v"] == "v2" || params["v"] == "v2beta1")
}

func versionIn(list *apidiscoveryv2.APIGroupDiscoveryList, group, version string) *apidiscoveryv2.APIVersionDiscovery {
	for _, g := range list.Items {
		if g.Name != group {
			continue
		}
		for i := range g.Versions {
			if g.Versions[i].Version == version {
				return &g.Versions[i]
			}
		}
	}
	return &apidiscoveryv2.APIVersionDiscovery{Version: version}
}
