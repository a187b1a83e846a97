// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What tables say about the columns that all workloads have.
const (
	ContainersDoc = "Names of each container in the template."
	ImagesDoc     = "Images referenced by each container in the template."
)

// ContainerNames lists the containers of a pod's spec, as tables of workloads show them.
func ContainerNames(s *corev1.PodSpec) string {
	all := make([]string, len(s.Containers))
	for i := range s.Containers {
		all[i] = s.Containers[i].Name
	}
	return strings.Join(all, ",")
}

// ContainerImages lists the images of a pod's spec, as tables of workloads show them.
func ContainerImages(s *corev1.PodSpec) string {
	all := make([]string, len(s.Containers))
	for i := range s.Containers {
		all[i] = s.Containers[i].Image
	}
	return strings.Join(all, ",")
}

// DefaultClaim fills in what claims and templates of claims leave out.
func DefaultClaim(c *corev1.PersistentVolumeClaim) {
	orDefault(&c.Status.Phase, corev1.ClaimPending)
	setDefault(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(c.Spec.Resources.Limits)
	roundUp(c.Spec.Resources.Requests)
}

// ValidateClaimTemplate checks the claim that is made for each pod of a stateful set.
func ValidateClaimTemplate(c *corev1.PersistentVolumeClaim, at *field.Path) field.ErrorList {
	return validateClaimSpec(&c.Spec, at.Child("spec"))
}

// NameWarnings tells that pods will have hostnames that are no DNS labels, because a workload has such a name.
func NameWarnings(name string) []string {
	return nameWarnings(name, "in Pod names and hostnames")
}

func nameWarnings(name, use string) []string {
	if messages := validation.IsDNS1123Label(name); len(messages) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used %s, which can result in surprising behavior; a DNS label is recommended: %v", use, messages)}
	}
	return nil
}

// QualifiedName names an object by its kind, as tables show owners: statefulset.apps/web.
func QualifiedName(apiVersion, kind, name string) string {
	kind = strings.ToLower(kind)
	if group, _, found := strings.Cut(apiVersion, "/"); found {
		kind += "." + group
	}
	return kind + "/" + name
}
