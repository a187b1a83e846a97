// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Binding returns the hook of pods/binding, which puts a pod on a node.
func Binding(store Store) Hook {
	return Hook{Kind: core.Pods.Kind, Subresource: "binding", Create: func(ctx context.Context, _ *call.Identity, r *call.Request) (resource.Object, error) {
		binding, ok := r.Object.(*corev1.Binding)
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", r.Object))
		}
		name := r.Name
		if name == "" { // the old form does not look at the uid
			name, binding.UID = binding.Name, ""
		}
		if binding.Name != name {
			return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
		}
		if errs := bindingProblems(binding); len(errs) > 0 {
			return nil, errs.ToAggregate()
		}
		if name == "" {
			return nil, apierrors.NewBadRequest("Name parameter required.")
		}
		key := "/registry"
		if r.DryRun {
			key = ""
		}
		key += "/pods/" + r.Namespace + "/" + name
		_, err := store.Update(ctx, core.Pods.Kind, r.Namespace, name, r.DryRun, func(o resource.Object) error {
			return bind(key, core.Pods.Cast(o), binding)
		})
		return nil, err
	}}
}

func bindingProblems(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	target := field.NewPath("target")
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(target.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(target.Child("name"), ""))
	}
	return errs
}

// bind puts a pod on a node; key is what the store calls the pod.
func bind(key string, pod *corev1.Pod, b *corev1.Binding) error {
	conflict := func(resource, format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: resource}, pod.Name, fmt.Errorf(format, args...))
	}
	refuse := func(format string, args ...any) error { return conflict("pods/binding", format, args...) }
	other := "StorageError: invalid object, Code: 4, Key: " + key + ", ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: "
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return conflict("pods", other+"UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
		return conflict("pods", other+"ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, pod.ResourceVersion)
	case pod.DeletionTimestamp != nil:
		return refuse("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return refuse("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) != 0:
		return refuse("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = b.Target.Name
	for k, v := range b.Annotations {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[k] = v
	}
	for k, v := range b.Labels {
		if pod.Labels == nil {
			pod.Labels = map[string]string{}
		}
		pod.Labels[k] = v
	}
	setCondition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, ObservedGeneration: 0})
	return nil
}

func setCondition(pod *corev1.Pod, c corev1.PodCondition) {
	c.LastTransitionTime = metav1.Now().Rfc3339Copy()
	for i := range pod.Status.Conditions {
		have := &pod.Status.Conditions[i]
		if have.Type != c.Type {
			continue
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		*have = c
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, c)
}

func invalidPod(name string, problems field.ErrorList) error {
	if len(problems) == 0 {
		return nil
	}
	return apierrors.NewInvalid(core.Pods.GroupVersionKind.GroupKind(), name, problems)
}

// EphemeralContainers returns the hook of pods/ephemeralcontainers, which adds containers for debugging.
func EphemeralContainers() Hook {
	return Hook{Kind: core.Pods.Kind, Subresource: "ephemeralcontainers", Update: func(_ context.Context, obj, stored resource.Object) error {
		core.Pods.Default(obj)
		return invalidPod(stored.GetName(), core.SetEphemeral(core.Pods.Cast(stored), core.Pods.Cast(obj).Spec.EphemeralContainers))
	}}
}

// Resize returns the hook of pods/resize, which changes what the containers of a running pod get.
func Resize() Hook {
	return Hook{Kind: core.Pods.Kind, Subresource: "resize", Update: func(_ context.Context, obj, stored resource.Object) error {
		core.Pods.Default(obj)
		return invalidPod(stored.GetName(), core.ResizePod(core.Pods.Cast(obj), core.Pods.Cast(stored)))
	}}
}

// Finalize returns the hook of namespaces/finalize, which the namespace loop calls when a namespace is empty.
func Finalize() Hook {
	return Hook{Kind: core.Namespaces.Kind, Subresource: "finalize", Update: func(_ context.Context, obj, stored resource.Object) error {
		body, namespace := core.Namespaces.Cast(obj), core.Namespaces.Cast(stored)
		takeMetadata(obj, stored)
		namespace.Spec.Finalizers = body.Spec.Finalizers
		core.Namespaces.Default(namespace)
		if problems := core.FinalizerProblems(namespace); len(problems) > 0 {
			return apierrors.NewInvalid(core.Namespaces.GroupVersionKind.GroupKind(), namespace.Name, problems)
		}
		return nil
	}}
}

// takeMetadata gives stored the metadata that its users write as obj has it.
func takeMetadata(obj, stored resource.Object) {
	stored.SetLabels(obj.GetLabels())
	stored.SetAnnotations(obj.GetAnnotations())
	stored.SetFinalizers(obj.GetFinalizers())
	stored.SetOwnerReferences(obj.GetOwnerReferences())
}
