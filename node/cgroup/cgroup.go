// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cgroup keeps the control groups of pods: quality of service classes, one group a pod, and their limits.
//
// It works with version 1, where each controller has a tree, and with version 2. The containers' own groups are made
// by the container runtime (cgroupfs driver) below the pod's.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"
)

// Root is the group of all pods.
const Root = "/kubepods"

// Limits are what a group may use; zero is no limit.
type Limits struct {
	CPUShares uint64 // as cgroup v1 has them, 1024 a CPU
	CPUQuota  int64  // microseconds in each Period
	Memory    int64  // bytes
}

// Period is the period of CPU quotas, in microseconds.
const Period = 100000

// QOS is the quality of service class of a pod, by the rules of
// https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/.
func QOS(p *corev1.Pod) corev1.PodQOSClass {
	if p.Status.QOSClass != "" {
		return p.Status.QOSClass
	}
	containers := append(slices.Clone(p.Spec.InitContainers), p.Spec.Containers...)
	guaranteed, any := true, false
	for _, c := range containers {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, request := c.Resources.Limits[name], c.Resources.Requests[name]
			any = any || !limit.IsZero() || !request.IsZero()
			if limit.IsZero() || !request.IsZero() && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// Path is the group of a pod.
func Path(qos corev1.PodQOSClass, uid types.UID) string {
	switch qos {
	case corev1.PodQOSBestEffort:
		return Root + "/besteffort/pod" + string(uid)
	case corev1.PodQOSBurstable:
		return Root + "/burstable/pod" + string(uid)
	}
	return Root + "/pod" + string(uid)
}

// Shares turns a CPU request into CPU shares.
func Shares(cpu *resource.Quantity) uint64 {
	return uint64(min(max(cpu.MilliValue()*1024/1000, 2), 262144))
}

// Quota turns a CPU limit into microseconds in each Period; zero is no limit.
func Quota(cpu *resource.Quantity) int64 {
	if cpu.IsZero() {
		return 0
	}
	return max(cpu.MilliValue()*Period/1000, 1000)
}

// PodLimits are the limits of a pod's group: the sum of its containers', where all of them have one.
func PodLimits(p *corev1.Pod) Limits {
	var requests, cpu, memory resource.Quantity
	cpuLimited, memoryLimited := true, true
	add := func(c *corev1.Container) {
		requests.Add(*c.Resources.Requests.Cpu())
		cpu.Add(*c.Resources.Limits.Cpu())
		memory.Add(*c.Resources.Limits.Memory())
		cpuLimited = cpuLimited && !c.Resources.Limits.Cpu().IsZero()
		memoryLimited = memoryLimited && !c.Resources.Limits.Memory().IsZero()
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
			continue
		}
		cpuLimited = cpuLimited && !c.Resources.Limits.Cpu().IsZero()
		memoryLimited = memoryLimited && !c.Resources.Limits.Memory().IsZero()
		if c.Resources.Limits.Cpu().Cmp(cpu) > 0 {
			cpu = *c.Resources.Limits.Cpu()
		}
		if c.Resources.Limits.Memory().Cmp(memory) > 0 {
			memory = *c.Resources.Limits.Memory()
		}
		if c.Resources.Requests.Cpu().Cmp(requests) > 0 {
			requests = *c.Resources.Requests.Cpu()
		}
	}
	limits := Limits{CPUShares: Shares(&requests)}
	if cpuLimited {
		limits.CPUQuota = Quota(&cpu)
	}
	if memoryLimited {
		limits.Memory = memory.Value()
	}
	return limits
}

// Tree is the mounted hierarchy.
type Tree struct {
	root    string
	unified bool
}

// Mounted returns the hierarchy at /sys/fs/cgroup.
func Mounted() (*Tree, error) {
	const root = "/sys/fs/cgroup"
	var stat unix.Statfs_t
	if err := unix.Statfs(root, &stat); err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	return &Tree{root, int64(stat.Type) == unix.CGROUP2_SUPER_MAGIC}, nil
}

// Unified tells whether this is version 2.
func (t *Tree) Unified() bool { return t.unified }

// controllers are those that pods are limited with.
func controllers() []string { return []string{"cpu", "cpuset", "memory", "pids"} }

// Apply makes a group, with the groups above it, and sets its limits.
func (t *Tree) Apply(path string, limits Limits) error {
	if t.unified {
		return t.applyUnified(path, limits)
	}
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if _, err := os.Stat(filepath.Join(t.root, controller)); err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Join(t.root, controller, path), 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
	}
	settings := map[string]string{}
	if limits.CPUShares > 0 {
		settings["cpu/"+path+"/cpu.shares"] = strconv.FormatUint(limits.CPUShares, 10)
	}
	if limits.CPUQuota > 0 {
		settings["cpu/"+path+"/cpu.cfs_period_us"] = strconv.Itoa(Period)
		settings["cpu/"+path+"/cpu.cfs_quota_us"] = strconv.FormatInt(limits.CPUQuota, 10)
	}
	if limits.Memory > 0 {
		settings["memory/"+path+"/memory.limit_in_bytes"] = strconv.FormatInt(limits.Memory, 10)
	}
	return t.set(settings)
}

func (t *Tree) applyUnified(path string, limits Limits) error {
	if err := os.MkdirAll(filepath.Join(t.root, path), 0o755); err != nil {
		return fmt.Errorf("make control group: %w", err)
	}
	dir := t.root
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		for _, controller := range controllers() {
			// A controller that is not there, or is held by version 1, limits nothing.
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		}
		dir = filepath.Join(dir, part)
	}
	settings := map[string]string{}
	if limits.CPUShares > 0 {
		// The weight of 1 to 10000 that the shares of 2 to 262144 stand for.
		settings[path+"/cpu.weight"] = strconv.FormatUint(1+(limits.CPUShares-2)*9999/262142, 10)
	}
	if limits.CPUQuota > 0 {
		settings[path+"/cpu.max"] = fmt.Sprintf("%d %d", limits.CPUQuota, Period)
	}
	if limits.Memory > 0 {
		settings[path+"/memory.max"] = strconv.FormatInt(limits.Memory, 10)
	}
	return t.set(settings)
}

func (t *Tree) set(settings map[string]string) error {
	for name, value := range settings {
		err := os.WriteFile(filepath.Join(t.root, name), []byte(value), 0o644)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("limit control group: %w", err)
		}
	}
	return nil
}

// Remove removes a group and the empty groups below it. A group that still has processes is an error.
func (t *Tree) Remove(path string) error {
	roots := []string{t.root}
	if !t.unified {
		entries, err := os.ReadDir(t.root)
		if err != nil {
			return fmt.Errorf("remove control group: %w", err)
		}
		roots = nil
		for _, e := range entries {
			roots = append(roots, filepath.Join(t.root, e.Name()))
		}
	}
	var problems []error
	for _, root := range roots {
		problems = append(problems, removeGroup(filepath.Join(root, path)))
	}
	return errors.Join(problems...)
}

func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove control group: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove control group %s: %w", dir, err)
	}
	return nil
}
