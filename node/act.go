// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/node/cgroup"
	"knarr.dev/node/pod"
)

func removeAll(dir string) error { return os.RemoveAll(dir) }

// act carries out a plan. Problems become events and waiting reasons; the next decision sees what came of it.
func (w *worker) act(ctx context.Context, p *corev1.Pod, o *pod.Observed, plan *pod.Plan) {
	w.kill(ctx, p, plan.Kills)
	if ctx.Err() != nil {
		return
	}
	a := w.agent
	for _, id := range plan.StopSandboxes {
		if _, err := a.cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil && ctx.Err() == nil {
			w.log.Warn("cannot stop sandbox", "sandbox", id, "error", err)
			w.pause(ctx)
		}
	}
	for _, id := range plan.Remove {
		if _, err := a.cri.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			w.log.Debug("cannot remove container", "container", id, "error", err)
		}
	}
	for _, id := range plan.RemoveSandboxes {
		if _, err := a.cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			w.log.Debug("cannot remove sandbox", "sandbox", id, "error", err)
		}
	}
	if plan.CreateSandbox {
		w.createSandbox(ctx, p, plan.Attempt)
	}
	for _, start := range plan.Starts {
		if ctx.Err() != nil {
			return
		}
		w.start(ctx, p, o, start)
	}
}

func (w *worker) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryDelay):
	}
}

// failed notes that a start failed and delays the next one: by 1 s, doubling, to 5 minutes for images.
func (w *worker) failed(name string, first, most time.Duration) {
	w.failures[name]++
	w.memory.NotBefore[name] = w.agent.now().Add(min(first<<min(w.failures[name]-1, 10), most))
}

func (w *worker) succeeded(name string) {
	delete(w.failures, name)
	delete(w.memory.NotBefore, name)
	delete(w.memory.Waiting, name)
}

// prepare makes what a pod needs before its containers: volumes, control group, directories.
func (w *worker) prepare(ctx context.Context, p *corev1.Pod) error {
	a := w.agent
	if w.volumes != nil {
		return nil
	}
	if err := a.cgroups.Apply(cgroup.Path(cgroup.QOS(p), p.UID), cgroup.PodLimits(p)); err != nil {
		return err
	}
	if err := os.MkdirAll(a.logDir(p), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(a.volumes.PodDir(p), 0o750); err != nil {
		return err
	}
	paths, err := a.volumes.Set(ctx, p, a.now())
	if err != nil {
		return err
	}
	w.volumes, w.refreshed = paths, a.now()
	return nil
}

func (w *worker) createSandbox(ctx context.Context, p *corev1.Pod, attempt uint32) {
	a := w.agent
	if err := w.prepare(ctx, p); err != nil {
		if ctx.Err() == nil {
			a.event(p, "", corev1.EventTypeWarning, "FailedMount", err.Error())
			w.failed("", 500*time.Millisecond, 2*time.Minute)
		}
		return
	}
	config, err := a.sandboxConfig(p, attempt)
	if err == nil {
		_, err = a.cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	}
	if err != nil {
		if ctx.Err() == nil {
			a.event(p, "", corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
			w.failed("", time.Second, time.Minute)
		}
		return
	}
	w.succeeded("")
}

// start makes and starts one container.
func (w *worker) start(ctx context.Context, p *corev1.Pod, o *pod.Observed, s pod.Start) {
	a := w.agent
	if s.Remove != "" {
		if _, err := a.cri.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: s.Remove}); err != nil {
			w.log.Warn("cannot remove container", "container", s.Remove, "error", err)
			return
		}
	}
	image, ok := w.image(ctx, p, s.Spec)
	if !ok {
		return
	}
	id, reason, err := w.create(ctx, p, o, s, image)
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		w.memory.Waiting[s.Name] = pod.Waiting{Reason: reason, Message: err.Error()}
		a.event(p, s.Name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		w.failed(s.Name, 2*time.Second, time.Minute)
		return
	}
	a.event(p, s.Name, corev1.EventTypeNormal, "Created", "Container created")
	if !s.Ended.IsZero() {
		w.memory.Restarted(s.Name, s.Ended, a.now())
	}
	if _, err := a.cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		if ctx.Err() == nil {
			w.memory.Waiting[s.Name] = pod.Waiting{Reason: "RunContainerError", Message: message(err)}
			a.event(p, s.Name, corev1.EventTypeWarning, "Failed", "Error: "+message(err))
		}
		return
	}
	w.succeeded(s.Name)
	a.event(p, s.Name, corev1.EventTypeNormal, "Started", "Container started")
	w.postStart(ctx, p, s.Spec, id)
}

