// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kill stops a running container.
type Kill struct {
	ID, Name string
	// Grace is the time between the first word (preStop hook, TERM) and KILL.
	Grace time.Duration
	// Message says why, after "Stopping container NAME" if empty.
	Message string
}

// Start makes and starts a container.
type Start struct {
	Spec
	// Attempt is the restart count.
	Attempt int32
	// Ended is when the container of this name before it ended; zero if there was none.
	Ended time.Time
	// Remove is a container that was made and never started, to be removed first.
	Remove string
}

// Plan is what to do next, in the order of the fields.
type Plan struct {
	// Kills are carried out at the same time.
	Kills []Kill
	// StopSandboxes and what is below are meant for when all kills are done.
	StopSandboxes []string
	// Remove has containers, RemoveSandboxes sandboxes that nobody needs any more.
	Remove, RemoveSandboxes []string
	// CreateSandbox makes a sandbox with Attempt.
	CreateSandbox bool
	Attempt       uint32
	// Starts are carried out one after another.
	Starts []Start
	// After is when to decide again even if nothing changes; zero is never.
	After time.Duration
	// Stopped tells that nothing of the pod runs any more and nothing of it will.
	Stopped bool
	// Waiting replaces the memory's entries for these containers.
	Waiting map[string]Waiting
}

// Empty tells whether there is nothing to do now.
func (p *Plan) Empty() bool {
	return len(p.Kills)+len(p.StopSandboxes)+len(p.Remove)+len(p.RemoveSandboxes)+len(p.Starts) == 0 && !p.CreateSandbox
}

func (p *Plan) after(d time.Duration) {
	if d > 0 && (p.After == 0 || d < p.After) {
		p.After = d
	}
}

// DeadlineExceeded is why a pod with activeDeadlineSeconds ended.
func DeadlineExceeded() *Waiting {
	return &Waiting{"DeadlineExceeded", "Pod was active on the node longer than the specified deadline"}
}

// minimumGrace is what a container gets at least when a grace period ended while others stopped.
const minimumGrace = 2 * time.Second

// Decide returns what to do next with a pod. hash identifies a container's spec, as Container.Hash does.
func Decide(p *corev1.Pod, o *Observed, m *Memory, hash func(*corev1.Container) string, now time.Time) Plan {
	d := decision{pod: p, observed: o, memory: m, hash: hash, now: now, plan: Plan{Waiting: map[string]Waiting{}}}
	switch {
	case d.ends():
		d.stop()
	case !d.sandbox():
	case d.initialize():
		d.regular()
	}
	d.collect()
	return d.plan
}

type decision struct {
	pod      *corev1.Pod
	observed *Observed
	memory   *Memory
	hash     func(*corev1.Container) string
	now      time.Time
	plan     Plan
}

// ends tells whether the pod is to stop: it is deleted, was ended by the node, or has nothing left to run.
func (d *decision) ends() bool {
	if d.pod.DeletionTimestamp != nil || d.memory.Failed != nil || Terminal(d.pod.Status.Phase) {
		return true
	}
	if s := d.pod.Spec.ActiveDeadlineSeconds; s != nil && !d.memory.StartTime.IsZero() {
		if left := d.memory.StartTime.Add(time.Duration(*s) * time.Second).Sub(d.now); left > 0 {
			d.plan.after(left)
		}
	}
	return finished(d.pod, d.observed)
}

// Terminal tells whether a phase is final.
func Terminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// finished tells whether the containers of a pod ended in a way that ends the pod.
func finished(p *corev1.Pod, o *Observed) bool {
	regular := false
	for _, s := range Containers(p) {
		if s.Role == Regular && o.Newest(s.Name) != nil {
			regular = true
		}
	}
	for _, s := range Containers(p) {
		c := o.Newest(s.Name)
		ended := c != nil && c.State == Exited && !restarts(p, s, c.ExitCode)
		switch s.Role {
		case Init:
			if !regular && ended && c.ExitCode != 0 {
				return true
			}
		case Regular:
			if !ended {
				return false
			}
		}
	}
	return true
}

