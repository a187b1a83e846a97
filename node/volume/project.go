// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/node/pod"
)

// project returns the files of a projected volume.
func (v *Volumes) project(ctx context.Context, p *corev1.Pod, sources []corev1.VolumeProjection, mode *int32) (map[string]file, error) {
	set := fileSet{files: map[string]file{}, mode: 0o644, group: fsGroup(p)}
	if mode != nil {
		set.mode = os.FileMode(*mode)
	}
	for _, source := range sources {
		var err error
		switch {
		case source.ConfigMap != nil:
			err = v.configMap(ctx, p, source.ConfigMap, &set)
		case source.Secret != nil:
			err = v.secret(ctx, p, source.Secret, &set)
		case source.DownwardAPI != nil:
			err = v.downward(p, source.DownwardAPI, &set)
		case source.ServiceAccountToken != nil:
			err = v.token(ctx, p, source.ServiceAccountToken, &set)
		default:
			err = fmt.Errorf("a source of the projected volume is not supported by the node")
		}
		if err != nil {
			return nil, err
		}
	}
	return set.files, nil
}

// fileSet collects files with one default mode and group.
type fileSet struct {
	files map[string]file
	mode  os.FileMode
	group int
}

func (s *fileSet) add(path string, data []byte, mode *int32) error {
	if err := local(path); err != nil {
		return err
	}
	f := file{data: data, mode: s.mode, uid: -1, gid: s.group}
	if mode != nil {
		f.mode = os.FileMode(*mode)
	}
	if s.group >= 0 {
		f.mode |= 0o440
	}
	s.files[path] = f
	return nil
}

// keys adds the chosen keys of a config map or secret, or all.
func (s *fileSet) keys(items []corev1.KeyToPath, data map[string][]byte, optional bool, noun string) error {
	if items == nil {
		for key, value := range data {
			if err := s.add(key, value, nil); err != nil {
				return err
			}
		}
		return nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("references non-existent %s key: %s", noun, item.Key)
		}
		if err := s.add(item.Path, value, item.Mode); err != nil {
			return err
		}
	}
	return nil
}

func (v *Volumes) configMap(ctx context.Context, p *corev1.Pod, ref *corev1.ConfigMapProjection, set *fileSet) error {
	optional := ref.Optional != nil && *ref.Optional
	object, err := v.Source.ConfigMap(ctx, p.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		if optional {
			return nil
		}
		return fmt.Errorf("configmap %q not found", ref.Name)
	}
	if err != nil {
		return err
	}
	data := make(map[string][]byte, len(object.Data)+len(object.BinaryData))
	for key, value := range object.Data {
		data[key] = []byte(value)
	}
	for key, value := range object.BinaryData {
		data[key] = value
	}
	return set.keys(ref.Items, data, optional, "config")
}

func (v *Volumes) secret(ctx context.Context, p *corev1.Pod, ref *corev1.SecretProjection, set *fileSet) error {
	optional := ref.Optional != nil && *ref.Optional
	object, err := v.Source.Secret(ctx, p.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		if optional {
			return nil
		}
		return fmt.Errorf("secret %q not found", ref.Name)
	}
	if err != nil {
		return err
	}
	return set.keys(ref.Items, object.Data, optional, "secret")
}

func (v *Volumes) downward(p *corev1.Pod, ref *corev1.DownwardAPIProjection, set *fileSet) error {
	for _, item := range ref.Items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = pod.Field(p, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			spec, ok := pod.Find(p, item.ResourceFieldRef.ContainerName)
			if !ok {
				return fmt.Errorf("container %s not found", item.ResourceFieldRef.ContainerName)
			}
			value, err = pod.Resource(spec.Container, item.ResourceFieldRef, v.Allocatable)
		}
		if err != nil {
			return err
		}
		if err := set.add(item.Path, []byte(value), item.Mode); err != nil {
			return err
		}
	}
	return nil
}

func (v *Volumes) token(ctx context.Context, p *corev1.Pod, ref *corev1.ServiceAccountTokenProjection, set *fileSet) error {
	token, err := v.Source.Token(ctx, p, ref)
	if err != nil {
		return fmt.Errorf("fetch token: %w", err)
	}
	mode := int32(set.mode)
	user := onlyUser(p)
	if user >= 0 || set.group >= 0 {
		mode = 0o600
	}
	if err := set.add(ref.Path, []byte(token), &mode); err != nil {
		return err
	}
	if user >= 0 {
		f := set.files[ref.Path]
		f.uid = user
		set.files[ref.Path] = f
	}
	return nil
}

// onlyUser is the user that all containers of a pod run as, or -1.
func onlyUser(p *corev1.Pod) int {
	user := int64(-1)
	for i, s := range pod.Containers(p) {
		var own *int64
		if c := p.Spec.SecurityContext; c != nil {
			own = c.RunAsUser
		}
		if c := s.SecurityContext; c != nil && c.RunAsUser != nil {
			own = c.RunAsUser
		}
		if own == nil || i > 0 && *own != user {
			return -1
		}
		user = *own
	}
	return int(user)
}
