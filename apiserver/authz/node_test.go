// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/fields"

	"knarr.dev/api/core"
	"knarr.dev/api/storage"
)

// nodeWorld is what was in the server whose decisions are in testdata/node-decisions.jsonl.
func nodeWorld(t *testing.T) objects {
	s := bootstrapped(t)
	claim := func(name string) corev1.VolumeSource {
		return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
	}
	devices := "rc1"
	s.add(core.Pods.Kind,
		&corev1.Pod{ObjectMeta: meta("nn", "p1"), Spec: corev1.PodSpec{
			NodeName: "n1", ServiceAccountName: "sa", ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
			ResourceClaims: []corev1.PodResourceClaim{{Name: "x", ResourceClaimName: &devices}},
			Volumes: []corev1.Volume{
				{Name: "v", VolumeSource: claim("pvc1")}, {Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			},
		}},
		&corev1.Pod{ObjectMeta: meta("nn", "p2"), Spec: corev1.PodSpec{NodeName: "n2", ServiceAccountName: "default"}})
	ref := func(namespace, name string) *corev1.SecretReference {
		return &corev1.SecretReference{Namespace: namespace, Name: name}
	}
	s.add(core.PersistentVolumes.Kind, &corev1.PersistentVolume{ObjectMeta: meta("", "pv1"), Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "nn", Name: "pvc1"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			NodePublishSecretRef: ref("nn", "pvsecret"), NodeStageSecretRef: ref("other", "stage"), ControllerPublishSecretRef: ref("nn", "ctl"),
		}},
	}})
	s.add(storage.VolumeAttachments.Kind,
		&storagev1.VolumeAttachment{ObjectMeta: meta("", "va1"), Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}},
		&storagev1.VolumeAttachment{ObjectMeta: meta("", "va2"), Spec: storagev1.VolumeAttachmentSpec{NodeName: "n2"}})
	return s
}

// TestNodeDecidesAsKubernetes compares with what kube-apiserver v1.36 answered to access reviews for the node n1: lines of verb, group,
// resource, namespace, name, subresource, field selector, allowed, reason, error.
func TestNodeDecidesAsKubernetes(t *testing.T) {
	a := New(nodeWorld(t))
	f, err := os.Open("testdata/node-decisions.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var verb, group, resource, namespace, name, subresource, selector, reason, problem string
		var allowed bool
		row := []any{&verb, &group, &resource, &namespace, &name, &subresource, &selector, &allowed, &reason, &problem}
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		attributes := &Attributes{
			User: user("system:node:n1", "system:nodes"), Verb: verb, Group: group, Version: "v1", Resource: resource, Subresource: subresource,
			Namespace: namespace, Name: name, Fields: fields.ParseSelectorOrDie(selector),
		}
		got, why, err := a.Authorize(t.Context(), attributes)
		if err != nil || got != allowed || why != reason {
			t.Errorf("%s\n got %v, %q, %v", lines.Text(), got, why, err)
		}
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
}

func TestMirrorPodsRelateToNothing(t *testing.T) {
	s := bootstrapped(t)
	mirror := &corev1.Pod{ObjectMeta: meta("nn", "m"), Spec: corev1.PodSpec{NodeName: "n1", ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}}}
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	s.add(core.Pods.Kind, mirror)
	a := &Attributes{User: user("system:node:n1", "system:nodes"), Verb: "get", Resource: "secrets", Namespace: "nn", Name: "pull"}
	if ok, _, _ := New(s).Authorize(t.Context(), a); ok {
		t.Error("a mirror pod gave its node a secret")
	}
}
