// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// complete tells whether the last status says that the rollout is over.
func complete(d *appsv1.Deployment) bool { return isComplete(d, &d.Status) }

func isComplete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && s.ObservedGeneration >= d.Generation
}

// Status is what the deployment's status should be, and when time alone will change it (0: never).
func Status(d *appsv1.Deployment, v versions, now time.Time) (appsv1.DeploymentStatus, time.Duration) {
	all := v.all()
	s := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, CollisionCount: d.Status.CollisionCount,
		AvailableReplicas: available(all), Conditions: slices.Clone(d.Status.Conditions),
	}
	var terminating int32
	for _, set := range all {
		s.Replicas += set.Status.Replicas
		s.ReadyReplicas += set.Status.ReadyReplicas
		if set.Status.TerminatingReplicas != nil {
			terminating += *set.Status.TerminatingReplicas
		}
	}
	s.TerminatingReplicas = &terminating
	if v.current != nil {
		s.UpdatedReplicas = v.current.Status.Replicas
	}
	s.UnavailableReplicas = max(0, total(all)-s.AvailableReplicas)
	_, unavailable := limits(d)
	if s.AvailableReplicas >= *d.Spec.Replicas-unavailable {
		setCondition(&s, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.", now)
	} else {
		setCondition(&s, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", now)
	}
	again := progress(d, v, &s, now)
	failure(v, &s, now)
	return s, again
}

// progress sets the Progressing condition; see
// https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#progressing-deployment.
func progress(d *appsv1.Deployment, v versions, s *appsv1.DeploymentStatus, now time.Time) time.Duration {
	if d.Spec.ProgressDeadlineSeconds == nil || *d.Spec.ProgressDeadlineSeconds == 1<<31-1 {
		s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentProgressing })
		return 0
	}
	name := fmt.Sprintf("Deployment %q", d.Name)
	if v.current != nil {
		name = fmt.Sprintf("ReplicaSet %q", v.current.Name)
	}
	have := condition(s, appsv1.DeploymentProgressing)
	moved := s.UpdatedReplicas > d.Status.UpdatedReplicas ||
		s.Replicas-s.UpdatedReplicas < d.Status.Replicas-d.Status.UpdatedReplicas ||
		s.ReadyReplicas > d.Status.ReadyReplicas || s.AvailableReplicas > d.Status.AvailableReplicas
	newRollout := d.Generation != d.Status.ObservedGeneration && have != nil && have.Reason == "NewReplicaSetAvailable" && !isComplete(d, s)
	switch {
	case d.Spec.Paused:
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused", now)
		return 0
	case isComplete(d, s):
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetAvailable", name+" has successfully progressed.", now)
		return 0
	case have == nil && v.current != nil && s.Replicas == 0:
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", v.current.Name), now)
	case have == nil, moved, newRollout, have.Reason == "DeploymentPaused":
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", name+" is progressing.", now)
		condition(s, appsv1.DeploymentProgressing).LastUpdateTime = metav1.NewTime(now)
	case have.Reason == "NewReplicaSetAvailable", have.Reason == "ProgressDeadlineExceeded":
		return 0
	}
	deadline := condition(s, appsv1.DeploymentProgressing).LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second)
	if left := deadline.Sub(now); left > 0 {
		return left + time.Second
	}
	setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded", name+" has timed out progressing.", now)
	return 0
}

// failure passes on what hinders the newest set that says so.
func failure(v versions, s *appsv1.DeploymentStatus, now time.Time) {
	for _, set := range slices.Backward(v.all()) {
		for _, c := range set.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				setCondition(s, appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message, now)
				return
			}
		}
	}
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentReplicaFailure })
}

func condition(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setCondition changes a condition; the time of transition moves only with its status.
func setCondition(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) {
	next := appsv1.DeploymentCondition{
		Type: kind, Status: status, Reason: reason, Message: message, LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
	have := condition(s, kind)
	switch {
	case have == nil:
		s.Conditions = append(s.Conditions, next)
	case have.Status == status && have.Reason == reason && have.Message == message:
	default:
		if have.Status == status {
			next.LastTransitionTime = have.LastTransitionTime
		}
		*have = next
	}
}
