// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/quota"
)

// LimitedResource is what is consumed only where a quota allows it.
type LimitedResource struct {
	APIGroup string `json:"apiGroup,omitempty"`
	Resource string `json:"resource"`
	// MatchContains are parts of the names of what is limited.
	MatchContains []string `json:"matchContains,omitempty"`
	// MatchScopes are scopes in which the whole resource is limited.
	MatchScopes []corev1.ScopedResourceSelectorRequirement `json:"matchScopes,omitempty"`
}

// covered refuses what is limited and in no quota of the list.
func (q *quotas) covered(r *Request, list []*corev1.ResourceQuota, wanted corev1.ResourceList) error {
	var names []corev1.ResourceName
	var scopes []corev1.ScopedResourceSelectorRequirement
	for i := range q.limited {
		l := &q.limited[i]
		if l.APIGroup != r.Kind.Group || l.Resource != r.Kind.Resource {
			continue
		}
		for name, quantity := range wanted {
			if quantity.Sign() > 0 && slices.ContainsFunc(l.MatchContains, func(part string) bool { return strings.Contains(string(name), part) }) {
				names = append(names, name)
			}
		}
		for _, scope := range l.MatchScopes {
			if quota.Matches(&scope, r.Object) {
				scopes = append(scopes, scope)
			}
		}
	}
	for _, limits := range list {
		if !quota.InScope(limits, r.Object) {
			continue
		}
		names = slices.DeleteFunc(names, func(name corev1.ResourceName) bool { _, ok := limits.Status.Hard[name]; return ok })
		scopes = slices.DeleteFunc(scopes, func(s corev1.ScopedResourceSelectorRequirement) bool { return quota.HasScope(limits, s.ScopeName) })
	}
	if len(names) > 0 {
		slices.Sort(names)
		return forbidden(r, "insufficient quota to consume: "+joined(slices.Compact(names)))
	}
	if len(scopes) > 0 {
		return plain(fmt.Sprintf("insufficient quota to match these scopes: %v", scopes))
	}
	return nil
}
