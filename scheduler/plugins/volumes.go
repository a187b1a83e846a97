// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"fmt"

	"knarr.dev/scheduler/snapshot"
)

// volumeBinding refuses pods that claim volumes: the server does not have claims yet, so none of them exists.
func volumeBinding(pod *snapshot.Pod, _ *snapshot.Snapshot) Rule {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.PersistentVolumeClaim != nil {
			return Rule{Reject: fmt.Sprintf("persistentvolumeclaim %q not found", v.PersistentVolumeClaim.ClaimName)}
		}
		if v.Ephemeral != nil {
			return Rule{Reject: fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", pod.Name+"-"+v.Name)}
		}
	}
	return Rule{}
}
