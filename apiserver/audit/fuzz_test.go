// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package audit

import "testing"

// FuzzPolicy reads policies.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte("{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [{level: Metadata, users: [a], resources: [{group: '', resources: [pods/*]}], nonResourceURLs: ['/a*']}]}"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if p, err := ParsePolicy(data); err == nil {
			_ = p.decide(&Request{Verb: "get", Resource: "pods", Subresource: "log", Namespace: "n"})
			_ = p.decide(&Request{Verb: "get", Path: "/healthz"})
		}
	})
}
