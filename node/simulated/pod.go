// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package simulated

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/node/pod"
)

// simulation is the runtime of one pod: the containers that a runtime would have, without containers. Only the pod's
// item in the queue uses it.
type simulation struct {
	uid      types.UID
	observed pod.Observed
	memory   *pod.Memory
	// began has the exact start of running containers and told when they were told to stop, by ID; due has when
	// something that was begun is done, by its name.
	began, told, due map[string]time.Time
	acted            bool // something was done to the pod; if not, an ended one's status is not ours to write

	pod       *corev1.Pod // of this look
	settings  settings
	problem   error // of the settings
	node      *machine
	now       time.Time
	lookAgain time.Duration
}

func id(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "/")))
	return hex.EncodeToString(sum[:])
}

// holdsAddress tells whether a pod's address is in use.
func holdsAddress(p *corev1.Pod) bool { return !pod.Terminal(p.Status.Phase) }

// lookAtPod takes a pod as far through its life as the time allows and reports. It returns when to look again.
func (f *Fleet) lookAtPod(ctx context.Context, key client.Key) (time.Duration, error) {
	p := f.pods.Get(key)
	s := f.simulation(key, p)
	if s == nil {
		return 0, nil
	}
	if node := f.seen.Get(client.Key{Name: p.Spec.NodeName}); node == nil || isDown(node) {
		return 0, nil // the node's return looks at its pods
	}
	s.pod, s.now, s.lookAgain = p, f.now(), 0
	s.settings, s.problem = settingsOf(p, f.config.Delays)
	defer func() { s.pod, s.settings.pod = nil, nil }() // the server may move it in memory
	stopped, err := s.advance()
	if err != nil {
		return 0, err
	}
	if !stopped || s.acted || !pod.Terminal(p.Status.Phase) {
		if err := f.report(ctx, s, stopped); err != nil {
			return 0, err
		}
	}
	if stopped {
		s.node.addresses.free(s.uid)
		if p.DeletionTimestamp != nil {
			return 0, f.remove(ctx, s)
		}
	}
	return s.lookAgain, nil
}

// simulation returns the simulation of a pod as it is now; nil if there is nothing to simulate.
func (f *Fleet) simulation(key client.Key, p *corev1.Pod) *simulation {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.containers[key]
	if s != nil && (p == nil || p.UID != s.uid) {
		s.node.addresses.free(s.uid)
		delete(f.containers, key)
		s = nil
	}
	if p == nil || f.nodes[p.Spec.NodeName] == nil {
		return nil
	}
	if s == nil {
		s = adopt(p, f.nodes[p.Spec.NodeName], f.now())
		f.containers[key] = s
	}
	return s
}

// adopt begins the simulation of a pod where its status left it.
func adopt(p *corev1.Pod, n *machine, now time.Time) *simulation {
	s := &simulation{
		uid: p.UID, memory: pod.NewMemory(), node: n,
		began: map[string]time.Time{}, told: map[string]time.Time{}, due: map[string]time.Time{},
	}
	s.memory.StartTime = now.Truncate(time.Second)
	if p.Status.StartTime != nil {
		s.memory.StartTime = p.Status.StartTime.Time
	}
	sandbox := pod.Sandbox{ID: id(string(p.UID), "sandbox", "0"), CreatedAt: s.memory.StartTime, Ready: !pod.Terminal(p.Status.Phase)}
	for _, ip := range p.Status.PodIPs {
		sandbox.IPs = append(sandbox.IPs, ip.IP)
	}
	s.observed.AddLost(p) // as ended; those that ran run on
	for i := range s.observed.Containers {
		c := &s.observed.Containers[i]
		c.SandboxID = sandbox.ID
		for _, cs := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses) {
			if r := cs.State.Running; r != nil && cs.Name == c.Name {
				c.State, c.StartedAt, c.ExitCode, c.Reason, c.Message = pod.Running, r.StartedAt.Time, 0, "", ""
				s.began[c.ID] = r.StartedAt.Time
			}
		}
	}
	if len(sandbox.IPs) > 0 || len(s.observed.Containers) > 0 {
		s.observed.Sandboxes = []pod.Sandbox{sandbox}
	}
	return s
}

