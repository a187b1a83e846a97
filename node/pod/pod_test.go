// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// spec makes a pod from "init:NAME side:NAME NAME ...".
func spec(policy corev1.RestartPolicy, text string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{RestartPolicy: policy}}
	for _, word := range strings.Fields(text) {
		kind, name, ok := strings.Cut(word, ":")
		switch {
		case !ok:
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: kind})
		case kind == "init":
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: name})
		case kind == "side":
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: name, RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)})
		}
	}
	return p
}

// observed makes what the runtime shows from "NAME=run NAME=CODE ...", the newest first; a word "no" means no sandbox, "dead"
// one that is not ready.
func observed(text string) *Observed {
	o := &Observed{Sandboxes: []Sandbox{{ID: "s", Ready: true, IPs: []string{"10.0.0.2"}}}}
	for i, word := range strings.Fields(text) {
		name, state, _ := strings.Cut(word, "=")
		c := Container{ID: fmt.Sprintf("%s%d", name, i), SandboxID: "s", Name: name, State: Running, StartedAt: epoch}
		switch name {
		case "no":
			o.Sandboxes = nil
			continue
		case "dead":
			o.Sandboxes[0].Ready = false
			continue
		}
		if state != "run" {
			c.State, c.FinishedAt = Exited, epoch
			fmt.Sscan(state, &c.ExitCode)
		}
		o.Containers = append(o.Containers, c)
	}
	return o
}

// text writes a plan as words.
func text(p Plan) string {
	var words []string
	for _, k := range p.Kills {
		words = append(words, fmt.Sprintf("kill %s %v", k.Name, k.Grace))
	}
	for range p.StopSandboxes {
		words = append(words, "stop")
	}
	for _, id := range p.Remove {
		words = append(words, "remove "+id)
	}
	if p.CreateSandbox {
		words = append(words, fmt.Sprintf("sandbox %d", p.Attempt))
	}
	for _, s := range p.Starts {
		words = append(words, fmt.Sprintf("start %s %d", s.Name, s.Attempt))
	}
	for name, w := range p.Waiting {
		words = append(words, name+" "+w.Reason)
	}
	if p.Stopped {
		words = append(words, "stopped")
	}
	if p.After > 0 {
		words = append(words, "after "+p.After.String())
	}
	return strings.Join(words, ", ")
}

func TestDecide(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	for _, c := range []struct {
		name           string
		policy         corev1.RestartPolicy
		spec, observed string
		deleted        bool
		want, phase    string
	}{
		{"nothing is there", always, "a", "no", false, "sandbox 0", "Pending"},
		{"sandbox is there", always, "a b", "", false, "start a 0, start b 0", "Pending"},
		{"all run", always, "a b", "a=run b=run", false, "", "Running"},
		{"init comes first", always, "init:i a", "", false, "start i 0", "Pending"},
		{"init runs", always, "init:i init:j a", "i=run", false, "", "Pending"},
		{"next init", always, "init:i init:j a", "i=0", false, "start j 0", "Pending"},
		{"inits are done", always, "init:i init:j a", "j=0 i=0", false, "start a 0", "Pending"},
		{"init fails and may again", onFailure, "init:i a", "i=1", false, "start i 1", "Pending"},
		{"init fails for good", never, "init:i a", "i=1", false, "stop", "Failed"},
		{"init is not repeated", always, "init:i a", "a=run", false, "", "Running"},
		{"sidecar starts before", always, "side:s a", "", false, "start s 0", "Pending"},
		{"sidecar runs", always, "side:s a", "s=run", false, "start a 0", "Pending"},
		{"sidecar ended while others run", never, "side:s a", "a=run s=0", false, "start s 1", "Running"},
		{"container ended", always, "a b", "a=0 b=run", false, "start a 1", "Running"},
		{"ended well", onFailure, "a b", "a=0 b=run", false, "", "Running"},
		{"all ended well", onFailure, "a b", "a=0 b=0", false, "stop", "Succeeded"},
		{"all ended, one badly", never, "a b", "a=0 b=2", false, "stop", "Failed"},
		{"sidecar is ended after all", never, "side:s a", "a=0 s=run", false, "kill s 30s", "Running"},
		{"sandbox died", always, "a", "dead a=0", false, "sandbox 1", "Running"},
		{"sandbox died after the end", never, "a", "dead a=0", false, "stopped", "Succeeded"},
		{"deleted", always, "side:s side:r a", "a=run s=run r=run", true, "kill a 30s", "Running"},
		{"deleted, sidecars in reverse order", always, "side:s side:r a", "a=0 s=run r=run", true, "kill r 30s", "Running"},
		{"deleted, all ended", always, "side:s a", "a=0 s=0", true, "stop", "Running"},
		{"old ones are removed", always, "a", "a=run a=1 a=2 a=3", false, "remove a2, remove a3", "Running"},
	} {
		p, o, m := spec(c.policy, c.spec), observed(c.observed), NewMemory()
		if c.deleted {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: epoch.Add(30 * time.Second)}, ptr.To[int64](30)
		}
		plan := Decide(p, o, m, nil, epoch)
		if got := text(plan); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if status := Status(p, o, m, []string{"10.0.0.1"}, false, epoch); string(status.Phase) != c.phase {
			t.Errorf("%s: phase %s, want %s", c.name, status.Phase, c.phase)
		}
	}
}

