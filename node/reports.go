// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/ptr"

	"knarr.dev/api/core"
	"knarr.dev/client"
)

// reports is where workers tell what became of their pods.
type reports interface {
	// Status writes the status of a pod if it differs from p's. It returns the new pod, or nil if nothing was written.
	Status(ctx context.Context, p *corev1.Pod, status *corev1.PodStatus) (*corev1.Pod, error)
	// Gone deletes a pod of which nothing is left on the node.
	Gone(ctx context.Context, p *corev1.Pod) error
	// Event records an event. It does not block.
	Event(e *corev1.Event)
}

// apiReports reports to the API server.
type apiReports struct {
	client   *client.Client
	recorder *recorder
}

// Status implements reports. It sends a patch, so that conditions of others stay as they are.
func (r *apiReports) Status(ctx context.Context, p *corev1.Pod, status *corev1.PodStatus) (*corev1.Pod, error) {
	if equality.Semantic.DeepEqual(&p.Status, status) {
		return nil, nil
	}
	old, err := json.Marshal(corev1.Pod{Status: p.Status})
	if err != nil {
		return nil, err
	}
	wanted, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: p.UID}, Status: *status})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(old, wanted, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("patch status: %w", err)
	}
	return client.Of(r.client, core.Pods).Patch(ctx, client.KeyOf(p), types.StrategicMergePatchType, patch, "status")
}

// Gone implements reports.
func (r *apiReports) Gone(ctx context.Context, p *corev1.Pod) error {
	return client.Of(r.client, core.Pods).Delete(ctx, client.KeyOf(p), &metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &p.UID},
	})
}

// Event implements reports.
func (r *apiReports) Event(e *corev1.Event) { r.recorder.add(e) }
