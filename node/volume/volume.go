// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package volume makes the volumes of pods on a node and takes them away.
//
// Set makes all volumes of a pod, or brings those that follow the API up to date: it may be called at any time, and
// does nothing if nothing changed. Files of configMap, secret, downwardAPI and projected volumes change all at once.
// Remove undoes everything, from what it finds on disk.
package volume

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Source reads what volumes are made of.
type Source interface {
	// ConfigMap and Secret return API errors.
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Token returns a token of the pod's service account, renewed before it expires.
	Token(ctx context.Context, p *corev1.Pod, want *corev1.ServiceAccountTokenProjection) (string, error)
}

// Volumes makes volumes below Dir: Dir/POD-UID/volumes/kubernetes.io~KIND/NAME.
type Volumes struct {
	Dir         string
	Source      Source
	Allocatable corev1.ResourceList
}

// Error is a volume that could not be made.
type Error struct {
	Volume string
	Err    error
}

// Error says it in Kubernetes' words.
func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// PodDir is where a pod's files are.
func (v *Volumes) PodDir(p *corev1.Pod) string { return filepath.Join(v.Dir, string(p.UID)) }

// Set makes the volumes of a pod and returns their paths by name.
func (v *Volumes) Set(ctx context.Context, p *corev1.Pod, now time.Time) (map[string]string, error) {
	paths := map[string]string{}
	for i := range p.Spec.Volumes {
		volume := &p.Spec.Volumes[i]
		path, err := v.one(ctx, p, volume, now)
		if err != nil {
			return nil, &Error{volume.Name, err}
		}
		paths[volume.Name] = path
	}
	return paths, nil
}

// dir makes the directory of a volume. With memory it is a file system in memory, of a size in bytes if not zero.
func (v *Volumes) dir(p *corev1.Pod, kind, name string, memory bool, size int64) (string, error) {
	path := filepath.Join(v.PodDir(p), "volumes", "kubernetes.io~"+kind, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", err
	}
	if !memory || mounted(path) {
		return path, nil
	}
	options := "mode=0777"
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOATIME, options); err != nil {
		return "", fmt.Errorf("mount tmpfs: %w", err)
	}
	return path, nil
}

func (v *Volumes) one(ctx context.Context, p *corev1.Pod, volume *corev1.Volume, now time.Time) (string, error) {
	s := &volume.VolumeSource
	var sources []corev1.VolumeProjection
	var mode *int32
	kind := ""
	switch {
	case s.EmptyDir != nil:
		return v.emptyDir(p, volume.Name, s.EmptyDir)
	case s.HostPath != nil:
		return s.HostPath.Path, hostPath(s.HostPath)
	case s.ConfigMap != nil:
		kind, mode = "configmap", s.ConfigMap.DefaultMode
		sources = []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: s.ConfigMap.LocalObjectReference, Items: s.ConfigMap.Items, Optional: s.ConfigMap.Optional,
		}}}
	case s.Secret != nil:
		kind, mode = "secret", s.Secret.DefaultMode
		sources = []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: s.Secret.SecretName}, Items: s.Secret.Items, Optional: s.Secret.Optional,
		}}}
	case s.DownwardAPI != nil:
		kind, mode = "downward-api", s.DownwardAPI.DefaultMode
		sources = []corev1.VolumeProjection{{DownwardAPI: &corev1.DownwardAPIProjection{Items: s.DownwardAPI.Items}}}
	case s.Projected != nil:
		kind, mode, sources = "projected", s.Projected.DefaultMode, s.Projected.Sources
	default:
		return "", errors.New("this kind of volume is not supported by the node")
	}
	files, err := v.project(ctx, p, sources, mode)
	if err != nil {
		return "", err
	}
	path, err := v.dir(p, kind, volume.Name, kind != "configmap", 0)
	if err != nil {
		return "", err
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return "", err
	}
	return path, write(path, files, now)
}

