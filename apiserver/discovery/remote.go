// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Remote is a version of a group that another server serves.
type Remote struct {
	Group, Version                 string
	GroupPriority, VersionPriority int32
	// Available is false while the server does not answer; Resources is what it said last, nil if it never did.
	Available bool
	Resources *metav1.APIResourceList
	// Described is what it said in the aggregated form, which tells more; nil if it has none.
	Described *apidiscoveryv2.APIVersionDiscovery
	// OpenAPI is where the server has the document of the version, empty if it has none.
	OpenAPI string
	// OpenAPI2 is the server's document of v2 in JSON, compressed with gzip; nil if it has none.
	OpenAPI2 []byte
}

// aggregate is the version in the aggregated form, made of the plain one if the server does not have it.
func (r *Remote) aggregate() apidiscoveryv2.APIVersionDiscovery {
	out := apidiscoveryv2.APIVersionDiscovery{Version: r.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	if !r.Available {
		out.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
	}
	if r.Described != nil {
		out.Resources = r.Described.Resources
		return out
	}
	if r.Resources == nil {
		return out
	}
	kind := func(one *metav1.APIResource) *metav1.GroupVersionKind {
		return &metav1.GroupVersionKind{Group: one.Group, Version: one.Version, Kind: one.Kind}
	}
	at := map[string]int{}
	for i := range r.Resources.APIResources {
		one := &r.Resources.APIResources[i]
		if strings.Contains(one.Name, "/") {
			continue
		}
		scope := apidiscoveryv2.ScopeCluster
		if one.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		at[one.Name] = len(out.Resources)
		out.Resources = append(out.Resources, apidiscoveryv2.APIResourceDiscovery{
			Resource: one.Name, ResponseKind: kind(one), Scope: scope, SingularResource: one.SingularName, Verbs: one.Verbs,
			ShortNames: one.ShortNames, Categories: one.Categories,
		})
	}
	for i := range r.Resources.APIResources {
		one := &r.Resources.APIResources[i]
		name, sub, isSub := strings.Cut(one.Name, "/")
		j, known := at[name]
		if !isSub || !known {
			continue
		}
		out.Resources[j].Subresources = append(out.Resources[j].Subresources, apidiscoveryv2.APISubresourceDiscovery{
			Subresource: sub, ResponseKind: kind(one), Verbs: one.Verbs,
		})
	}
	return out
}