// maxRounds bounds how far one look goes: each container of a pod ends a few rounds later at most.
const maxRounds = 1000

// advance does what is due. It tells whether nothing of the pod runs any more and nothing of it will.
func (s *simulation) advance() (stopped bool, err error) {
	for range maxRounds {
		s.endContainers()
		s.probe()
		s.checkDeadline()
		plan := pod.Decide(s.pod, &s.observed, s.memory, nil, s.now)
		for name, waiting := range s.memory.Waiting {
			if _, still := plan.Waiting[name]; waiting.Reason == "CrashLoopBackOff" && !still {
				delete(s.memory.Waiting, name)
			}
		}
		for name, waiting := range plan.Waiting {
			s.memory.Waiting[name] = waiting
		}
		s.after(plan.After)
		if plan.Stopped {
			return true, nil
		}
		done, err := s.act(&plan)
		if err != nil || !done {
			return false, err
		}
		s.acted, s.lookAgain = true, 0
	}
	return false, fmt.Errorf("pod %s/%s does not come to rest", s.pod.Namespace, s.pod.Name)
}

func (s *simulation) after(d time.Duration) {
	if d > 0 && (s.lookAgain == 0 || d < s.lookAgain) {
		s.lookAgain = d
	}
}

// wait tells whether something that takes a while is done; it begins with the first question.
func (s *simulation) wait(name string, takes time.Duration) bool {
	at, begun := s.due[name]
	if end := s.now.Add(takes); !begun || end.Before(at) {
		at = end
		s.due[name] = at
	}
	if left := at.Sub(s.now); left > 0 {
		s.after(left)
		return false
	}
	delete(s.due, name)
	return true
}

// endContainers ends the containers whose time is over.
func (s *simulation) endContainers() {
	for i := range s.observed.Containers {
		c := &s.observed.Containers[i]
		spec, ok := pod.Find(s.pod, c.Name)
		if c.State != pod.Running || !ok || s.problem != nil {
			continue
		}
		after, code, _ := s.settings.ends(spec)
		if after < 0 {
			continue
		}
		if left := s.began[c.ID].Add(after).Sub(s.now); left > 0 {
			s.after(left)
			continue
		}
		s.exit(c, code)
	}
}

func (s *simulation) exit(c *pod.Container, code int32) {
	c.State, c.ExitCode, c.FinishedAt = pod.Exited, code, s.now.Truncate(time.Second)
	if c.FinishedAt.Before(c.StartedAt) {
		c.FinishedAt = c.StartedAt
	}
	delete(s.began, c.ID)
	delete(s.told, c.ID)
	delete(s.due, "stop "+c.ID)
	s.acted = true
}

// probe says what probes would: every container is started, and ready after a while.
func (s *simulation) probe() {
	clear(s.memory.Probes)
	for i := range s.observed.Containers {
		c := &s.observed.Containers[i]
		if c.State != pod.Running {
			continue
		}
		ready := !s.settings.unready
		if left := s.began[c.ID].Add(s.settings.Ready).Sub(s.now); left > 0 && ready {
			s.after(left)
			ready = false
		}
		s.memory.Probes[c.ID] = pod.Probes{Started: true, Ready: ready}
	}
}

func (s *simulation) checkDeadline() {
	limit := s.pod.Spec.ActiveDeadlineSeconds
	if limit == nil || s.memory.Failed != nil || pod.Terminal(s.pod.Status.Phase) ||
		s.now.Before(s.memory.StartTime.Add(time.Duration(*limit)*time.Second)) {
		return
	}
	s.memory.Failed = pod.DeadlineExceeded()
}

