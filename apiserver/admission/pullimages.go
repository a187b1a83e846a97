// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

// alwaysPullImages makes every new pod pull its images, so that those that need credentials are not had without.
func alwaysPullImages() Step {
	each := func(r *Request, visit func(policy *corev1.PullPolicy, at *field.Path)) {
		if !creates(r, core.Pods.Kind) && !updates(r, core.Pods.Kind) {
			return
		}
		pod := core.Pods.Cast(r.Object)
		if r.Verb == "update" && sameImages(pod, core.Pods.Cast(r.Old)) {
			return
		}
		spec := field.NewPath("spec")
		for i := range pod.Spec.InitContainers {
			visit(&pod.Spec.InitContainers[i].ImagePullPolicy, spec.Child("initContainers").Index(i).Child("imagePullPolicy"))
		}
		for i := range pod.Spec.Containers {
			visit(&pod.Spec.Containers[i].ImagePullPolicy, spec.Child("containers").Index(i).Child("imagePullPolicy"))
		}
		for i := range pod.Spec.EphemeralContainers {
			visit(&pod.Spec.EphemeralContainers[i].ImagePullPolicy, spec.Child("ephemeralContainers").Index(i).Child("imagePullPolicy"))
		}
		for i := range pod.Spec.Volumes {
			if image := pod.Spec.Volumes[i].Image; image != nil {
				visit(&image.PullPolicy, spec.Child("volumes").Index(i).Child("image", "pullPolicy"))
			}
		}
	}
	return Step{
		Name: "AlwaysPullImages",
		Mutate: func(_ context.Context, r *Request) error {
			each(r, func(policy *corev1.PullPolicy, _ *field.Path) { *policy = corev1.PullAlways })
			return nil
		},
		Validate: func(_ context.Context, r *Request) error {
			var problems field.ErrorList
			each(r, func(policy *corev1.PullPolicy, at *field.Path) {
				if *policy != corev1.PullAlways {
					problems = append(problems, field.NotSupported(at, *policy, []corev1.PullPolicy{corev1.PullAlways}))
				}
			})
			if len(problems) > 0 {
				return forbidden(r, problems.ToAggregate().Error())
			}
			return nil
		},
	}
}

// sameImages tells whether an update names no image that was not there before.
func sameImages(pod, old *corev1.Pod) bool {
	had := map[string]bool{}
	for _, image := range images(old) {
		had[image] = true
	}
	for _, image := range images(pod) {
		if !had[image] {
			return false
		}
	}
	return true
}

func images(pod *corev1.Pod) (names []string) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			names = append(names, list[i].Image)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		names = append(names, pod.Spec.EphemeralContainers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			names = append(names, image.Reference)
		}
	}
	return names
}