// message is the text of an error of the runtime, without the wrapping of the protocol.
func message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// create makes a container; reason is for the status if that fails.
func (w *worker) create(ctx context.Context, p *corev1.Pod, o *pod.Observed, s pod.Start, image *runtimeapi.Image) (id, reason string, err error) {
	a := w.agent
	if err := w.prepare(ctx, p); err != nil {
		return "", "CreateContainerConfigError", err
	}
	sandbox := o.Sandbox()
	in := &containerInput{spec: s.Spec, attempt: s.Attempt, image: image, volumes: w.volumes, podIPs: sandbox.IPs}
	if p.Spec.HostNetwork {
		in.podIPs = []string{a.config.NodeIP}
	}
	for _, e := range p.Spec.EphemeralContainers {
		if e.Name == s.Name && e.TargetContainerName != "" {
			if target := o.Newest(e.TargetContainerName); target != nil {
				in.target = target.ID
			}
		}
	}
	config, err := a.containerConfig(ctx, p, in)
	if err != nil {
		return "", "CreateContainerConfigError", err
	}
	sandboxConfig, err := a.sandboxConfig(p, sandbox.Attempt)
	if err != nil {
		return "", "CreateContainerConfigError", err
	}
	answer, err := a.cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox.ID, Config: config, SandboxConfig: sandboxConfig,
	})
	if err != nil {
		return "", "CreateContainerError", errors.New(message(err))
	}
	return answer.ContainerId, "", nil
}

// kill stops containers at the same time and waits for all of them.
func (w *worker) kill(ctx context.Context, p *corev1.Pod, kills []pod.Kill) {
	var wait sync.WaitGroup
	for _, k := range kills {
		text := "Stopping container " + k.Name
		if k.Message != "" {
			text = k.Message
		}
		if !w.hooked["kill "+k.ID] {
			w.hooked["kill "+k.ID] = true
			w.agent.event(p, k.Name, corev1.EventTypeNormal, "Killing", text)
		}
		first := !w.hooked["pre "+k.ID]
		w.hooked["pre "+k.ID] = true
		wait.Go(func() { w.killOne(ctx, p, k, first) })
	}
	wait.Wait()
}