// act carries out what is due of a plan; false means that nothing was.
func (s *simulation) act(plan *pod.Plan) (done bool, err error) {
	for _, kill := range plan.Kills {
		done = s.kill(kill) || done
	}
	for i := range s.observed.Sandboxes {
		if box := &s.observed.Sandboxes[i]; box.Ready && slices.Contains(plan.StopSandboxes, box.ID) {
			box.Ready, done = false, true
		}
	}
	if len(plan.Remove) > 0 {
		s.observed.Containers = slices.DeleteFunc(s.observed.Containers, func(c pod.Container) bool { return slices.Contains(plan.Remove, c.ID) })
		done = true
	}
	if len(plan.RemoveSandboxes) > 0 {
		s.observed.Sandboxes = slices.DeleteFunc(s.observed.Sandboxes, func(b pod.Sandbox) bool { return slices.Contains(plan.RemoveSandboxes, b.ID) })
		done = true
	}
	if plan.CreateSandbox && s.wait("sandbox", s.settings.Create) {
		if err := s.createSandbox(plan.Attempt); err != nil {
			return false, err
		}
		done = true
	}
	for _, start := range plan.Starts {
		done = s.start(start) || done
	}
	return done, nil
}

func (s *simulation) kill(kill pod.Kill) bool {
	for i := range s.observed.Containers {
		c := &s.observed.Containers[i]
		if c.ID != kill.ID {
			continue
		}
		told, ok := s.told[c.ID]
		if !ok {
			told = s.now
			s.told[c.ID] = told
		}
		if !s.wait("stop "+c.ID, min(s.settings.Stop, kill.Grace)) {
			return false
		}
		code := int32(143)
		if s.now.Before(told.Add(s.settings.Stop)) {
			code = 137
		}
		s.exit(c, code)
		return true
	}
	return false
}

func (s *simulation) createSandbox(attempt uint32) error {
	box := pod.Sandbox{ID: id(string(s.uid), "sandbox", fmt.Sprint(attempt)), Attempt: attempt, Ready: true, CreatedAt: s.now.Truncate(time.Second)}
	if !s.pod.Spec.HostNetwork {
		ip, err := s.node.addresses.give(s.uid)
		if err != nil {
			return err
		}
		box.IPs = []string{ip}
	}
	s.observed.Sandboxes = slices.Insert(s.observed.Sandboxes, 0, box)
	return nil
}

func (s *simulation) start(start pod.Start) bool {
	if s.problem != nil {
		s.memory.Waiting[start.Name] = pod.Waiting{Reason: "CreateContainerConfigError", Message: s.problem.Error()}
		return false
	}
	delete(s.memory.Waiting, start.Name)
	if !s.wait("start "+start.Name, s.settings.Start) {
		return false
	}
	c := pod.Container{
		ID: id(string(s.uid), start.Name, fmt.Sprint(start.Attempt)), SandboxID: s.observed.Sandbox().ID, Name: start.Name,
		Image: start.Image, ImageID: start.Image + "@sha256:" + id(start.Image), Attempt: start.Attempt, State: pod.Running,
		CreatedAt: s.now.Truncate(time.Second), StartedAt: s.now.Truncate(time.Second),
	}
	if !start.Ended.IsZero() {
		s.memory.Restarted(start.Name, start.Ended, s.now)
	}
	s.began[c.ID] = s.now
	s.observed.Containers = slices.Insert(s.observed.Containers, 0, c)
	return true
}

// report writes the pod's status if it changed.
func (f *Fleet) report(ctx context.Context, s *simulation, stopped bool) error {
	shown := s.pod
	if s.settings.unready || s.settings.Ready > 0 { // containers without a probe obey, too
		shown = s.pod.DeepCopy()
		for i := range shown.Spec.Containers {
			shown.Spec.Containers[i].ReadinessProbe = &corev1.Probe{}
		}
	}
	status := pod.Status(shown, &s.observed, s.memory, []string{s.node.IP.String()}, stopped, s.now.Truncate(time.Second))
	if box := s.observed.Sandbox(); box != nil && len(box.IPs) > 0 {
		s.memory.PodIPs = box.IPs
	}
	if equality.Semantic.DeepEqual(&s.pod.Status, &status) {
		return nil
	}
	changed := s.pod.DeepCopy()
	changed.Status = status
	_, err := client.Of(s.node.client, core.Pods).UpdateStatus(ctx, changed)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// remove deletes a pod that has stopped.
func (f *Fleet) remove(ctx context.Context, s *simulation) error {
	err := client.Of(s.node.client, core.Pods).Delete(ctx, client.KeyOf(s.pod), &metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &s.uid},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it is gone, or another has its name
	}
	return err
}
