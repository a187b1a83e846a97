// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/api/coordination"
	"knarr.dev/api/core"
	"knarr.dev/client"
)

// How often the node reports, as kubelets do: its status when it changed, or at the latest; its lease and its length.
const (
	statusEvery   = 10 * time.Second
	statusLatest  = 5 * time.Minute
	leaseEvery    = 10 * time.Second
	leaseDuration = 40
)

// maxImages is how many images the status of a node names.
const maxImages = 50

// resourcesOfMachine measures what there is and what pods may use.
func (a *Agent) resourcesOfMachine() (capacity, allocatable corev1.ResourceList, err error) {
	memory, err := meminfo("MemTotal")
	if err != nil {
		return nil, nil, err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(a.config.DataDir, &disk); err != nil {
		return nil, nil, fmt.Errorf("measure disk: %w", err)
	}
	capacity = corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(memory, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(a.config.MaxPods), resource.DecimalSI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(int64(disk.Blocks)*disk.Bsize, resource.BinarySI),
	}
	allocatable = capacity.DeepCopy()
	allocatable[corev1.ResourceMemory] = *resource.NewQuantity(memory-int64(a.thresholds[signalMemory].of(uint64(memory))), resource.BinarySI)
	size := int64(disk.Blocks) * disk.Bsize
	allocatable[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(size-int64(a.thresholds[signalDisk].of(uint64(size))), resource.BinarySI)
	return capacity, allocatable, nil
}

// meminfo reads a line of /proc/meminfo, in bytes.
func meminfo(name string) (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		if fields := strings.Fields(scanner.Text()); len(fields) >= 2 && fields[0] == name+":" {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/meminfo", name)
}

func (a *Agent) nodeUID() types.UID { return types.UID(a.config.Name) }

// register makes the Node object, or takes over the one that is there, and reports the first status.
func (a *Agent) register(ctx context.Context) error {
	nodes := client.Of(a.client, core.Nodes)
	for {
		err := a.registerOnce(ctx, nodes)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !apierrors.IsConflict(err) {
			a.log.Warn("cannot register the node", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (a *Agent) registerOnce(ctx context.Context, nodes client.Resource[corev1.Node]) error {
	node, err := nodes.Get(ctx, client.Key{Name: a.config.Name})
	if apierrors.IsNotFound(err) {
		fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.config.Name}}
		a.describe(fresh)
		if a.config.PodCIDR.IsValid() {
			fresh.Spec.PodCIDR, fresh.Spec.PodCIDRs = a.config.PodCIDR.String(), []string{a.config.PodCIDR.String()}
		}
		node, err = nodes.Create(ctx, fresh)
	}
	if err != nil {
		return err
	}
	changed := node.DeepCopy()
	a.describe(changed)
	if !equality.Semantic.DeepEqual(node, changed) {
		if node, err = nodes.Update(ctx, changed); err != nil {
			return err
		}
	}
	a.setNode(node)
	a.nodeEvent(corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	return a.reportStatus(ctx, true)
}

// describe sets the labels and annotations that the node owns.
func (a *Agent) describe(node *corev1.Node) {
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	if node.Annotations == nil {
		node.Annotations = map[string]string{}
	}
	node.Labels[corev1.LabelHostname] = a.config.Name
	node.Labels[corev1.LabelOSStable], node.Labels["beta.kubernetes.io/os"] = runtime.GOOS, runtime.GOOS
	node.Labels[corev1.LabelArchStable], node.Labels["beta.kubernetes.io/arch"] = runtime.GOARCH, runtime.GOARCH
	for key, value := range a.config.Labels {
		node.Labels[key] = value
	}
	node.Annotations["volumes.kubernetes.io/controller-managed-attach-detach"] = "true"
}

func (a *Agent) setNode(node *corev1.Node) {
	a.mu.Lock()
	a.node = node
	a.mu.Unlock()
}

// heartbeat reports the node's status until ctx ends.
func (a *Agent) heartbeat(ctx context.Context) {
	ticker := time.NewTicker(statusEvery)
	defer ticker.Stop()
	last := a.now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		due := a.now().Sub(last) >= statusLatest
		if due {
			last = a.now()
		}
		if err := a.reportStatus(ctx, due); err != nil && ctx.Err() == nil {
			a.log.Warn("cannot report the node's status", "error", err)
			if node, err := client.Of(a.client, core.Nodes).Get(ctx, client.Key{Name: a.config.Name}); err == nil {
				a.setNode(node)
			} else if apierrors.IsNotFound(err) {
				if err := a.registerOnce(ctx, client.Of(a.client, core.Nodes)); err != nil {
					a.log.Warn("cannot register the node", "error", err)
				}
			}
		}
	}
}

// reportStatus writes the node's status if it changed in more than the time of the report, or if it is due.
func (a *Agent) reportStatus(ctx context.Context, due bool) error {
	a.mu.Lock()
	node := a.node
	a.mu.Unlock()
	status := a.status(ctx, node)
	compared := status.DeepCopy()
	for i := range compared.Conditions {
		for _, old := range node.Status.Conditions {
			if old.Type == compared.Conditions[i].Type {
				compared.Conditions[i].LastHeartbeatTime = old.LastHeartbeatTime
			}
		}
	}
	if !due && equality.Semantic.DeepEqual(compared, &node.Status) {
		return nil
	}
	old, err := json.Marshal(corev1.Node{Status: node.Status})
	if err != nil {
		return err
	}
	wanted, err := json.Marshal(corev1.Node{Status: *status})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(old, wanted, corev1.Node{})
	if err != nil {
		return err
	}
	written, err := client.Of(a.client, core.Nodes).Patch(ctx, client.Key{Name: a.config.Name}, types.StrategicMergePatchType, patch, "status")
	if err != nil {
		return err
	}
	a.setNode(written)
	return nil
}

// declaredFeatures are those features of nodes of Kubernetes v1.36 that this agent has: it takes commands over WebSocket itself. Others
// that a kubelet of this version declares are about resizing and restarting containers in ways that the agent does not know. Sorted; see
// https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/.
func declaredFeatures() []string { return []string{"ExtendWebSocketsToKubelet"} }

// status measures the node.
func (a *Agent) status(ctx context.Context, node *corev1.Node) *corev1.NodeStatus {
	status := node.Status.DeepCopy()
	status.Capacity, status.Allocatable = a.capacity, a.allocatable
	status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: a.config.NodeIP}, {Type: corev1.NodeHostName, Address: a.config.Name},
	}
	if a.config.Serving != nil {
		status.DaemonEndpoints.KubeletEndpoint.Port = int32(a.config.Port)
		status.DeclaredFeatures = declaredFeatures()
	}
	status.NodeInfo = a.nodeInfo()
	status.Images = a.images(ctx)
	now := metav1.NewTime(a.now().Truncate(time.Second))
	setNodeCondition(status, now, corev1.NodeMemoryPressure, a.memoryPressure(),
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
	setNodeCondition(status, now, corev1.NodeDiskPressure, a.diskPressure(),
		"KubeletHasNoDiskPressure", "kubelet has no disk pressure", "KubeletHasDiskPressure", "kubelet has disk pressure")
	setNodeCondition(status, now, corev1.NodePIDPressure, false, "KubeletHasSufficientPID", "kubelet has sufficient PID available", "", "")
	problem := ""
	if err := a.cri.Healthy(ctx, true); err != nil {
		problem = message(err)
	}
	setNodeCondition(status, now, corev1.NodeReady, problem == "",
		"KubeletNotReady", problem, "KubeletReady", "kubelet is posting ready status")
	return status
}

// setNodeCondition sets a condition with the reason and message of its value.
func setNodeCondition(status *corev1.NodeStatus, now metav1.Time, kind corev1.NodeConditionType, value bool, reasonFalse, messageFalse, reasonTrue, messageTrue string) {
	c := corev1.NodeCondition{
		Type: kind, Status: corev1.ConditionFalse, Reason: reasonFalse, Message: messageFalse, LastHeartbeatTime: now, LastTransitionTime: now,
	}
	if value {
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, reasonTrue, messageTrue
	}
	for i := range status.Conditions {
		if old := &status.Conditions[i]; old.Type == kind {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			*old = c
			return
		}
	}
	status.Conditions = append(status.Conditions, c)
}

func (a *Agent) nodeInfo() corev1.NodeSystemInfo {
	read := func(path string) string {
		raw, err := os.ReadFile(filepath.Clean(path))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(raw))
	}
	info := corev1.NodeSystemInfo{
		MachineID: read("/etc/machine-id"), SystemUUID: read("/sys/class/dmi/id/product_uuid"), BootID: read("/proc/sys/kernel/random/boot_id"),
		KernelVersion: read("/proc/sys/kernel/osrelease"), OSImage: "Linux", ContainerRuntimeVersion: a.runtimeVersion,
		KubeletVersion: a.config.Version, OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
	for line := range strings.Lines(read("/etc/os-release")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			info.OSImage = strings.Trim(name, `"'`)
		}
	}
	return info
}

// images names the largest images of the node.
func (a *Agent) images(ctx context.Context) []corev1.ContainerImage {
	answer, err := a.cri.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil
	}
	var list []corev1.ContainerImage
	for _, i := range answer.Images {
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		if len(names) > 0 {
			list = append(list, corev1.ContainerImage{Names: names, SizeBytes: int64(i.Size)})
		}
	}
	slices.SortFunc(list, func(x, y corev1.ContainerImage) int {
		if x.SizeBytes != y.SizeBytes {
			return int(min(max(y.SizeBytes-x.SizeBytes, -1), 1))
		}
		return strings.Compare(x.Names[0], y.Names[0])
	})
	return list[:min(len(list), maxImages)]
}

// renewLease renews the node's lease until ctx ends.
func (a *Agent) renewLease(ctx context.Context) {
	ticker := time.NewTicker(leaseEvery)
	defer ticker.Stop()
	for {
		wait := ticker.C
		if err := a.renewOnce(ctx); err != nil && ctx.Err() == nil {
			a.log.Debug("cannot renew the node's lease", "error", err)
			wait = time.After(retryDelay)
		}
		select {
		case <-ctx.Done():
			return
		case <-wait:
		}
	}
}

func (a *Agent) renewOnce(ctx context.Context) error {
	leases := client.Of(a.client, coordination.Leases)
	key := client.Key{Namespace: corev1.NamespaceNodeLease, Name: a.config.Name}
	now := metav1.NewMicroTime(a.now())
	lease, err := leases.Get(ctx, key)
	if err == nil {
		lease = lease.DeepCopy()
		lease.Spec.RenewTime = &now
		lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &a.config.Name, ptr.To[int32](leaseDuration)
		_, err = leases.Update(ctx, lease)
		return err
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	a.mu.Lock()
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: a.config.Name, UID: a.node.UID}
	a.mu.Unlock()
	_, err = leases.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, OwnerReferences: []metav1.OwnerReference{owner}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &a.config.Name, LeaseDurationSeconds: ptr.To[int32](leaseDuration), RenewTime: &now},
	})
	return err
}