func (v *Volumes) emptyDir(p *corev1.Pod, name string, s *corev1.EmptyDirVolumeSource) (string, error) {
	var size resource.Quantity
	if s.SizeLimit != nil {
		size = *s.SizeLimit
	}
	if s.Medium != corev1.StorageMediumDefault && s.Medium != corev1.StorageMediumMemory {
		return "", fmt.Errorf("medium %q is not supported by the node", s.Medium)
	}
	path, err := v.dir(p, "empty-dir", name, s.Medium == corev1.StorageMediumMemory, size.Value())
	if err != nil {
		return "", err
	}
	// Containers may have changed it since.
	ready := filepath.Join(v.PodDir(p), "volumes", "."+name+".ready")
	if _, err := os.Stat(ready); err == nil {
		return path, nil
	}
	mode := os.FileMode(0o777)
	if group := fsGroup(p); group >= 0 {
		mode |= os.ModeSetgid
		if err := os.Chown(path, -1, group); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		return "", err
	}
	return path, os.WriteFile(ready, nil, 0o600)
}

func fsGroup(p *corev1.Pod) int {
	if s := p.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		return int(*s.FSGroup)
	}
	return -1
}

// hostPath checks or makes what a hostPath volume names.
func hostPath(s *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if s.Type != nil {
		kind = *s.Type
	}
	info, err := os.Stat(s.Path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	there := err == nil
	is := func(ok bool, noun string) error {
		if there && ok {
			return nil
		}
		return fmt.Errorf("hostPath type check failed: %s is not a %s", s.Path, noun)
	}
	var mode os.FileMode
	if there {
		mode = info.Mode()
	}
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if !there {
			return os.MkdirAll(s.Path, 0o755)
		}
		return is(mode.IsDir(), "directory")
	case corev1.HostPathDirectory:
		return is(mode.IsDir(), "directory")
	case corev1.HostPathFileOrCreate:
		if !there {
			return os.WriteFile(s.Path, nil, 0o644)
		}
		return is(mode.IsRegular(), "file")
	case corev1.HostPathFile:
		return is(mode.IsRegular(), "file")
	case corev1.HostPathSocket:
		return is(mode&os.ModeSocket != 0, "socket file")
	case corev1.HostPathCharDev:
		return is(mode&os.ModeCharDevice != 0, "character device")
	case corev1.HostPathBlockDev:
		return is(mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0, "block device")
	}
	return fmt.Errorf("%s is an invalid volume type", kind)
}

// SubPath returns a path of the node that stands for sub of the volume at path, for the mount with a number of a container. It
// binds what sub names now to a place that containers cannot redirect by links.
func (v *Volumes) SubPath(p *corev1.Pod, path, sub, volume, container string, number int) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if err := local(sub); err != nil {
		return "", err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if _, err := root.Stat(sub); errors.Is(err, os.ErrNotExist) {
		if err := root.MkdirAll(sub, 0o750); err != nil {
			return "", err
		}
		if err := root.Chmod(sub, info.Mode()&(os.ModePerm|os.ModeSetgid)); err != nil {
			return "", err
		}
	} else if err != nil {
		return "", err
	}
	opened, err := root.OpenFile(sub, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer opened.Close()
	info, err = opened.Stat()
	if err != nil {
		return "", err
	}
	target := filepath.Join(v.PodDir(p), "volume-subpaths", volume, container, fmt.Sprint(number))
	if mounted(target) {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return "", err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return "", err
	}
	source := fmt.Sprintf("/proc/self/fd/%d", opened.Fd())
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind %s: %w", sub, err)
	}
	return target, nil
}

// Remove unmounts and removes everything that the node has of a pod.
func Remove(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	return os.RemoveAll(dir)
}

// mounted tells whether something is mounted at path.
func mounted(path string) bool {
	mounts, err := mountsBelow(path)
	return err == nil && slices.Contains(mounts, path)
}

// mountsBelow lists the mounts at and below a directory, deepest first.
func mountsBelow(dir string) ([]string, error) {
	info, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer info.Close()
	var mounts []string
	scanner := bufio.NewScanner(info)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 5 {
			continue
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			mounts = append(mounts, at)
		}
	}
	slices.Reverse(mounts)
	return mounts, scanner.Err()
}
