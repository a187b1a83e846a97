// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/node/cgroup"
	"knarr.dev/node/pod"
	"knarr.dev/node/volume"
)

// worker looks after one pod. Its loop reads, decides and acts; everything it keeps belongs to the loop's goroutine,
// except what the mutex guards.
type worker struct {
	agent  *Agent
	log    *slog.Logger
	uid    string
	wake   chan struct{} // capacity 1
	memory *pod.Memory
	ended  map[string]pod.Container
	// volumes has the paths of the pod's volumes once they are made; refreshed is when they were looked at last.
	volumes   map[string]string
	refreshed time.Time
	failures  map[string]int // of starts in a row, by container name; the sandbox's and volumes' by the empty name
	hooked    map[string]bool
	probers   map[string]*prober
	adopted   bool
	sandboxed bool // the pod has a sandbox
	acted     bool // this agent did something to the pod
	final     bool // the status of the ended pod is written

	mu        sync.Mutex
	latest    *corev1.Pod // the last one known
	gone      bool        // the API has it no more
	interrupt context.CancelFunc
	probes    map[string]pod.Probes
}

func newWorker(a *Agent, p *corev1.Pod) *worker {
	return &worker{
		agent: a, log: a.log.With("pod", p.Namespace+"/"+p.Name), uid: string(p.UID), wake: make(chan struct{}, 1), memory: pod.NewMemory(),
		ended: map[string]pod.Container{}, failures: map[string]int{}, hooked: map[string]bool{}, probers: map[string]*prober{},
		latest: p, probes: map[string]pod.Probes{},
	}
}

// update tells the worker of a new state of its pod; nil means that the API has it no more.
func (w *worker) update(p *corev1.Pod) {
	w.mu.Lock()
	old := w.latest
	stop := p == nil && !w.gone
	seen := p != nil && p.ResourceVersion != "" && p.ResourceVersion == old.ResourceVersion // the worker wrote it itself
	if p == nil {
		w.gone = true
	} else {
		stop = p.DeletionTimestamp != nil && (old.DeletionTimestamp == nil || p.DeletionTimestamp.Before(old.DeletionTimestamp))
		w.latest = p
	}
	if stop && w.interrupt != nil {
		w.interrupt()
	}
	w.mu.Unlock()
	if !seen {
		w.kick()
	}
}

// kick makes the worker look again.
func (w *worker) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// current returns the pod to work on. One that vanished counts as deleted without grace.
func (w *worker) current(ctx context.Context) (context.Context, *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, w.interrupt = context.WithCancel(ctx)
	p := w.latest
	if w.gone && (p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds > 1) {
		p = p.DeepCopy()
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now()}, ptr.To[int64](1)
		w.latest = p
	}
	w.memory.Probes = maps.Clone(w.probes)
	return ctx, p
}

func (w *worker) vanished() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gone
}

// run works until the pod is gone or ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.stopProbers()
	for {
		after, done := w.sync(ctx)
		if done {
			return
		}
		var timer <-chan time.Time
		if after > 0 {
			timer = time.After(after)
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer:
		}
	}
}

// retryDelay is the pause after the runtime or the API did not answer.
const retryDelay = time.Second

// sync looks and acts until there is nothing to do now. It returns when to look again even if nothing changes, and
// whether the pod is gone for good.
func (w *worker) sync(ctx context.Context) (after time.Duration, done bool) {
	for ctx.Err() == nil {
		acting, p := w.current(ctx)
		cancel := w.interrupt
		after, again, done := w.step(acting, ctx, p)
		cancel()
		if done || !again {
			return after, done
		}
	}
	return 0, false
}

// step does one round: acting may be interrupted by a change of the pod, ctx not.
func (w *worker) step(acting, ctx context.Context, p *corev1.Pod) (after time.Duration, again, done bool) {
	a := w.agent
	o, err := a.observe(ctx, w.uid, w.ended)
	if err != nil {
		if ctx.Err() == nil {
			w.log.Error("cannot see the pod's containers", "error", err)
		}
		return retryDelay, false, false
	}
	o.AddLost(p)
	now := a.now()
	w.sandboxed = o.Sandbox() != nil && o.Sandbox().Ready
	w.adopt(p, o, now)
	w.followProbes(ctx, p, o)
	w.checkDeadline(p, now)
	plan := pod.Decide(p, o, w.memory, containerHash, now)
	w.noteWaiting(p, &plan)
	if plan.Stopped {
		return w.stopped(ctx, p, o)
	}
	if !w.report(ctx, p, o, false) {
		plan.After = retryDelay
	}
	if plan.Empty() {
		if next := w.refresh(ctx, p, now); next > 0 && (plan.After == 0 || next < plan.After) {
			plan.After = next
		}
		return plan.After, false, false
	}
	w.acted = true
	w.act(acting, p, o, &plan)
	return 0, true, false
}

// adopt takes over what was there before the worker: the start time, and the state of probes of containers that ran on.
func (w *worker) adopt(p *corev1.Pod, o *pod.Observed, now time.Time) {
	if w.adopted {
		return
	}
	w.adopted = true
	w.memory.StartTime = now.Truncate(time.Second)
	if p.Status.StartTime != nil {
		w.memory.StartTime = p.Status.StartTime.Time
	}
	known := map[string]corev1.ContainerStatus{}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, cs := range list {
			known[cs.ContainerID] = cs
		}
	}
	for _, c := range o.Containers {
		if c.State != pod.Running {
			continue
		}
		w.hooked["post "+c.ID] = true
		if cs, ok := known[pod.Prefix+c.ID]; ok {
			w.setProbes(c.ID, func(s *pod.Probes) { s.Started, s.Ready = cs.Started != nil && *cs.Started, cs.Ready })
		} else if spec, ok := pod.Find(p, c.Name); ok && spec.StartupProbe == nil {
			w.setProbes(c.ID, func(s *pod.Probes) { s.Started = true })
		}
	}
	w.mu.Lock()
	w.memory.Probes = maps.Clone(w.probes)
	w.mu.Unlock()
}

