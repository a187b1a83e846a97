// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/scheduler/snapshot"
)

func TestNodeDeclaredFeatures(t *testing.T) {
	const restartAll = `[{"name":"c","restartPolicyRules":[{"action":"RestartAllContainers","exitCodes":{"operator":"In","values":[1]}}]}]`
	for _, c := range []struct {
		name, spec string
		features   []string
		want       string
	}{
		{"needs nothing", `{}`, nil, ""},
		{"needs one", `{"containers":` + restartAll + `}`, nil, "node(s) didn't match Pod's required features"},
		{"of an init container", `{"initContainers":` + restartAll + `}`, nil, "node(s) didn't match Pod's required features"},
		{"has it", `{"containers":` + restartAll + `}`, []string{"Other", "RestartAllContainersOnContainerExits"}, ""},
		{"has another", `{"containers":` + restartAll + `}`, []string{"ExtendWebSocketsToKubelet"}, "node(s) didn't match Pod's required features"},
		{"needs one of two", `{"hostNetwork":true,"hostUsers":false,"containers":` + restartAll + `}`, []string{"RestartAllContainersOnContainerExits"},
			"node(s) didn't match Pod's required features"},
		{"own users with a network of its own", `{"hostUsers":false}`, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := snapshot.NewState()
			state.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{DeclaredFeatures: c.features}})
			s := state.Snapshot()
			rule := nodeDeclaredFeatures(snapshot.NewPod(pod(t, "web", c.spec)), s)
			got := ""
			if rule.Filter != nil {
				for _, n := range s.Nodes {
					if v := rule.Filter(n); !v.Fits() {
						got = v.Reasons[0]
						if !v.Final {
							t.Error("preemption would not help")
						}
					}
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
