// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/node/cgroup"
	"knarr.dev/node/pod"
)

// containerInput is what a container is made from, beside the pod.
type containerInput struct {
	spec    pod.Spec
	attempt int32
	image   *runtimeapi.Image
	// volumes has the paths of the pod's volumes.
	volumes map[string]string
	podIPs  []string
	// target is the ID of the container whose processes an ephemeral container sees.
	target string
}

// containerHash identifies what of a container's spec cannot change without a new container.
func containerHash(c *corev1.Container) string {
	h := fnv.New32a()
	h.Write([]byte(c.Name))
	h.Write([]byte{0})
	h.Write([]byte(c.Image))
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// containerConfig is the runtime's description of a container.
func (a *Agent) containerConfig(ctx context.Context, p *corev1.Pod, in *containerInput) (*runtimeapi.ContainerConfig, error) {
	c := in.spec.Container
	withIPs := p
	if len(in.podIPs) > 0 && p.Status.PodIP == "" || p.Status.HostIP == "" {
		// The status that has the addresses may not be back from the server yet.
		withIPs = p.DeepCopy()
		withIPs.Status.HostIP, withIPs.Status.HostIPs = a.config.NodeIP, []corev1.HostIP{{IP: a.config.NodeIP}}
		if len(in.podIPs) > 0 {
			withIPs.Status.PodIP, withIPs.Status.PodIPs = in.podIPs[0], nil
			for _, ip := range in.podIPs {
				withIPs.Status.PodIPs = append(withIPs.Status.PodIPs, corev1.PodIP{IP: ip})
			}
		}
	}
	env, err := variables(ctx, a.source, withIPs, c, a.services(p.Namespace), a.allocatable)
	if err != nil {
		return nil, err
	}
	security, err := a.containerSecurity(p, in.spec, in.image, in.target)
	if err != nil {
		return nil, err
	}
	mounts, err := a.mounts(withIPs, in, env)
	if err != nil {
		return nil, err
	}
	lookup := func(name string) (string, bool) {
		value, ok := env.values[name]
		return value, ok
	}
	config := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(in.attempt)},
		Image:      &runtimeapi.ImageSpec{Image: in.image.Id, UserSpecifiedImage: c.Image},
		Command:    expandAll(c.Command, lookup),
		Args:       expandAll(c.Args, lookup),
		WorkingDir: c.WorkingDir,
		Mounts:     mounts,
		Labels: map[string]string{
			labelPodName: p.Name, labelPodNamespace: p.Namespace, labelPodUID: string(p.UID), labelContainerName: c.Name,
		},
		Annotations: map[string]string{
			annotationHash: containerHash(c), annotationRestartCount: strconv.Itoa(int(in.attempt)),
			annotationMessagePath: c.TerminationMessagePath, annotationMessageKind: string(c.TerminationMessagePolicy),
		},
		LogPath: logPath(c.Name, in.attempt),
		Stdin:   c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: security, Resources: a.resources(p, c)},
	}
	if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
		config.Annotations[annotationGrace] = strconv.FormatInt(*s, 10)
	}
	for _, name := range env.names {
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(env.values[name])})
	}
	return config, os.MkdirAll(filepath.Join(a.logDir(p), c.Name), 0o755)
}

func expandAll(list []string, lookup func(string) (string, bool)) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = pod.Expand(s, lookup)
	}
	return out
}

// mounts lists the mounts of a container: its volumes, and the files that the node keeps for it.
func (a *Agent) mounts(p *corev1.Pod, in *containerInput, env *environment) ([]*runtimeapi.Mount, error) {
	c := in.spec.Container
	var mounts []*runtimeapi.Mount
	hosts := false
	for i, m := range c.VolumeMounts {
		path, ok := in.volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = pod.Expand(m.SubPathExpr, func(name string) (string, bool) { v, ok := env.values[name]; return v, ok })
		}
		if sub != "" {
			var err error
			if path, err = a.volumes.SubPath(p, path, sub, m.Name, c.Name, i); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
			}
		}
		hosts = hosts || m.MountPath == "/etc/hosts"
		mount := &runtimeapi.Mount{ContainerPath: m.MountPath, HostPath: path, Readonly: m.ReadOnly}
		if m.MountPropagation != nil {
			switch *m.MountPropagation {
			case corev1.MountPropagationHostToContainer:
				mount.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
			case corev1.MountPropagationBidirectional:
				mount.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
			}
		}
		mounts = append(mounts, mount)
	}
	if !hosts {
		path := filepath.Join(a.volumes.PodDir(p), "etc-hosts")
		content, err := a.hosts(p, in.podIPs)
		if err != nil {
			return nil, err
		}
		if err := writeShared(path, content, 0o644); err != nil {
			return nil, err
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	if c.TerminationMessagePath != "" {
		path := a.messagePath(string(p.UID), c.Name, in.attempt)
		if err := writeShared(path, nil, 0o666); err != nil {
			return nil, err
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: c.TerminationMessagePath, HostPath: path})
	}
	return mounts, nil
}

// writeShared writes a file that is bound into containers, so in place, whatever the umask is.
func writeShared(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, content, mode), os.Chmod(path, mode))
}

// messagePath is the file that a container writes its termination message to.
func (a *Agent) messagePath(uid, name string, attempt int32) string {
	return filepath.Join(a.volumes.Dir, uid, "containers", name, strconv.Itoa(int(attempt)))
}

// resources translates requests and limits.
func (a *Agent) resources(p *corev1.Pod, c *corev1.Container) *runtimeapi.LinuxContainerResources {
	request := c.Resources.Requests.Cpu()
	if request.IsZero() {
		request = c.Resources.Limits.Cpu()
	}
	r := &runtimeapi.LinuxContainerResources{
		CpuShares:          int64(cgroup.Shares(request)),
		MemoryLimitInBytes: c.Resources.Limits.Memory().Value(),
		OomScoreAdj:        a.oomScore(p, c),
	}
	if quota := cgroup.Quota(c.Resources.Limits.Cpu()); quota > 0 {
		r.CpuPeriod, r.CpuQuota = cgroup.Period, quota
	}
	return r
}

// oomScore follows https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior.
func (a *Agent) oomScore(p *corev1.Pod, c *corev1.Container) int64 {
	switch cgroup.QOS(p) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	total := a.capacity.Memory().Value()
	if total == 0 {
		return 999
	}
	return min(max(1000-1000*c.Resources.Requests.Memory().Value()/total, 3), 999)
}