func (w *worker) setProbes(id string, change func(*pod.Probes)) {
	w.mu.Lock()
	s := w.probes[id]
	change(&s)
	w.probes[id] = s
	w.mu.Unlock()
}

func (w *worker) checkDeadline(p *corev1.Pod, now time.Time) {
	s := p.Spec.ActiveDeadlineSeconds
	if s == nil || w.memory.Failed != nil || pod.Terminal(p.Status.Phase) || now.Before(w.memory.StartTime.Add(time.Duration(*s)*time.Second)) {
		return
	}
	w.memory.Failed = pod.DeadlineExceeded()
	w.agent.event(p, "", corev1.EventTypeNormal, w.memory.Failed.Reason, w.memory.Failed.Message)
}

// noteWaiting takes the waiting containers of a plan into the memory, and out those that wait no more.
func (w *worker) noteWaiting(p *corev1.Pod, plan *pod.Plan) {
	for name, waiting := range w.memory.Waiting {
		if _, still := plan.Waiting[name]; waiting.Reason == "CrashLoopBackOff" && !still {
			delete(w.memory.Waiting, name)
		}
	}
	for name, waiting := range plan.Waiting {
		if w.memory.Waiting[name] != waiting {
			w.agent.event(p, name, corev1.EventTypeWarning, "BackOff",
				"Back-off restarting failed container "+name+" in pod "+p.Name+"_"+p.Namespace+"("+string(p.UID)+")")
		}
		w.memory.Waiting[name] = waiting
	}
}

// report writes the pod's status if it changed. It is false if it must be tried again.
func (w *worker) report(ctx context.Context, p *corev1.Pod, o *pod.Observed, stopped bool) bool {
	a := w.agent
	status := pod.Status(p, o, w.memory, []string{a.config.NodeIP}, stopped, a.now().Truncate(time.Second))
	if s := o.Sandbox(); s != nil && len(s.IPs) > 0 {
		w.memory.PodIPs = s.IPs
	}
	if w.vanished() {
		return true
	}
	fresh, err := a.reports.Status(ctx, p, &status)
	switch {
	case apierrors.IsNotFound(err):
		return true
	case err != nil:
		if ctx.Err() == nil {
			w.log.Warn("cannot report the pod's status", "error", err)
		}
		return false
	case fresh != nil:
		w.mu.Lock()
		if !w.gone && w.latest.UID == fresh.UID && (w.latest == p || w.latest.ResourceVersion == p.ResourceVersion) {
			w.latest = fresh
		}
		w.mu.Unlock()
	}
	return true
}

// stopped ends a pod of which nothing runs any more.
func (w *worker) stopped(ctx context.Context, p *corev1.Pod, o *pod.Observed) (after time.Duration, again, done bool) {
	a := w.agent
	w.stopProbers()
	deleted := p.DeletionTimestamp != nil
	// What an earlier agent wrote of an ended pod is not written again from less.
	if !w.final && (!pod.Terminal(p.Status.Phase) || w.acted) {
		if !w.report(ctx, p, o, true) {
			return retryDelay, false, false
		}
		w.final = true
	}
	if err := w.clean(ctx, p, o, deleted); err != nil {
		w.log.Warn("cannot remove what the pod left", "error", err)
		return retryDelay, false, false
	}
	if !deleted {
		return 0, false, false
	}
	if !w.vanished() {
		if err := a.reports.Gone(ctx, p); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			w.log.Warn("cannot delete the pod", "error", err)
			return retryDelay, false, false
		}
	}
	return 0, false, true
}

// clean removes what is left of a pod; what explains its end stays until it is deleted.
func (w *worker) clean(ctx context.Context, p *corev1.Pod, o *pod.Observed, deleted bool) error {
	a := w.agent
	w.volumes = nil
	if !deleted {
		return errors.Join(
			volume.Remove(filepath.Join(a.volumes.PodDir(p), "volumes")),
			volume.Remove(filepath.Join(a.volumes.PodDir(p), "volume-subpaths")),
			a.cgroups.Remove(cgroup.Path(cgroup.QOS(p), p.UID)))
	}
	for _, s := range o.Sandboxes {
		if _, err := a.cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.ID}); err != nil {
			return err
		}
	}
	return errors.Join(
		volume.Remove(a.volumes.PodDir(p)), removeAll(a.logDir(p)), a.cgroups.Remove(cgroup.Path(cgroup.QOS(p), p.UID)))
}

// refreshEvery is how often volumes of running pods are compared with the API.
const refreshEvery = 30 * time.Second

// refresh brings volumes up to date that follow the API, and returns when to look again.
func (w *worker) refresh(ctx context.Context, p *corev1.Pod, now time.Time) time.Duration {
	if len(p.Spec.Volumes) == 0 || p.DeletionTimestamp != nil || !w.sandboxed {
		return 0
	}
	if w.volumes == nil { // an earlier agent made them
		if err := w.prepare(ctx, p); err != nil {
			w.agent.event(p, "", corev1.EventTypeWarning, "FailedMount", err.Error())
			return refreshEvery
		}
	}
	if left := w.refreshed.Add(refreshEvery).Sub(now); left > 0 {
		return left
	}
	w.refreshed = now
	if _, err := w.agent.volumes.Set(ctx, p, now); err != nil {
		w.agent.event(p, "", corev1.EventTypeWarning, "FailedMount", err.Error())
	}
	return refreshEvery
}