// stop kills regular containers first, sidecars after them in reverse order, then the sandbox.
func (d *decision) stop() {
	grace := d.grace()
	var sidecars []Kill
	sidecar := map[string]bool{}
	for _, s := range Containers(d.pod) {
		sidecar[s.Name] = s.Role == Sidecar
	}
	for i := range d.observed.Containers {
		c := &d.observed.Containers[i]
		if c.State != Running && c.State != Unknown {
			continue
		}
		kill := Kill{ID: c.ID, Name: c.Name, Grace: grace}
		if d.memory.Probes[c.ID].Failed != "" {
			kill.Grace = d.probeGrace(c)
		}
		if sidecar[c.Name] {
			sidecars = append(sidecars, kill)
			continue
		}
		d.plan.Kills = append(d.plan.Kills, kill)
	}
	if len(d.plan.Kills) > 0 {
		return
	}
	specs := Containers(d.pod)
	for i := len(specs) - 1; i >= 0; i-- {
		for _, kill := range sidecars {
			if kill.Name == specs[i].Name {
				d.plan.Kills = append(d.plan.Kills, kill)
				return
			}
		}
	}
	for _, s := range d.observed.Sandboxes {
		if s.Ready {
			d.plan.StopSandboxes = append(d.plan.StopSandboxes, s.ID)
		}
	}
	d.plan.Stopped = len(d.plan.StopSandboxes) == 0
}

// grace is how long containers of an ending pod may take from now.
func (d *decision) grace() time.Duration {
	if at := d.pod.DeletionTimestamp; at != nil {
		if s := d.pod.DeletionGracePeriodSeconds; s != nil && *s <= 2 {
			return time.Duration(*s) * time.Second
		}
		return max(minimumGrace, at.Sub(d.now))
	}
	return specGrace(d.pod)
}

func specGrace(p *corev1.Pod) time.Duration {
	if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return 30 * time.Second
}

// sandbox tells whether the newest sandbox is ready, and plans for one if not.
func (d *decision) sandbox() bool {
	newest := d.observed.Sandbox()
	if newest != nil && newest.Ready && (len(newest.IPs) > 0 || d.pod.Spec.HostNetwork) {
		return true
	}
	for i := range d.observed.Containers {
		if c := &d.observed.Containers[i]; c.State == Running {
			d.plan.Kills = append(d.plan.Kills, Kill{ID: c.ID, Name: c.Name, Grace: specGrace(d.pod), Message: "Pod sandbox changed, it will be killed and re-created."})
		}
	}
	for _, s := range d.observed.Sandboxes {
		if s.Ready {
			d.plan.StopSandboxes = append(d.plan.StopSandboxes, s.ID)
		}
	}
	if left := d.memory.NotBefore[""].Sub(d.now); left > 0 {
		d.plan.after(left)
		return false
	}
	if len(d.plan.Kills)+len(d.plan.StopSandboxes) > 0 {
		return false
	}
	if newest != nil {
		d.plan.Attempt = newest.Attempt + 1
	}
	d.plan.CreateSandbox = true
	return false
}

// initialize plans for init containers and tells whether regular ones may run.
func (d *decision) initialize() bool {
	sandbox := d.observed.Sandbox().ID
	initialized := false
	for _, s := range Containers(d.pod) {
		initialized = initialized || s.Role == Regular && d.observed.current(s.Name, sandbox) != nil
	}
	for _, s := range Containers(d.pod) {
		if s.Role != Init && s.Role != Sidecar || initialized && s.Role == Init {
			continue
		}
		c := d.observed.current(s.Name, sandbox)
		if c != nil && s.Role == Init && c.State == Exited && c.ExitCode == 0 {
			continue
		}
		d.container(s, c)
		if initialized {
			continue
		}
		if s.Role == Init || c == nil || c.State != Running || !d.memory.Started(s, c) {
			return false
		}
	}
	return true
}

