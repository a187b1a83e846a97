// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Prefix comes before container IDs in statuses.
const Prefix = "containerd://"

// Status returns the status of a pod. Conditions that the node does not own are kept. stopped tells that nothing of the
// pod will run any more. hostIPs are the node's addresses.
func Status(p *corev1.Pod, o *Observed, m *Memory, hostIPs []string, stopped bool, now time.Time) corev1.PodStatus {
	old := &p.Status
	status := *old.DeepCopy()
	status.ObservedGeneration = p.Generation
	if !m.StartTime.IsZero() {
		status.StartTime = &metav1.Time{Time: m.StartTime}
	}
	if m.Failed != nil && m.Rejected {
		status.Phase, status.Reason, status.Message = corev1.PodFailed, m.Failed.Reason, m.Failed.Message
		return status
	}
	b := builder{pod: p, observed: o, memory: m}
	status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses = nil, nil, nil
	for _, s := range Containers(p) {
		cs := b.container(s)
		switch s.Role {
		case Init, Sidecar:
			status.InitContainerStatuses = append(status.InitContainerStatuses, cs)
		case Regular:
			status.ContainerStatuses = append(status.ContainerStatuses, cs)
		case Ephemeral:
			status.EphemeralContainerStatuses = append(status.EphemeralContainerStatuses, cs)
		}
	}
	if len(hostIPs) > 0 {
		status.HostIP, status.HostIPs = hostIPs[0], nil
		for _, ip := range hostIPs {
			status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: ip})
		}
	}
	ips := m.PodIPs
	if s := o.Sandbox(); s != nil && len(s.IPs) > 0 {
		ips = s.IPs
	}
	if p.Spec.HostNetwork {
		ips = hostIPs
	}
	if len(ips) > 0 {
		status.PodIP, status.PodIPs = ips[0], nil
		for _, ip := range ips {
			status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: ip})
		}
	}
	if !Terminal(old.Phase) {
		status.Phase = b.phase(stopped)
		if m.Failed != nil {
			status.Reason, status.Message = m.Failed.Reason, m.Failed.Message
			if stopped {
				status.Phase = corev1.PodFailed
			}
		}
	}
	b.conditions(&status, now)
	return status
}

type builder struct {
	pod      *corev1.Pod
	observed *Observed
	memory   *Memory
}

// phase follows https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase.
func (b *builder) phase(stopped bool) corev1.PodPhase {
	var waiting, running, ended, succeeded int
	initialized := b.initialized()
	failedInit := false
	for _, s := range Containers(b.pod) {
		c := b.observed.Newest(s.Name)
		if s.Role == Init && c != nil && c.State == Exited && c.ExitCode != 0 && !restarts(b.pod, s, c.ExitCode) {
			failedInit = true
		}
		if s.Role != Regular {
			continue
		}
		switch {
		case c == nil || c.State == Created:
			waiting++
		case c.State == Running:
			running++
		default:
			ended++
			if c.State == Exited && c.ExitCode == 0 {
				succeeded++
			}
		}
	}
	switch {
	case failedInit && !initialized && !b.observed.running():
		return corev1.PodFailed
	case stopped && (ended > 0 || waiting > 0):
		if waiting == 0 && ended == succeeded {
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	case waiting > 0 || !initialized && ended == 0 && running == 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case finished(b.pod, b.observed) && !b.observed.running():
		if ended == succeeded {
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	}
	return corev1.PodRunning
}

// initialized tells whether all init containers did their part.
func (b *builder) initialized() bool {
	for _, s := range Containers(b.pod) {
		if s.Role == Regular && b.observed.Newest(s.Name) != nil {
			return true
		}
	}
	return len(b.incomplete()) == 0
}

// incomplete names the init containers that regular ones wait for.
func (b *builder) incomplete() []string {
	var names []string
	for _, s := range Containers(b.pod) {
		c := b.observed.Newest(s.Name)
		switch s.Role {
		case Init:
			if c == nil || c.State != Exited || c.ExitCode != 0 {
				names = append(names, s.Name)
			}
		case Sidecar:
			if c == nil || c.State != Running || !b.memory.Started(s, c) {
				names = append(names, s.Name)
			}
		}
	}
	return names
}

func (b *builder) container(s Spec) corev1.ContainerStatus {
	cs := corev1.ContainerStatus{Name: s.Name, Image: s.Image, Started: ptr.To(false)}
	c := b.observed.Newest(s.Name)
	if c == nil || c.State == Created {
		cs.State.Waiting = b.waiting(s)
		cs.VolumeMounts = mounts(s)
		return cs
	}
	cs.RestartCount = c.Attempt
	cs.ContainerID = Prefix + c.ID
	if c.Image != "" && !strings.HasPrefix(c.Image, "sha256:") {
		cs.Image = c.Image
	}
	cs.ImageID = c.ImageID
	cs.VolumeMounts = mounts(s)
	cs.Resources = s.Resources.DeepCopy()
	if len(s.Resources.Requests) > 0 {
		cs.AllocatedResources = s.Resources.Requests.DeepCopy()
	}
	if previous := b.observed.previous(c); previous != nil {
		cs.LastTerminationState.Terminated = terminated(previous)
	}
	switch c.State {
	case Running:
		cs.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt)}
		cs.Started = ptr.To(b.memory.Started(s, c))
		cs.Ready = *cs.Started && (s.ReadinessProbe == nil || b.memory.Probes[c.ID].Ready)
	case Exited:
		waiting, ok := b.memory.Waiting[s.Name]
		if ok && restarts(b.pod, s, c.ExitCode) && b.pod.DeletionTimestamp == nil && b.memory.Failed == nil {
			cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Message}
			cs.LastTerminationState.Terminated = terminated(c)
			break
		}
		cs.State.Terminated = terminated(c)
		cs.Ready = s.Role == Init && c.ExitCode == 0
	case Unknown:
		cs.State.Terminated = &corev1.ContainerStateTerminated{
			ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated", ContainerID: Prefix + c.ID,
		}
	}
	return cs
}

