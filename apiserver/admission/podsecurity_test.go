// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// strict is a namespace with labels of Pod Security, given as key=value.
func strict(name string, labels ...string) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		n.Labels["pod-security.kubernetes.io/"+key] = value
	}
	return n
}

func privileged(namespace, name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PodSpec{
		HostNetwork: true, Containers: []corev1.Container{{Name: "c", Image: "i"}},
	}}
}

func TestPodSecurity(t *testing.T) {
	const detail = "host namespaces (hostNetwork=true)"
	for _, c := range []struct {
		name   string
		labels []string
		cfg    PodSecurity
		want   string
		warned string
	}{
		{"no labels", nil, PodSecurity{}, "", ""},
		{"enforce", []string{"enforce=baseline"}, PodSecurity{}, `pods "p" is forbidden: violates PodSecurity "baseline:latest": ` + detail, ""},
		{"warn", []string{"warn=baseline", "warn-version=v1.30"}, PodSecurity{}, "", `would violate PodSecurity "baseline:v1.30": ` + detail},
		{"audit", []string{"audit=restricted"}, PodSecurity{}, "", ""},
		{"privileged", []string{"enforce=privileged"}, PodSecurity{Defaults: map[string]string{"enforce": "restricted"}}, "", ""},
		{"default", nil, PodSecurity{Defaults: map[string]string{"enforce": "baseline"}}, "violates PodSecurity", ""},
		{"exempt user", []string{"enforce=baseline"}, PodSecurity{Usernames: []string{"jane"}}, "", ""},
		{"exempt namespace", []string{"enforce=baseline"}, PodSecurity{Namespaces: []string{"s"}}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &objects{}
			s.add(core.Namespaces.Kind, strict("s", c.labels...))
			var warned []string
			r := create(core.Pods.Kind, privileged("s", "p"))
			r.Warn = func(s string) { warned = append(warned, s) }
			got := text(admit(t, []Step{podSecurity(s, c.cfg, clock)}, r))
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if w := strings.Join(warned, "\n"); w != c.warned {
				t.Errorf("warned %q, want %q", w, c.warned)
			}
		})
	}
}

func TestPodSecurityOfNamespaces(t *testing.T) {
	s := &objects{}
	for _, name := range []string{"a", "b", "c"} {
		s.add(core.Pods.Kind, privileged("s", name))
	}
	for _, c := range []struct {
		name     string
		obj, old *corev1.Namespace
		want     string
		warned   []string
	}{
		{"stricter", strict("s", "enforce=baseline"), strict("s"), "", []string{
			`existing pods in namespace "s" violate the new PodSecurity enforce level "baseline:latest"`, "a (and 2 other pods): host namespaces",
		}},
		{"looser", strict("s", "enforce=baseline"), strict("s", "enforce=restricted"), "", nil},
		{"wrong", strict("s", "enforce=odd"), strict("s"), `must be one of privileged, baseline, restricted`, nil},
		{"still wrong", strict("s", "enforce=odd"), strict("s", "enforce=even"), "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var warned []string
			r := &Request{Verb: "update", Kind: core.Namespaces.Kind, Name: "s", Object: resource.Object(c.obj), Old: c.old, User: &call.Identity{Name: "jane"},
				Warn: func(s string) { warned = append(warned, s) }}
			got := text(admit(t, []Step{podSecurity(s, PodSecurity{}, clock)}, r))
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if !slices.Equal(warned, c.warned) {
				t.Errorf("warned %q, want %q", warned, c.warned)
			}
		})
	}
}

func TestPodTopologyLabels(t *testing.T) {
	s := &objects{}
	s.add(core.Nodes.Kind, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{
		corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r", "other": "x",
	}}})
	b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{corev1.LabelTopologyZone: "asked"}}, Target: corev1.ObjectReference{Name: "n"}}
	r := &Request{Verb: "create", Kind: core.Pods.Kind, Subresource: "binding", Namespace: "s", Name: "p", Object: b}
	if err := admit(t, []Step{podTopologyLabels(s)}, r); err != nil {
		t.Fatal(err)
	}
	if got := b.Labels; len(got) != 2 || got[corev1.LabelTopologyZone] != "z" || got[corev1.LabelTopologyRegion] != "r" {
		t.Errorf("got %v", got)
	}
}
