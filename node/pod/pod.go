// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pod decides what a node does with a pod.
//
// Decide and Status are pure: from the pod's spec, what the runtime shows (Observed), what the agent remembers (Memory)
// and the time they derive the next actions and the status to report. The agent carries the actions out, observes
// again, and asks again, until nothing is left to do; so a plan may hold only a part of the way.
//
// The behaviour is that of https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/.
package pod

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// State is the state of a container in the runtime.
type State int

// The states of a container.
const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Container is a container that the runtime has.
type Container struct {
	ID, SandboxID, Name string
	// Image is the name of the image as the runtime knows it; ImageID names its content.
	Image, ImageID string
	// Hash identifies the part of the spec that it was made from.
	Hash string
	// Attempt counts the containers of this name before it: the restart count.
	Attempt                          int32
	State                            State
	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int32
	Reason, Message                  string
}

// Sandbox is a pod sandbox that the runtime has.
type Sandbox struct {
	ID        string
	Attempt   uint32
	Ready     bool
	CreatedAt time.Time
	IPs       []string
}

// Observed is what the runtime shows of a pod; both lists have the newest first.
type Observed struct {
	Sandboxes  []Sandbox
	Containers []Container
}

// Sandbox returns the newest sandbox, or nil.
func (o *Observed) Sandbox() *Sandbox {
	if len(o.Sandboxes) == 0 {
		return nil
	}
	return &o.Sandboxes[0]
}

// Newest returns the newest container of a name, or nil.
func (o *Observed) Newest(name string) *Container {
	for i := range o.Containers {
		if o.Containers[i].Name == name {
			return &o.Containers[i]
		}
	}
	return nil
}

// current returns the newest container of a name in a sandbox, or nil.
func (o *Observed) current(name, sandbox string) *Container {
	if c := o.Newest(name); c != nil && c.SandboxID == sandbox {
		return c
	}
	return nil
}

// previous returns the newest ended container of a name before c, or nil.
func (o *Observed) previous(c *Container) *Container {
	seen := false
	for i := range o.Containers {
		other := &o.Containers[i]
		if other.Name != c.Name {
			continue
		}
		if seen && other.State == Exited {
			return other
		}
		seen = seen || other.ID == c.ID
	}
	return nil
}

func (o *Observed) running() bool {
	for _, c := range o.Containers {
		if c.State == Running || c.State == Unknown {
			return true
		}
	}
	return false
}

// Probes is what probes and hooks say of a running container.
type Probes struct {
	// Started is true once the startup probe passed and the postStart hook returned.
	Started bool
	// Ready is the result of the readiness probe.
	Ready bool
	// Failed names the probe that demands a restart, liveness or startup; empty is none.
	Failed string
}

// Waiting is why a container is not there.
type Waiting struct{ Reason, Message string }

// Backoff is the pause before a container is started again.
type Backoff struct {
	Delay   time.Duration
	Updated time.Time
}

// The pause before a container starts again doubles from the first to the second of these; a container that ran for
// twice the second starts over.
const (
	backoffInitial = 10 * time.Second
	backoffMax     = 300 * time.Second
)

// Memory is what the agent remembers of a pod. Decide and Status read it; the agent writes it.
type Memory struct {
	// Backoff and Waiting are by container name. Waiting is removed once the container started.
	Backoff map[string]Backoff
	Waiting map[string]Waiting
	// NotBefore delays the start of a container, by name, and of the sandbox, by the empty name.
	NotBefore map[string]time.Time
	// Probes is by container ID. A running container without entry is not started yet if it has a hook or startup probe.
	Probes map[string]Probes
	// Failed, if set, ends the pod: reason and message of its status. Rejected tells that it never ran.
	Failed   *Waiting
	Rejected bool
	// StartTime is when the node accepted the pod.
	StartTime time.Time
	// PodIPs are the addresses seen last.
	PodIPs []string
}

// NewMemory returns an empty memory.
func NewMemory() *Memory {
	return &Memory{
		Backoff: map[string]Backoff{}, Waiting: map[string]Waiting{}, NotBefore: map[string]time.Time{}, Probes: map[string]Probes{},
	}
}

// Restarted notes that a container is started after one of its name ended at the time ended.
func (m *Memory) Restarted(name string, ended, now time.Time) {
	b, ok := m.Backoff[name]
	if !ok || ended.Sub(b.Updated) > 2*backoffMax {
		m.Backoff[name] = Backoff{backoffInitial, now}
		return
	}
	m.Backoff[name] = Backoff{min(2*b.Delay, backoffMax), now}
}

// wait returns how long the restart of a container must still wait, and the whole pause.
func (m *Memory) wait(c *Container, now time.Time) (left, delay time.Duration) {
	b, ok := m.Backoff[c.Name]
	if !ok || c.FinishedAt.Sub(b.Updated) > 2*backoffMax {
		return 0, 0
	}
	return max(0, c.FinishedAt.Add(b.Delay).Sub(now)), b.Delay
}

// Role tells in which list of the spec a container is.
type Role int

// The roles of containers. A sidecar is an init container that restarts always.
const (
	Regular Role = iota
	Init
	Sidecar
	Ephemeral
)

// Spec is a container of the spec.
type Spec struct {
	*corev1.Container
	Role Role
}

// Containers returns the containers of a pod: init, regular, ephemeral.
func Containers(p *corev1.Pod) []Spec {
	specs := make([]Spec, 0, len(p.Spec.InitContainers)+len(p.Spec.Containers)+len(p.Spec.EphemeralContainers))
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		role := Init
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			role = Sidecar
		}
		specs = append(specs, Spec{c, role})
	}
	for i := range p.Spec.Containers {
		specs = append(specs, Spec{&p.Spec.Containers[i], Regular})
	}
	for i := range p.Spec.EphemeralContainers {
		c := corev1.Container(p.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		specs = append(specs, Spec{&c, Ephemeral})
	}
	return specs
}

// Find returns the container of a name.
func Find(p *corev1.Pod, name string) (Spec, bool) {
	for _, s := range Containers(p) {
		if s.Name == name {
			return s, true
		}
	}
	return Spec{}, false
}

// restarts tells whether a container that ended with code is started again.
func restarts(p *corev1.Pod, s Spec, code int32) bool {
	switch s.Role {
	case Sidecar:
		return true
	case Ephemeral:
		return false
	}
	for _, rule := range s.RestartPolicyRules {
		if rule.Action == corev1.ContainerRestartRuleActionRestart && rule.ExitCodes != nil {
			in := false
			for _, v := range rule.ExitCodes.Values {
				in = in || v == code
			}
			if in == (rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
				return true
			}
		}
	}
	policy := p.Spec.RestartPolicy
	if s.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*s.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return s.Role != Init || code != 0
}
