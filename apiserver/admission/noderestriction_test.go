// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/call"
	"knarr.dev/api/coordination"
	"knarr.dev/api/core"
	"knarr.dev/api/devices"
	"knarr.dev/api/rbac"
	"knarr.dev/api/resource"
	"knarr.dev/api/storage"
	"knarr.dev/apiserver/authz"
)

// The texts are those of kube-apiserver v1.36.
func TestNodeRestriction(t *testing.T) {
	s := world()
	node := func(name string, labels map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name + "-uid"), Labels: labels}}
	}
	on := func(name, node string, volumes ...corev1.Volume) *corev1.Pod {
		p := pod(name, nil, nil)
		p.UID, p.Spec.NodeName, p.Spec.Volumes = types.UID(name+"-uid"), node, volumes
		return p
	}
	vault := corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}},
	}}}}
	driver := corev1.Volume{VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "dd"}}}
	absent := corev1.Volume{VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "none"}}}
	s.add(core.Nodes.Kind, node("n1", nil))
	s.add(core.Pods.Kind, on("p1", "n1", vault), on("p2", "n2"), on("p3", "n1"), on("p4", "n1", driver), on("p5", "n1", absent))
	s.add(storage.CSIDrivers.Kind, &storagev1.CSIDriver{
		ObjectMeta: metav1.ObjectMeta{Name: "dd"}, Spec: storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: "fromdriver"}}},
	})
	s.add(rbac.ClusterRoles.Kind, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "aud"}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{""}, Resources: []string{"granted"}, Verbs: []string{"request-serviceaccounts-token-audience"}, ResourceNames: []string{"sa"},
	}}})
	s.add(rbac.ClusterRoleBindings.Kind, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "aud"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "aud"}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: "system:nodes"}},
	})
	steps := []Step{nodeRestriction(s, authz.New(s))}
	token := func(pod string, audiences ...string) *Request {
		return &Request{Verb: "create", Kind: core.ServiceAccounts.Kind, Subresource: "token", Namespace: "n", Name: "sa", Object: &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, BoundObjectRef: &authenticationv1.BoundObjectReference{
				APIVersion: "v1", Kind: "Pod", Name: pod, UID: types.UID(pod + "-uid"),
			}},
		}}
	}
	mirror := func(change func(*corev1.Pod)) *Request {
		yes := true
		p := on("m", "n1")
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "n1-uid", Controller: &yes}}
		change(p)
		return create(core.Pods.Kind, p)
	}
	update := func(kind *resource.Kind, sub string, obj, old resource.Object) *Request {
		return &Request{Verb: "update", Kind: kind, Subresource: sub, Namespace: old.GetNamespace(), Name: old.GetName(), Object: obj, Old: old}
	}
	no, other := false, "n2"
	const sa = `serviceaccounts "sa" is forbidden: `
	for _, test := range []struct {
		r    *Request
		want string
	}{
		{create(core.Nodes.Kind, node("n1", map[string]string{corev1.LabelHostname: "n1", "x": "y"})), ""},
		{create(core.Nodes.Kind, node("n2", nil)), `nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"`},
		{create(core.Nodes.Kind, node("n1", map[string]string{"kubernetes.io/x": "b"})), `nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: kubernetes.io/x`},
		{update(core.Nodes.Kind, "", node("n1", map[string]string{
			"kubernetes.io/x": "y", "node-restriction.kubernetes.io/a": "b", "foo.node-restriction.kubernetes.io/a": "b", "ok": "x", "kubelet.kubernetes.io/f": "g",
			"x.node.kubernetes.io/g": "h", "node-role.kubernetes.io/master": "",
		}), node("n1", nil)), `nodes "n1" is forbidden: is not allowed to modify labels: foo.node-restriction.kubernetes.io/a, kubernetes.io/x, node-restriction.kubernetes.io/a, node-role.kubernetes.io/master`},
		{update(core.Nodes.Kind, "", node("n1", map[string]string{"ok": "x", "kubelet.kubernetes.io/f": "g", corev1.LabelTopologyZone: "z"}), node("n1", nil)), ""},
		{update(core.Nodes.Kind, "status", node("n2", nil), node("n2", nil)), `nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"`},
		{create(core.Pods.Kind, pod("p", nil, nil)), `pods "p" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		{mirror(func(p *corev1.Pod) {}), ""},
		{mirror(func(p *corev1.Pod) { p.Spec.NodeName = "n2" }), `pods "m" is forbidden: node "n1" can only create pods with spec.nodeName set to itself`},
		{mirror(func(p *corev1.Pod) { p.OwnerReferences = nil }), `pods "m" is forbidden: node "n1" can only create pods with an owner reference set to itself`},
		{mirror(func(p *corev1.Pod) { p.OwnerReferences[0].Controller = &no }), `pods "m" is forbidden: node "n1" can only create pods with a controller owner reference set to itself`},
		{mirror(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "x" }), `pods "m" is forbidden: node n1 UID mismatch: expected x got n1-uid`},
		{mirror(func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "z"}}}}
		}), `pods "m" is forbidden: node "n1" can not create pods that reference configmaps`},
		{&Request{Verb: "delete", Kind: core.Pods.Kind, Namespace: "n", Name: "p2"}, `pods "p2" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself`},
		{&Request{Verb: "create", Kind: core.Pods.Kind, Subresource: "eviction", Namespace: "n", Name: "p2"}, `pods "p2" is forbidden: node n1 can only evict pods with spec.nodeName set to itself`},
		{update(core.Pods.Kind, "status", on("p2", "n2"), on("p2", "n2")), `pods "p2" is forbidden: node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		{token("p1"), ""}, {token("p1", ""), ""}, {token("p1", "vault"), ""}, {token("p4", "fromdriver"), ""}, {token("p3", "granted"), ""},
		{token("p3", "other"), sa + `audience "other" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience`},
		{token("p5", "other"), sa + `error validating audience "other": csidriver.storage.k8s.io "none" not found`},
		{token("p1", "vault", "other"), sa + `node may only request 0 or 1 audiences`},
		{token("p2"), sa + `node requested token bound to a pod scheduled on a different node`},
		{token("gone"), `pod "gone" not found`},
		{create(storage.CSINodes.Kind, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}), `csinodes.storage.k8s.io "n2" is forbidden: can only access CSINode with the same name as the requesting node`},
		{&Request{Verb: "create", Kind: coordination.Leases.Kind, Namespace: corev1.NamespaceNodeLease, Object: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}},
			`leases.coordination.k8s.io "n2" is forbidden: can only access node lease with the same name as the requesting node`},
		{create(devices.ResourceSlices.Kind, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s2"}, Spec: resourcev1.ResourceSliceSpec{NodeName: &other}}),
			`resourceslices.resource.k8s.io "s2" is forbidden: can only create ResourceSlice with the same NodeName as the requesting node`},
		{update(core.PersistentVolumeClaims.Kind, "status",
			&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "n"}, Status: corev1.PersistentVolumeClaimStatus{Phase: "Bound"}},
			&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "n"}}),
			`persistentvolumeclaims "c" is forbidden: node "n1" is not allowed to update fields other than status.quantity and status.conditions`},
	} {
		test.r.User = &call.Identity{Name: "system:node:n1", Groups: []string{"system:nodes"}}
		if got := text(admit(t, steps, test.r)); got != test.want {
			t.Errorf("got %s\nwant %s", got, test.want)
		}
	}
	n := node("n9", nil)
	if err := admit(t, Steps(s, nil, Config{Now: clock}), create(core.Nodes.Kind, n)); err != nil || len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != corev1.TaintNodeNotReady {
		t.Errorf("taints %v, error %v", n.Spec.Taints, err)
	}
}

func TestNamelessNodeWritesNothing(t *testing.T) {
	r := create(core.ConfigMaps.Kind, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}})
	r.User = &call.Identity{Name: "system:node:", Groups: []string{"system:nodes"}}
	s := world()
	err := nodeRestriction(s, authz.New(s)).Mutate(t.Context(), r)
	if want := `configmaps "c" is forbidden: could not determine node from user "system:node:"`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