func TestBackoff(t *testing.T) {
	p, m := spec(corev1.RestartPolicyAlways, "a"), NewMemory()
	now := epoch
	var waits []time.Duration
	for range 8 {
		o := observed("a=1")
		o.Containers[0].FinishedAt = now
		plan := Decide(p, o, m, nil, now)
		waits = append(waits, plan.After)
		now = now.Add(plan.After)
		if plan = Decide(p, o, m, nil, now); len(plan.Starts) != 1 {
			t.Fatalf("after the pause: %q", text(plan))
		}
		m.Restarted("a", plan.Starts[0].Ended, now)
	}
	if got := fmt.Sprint(waits); got != "[0s 10s 20s 40s 1m20s 2m40s 5m0s 5m0s]" {
		t.Errorf("pauses: %s", got)
	}
	now = now.Add(11 * time.Minute)
	o := observed("a=1")
	o.Containers[0].FinishedAt = now
	if plan := Decide(p, o, m, nil, now); text(plan) != "start a 1" {
		t.Errorf("after a long run: %q", text(plan))
	}
}

func TestProbesInDecisionAndStatus(t *testing.T) {
	p, m := spec(corev1.RestartPolicyAlways, "a"), NewMemory()
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{}
	p.Spec.Containers[0].StartupProbe = &corev1.Probe{TerminationGracePeriodSeconds: ptr.To[int64](7)}
	p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "x/y"}}
	o := observed("a=run")
	for _, c := range []struct {
		probes      Probes
		plan, ready string
	}{
		{Probes{}, "", "ContainersNotReady containers with unready status: [a]"},
		{Probes{Started: true, Ready: true}, "", `ReadinessGatesNotReady corresponding condition of pod readiness gate "x/y" does not exist.`},
		{Probes{Failed: "startup"}, "kill a 7s", "ContainersNotReady containers with unready status: [a]"},
	} {
		m.Probes["a0"] = c.probes
		if got := text(Decide(p, o, m, nil, epoch)); got != c.plan {
			t.Errorf("%+v: %q, want %q", c.probes, got, c.plan)
		}
		for _, condition := range Status(p, o, m, nil, false, epoch).Conditions {
			if got := condition.Reason + " " + condition.Message; condition.Type == corev1.PodReady && got != c.ready {
				t.Errorf("%+v: %q, want %q", c.probes, got, c.ready)
			}
		}
	}
}

// What the status tells and the runtime does not have any more.
func TestLost(t *testing.T) {
	for _, c := range []struct {
		policy      corev1.RestartPolicy
		state       corev1.ContainerState
		plan, phase string
	}{
		{corev1.RestartPolicyAlways, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, "start a 5", "Running"},
		{corev1.RestartPolicyNever, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, "stop", "Failed"},
		{corev1.RestartPolicyNever, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 0}}, "stop", "Succeeded"},
	} {
		p, o := spec(c.policy, "a"), observed("")
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", ContainerID: Prefix + "x", RestartCount: 4, State: c.state}}
		o.AddLost(p)
		plan, status := Decide(p, o, NewMemory(), nil, epoch), Status(p, o, NewMemory(), nil, false, epoch)
		if text(plan) != c.plan || string(status.Phase) != c.phase {
			t.Errorf("%s: %q %s, want %q %s", c.policy, text(plan), status.Phase, c.plan, c.phase)
		}
	}
}

func TestFields(t *testing.T) {
	lookup := func(name string) (string, bool) { return "<" + name + ">", name != "NONE" }
	for input, want := range map[string]string{
		"plain": "plain", "$(A)": "<A>", "a$(A)b$(B)": "a<A>b<B>", "$$(A)": "$(A)", "$(NONE)": "$(NONE)", "$(A": "$(A", "$": "$", "$x": "$x", "$$$(A)": "$<A>",
	} {
		if got := Expand(input, lookup); got != want {
			t.Errorf("expand %q: %q, want %q", input, got, want)
		}
	}
	c := &corev1.Container{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("100Mi"),
	}}}
	for _, row := range []struct{ name, divisor, want string }{
		{"limits.cpu", "", "2"}, {"limits.cpu", "1m", "1500"}, {"limits.memory", "1Mi", "100"}, {"limits.memory", "", "104857600"}, {"requests.cpu", "", "0"},
	} {
		ref := &corev1.ResourceFieldSelector{Resource: row.name}
		if row.divisor != "" {
			ref.Divisor = resource.MustParse(row.divisor)
		}
		if got, err := Resource(c, ref, nil); err != nil || got != row.want {
			t.Errorf("%s / %s: %q %v, want %q", row.name, row.divisor, got, err, row.want)
		}
	}
}
