// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/scheduler/snapshot"
)

// cluster has the nodes a and b in zone x, c in zone y, d in no zone.
func cluster(t *testing.T, pods ...*corev1.Pod) *snapshot.Snapshot {
	t.Helper()
	s := snapshot.NewState()
	for _, n := range []struct{ name, zone string }{{"a", "x"}, {"b", "x"}, {"c", "y"}, {"d", ""}} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: map[string]string{corev1.LabelHostname: n.name, "disk": "ssd"}}}
		if n.zone != "" {
			node.Labels[corev1.LabelTopologyZone] = n.zone
		}
		node.Status.Allocatable = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("3"),
		}
		switch n.name {
		case "b":
			node.Spec.Taints = []corev1.Taint{{Key: "dedicated", Value: "db", Effect: corev1.TaintEffectNoExecute}}
		case "c":
			node.Status.Allocatable["example.com/gpu"] = resource.MustParse("1")
			node.Labels["disk"] = "hdd"
			node.Spec.Taints = []corev1.Taint{{Key: "old", Effect: corev1.TaintEffectPreferNoSchedule}}
			node.Status.Images = []corev1.ContainerImage{{Names: []string{"registry.example/web:latest"}, SizeBytes: 800 << 20}}
		case "d":
			node.Spec.Unschedulable = true
		}
		s.SetNode(node)
	}
	s.SetNamespace("default", labels.Set{"team": "one"})
	s.SetNamespace("other", labels.Set{"team": "two"})
	for _, p := range pods {
		s.SetPod(p)
	}
	return s.Snapshot()
}

// pod is a pod with labels app=NAME and a spec in JSON; name may be NAMESPACE/NAME.
func pod(t *testing.T, name, spec string) *corev1.Pod {
	t.Helper()
	namespace, name, found := strings.Cut(name, "/")
	if !found {
		namespace, name = "default", namespace
	}
	app, _, _ := strings.Cut(name, "-")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: types.UID(namespace + name), Labels: map[string]string{"app": app}}}
	if err := json.Unmarshal([]byte(spec), &p.Spec); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	if len(p.Spec.Containers) == 0 {
		p.Spec.Containers = []corev1.Container{{Image: "registry.example/web"}}
	}
	return p
}

