// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// volumeNeeds says whether a node needs a secret for a volume. References without a namespace are to that of the claim.
func volumeNeeds(v *corev1.PersistentVolume, namespace, name string) bool {
	s := &v.Spec.PersistentVolumeSource
	is := func(refs ...*corev1.SecretReference) bool {
		return slices.ContainsFunc(refs, func(r *corev1.SecretReference) bool {
			if r == nil || r.Name != name {
				return false
			}
			return r.Namespace == namespace || r.Namespace == "" && v.Spec.ClaimRef.Namespace == namespace
		})
	}
	switch {
	case s.CSI != nil:
		return is(s.CSI.NodePublishSecretRef, s.CSI.NodeStageSecretRef, s.CSI.NodeExpandSecretRef)
	case s.AzureFile != nil:
		r := &corev1.SecretReference{Name: s.AzureFile.SecretName}
		if s.AzureFile.SecretNamespace != nil {
			r.Namespace = *s.AzureFile.SecretNamespace
		}
		return is(r)
	case s.CephFS != nil:
		return is(s.CephFS.SecretRef)
	case s.Cinder != nil:
		return is(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		return is(s.FlexVolume.SecretRef)
	case s.ISCSI != nil:
		return is(s.ISCSI.SecretRef)
	case s.RBD != nil:
		return is(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		return is(s.ScaleIO.SecretRef)
	case s.StorageOS != nil && s.StorageOS.SecretRef != nil:
		return is(&corev1.SecretReference{Name: s.StorageOS.SecretRef.Name, Namespace: s.StorageOS.SecretRef.Namespace})
	}
	return false
}

// AnyName stands for every name.
const AnyName = "*"

func named(is, name string) bool { return is == name || name == AnyName && is != "" }

// References tells whether a pod refers to the secret, configmap or persistentvolumeclaim of that name, or to any for
// AnyName.
func References(p *corev1.Pod, resource, name string) bool {
	switch resource {
	case "secrets":
		return refersToSecret(p, name)
	case "configmaps":
		return refersToConfigMap(p, name)
	case "persistentvolumeclaims":
		return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && named(v.PersistentVolumeClaim.ClaimName, name) ||
				v.Ephemeral != nil && named(p.Name+"-"+v.Name, name)
		})
	}
	return false
}

// environments calls f for the environment of every container until it returns true.
func environments(p *corev1.Pod, f func([]corev1.EnvVar, []corev1.EnvFromSource) bool) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if f(list[i].Env, list[i].EnvFrom) {
				return true
			}
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if c := &p.Spec.EphemeralContainers[i]; f(c.Env, c.EnvFrom) {
			return true
		}
	}
	return false
}

func refersToConfigMap(p *corev1.Pod, name string) bool {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.ConfigMap != nil && named(v.ConfigMap.Name, name) {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil && named(s.ConfigMap.Name, name) {
				return true
			}
		}
	}
	return environments(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if s := env[i].ValueFrom; s != nil && s.ConfigMapKeyRef != nil && named(s.ConfigMapKeyRef.Name, name) {
				return true
			}
		}
		return slices.ContainsFunc(from, func(s corev1.EnvFromSource) bool { return s.ConfigMapRef != nil && named(s.ConfigMapRef.Name, name) })
	})
}

func refersToSecret(p *corev1.Pod, name string) bool {
	for _, s := range p.Spec.ImagePullSecrets {
		if named(s.Name, name) {
			return true
		}
	}
	for i := range p.Spec.Volumes {
		if volumeRefersToSecret(&p.Spec.Volumes[i], name) {
			return true
		}
	}
	return environments(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if s := env[i].ValueFrom; s != nil && s.SecretKeyRef != nil && named(s.SecretKeyRef.Name, name) {
				return true
			}
		}
		return slices.ContainsFunc(from, func(s corev1.EnvFromSource) bool { return s.SecretRef != nil && named(s.SecretRef.Name, name) })
	})
}

func volumeRefersToSecret(v *corev1.Volume, name string) bool {
	local := func(r *corev1.LocalObjectReference) bool { return r != nil && named(r.Name, name) }
	switch {
	case v.Secret != nil:
		return named(v.Secret.SecretName, name)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil && named(s.Secret.Name, name) {
				return true
			}
		}
	case v.CSI != nil:
		return local(v.CSI.NodePublishSecretRef)
	case v.AzureFile != nil:
		return named(v.AzureFile.SecretName, name)
	case v.CephFS != nil:
		return local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		return local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		return local(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		return local(v.ISCSI.SecretRef)
	case v.RBD != nil:
		return local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		return local(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		return local(v.StorageOS.SecretRef)
	}
	return false
}
