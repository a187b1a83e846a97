// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"strings"
	"testing"
)

// TestUnreadableAnnotation: a DaemonSet's generation of its template is a number, or the object is none.
func TestUnreadableAnnotation(t *testing.T) {
	o := observer{handler: startAdmitting(t).Handler()}
	const path = "/apis/apps/v1/namespaces/default/daemonsets"
	set := func(name, generation string) map[string]any {
		return map[string]any{
			"metadata": map[string]any{"name": name, "annotations": map[string]any{"deprecated.daemonset.template.generation": generation}},
			"spec": map[string]any{
				"selector": map[string]any{"matchLabels": map[string]any{"a": "b"}},
				"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}, "spec": map[string]any{
					"containers": []any{map[string]any{"name": "c", "image": "x"}},
				}},
			},
		}
	}
	const problem = `DaemonSet in version "v1" cannot be handled as a DaemonSet: strconv.ParseInt: parsing "bad": invalid syntax`
	if r := o.send(t, "POST", path, set("a", "bad")); r.code != 400 || r.body["message"] != problem {
		t.Errorf("create: %d %v", r.code, r.body["message"])
	}
	r := o.send(t, "POST", path, set("a", "7"))
	if r.code != 201 {
		t.Fatal(r.body)
	}
	if r := o.send(t, "PUT", path+"/a", set("a", "bad")); r.code != 400 || !strings.HasPrefix(r.body["message"].(string), "DaemonSet in version") {
		t.Errorf("update: %d %v", r.code, r.body["message"])
	}
}