// killOne stops one container: the preStop hook and the time after TERM share its grace period.
func (w *worker) killOne(ctx context.Context, p *corev1.Pod, k pod.Kill, first bool) {
	began := time.Now()
	if s, ok := pod.Find(p, k.Name); ok && first && k.Grace > 0 && s.Lifecycle != nil && s.Lifecycle.PreStop != nil {
		hook, cancel := context.WithTimeout(ctx, k.Grace)
		if err := w.agent.hook(hook, p, s.Container, k.ID, s.Lifecycle.PreStop, w.memory.PodIPs); err != nil && ctx.Err() == nil {
			w.agent.event(p, k.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			w.log.Info("preStop hook failed", "container", k.Name, "error", err)
		}
		cancel()
	}
	left := k.Grace
	if k.Grace > 0 {
		left = max(minimumStop, k.Grace-time.Since(began))
	}
	_, err := w.agent.cri.StopContainer(ctx, &runtimeapi.StopContainerRequest{
		ContainerId: k.ID, Timeout: int64((left + time.Second - 1) / time.Second),
	})
	if err != nil && ctx.Err() == nil && status.Code(err) != codes.NotFound {
		w.log.Warn("cannot stop container", "container", k.Name, "error", err)
		w.pause(ctx)
	}
}

// minimumStop is the time between TERM and KILL that a container has at least after its preStop hook.
const minimumStop = 2 * time.Second

func (w *worker) postStart(ctx context.Context, p *corev1.Pod, s pod.Spec, id string) {
	if s.Lifecycle != nil && s.Lifecycle.PostStart != nil {
		if err := w.agent.hook(ctx, p, s.Container, id, s.Lifecycle.PostStart, w.memory.PodIPs); err != nil {
			if ctx.Err() != nil {
				return
			}
			w.log.Info("postStart hook failed", "container", s.Name, "error", err)
			w.agent.event(p, s.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			w.kill(ctx, p, []pod.Kill{{ID: id, Name: s.Name, Grace: 30 * time.Second, Message: "FailedPostStartHook"}})
			return
		}
	}
	w.hooked["post "+id] = true
	if s.StartupProbe == nil {
		w.setProbes(id, func(s *pod.Probes) { s.Started = true })
	}
}

// image makes sure that a container's image is there, by its pull policy.
func (w *worker) image(ctx context.Context, p *corev1.Pod, s pod.Spec) (*runtimeapi.Image, bool) {
	a := w.agent
	spec := &runtimeapi.ImageSpec{Image: s.Image}
	answer, err := a.cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		if ctx.Err() == nil {
			w.memory.Waiting[s.Name] = pod.Waiting{Reason: "ImageInspectError", Message: fmt.Sprintf("Failed to inspect image %q: %s", s.Image, message(err))}
			w.failed(s.Name, time.Second, time.Minute)
		}
		return nil, false
	}
	present := answer.Image != nil
	switch {
	case present && s.ImagePullPolicy != corev1.PullAlways:
		a.event(p, s.Name, corev1.EventTypeNormal, "Pulled",
			fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", s.Image))
		return answer.Image, true
	case s.ImagePullPolicy == corev1.PullNever:
		text := fmt.Sprintf("Container image %q is not present with pull policy of Never", s.Image)
		w.memory.Waiting[s.Name] = pod.Waiting{Reason: "ErrImageNeverPull", Message: text}
		a.event(p, s.Name, corev1.EventTypeWarning, "ErrImageNeverPull", text)
		w.failed(s.Name, 10*time.Second, time.Minute)
		return nil, false
	}
	return w.pull(ctx, p, s, spec)
}

func (w *worker) pull(ctx context.Context, p *corev1.Pod, s pod.Spec, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, bool) {
	a := w.agent
	// After a failure, the status shows first the error and then the pause.
	if waiting := w.memory.Waiting[s.Name]; waiting.Reason == "ErrImagePull" && w.failures[s.Name]%2 == 1 {
		w.failures[s.Name]++
		text := fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", s.Image, waiting.Message)
		w.memory.Waiting[s.Name] = pod.Waiting{Reason: "ImagePullBackOff", Message: text}
		a.event(p, s.Name, corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", s.Image))
		a.event(p, s.Name, corev1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
		w.memory.NotBefore[s.Name] = a.now().Add(min(10*time.Second<<min(w.failures[s.Name]/2-1, 10), 300*time.Second))
		return nil, false
	}
	a.event(p, s.Name, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", s.Image))
	began := a.now()
	answer, err := a.cri.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: a.pullAuth(ctx, p, s.Image)})
	if err != nil {
		if ctx.Err() != nil {
			return nil, false
		}
		text := message(err)
		w.memory.Waiting[s.Name] = pod.Waiting{Reason: "ErrImagePull", Message: text}
		a.event(p, s.Name, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %s", s.Image, text))
		a.event(p, s.Name, corev1.EventTypeWarning, "Failed", "Error: ErrImagePull")
		if w.failures[s.Name]%2 == 0 {
			w.failures[s.Name]++
		}
		w.memory.NotBefore[s.Name] = a.now().Add(time.Second)
		return nil, false
	}
	status, err := a.cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: answer.ImageRef}})
	if err != nil || status.Image == nil {
		w.failed(s.Name, time.Second, time.Minute)
		return nil, false
	}
	took := a.now().Sub(began).Round(time.Millisecond)
	a.event(p, s.Name, corev1.EventTypeNormal, "Pulled", strings.TrimSpace(fmt.Sprintf(
		"Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", s.Image, took, took, status.Image.Size)))
	return status.Image, true
}