// verdicts says for each node what the first plugin that is against it says; those that fit are left out.
func verdicts(p *corev1.Pod, s *snapshot.Snapshot) string {
	var rules []Rule
	for _, plugin := range All() {
		rule := plugin.Prepare(snapshot.NewPod(p), s)
		if rule.Reject != "" {
			return rule.Reject
		}
		if rule.Filter != nil {
			rules = append(rules, rule)
		}
	}
	var out []string
	for _, n := range s.Nodes {
		for _, rule := range rules {
			if v := rule.Filter(n); !v.Fits() {
				final := ""
				if v.Final {
					final = "!"
				}
				out = append(out, n.Name+": "+strings.Join(v.Reasons, ", ")+final)
				break
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

const (
	all      = `"tolerations":[{"operator":"Exists"}]`
	selector = `"labelSelector":{"matchLabels":{"app":"web"}}`
	byZone   = `"topologyKey":"topology.kubernetes.io/zone"`
	byHost   = `"topologyKey":"kubernetes.io/hostname"`
)

func TestFilters(t *testing.T) {
	anti := func(term string) string {
		return `{"affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{` + term + `}]}},` + all + `}`
	}
	with := func(term string) string { return strings.Replace(anti(term), "podAntiAffinity", "podAffinity", 1) }
	spread := func(c string) string { return `{"topologySpreadConstraints":[{` + c + `}],` + all + `}` }
	for _, c := range []struct {
		name string
		pods map[string]string // specs by name
		spec string
		want string
	}{
		{"nothing", nil, `{}`, "b: node(s) had untolerated taint(s)!; d: node(s) were unschedulable!"},
		{"tolerates all", nil, `{` + all + `}`, ""},
		{"tolerates one", nil, `{"tolerations":[{"key":"dedicated","value":"db","effect":"NoExecute"}]}`, "d: node(s) were unschedulable!"},
		{"tolerates another value", nil, `{"tolerations":[{"key":"dedicated","value":"web"}]}`, "b: node(s) had untolerated taint(s)!; d: node(s) were unschedulable!"},
		{"node selector", nil, `{"nodeSelector":{"disk":"hdd"},` + all + `}`,
			"a: node(s) didn't match Pod's node affinity/selector!; b: node(s) didn't match Pod's node affinity/selector!; d: node(s) didn't match Pod's node affinity/selector!"},
		{"node affinity by name", nil, `{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[
			{"matchFields":[{"key":"metadata.name","operator":"NotIn","values":["a"]}]}]}}},` + all + `}`, "a: node(s) didn't match Pod's node affinity/selector!"},
		{"ports", map[string]string{"x": `{"nodeName":"a","containers":[{"ports":[{"hostPort":80,"protocol":"TCP","hostIP":"127.0.0.1"}]}]}`},
			`{"containers":[{"ports":[{"hostPort":80,"protocol":"TCP"}]}],` + all + `}`, "a: node(s) didn't have free ports for the requested pod ports"},
		{"other ports", map[string]string{"x": `{"nodeName":"a","containers":[{"ports":[{"hostPort":80,"protocol":"TCP","hostIP":"127.0.0.1"}]}]}`},
			`{"containers":[{"ports":[{"hostPort":80,"protocol":"TCP","hostIP":"127.0.0.2"},{"hostPort":80,"protocol":"UDP"}]}],` + all + `}`, ""},
		{"resources", map[string]string{"x": `{"nodeName":"a","containers":[{"resources":{"requests":{"cpu":"1","memory":"3Gi"}}}]}`},
			`{"containers":[{"resources":{"requests":{"cpu":"1500m","memory":"2Gi"}}}],` + all + `}`, "a: Insufficient cpu, Insufficient memory"},
		{"extended resources", nil, `{"containers":[{"resources":{"requests":{"example.com/gpu":"1"}}}],` + all + `}`,
			"a: Insufficient example.com/gpu!; b: Insufficient example.com/gpu!; d: Insufficient example.com/gpu!"},
		{"init containers count by the largest", nil,
			`{"initContainers":[{"resources":{"requests":{"cpu":"1500m"}}},{"resources":{"requests":{"cpu":"2500m"}}}],` + all + `}`,
			"a: Insufficient cpu!; b: Insufficient cpu!; c: Insufficient cpu!; d: Insufficient cpu!"},
		{"many pods", map[string]string{"x": `{"nodeName":"a"}`, "y": `{"nodeName":"a"}`, "z": `{"nodeName":"a"}`}, `{` + all + `}`, "a: Too many pods"},
		{"claims", nil, `{"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"data"}}]}`, `persistentvolumeclaim "data" not found`},
		{"anti-affinity by zone", map[string]string{"web-1": `{"nodeName":"a"}`}, anti(selector + `,` + byZone),
			"a: node(s) didn't match pod anti-affinity rules; b: node(s) didn't match pod anti-affinity rules"},
		{"anti-affinity in another namespace", map[string]string{"other/web-1": `{"nodeName":"a"}`}, anti(selector + `,` + byZone), ""},
		{"anti-affinity in named namespaces", map[string]string{"other/web-1": `{"nodeName":"a"}`}, anti(selector + `,"namespaces":["other"],` + byHost),
			"a: node(s) didn't match pod anti-affinity rules"},
		{"anti-affinity in selected namespaces", map[string]string{"other/web-1": `{"nodeName":"a"}`, "web-1": `{"nodeName":"c"}`},
			anti(selector + `,"namespaceSelector":{"matchLabels":{"team":"two"}},` + byHost), "a: node(s) didn't match pod anti-affinity rules"},
		{"anti-affinity of others", map[string]string{"x": strings.Replace(anti(selector+`,`+byZone), `{`, `{"nodeName":"a",`, 1)}, `{` + all + `}`,
			"a: node(s) didn't satisfy existing pods anti-affinity rules; b: node(s) didn't satisfy existing pods anti-affinity rules"},
		{"affinity", map[string]string{"web-1": `{"nodeName":"a"}`}, with(selector + `,` + byZone),
			"c: node(s) didn't match pod affinity rules!; d: node(s) didn't match pod affinity rules!"},
		{"affinity of the first of a group", nil, with(selector + `,` + byZone), "d: node(s) didn't match pod affinity rules!"},
		{"affinity to none", nil, with(`"labelSelector":{"matchLabels":{"app":"db"}},` + byZone),
			"a: node(s) didn't match pod affinity rules!; b: node(s) didn't match pod affinity rules!; c: node(s) didn't match pod affinity rules!; d: node(s) didn't match pod affinity rules!"},
		{"spread over zones", map[string]string{"web-1": `{"nodeName":"a"}`}, spread(`"maxSkew":1,"whenUnsatisfiable":"DoNotSchedule",` + selector + `,` + byZone),
			"a: node(s) didn't match pod topology spread constraints; b: node(s) didn't match pod topology spread constraints; " +
				"d: node(s) didn't match pod topology spread constraints (missing required label)!"},
		{"spread counts the namespace only", map[string]string{"other/web-1": `{"nodeName":"a"}`}, spread(`"maxSkew":1,"whenUnsatisfiable":"DoNotSchedule",` + selector + `,` + byHost), ""},
		{"spread over too few domains", map[string]string{"web-1": `{"nodeName":"a"}`, "web-2": `{"nodeName":"c"}`},
			spread(`"maxSkew":1,"minDomains":3,"whenUnsatisfiable":"DoNotSchedule",` + selector + `,` + byZone),
			"a: node(s) didn't match pod topology spread constraints; b: node(s) didn't match pod topology spread constraints; " +
				"c: node(s) didn't match pod topology spread constraints; d: node(s) didn't match pod topology spread constraints (missing required label)!"},
		{"spread follows the node selector", map[string]string{"web-1": `{"nodeName":"a"}`},
			strings.Replace(spread(`"maxSkew":1,"whenUnsatisfiable":"DoNotSchedule",`+selector+`,`+byZone), `{`, `{"nodeSelector":{"kubernetes.io/hostname":"a"},`, 1),
			"b: node(s) didn't match Pod's node affinity/selector!; c: node(s) didn't match Pod's node affinity/selector!; d: node(s) didn't match Pod's node affinity/selector!"},
		{"spread by match label keys", map[string]string{"web-1": `{"nodeName":"a"}`, "old-1": `{"nodeName":"c"}`},
			spread(`"maxSkew":1,"whenUnsatisfiable":"DoNotSchedule","labelSelector":{},"matchLabelKeys":["app"],` + byZone),
			"a: node(s) didn't match pod topology spread constraints; b: node(s) didn't match pod topology spread constraints; " +
				"d: node(s) didn't match pod topology spread constraints (missing required label)!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var there []*corev1.Pod
			for name, spec := range c.pods {
				there = append(there, pod(t, name, spec))
			}
			if got := verdicts(pod(t, "web-0", c.spec), cluster(t, there...)); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestScores(t *testing.T) {
	prefer := func(kind, term string) string {
		return `{"affinity":{"` + kind + `":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":10,` + term + `}]}}}`
	}
	for _, c := range []struct {
		plugin string
		pods   map[string]string
		spec   string
		want   string // of a, b, c, d
	}{
		{"TaintToleration", nil, `{}`, "[100 100 0 100]"},
		{"TaintToleration", nil, `{` + all + `}`, "[100 100 100 100]"},
		{"NodeAffinity", nil, prefer("nodeAffinity", `"preference":{"matchExpressions":[{"key":"disk","operator":"In","values":["hdd"]}]}`), "[0 0 100 0]"},
		{"InterPodAffinity", map[string]string{"web-1": `{"nodeName":"a"}`}, prefer("podAffinity", `"podAffinityTerm":{`+selector+`,`+byZone+`}`), "[100 100 0 0]"},
		{"InterPodAffinity", map[string]string{"web-1": `{"nodeName":"a"}`}, prefer("podAntiAffinity", `"podAffinityTerm":{`+selector+`,`+byZone+`}`), "[0 0 100 100]"},
		{"InterPodAffinity", map[string]string{"x": strings.Replace(prefer("podAffinity", `"podAffinityTerm":{`+selector+`,`+byHost+`}`), `{`, `{"nodeName":"c",`, 1)}, `{}`, "[0 0 100 0]"},
		{"PodTopologySpread", map[string]string{"web-1": `{"nodeName":"a"}`, "web-2": `{"nodeName":"a"}`},
			`{"topologySpreadConstraints":[{"maxSkew":1,"whenUnsatisfiable":"ScheduleAnyway",` + selector + `,` + byZone + `}]}`, "[0 0 100 0]"},
		{"ImageLocality", nil, `{"containers":[{"image":"registry.example/web"}]}`, "[0 0 18 0]"},
		{"NodeResourcesFit", map[string]string{"x": `{"nodeName":"a","containers":[{"resources":{"requests":{"cpu":"1","memory":"2Gi"}}}]}`},
			`{"containers":[{"resources":{"requests":{"cpu":"500m","memory":"1Gi"}}}]}`, "[25 75 75 75]"},
		{"NodeResourcesBalancedAllocation", map[string]string{"x": `{"nodeName":"a","containers":[{"resources":{"requests":{"cpu":"1"}}}]}`},
			`{"containers":[{"resources":{"requests":{"cpu":"1","memory":"2Gi"}}}]}`, "[75 100 100 100]"},
	} {
		t.Run(c.plugin, func(t *testing.T) {
			var there []*corev1.Pod
			for name, spec := range c.pods {
				there = append(there, pod(t, name, spec))
			}
			s := cluster(t, there...)
			i := slices.IndexFunc(All(), func(p Plugin) bool { return p.Name == c.plugin })
			rule := All()[i].Prepare(snapshot.NewPod(pod(t, "web-0", c.spec)), s)
			var scores []int64
			for _, name := range []string{"a", "b", "c", "d"} {
				scores = append(scores, rule.Score(s.Node(name)))
			}
			if rule.Normalize != nil {
				rule.Normalize(scores)
			}
			if got := fmt.Sprint(scores); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// TestMove takes a pod away and puts it back: the rules must follow.
func TestMove(t *testing.T) {
	there := pod(t, "web-1", `{"nodeName":"a","affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{`+selector+`,`+byZone+`}]}}}`)
	s := cluster(t, there)
	p := pod(t, "web-0", `{"affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{`+selector+`,`+byZone+`}]}},
		"topologySpreadConstraints":[{"maxSkew":1,"whenUnsatisfiable":"DoNotSchedule",`+selector+`,`+byZone+`}]}`)
	for _, plugin := range All() {
		if plugin.Name != "InterPodAffinity" && plugin.Name != "PodTopologySpread" {
			continue
		}
		rule := plugin.Prepare(snapshot.NewPod(p), s)
		for _, step := range []struct {
			by   int64
			fits bool
		}{{0, false}, {-1, true}, {1, false}, {-1, true}} {
			if step.by != 0 {
				rule.Move(s.Node("a"), snapshot.NewPod(there), step.by)
			}
			if got := rule.Filter(s.Node("b")).Fits(); got != step.fits {
				t.Errorf("%s: after %+d b fits: %v, want %v", plugin.Name, step.by, got, step.fits)
			}
		}
	}
	if got := s.Matching(corev1.LabelTopologyZone, snapshot.In("default", labels.SelectorFromSet(labels.Set{"app": "web"}))).Total; got != 1 {
		t.Errorf("the snapshot was changed: %d pods", got)
	}
}
