// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"knarr.dev/api/resource"
)

// podColumns are those of kubectl get pods.
var podColumns = []resource.Column[corev1.Pod]{
	{Name: "Ready", Value: func(p *corev1.Pod, _ time.Time) any {
		ready, total := podReadiness(p)
		return fmt.Sprintf("%d/%d", ready, total)
	}},
	{Name: "Status", Value: func(p *corev1.Pod, _ time.Time) any { return podStatusText(p) }},
	{Name: "Restarts", Value: func(p *corev1.Pod, now time.Time) any { return podRestarts(p, now) }},
	{Name: "Age", Value: func(p *corev1.Pod, now time.Time) any { return age(p.CreationTimestamp, now) }},
	{Name: "IP", Wide: true, Value: func(p *corev1.Pod, _ time.Time) any {
		if len(p.Status.PodIPs) > 0 {
			return p.Status.PodIPs[0].IP
		}
		return orNone(p.Status.PodIP)
	}},
	{Name: "Node", Wide: true, Value: func(p *corev1.Pod, _ time.Time) any { return orNone(p.Spec.NodeName) }},
	{Name: "Nominated Node", Wide: true, Value: func(p *corev1.Pod, _ time.Time) any { return orNone(p.Status.NominatedNodeName) }},
	{Name: "Readiness Gates", Wide: true, Value: func(p *corev1.Pod, _ time.Time) any {
		if len(p.Spec.ReadinessGates) == 0 {
			return "<none>"
		}
		passed := 0
		for _, g := range p.Spec.ReadinessGates {
			if podCondition(p, g.ConditionType) == corev1.ConditionTrue {
				passed++
			}
		}
		return fmt.Sprintf("%d/%d", passed, len(p.Spec.ReadinessGates))
	}},
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

func podCondition(p *corev1.Pod, kind corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// sidecar tells whether an init container goes on beside the others.
func sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func sidecars(p *corev1.Pod) map[string]bool {
	names := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; sidecar(c) {
			names[c.Name] = true
		}
	}
	return names
}

func podReadiness(p *corev1.Pod) (ready, total int) {
	beside := sidecars(p)
	total = len(p.Spec.Containers) + len(beside)
	for _, s := range p.Status.InitContainerStatuses {
		if beside[s.Name] && s.Ready && s.Started != nil && *s.Started {
			ready++
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.Ready && s.State.Running != nil {
			ready++
		}
	}
	return ready, total
}

// podStatusText is the one word that says most about a pod.
func podStatusText(p *corev1.Pod) string {
	text := string(p.Status.Phase)
	if p.Status.Reason != "" {
		text = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			text = corev1.PodReasonSchedulingGated
		}
	}
	initializing := false
	beside := sidecars(p)
	for i, s := range p.Status.InitContainerStatuses {
		if t := s.State.Terminated; t != nil && t.ExitCode == 0 || beside[s.Name] && s.Started != nil && *s.Started {
			continue
		}
		initializing = true
		text = initText(s, i, len(p.Spec.InitContainers))
		break
	}
	if !initializing || podCondition(p, corev1.PodInitialized) == corev1.ConditionTrue {
		text = containersText(p, text)
	}
	if p.DeletionTimestamp != nil {
		switch {
		case p.Status.Reason == "NodeLost":
			return "Unknown"
		case p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed:
			return "Terminating"
		}
	}
	return text
}

func initText(s corev1.ContainerStatus, i, n int) string {
	switch t, w := s.State.Terminated, s.State.Waiting; {
	case t != nil:
		return "Init:" + terminatedText(t)
	case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
		return "Init:" + w.Reason
	}
	return fmt.Sprintf("Init:%d/%d", i, n)
}

func terminatedText(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func containersText(p *corev1.Pod, text string) string {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		s := p.Status.ContainerStatuses[i]
		switch w, t := s.State.Waiting, s.State.Terminated; {
		case w != nil && w.Reason != "":
			text = w.Reason
		case t != nil:
			text = terminatedText(t)
		case s.Ready && s.State.Running != nil:
			running = true
		}
	}
	if text == "Completed" && running {
		if podCondition(p, corev1.PodReady) == corev1.ConditionTrue {
			return "Running"
		}
		return "NotReady"
	}
	return text
}

// podRestarts counts restarts and says when the last was.
func podRestarts(p *corev1.Pod, now time.Time) string {
	restarts := 0
	var last metav1.Time
	count := func(list []corev1.ContainerStatus) {
		for _, s := range list {
			restarts += int(s.RestartCount)
			if t := s.LastTerminationState.Terminated; t != nil && last.Before(&t.FinishedAt) {
				last = t.FinishedAt
			}
		}
	}
	count(p.Status.InitContainerStatuses)
	count(p.Status.ContainerStatuses)
	if restarts == 0 || last.IsZero() {
		return strconv.Itoa(restarts)
	}
	return fmt.Sprintf("%d (%s ago)", restarts, duration.HumanDuration(now.Sub(last.Time)))
}
