// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// AddLost adds what the pod's status tells of containers that the runtime has no more, as after a restart of the node:
// restart counts go on, and what must not run twice does not. A container that ran when it was seen last counts as
// killed.
func (o *Observed) AddLost(p *corev1.Pod) {
	for _, cs := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses) {
		if cs.ContainerID == "" || o.Newest(cs.Name) != nil {
			continue
		}
		c := Container{
			ID: strings.TrimPrefix(cs.ContainerID, Prefix), Name: cs.Name, Image: cs.Image, ImageID: cs.ImageID, Attempt: cs.RestartCount, State: Exited,
			ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated",
		}
		ended := cs.State.Terminated
		if ended == nil && cs.State.Waiting != nil {
			ended = cs.LastTerminationState.Terminated
		}
		if ended != nil {
			c.ExitCode, c.Reason, c.Message = ended.ExitCode, ended.Reason, ended.Message
			c.StartedAt, c.FinishedAt = ended.StartedAt.Time, ended.FinishedAt.Time
		}
		o.Containers = append(o.Containers, c)
	}
}