func mounts(s Spec) []corev1.VolumeMountStatus {
	var list []corev1.VolumeMountStatus
	for _, m := range s.VolumeMounts {
		status := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			status.RecursiveReadOnly = ptr.To(corev1.RecursiveReadOnlyDisabled)
		}
		list = append(list, status)
	}
	return list
}

func (b *builder) waiting(s Spec) *corev1.ContainerStateWaiting {
	if w, ok := b.memory.Waiting[s.Name]; ok {
		return &corev1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}
	}
	if s.Role != Ephemeral && len(b.pod.Spec.InitContainers) > 0 && !b.initialized() {
		return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

func terminated(c *Container) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message, ContainerID: Prefix + c.ID,
		StartedAt: metav1.NewTime(c.StartedAt), FinishedAt: metav1.NewTime(c.FinishedAt),
	}
	if t.Reason == "" {
		t.Reason = "Completed"
		if c.ExitCode != 0 {
			t.Reason = "Error"
		}
	}
	return t
}

// conditions sets the conditions that the node owns.
func (b *builder) conditions(status *corev1.PodStatus, now time.Time) {
	sandbox := b.observed.Sandbox()
	up := sandbox != nil && sandbox.Ready && (len(sandbox.IPs) > 0 || b.pod.Spec.HostNetwork)
	set := func(kind corev1.PodConditionType, problem, message string) {
		value := corev1.ConditionTrue
		if problem != "" {
			value = corev1.ConditionFalse
		}
		setCondition(status, corev1.PodCondition{
			Type: kind, Status: value, Reason: problem, Message: message, ObservedGeneration: b.pod.Generation,
		}, now)
	}
	setCondition(status, corev1.PodCondition{
		Type: corev1.PodReadyToStartContainers, Status: truth(up), ObservedGeneration: b.pod.Generation,
	}, now)
	if names := b.incomplete(); len(names) > 0 && !b.initialized() && status.Phase != corev1.PodSucceeded {
		set(corev1.PodInitialized, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %v", names))
	} else if status.Phase == corev1.PodSucceeded {
		setCondition(status, corev1.PodCondition{
			Type: corev1.PodInitialized, Status: corev1.ConditionTrue, Reason: "PodCompleted", ObservedGeneration: b.pod.Generation,
		}, now)
	} else {
		set(corev1.PodInitialized, "", "")
	}
	reason, message := b.unready(status)
	podReason, podMessage := reason, message
	if reason == "" {
		if gates := missingGates(b.pod); len(gates) > 0 {
			podReason, podMessage = "ReadinessGatesNotReady", strings.Join(gates, ", ")
		}
	}
	set(corev1.PodReady, podReason, podMessage)
	set(corev1.ContainersReady, reason, message)
	// Pods that no scheduler placed have no such condition yet.
	set(corev1.PodScheduled, "", "")
}

func truth(b bool) corev1.ConditionStatus {
	if b {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

// unready says why containers are not ready.
func (b *builder) unready(status *corev1.PodStatus) (reason, message string) {
	switch status.Phase {
	case corev1.PodSucceeded:
		return "PodCompleted", ""
	case corev1.PodFailed:
		return "PodFailed", ""
	}
	var names []string
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses} {
		for _, cs := range list {
			if s, ok := Find(b.pod, cs.Name); ok && s.Role != Init && !cs.Ready {
				names = append(names, cs.Name)
			}
		}
	}
	if len(names) > 0 {
		return "ContainersNotReady", fmt.Sprintf("containers with unready status: %v", names)
	}
	return "", ""
}

func missingGates(p *corev1.Pod) []string {
	var problems []string
	for _, gate := range p.Spec.ReadinessGates {
		problem := fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType)
		for _, c := range p.Status.Conditions {
			if c.Type != gate.ConditionType {
				continue
			}
			problem = ""
			if c.Status != corev1.ConditionTrue {
				problem = fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status)
			}
		}
		if problem != "" {
			problems = append(problems, problem)
		}
	}
	return problems
}

// setCondition replaces a condition; its transition time changes with its status only.
func setCondition(status *corev1.PodStatus, c corev1.PodCondition, now time.Time) {
	c.LastTransitionTime = metav1.NewTime(now)
	for i := range status.Conditions {
		old := &status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		c.LastProbeTime = old.LastProbeTime
		*old = c
		return
	}
	status.Conditions = append(status.Conditions, c)
}
