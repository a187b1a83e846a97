// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package clustertest

import (
	"context"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/core"
	"knarr.dev/client"
)

// maxLines bounds what is kept of the log.
const maxLines = 300

// tail keeps the end of a log. It is an io.Writer that gets whole lines.
type tail struct {
	mu      sync.Mutex
	lines   []string
	dropped int
}

func newTail() *tail { return &tail{} }

func (l *tail) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == maxLines {
		l.lines = append(l.lines[:0], l.lines[1:]...)
		l.dropped++
	}
	l.lines = append(l.lines, string(line))
	return len(line), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.Join(l.lines, "")
	if l.dropped > 0 {
		text = fmt.Sprintf("(%d lines before)\n", l.dropped) + text
	}
	return text
}

// explain prints what helps to understand a failure.
func (c *Cluster) explain() {
	c.t.Log(c.state(""))
	if text := c.log.String(); text != "" {
		c.t.Logf("what the cluster logged:\n%s", text)
	}
}

// state tells of pods that are not ready and of warnings in a namespace, or in all.
func (c *Cluster) state(namespace string) string {
	ctx, cancel := context.WithTimeout(context.Background(), c.options.timeout)
	defer cancel()
	var b strings.Builder
	pods, _, err := client.Of(c.Client(), core.Pods).List(ctx, client.ListOptions{Namespace: namespace})
	if err != nil {
		return fmt.Sprintf("pods: %v", err)
	}
	ready := 0
	for _, p := range pods {
		if isReady(p) || p.Status.Phase == corev1.PodSucceeded {
			ready++
			continue
		}
		fmt.Fprintf(&b, "pod %s/%s: %s\n", p.Namespace, p.Name, why(p))
	}
	events, _, err := client.Of(c.Client(), core.Events).List(ctx, client.ListOptions{Namespace: namespace})
	if err != nil {
		return fmt.Sprintf("events: %v", err)
	}
	for _, e := range events[max(0, len(events)-maxLines):] {
		if e.Type == corev1.EventTypeWarning {
			fmt.Fprintf(&b, "%s %s/%s: %s: %s\n", strings.ToLower(e.InvolvedObject.Kind), e.InvolvedObject.Namespace, e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
	return fmt.Sprintf("%d pods, %d of them ready or done\n%s", len(pods), ready, b.String())
}

// why says in a line what a pod waits for.
func why(p *corev1.Pod) string {
	text := []string{string(p.Status.Phase)}
	if p.Spec.NodeName == "" {
		text = append(text, "not on a node")
	} else {
		text = append(text, "on "+p.Spec.NodeName)
	}
	if p.DeletionTimestamp != nil {
		text = append(text, "being deleted")
	}
	for _, c := range p.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			text = append(text, fmt.Sprintf("%s: %s", c.Type, c.Message))
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			text = append(text, fmt.Sprintf("container %s: %s %s", c.Name, w.Reason, w.Message))
		}
	}
	return strings.Join(text, ", ")
}
