// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/node/pod"
	"knarr.dev/node/probe"
)

// prober runs the probes of one container.
type prober struct {
	// life ends all probes, restart those that may demand a restart.
	life, restart context.CancelFunc
	started       chan struct{}
	wait          sync.WaitGroup
}

// followProbes starts the probes of running containers and ends the others.
func (w *worker) followProbes(ctx context.Context, p *corev1.Pod, o *pod.Observed) {
	running := map[string]bool{}
	ips := w.memory.PodIPs
	if s := o.Sandbox(); s != nil && len(s.IPs) > 0 {
		ips = s.IPs
	}
	if p.Spec.HostNetwork {
		ips = []string{w.agent.config.NodeIP}
	}
	for _, c := range o.Containers {
		spec, ok := pod.Find(p, c.Name)
		if c.State != pod.Running || !ok || spec.Role == pod.Init || spec.Role == pod.Ephemeral {
			continue
		}
		running[c.ID] = true
		if w.probers[c.ID] == nil && len(ips) > 0 && w.hooked["post "+c.ID] && w.memory.Failed == nil {
			w.probers[c.ID] = w.newProber(ctx, p, spec, c, ips[0])
		}
	}
	w.forget(o)
	for id, r := range w.probers {
		if !running[id] {
			r.life()
			r.wait.Wait()
			delete(w.probers, id)
		} else if p.DeletionTimestamp != nil {
			r.restart()
		}
	}
}

// forget drops what is remembered of containers that are no more.
func (w *worker) forget(o *pod.Observed) {
	there := map[string]bool{}
	for _, c := range o.Containers {
		there[c.ID] = true
	}
	maps.DeleteFunc(w.hooked, func(key string, _ bool) bool {
		_, id, _ := strings.Cut(key, " ")
		return !there[id]
	})
	w.mu.Lock()
	maps.DeleteFunc(w.probes, func(id string, _ pod.Probes) bool { return !there[id] })
	w.mu.Unlock()
}

func (w *worker) stopProbers() {
	for id, r := range w.probers {
		r.life()
		r.wait.Wait()
		delete(w.probers, id)
	}
}

func (w *worker) newProber(ctx context.Context, p *corev1.Pod, s pod.Spec, c pod.Container, ip string) *prober {
	r := &prober{started: make(chan struct{})}
	ctx, r.life = context.WithCancel(ctx)
	restart, cancel := context.WithCancel(ctx)
	r.restart = cancel
	target := probe.Target{ID: c.ID, PodIP: ip, Spec: s.Container}
	run := func(ctx context.Context, kind string, spec *corev1.Probe, result func(ok bool) bool) {
		if spec == nil {
			return
		}
		loop := probeLoop{worker: w, pod: p, target: target, kind: kind, spec: spec, began: c.StartedAt, result: result}
		if kind != "Startup" {
			loop.after = r.started
		}
		r.wait.Go(func() { loop.run(ctx) })
	}
	if s.StartupProbe == nil || w.memory.Probes[c.ID].Started {
		close(r.started)
	} else {
		run(restart, "Startup", s.StartupProbe, func(ok bool) bool {
			w.setProbes(c.ID, func(s *pod.Probes) {
				s.Started = ok
				if !ok {
					s.Failed = "startup"
				}
			})
			if ok {
				close(r.started)
			}
			return false
		})
	}
	run(restart, "Liveness", s.LivenessProbe, func(ok bool) bool {
		if !ok {
			w.setProbes(c.ID, func(s *pod.Probes) { s.Failed = "liveness" })
		}
		return ok
	})
	run(ctx, "Readiness", s.ReadinessProbe, func(ok bool) bool {
		w.setProbes(c.ID, func(s *pod.Probes) { s.Ready = ok })
		return true
	})
	return r
}

// probeLoop repeats one probe of one container.
type probeLoop struct {
	worker *worker
	pod    *corev1.Pod
	target probe.Target
	kind   string
	spec   *corev1.Probe
	began  time.Time
	after  chan struct{}
	// result takes a result that reached its threshold; false ends the loop.
	result func(ok bool) bool
}

func (l *probeLoop) run(ctx context.Context) {
	if l.after != nil {
		select {
		case <-ctx.Done():
			return
		case <-l.after:
		}
	}
	wait := l.began.Add(time.Duration(l.spec.InitialDelaySeconds) * time.Second).Sub(l.worker.agent.now())
	ticker := time.NewTicker(time.Duration(max(l.spec.PeriodSeconds, 1)) * time.Second)
	defer ticker.Stop()
	if wait > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	var last, known, state bool
	count := int32(0)
	for {
		err := l.worker.agent.prober.Run(ctx, l.target, &l.spec.ProbeHandler, time.Duration(max(l.spec.TimeoutSeconds, 1))*time.Second)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.worker.agent.event(l.pod, l.target.Spec.Name, corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %v", l.kind, err))
		}
		ok := err == nil
		if ok != last {
			count = 0
		}
		last = ok
		count++
		reached := ok && count >= max(l.spec.SuccessThreshold, 1) || !ok && count >= max(l.spec.FailureThreshold, 1)
		if reached && (!known || state != ok) {
			known, state = true, ok
			more := l.result(ok)
			l.worker.kick()
			if !more {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// exec runs a command in a container, for probes and hooks.
func (a *Agent) exec(ctx context.Context, container string, command []string, timeout time.Duration) (string, int32, error) {
	answer, err := a.cri.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
		ContainerId: container, Cmd: command, Timeout: int64((timeout + time.Second - 1) / time.Second),
	})
	if err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			return "", 0, fmt.Errorf("command timed out: %q timed out after %v", strings.Join(command, " "), timeout)
		}
		return "", 0, errors.New(message(err))
	}
	return string(answer.Stdout) + string(answer.Stderr), answer.ExitCode, nil
}

// hook runs a lifecycle hook of a container.
func (a *Agent) hook(ctx context.Context, p *corev1.Pod, c *corev1.Container, id string, h *corev1.LifecycleHandler, ips []string) error {
	ip := ""
	if len(ips) > 0 {
		ip = ips[0]
	}
	if p.Spec.HostNetwork {
		ip = a.config.NodeIP
	} else if fresh, err := a.podIP(ctx, p); err == nil && fresh != "" {
		ip = fresh
	}
	switch {
	case h.Exec != nil:
		answer, err := a.cri.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: h.Exec.Command})
		if err != nil {
			return errors.New(message(err))
		}
		if answer.ExitCode != 0 {
			return fmt.Errorf("command %q exited with %d: %s", strings.Join(h.Exec.Command, " "), answer.ExitCode, answer.Stderr)
		}
		return nil
	case h.HTTPGet != nil:
		return a.prober.HTTP(ctx, probe.Target{ID: id, PodIP: ip, Spec: c}, h.HTTPGet)
	case h.TCPSocket != nil:
		port, err := probe.Port(h.TCPSocket.Port, c)
		if err != nil {
			return err
		}
		conn, err := a.dialer.DialContext(ctx, "tcp", net.JoinHostPort(ip, port))
		if err != nil {
			return err
		}
		return conn.Close()
	case h.Sleep != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		}
	}
	return errors.New("missing hook handler")
}

// podIP asks the runtime for the address of a pod.
func (a *Agent) podIP(ctx context.Context, p *corev1.Pod) (string, error) {
	o, err := a.observe(ctx, string(p.UID), map[string]pod.Container{})
	if err != nil {
		return "", err
	}
	if s := o.Sandbox(); s != nil && len(s.IPs) > 0 {
		return s.IPs[0], nil
	}
	return "", nil
}