// Started tells whether a running container counts as started: sidecars before the next container, statuses.
func (m *Memory) Started(s Spec, c *Container) bool {
	if s.StartupProbe == nil && (s.Lifecycle == nil || s.Lifecycle.PostStart == nil) {
		return true
	}
	return m.Probes[c.ID].Started
}

func (d *decision) regular() {
	sandbox := d.observed.Sandbox().ID
	for _, s := range Containers(d.pod) {
		if s.Role == Regular || s.Role == Ephemeral {
			d.container(s, d.observed.current(s.Name, sandbox))
		}
	}
}

// container plans for one container, whose newest instance in the current sandbox is c or nil.
func (d *decision) container(s Spec, c *Container) {
	if c == nil {
		d.first(s)
		return
	}
	switch c.State {
	case Created:
		d.start(Start{Spec: s, Attempt: c.Attempt, Remove: c.ID})
	case Running, Unknown:
		failed := d.memory.Probes[c.ID].Failed
		switch {
		case failed != "":
			message := fmt.Sprintf("Container %s failed %s probe", s.Name, failed)
			if restarts(d.pod, s, 137) {
				message += ", will be restarted"
			}
			d.plan.Kills = append(d.plan.Kills, Kill{ID: c.ID, Name: s.Name, Grace: d.probeGrace(c), Message: message})
		case s.Role != Ephemeral && c.Hash != "" && d.hash != nil && c.Hash != d.hash(s.Container):
			d.plan.Kills = append(d.plan.Kills, Kill{
				ID: c.ID, Name: s.Name, Grace: specGrace(d.pod), Message: fmt.Sprintf("Container %s definition changed, will be restarted", s.Name),
			})
		}
	case Exited:
		if restarts(d.pod, s, c.ExitCode) {
			d.restart(s, c)
		}
	}
}

// first plans the first container of a name in a sandbox: what ended well in an earlier sandbox does not run again.
func (d *decision) first(s Spec) {
	old := d.observed.Newest(s.Name)
	if old == nil {
		d.start(Start{Spec: s})
		return
	}
	if s.Role == Regular && !restarts(d.pod, s, old.ExitCode) || s.Role == Ephemeral {
		return
	}
	d.start(Start{Spec: s, Attempt: old.Attempt + 1, Ended: old.FinishedAt})
}

func (d *decision) restart(s Spec, c *Container) {
	left, delay := d.memory.wait(c, d.now)
	if left > 0 {
		d.plan.after(left)
		d.plan.Waiting[s.Name] = Waiting{"CrashLoopBackOff", fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
			delay, s.Name, d.pod.Name, d.pod.Namespace, d.pod.UID)}
		return
	}
	d.start(Start{Spec: s, Attempt: c.Attempt + 1, Ended: c.FinishedAt})
}

func (d *decision) start(s Start) {
	if left := d.memory.NotBefore[s.Name].Sub(d.now); left > 0 {
		d.plan.after(left)
		return
	}
	d.plan.Starts = append(d.plan.Starts, s)
}

// probeGrace is the grace period of a container whose probe failed.
func (d *decision) probeGrace(c *Container) time.Duration {
	s, ok := Find(d.pod, c.Name)
	if !ok {
		return specGrace(d.pod)
	}
	probe := s.LivenessProbe
	if d.memory.Probes[c.ID].Failed == "startup" {
		probe = s.StartupProbe
	}
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		return time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
	}
	return specGrace(d.pod)
}

// collect plans the removal of ended containers that a newer ended one of their name follows, and of empty sandboxes.
func (d *decision) collect() {
	ended, kept := map[string]bool{}, map[string]bool{}
	for i := range d.observed.Containers {
		c := &d.observed.Containers[i]
		if c.State == Exited && ended[c.Name] {
			d.plan.Remove = append(d.plan.Remove, c.ID)
			continue
		}
		kept[c.SandboxID] = true
		ended[c.Name] = ended[c.Name] || c.State == Exited
	}
	for i, s := range d.observed.Sandboxes {
		if i > 0 && !s.Ready && !kept[s.ID] {
			d.plan.RemoveSandboxes = append(d.plan.RemoveSandboxes, s.ID)
		}
	}
}
