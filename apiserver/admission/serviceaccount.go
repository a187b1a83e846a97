// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"

	"knarr.dev/api/core"
	"knarr.dev/apiserver/authz"
)

const (
	tokenVolumePrefix = "kube-api-access-"
	tokenMountPath    = "/var/run/secrets/kubernetes.io/serviceaccount"
	rootCAConfigMap   = "kube-root-ca.crt"
	// tokenSeconds is an hour and some more, by which agents recognise tokens that nobody asked to be that short.
	tokenSeconds = 3607
	mirrorPod    = corev1.MirrorPodAnnotationKey
	// The account "default" of a new namespace comes from a loop: a pod waits for it, this often and long.
	defaultAccountWait  = 100 * time.Millisecond
	defaultAccountTries = 10
)

// serviceAccount gives pods a service account and its token.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#serviceaccount.
func serviceAccount(reader Reader) Step {
	return Step{Name: "ServiceAccount", Mutate: func(ctx context.Context, r *Request) error {
		if !creates(r, core.Pods.Kind) {
			return nil
		}
		pod := core.Pods.Cast(r.Object)
		if _, mirror := pod.Annotations[mirrorPod]; mirror {
			return checkMirrorPod(r, pod)
		}
		if pod.Spec.ServiceAccountName == "" {
			pod.Spec.ServiceAccountName = "default"
		}
		pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
		account, err := findAccount(ctx, reader, r, pod.Spec.ServiceAccountName)
		if err != nil {
			return err
		}
		if automounts(account, pod) {
			mountToken(pod)
		}
		if len(pod.Spec.ImagePullSecrets) == 0 {
			pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
		}
		return nil
	}}
}

func checkMirrorPod(r *Request, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return forbidden(r, "a mirror pod may not reference service accounts")
	}
	if authz.References(pod, "secrets", authz.AnyName) {
		return forbidden(r, "a mirror pod may not reference secrets")
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			return forbidden(r, "a mirror pod may not use ServiceAccountToken volume projections")
		}
	}
	return nil
}

func findAccount(ctx context.Context, reader Reader, r *Request, name string) (*corev1.ServiceAccount, error) {
	tries := 1
	if name == "default" {
		tries = defaultAccountTries
	}
	for try := 1; ; try++ {
		o, err := reader.Get(ctx, core.ServiceAccounts.Kind, r.Namespace, name)
		if err == nil {
			return core.ServiceAccounts.Cast(o), nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, err
		}
		if try == tries {
			return nil, forbidden(r, fmt.Sprintf("error looking up service account %s/%s: serviceaccount %q not found", r.Namespace, name, name))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(defaultAccountWait):
		}
	}
}

func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

// mountToken gives every container that has nothing at the usual path the token, the cluster's authority and the namespace.
func mountToken(pod *corev1.Pod) {
	name := ""
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolumePrefix) {
			name = v.Name
			break
		}
	}
	have := name != ""
	if !have {
		name = tokenVolumePrefix + rand.String(5)
	}
	mounted := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
			mounted = true
		}
	}
	if mounted && !have {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(name))
	}
}

func tokenVolume(name string) corev1.Volume {
	mode, seconds := corev1.ProjectedVolumeSourceDefaultMode, int64(tokenSeconds)
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}}}
}
