// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package simulated

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/api/coordination"
	"knarr.dev/api/core"
	"knarr.dev/client"
)

// How often nodes report, as kubelets do: their lease and its length, and their status at the latest.
const (
	leaseEvery    = 10 * time.Second
	leaseDuration = 40
	statusLatest  = 5 * time.Minute
)

// machine is what the fleet knows of one node. Only the node's item in the queue writes it, except for addresses.
type machine struct {
	Node
	number     int
	client     *client.Client
	addresses  *addresses
	registered bool
	confirmed  string                // resource version of the Node whose status was as it is to be
	reported   time.Time             // and its heartbeat
	lease      *coordinationv1.Lease // as written last
	renewed    time.Time
}

// lookAtNode registers a node, brings its status up to date and renews its lease. It returns when to look again.
func (f *Fleet) lookAtNode(ctx context.Context, n *machine) (time.Duration, error) {
	seen := f.seen.Get(client.Key{Name: n.Name})
	if seen == nil {
		if n.registered {
			return 0, nil // deleted: the node does not come back by itself
		}
		var err error
		if seen, err = client.Of(n.client, core.Nodes).Create(ctx, f.fresh(n)); err != nil && !apierrors.IsAlreadyExists(err) {
			return 0, err
		}
		if err != nil {
			if seen, err = client.Of(n.client, core.Nodes).Get(ctx, client.Key{Name: n.Name}); err != nil {
				return 0, err
			}
		}
	}
	if !isDown(seen) {
		if err := f.reportStatus(ctx, n, seen); err != nil {
			return 0, err
		}
	}
	if !n.registered {
		n.registered = true
		f.mu.Lock()
		if f.missing--; f.missing == 0 {
			close(f.ready)
		}
		f.mu.Unlock()
	}
	if isDown(seen) {
		return 0, nil
	}
	return f.renew(ctx, n, seen)
}

// fresh is the Node that a node registers.
func (f *Fleet) fresh(n *machine) *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{
			corev1.LabelHostname: n.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
			"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
		}, Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
		Spec: corev1.NodeSpec{PodCIDR: n.PodCIDR.String(), PodCIDRs: []string{n.PodCIDR.String()}},
	}
	for key, value := range n.Labels {
		node.Labels[key] = value
	}
	node.Status = f.status(n, node)
	return node
}

// status is what node's status is to be: that of a healthy node.
func (f *Fleet) status(n *machine, node *corev1.Node) corev1.NodeStatus {
	status := *node.Status.DeepCopy()
	status.Capacity, status.Allocatable = f.config.Capacity, f.config.Capacity
	status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: n.IP.String()}, {Type: corev1.NodeHostName, Address: n.Name},
	}
	id := id(n.Name)
	status.NodeInfo = corev1.NodeSystemInfo{
		MachineID: id[:32], SystemUUID: id[:32], BootID: id[32:], KernelVersion: "simulated", OSImage: "simulated",
		ContainerRuntimeVersion: "simulated://" + f.config.Version, KubeletVersion: f.config.Version, OperatingSystem: "linux", Architecture: "amd64",
	}
	now := metav1.NewTime(f.now().Truncate(time.Second))
	for _, c := range []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
	} {
		c.LastHeartbeatTime, c.LastTransitionTime = now, now
		setCondition(&status, c)
	}
	return status
}

// setCondition sets a condition. One that says the same and is not too old stays as it is.
func setCondition(status *corev1.NodeStatus, c corev1.NodeCondition) {
	for i := range status.Conditions {
		old := &status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
			if old.Reason == c.Reason && c.LastHeartbeatTime.Sub(old.LastHeartbeatTime.Time) < statusLatest {
				return
			}
		}
		*old = c
		return
	}
	status.Conditions = append(status.Conditions, c)
}

// reportStatus writes a node's status if it is not what it is to be.
func (f *Fleet) reportStatus(ctx context.Context, n *machine, seen *corev1.Node) error {
	now := f.now()
	if seen.ResourceVersion == n.confirmed && now.Sub(n.reported) < statusLatest {
		return nil
	}
	status := f.status(n, seen)
	if equality.Semantic.DeepEqual(&seen.Status, &status) {
		n.confirmed, n.reported = seen.ResourceVersion, seen.Status.Conditions[0].LastHeartbeatTime.Time
		return nil
	}
	changed := seen.DeepCopy()
	changed.Status = status
	_, err := client.Of(n.client, core.Nodes).UpdateStatus(ctx, changed)
	return err
}

// renew renews the lease of a node if it is due, and returns when it is due next.
func (f *Fleet) renew(ctx context.Context, n *machine, seen *corev1.Node) (time.Duration, error) {
	now := f.now()
	if left := n.renewed.Add(leaseEvery).Sub(now); left > leaseEvery/10 {
		return left, nil
	}
	leases := client.Of(n.client, coordination.Leases)
	key := client.Key{Namespace: corev1.NamespaceNodeLease, Name: n.Name}
	first := n.lease == nil
	if first {
		lease, err := leases.Get(ctx, key)
		if err != nil && !apierrors.IsNotFound(err) {
			return 0, err
		}
		if err != nil {
			lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: seen.UID},
			}}}
		}
		n.lease = lease
	}
	lease := n.lease.DeepCopy()
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = ptr.To(n.Name), ptr.To[int32](leaseDuration)
	lease.Spec.RenewTime = &metav1.MicroTime{Time: now}
	write := leases.Update
	if lease.ResourceVersion == "" {
		write = leases.Create
	}
	written, err := write(ctx, lease)
	if err != nil {
		n.lease = nil // look again
		return 0, err
	}
	n.lease, n.renewed = written, now
	if first { // from now on the nodes' renewals are spread
		spread := leaseEvery / 2 * time.Duration(n.number) / time.Duration(len(f.nodes))
		n.renewed = now.Add(-spread)
		return leaseEvery - spread, nil
	}
	return leaseEvery, nil
}
