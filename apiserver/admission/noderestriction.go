// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/coordination"
	"knarr.dev/api/core"
	"knarr.dev/apiserver/authz"
)

// nodeRestriction lets a node agent write only its own node and the pods bound to it.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction.
func nodeRestriction(reader Reader) Step {
	n := restriction{reader}
	return Step{Name: "NodeRestriction", Mutate: func(ctx context.Context, r *Request) error {
		node := authz.NodeName(r.User)
		if node == "" {
			return nil
		}
		switch r.Kind {
		case core.Nodes.Kind:
			return n.node(r, node)
		case core.Pods.Kind:
			return n.pod(ctx, r, node)
		case coordination.Leases.Kind:
			if r.Namespace == corev1.NamespaceNodeLease && r.Name != node {
				return forbidden(r, "can only access node lease with the same name as the requesting node")
			}
		case core.ServiceAccounts.Kind:
			if r.Subresource == "token" {
				return n.token(ctx, r, node)
			}
		}
		return nil
	}}
}

type restriction struct{ reader Reader }

// restrictedPrefix marks labels that are for administrators alone.
const (
	restrictedPrefix = "node-restriction.kubernetes.io/"
)

func ownLabel(key string) bool {
	switch key {
	case corev1.LabelHostname, corev1.LabelArchStable, corev1.LabelOSStable, corev1.LabelInstanceTypeStable, corev1.LabelTopologyRegion,
		corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelInstanceType,
		"beta.kubernetes.io/os", "beta.kubernetes.io/arch":
		return true
	}
	prefix, _, _ := strings.Cut(key, "/")
	for _, allowed := range []string{"kubelet.kubernetes.io", "node.kubernetes.io"} {
		if prefix == allowed || strings.HasSuffix(prefix, "."+allowed) {
			return true
		}
	}
	return false
}

func kubernetesLabel(key string) bool {
	prefix, _, found := strings.Cut(key, "/")
	if !found {
		return false
	}
	for _, domain := range []string{"kubernetes.io", "k8s.io"} {
		if prefix == domain || strings.HasSuffix(prefix, "."+domain) {
			return true
		}
	}
	return false
}

func (n restriction) node(r *Request, node string) error {
	name := r.Name
	if name == "" && r.Object != nil {
		name = r.Object.GetName()
	}
	if name != node {
		return forbidden(r, fmt.Sprintf("node %q is not allowed to modify node %q", node, name))
	}
	switch r.Verb {
	case "create":
		return refuseLabels(r, node, core.Nodes.Cast(r.Object).Labels, nil)
	case "update":
		obj, old := core.Nodes.Cast(r.Object), core.Nodes.Cast(r.Old)
		if !equality.Semantic.DeepEqual(obj.Spec.Taints, old.Spec.Taints) {
			return forbidden(r, fmt.Sprintf("node %q is not allowed to modify taints", node))
		}
		return refuseLabels(r, node, obj.Labels, old.Labels)
	}
	return nil
}

// refuseLabels refuses changes of labels that are for administrators.
func refuseLabels(r *Request, node string, now, before map[string]string) error {
	var refused []string
	look := func(key string) {
		if kubernetesLabel(key) && (strings.HasPrefix(key, restrictedPrefix) || strings.Contains(key, "."+restrictedPrefix) || !ownLabel(key)) &&
			!slices.Contains(refused, key) {
			refused = append(refused, key)
		}
	}
	for key, value := range now {
		if old, ok := before[key]; !ok || old != value {
			look(key)
		}
	}
	for key := range before {
		if _, ok := now[key]; !ok {
			look(key)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	slices.Sort(refused)
	return forbidden(r, fmt.Sprintf("is not allowed to modify labels: %s", strings.Join(refused, ", ")))
}

func (n restriction) pod(ctx context.Context, r *Request, node string) error {
	switch {
	case r.Verb == "create" && r.Subresource == "":
		return newMirrorPod(r, node)
	case r.Verb == "delete" && r.Subresource == "":
		return n.own(ctx, r, fmt.Sprintf("node %q can only delete pods with spec.nodeName set to itself", node), node)
	case r.Verb == "update" && r.Subresource == "status":
		old, obj := core.Pods.Cast(r.Old), core.Pods.Cast(r.Object)
		if old.Spec.NodeName != node {
			return forbidden(r, fmt.Sprintf("node %q can only update pod status for pods with spec.nodeName set to itself", node))
		}
		if !equality.Semantic.DeepEqual(old.Labels, obj.Labels) {
			return forbidden(r, fmt.Sprintf("node %q cannot update labels through pod status", node))
		}
		return nil
	case r.Verb == "create" && r.Subresource == "eviction":
		return n.own(ctx, r, fmt.Sprintf("node %s can only evict pods with spec.nodeName set to itself", node), node)
	}
	return forbidden(r, fmt.Sprintf("unexpected operation %s of node %q", strings.ToUpper(r.Verb), node))
}

// own refuses with text unless the stored pod is bound to the node.
func (n restriction) own(ctx context.Context, r *Request, text, node string) error {
	o, err := n.reader.Get(ctx, core.Pods.Kind, r.Namespace, r.Name)
	if err != nil {
		return err
	}
	if core.Pods.Cast(o).Spec.NodeName != node {
		return forbidden(r, text)
	}
	return nil
}

func newMirrorPod(r *Request, node string) error {
	pod := core.Pods.Cast(r.Object)
	if _, mirror := pod.Annotations[mirrorPod]; !mirror {
		return forbidden(r, fmt.Sprintf("pod does not have %q annotation, node %q can only create mirror pods", mirrorPod, node))
	}
	if pod.Spec.NodeName != node {
		return forbidden(r, fmt.Sprintf("node %q can only create pods with spec.nodeName set to itself", node))
	}
	own := fmt.Sprintf("node %q can only create pods with an owner reference set to itself", node)
	if len(pod.OwnerReferences) != 1 {
		return forbidden(r, own)
	}
	owner := pod.OwnerReferences[0]
	if owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node {
		return forbidden(r, own)
	}
	if owner.Controller == nil || !*owner.Controller {
		return forbidden(r, fmt.Sprintf("node %q can only create pods with a controller owner reference set to itself", node))
	}
	if owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion {
		return forbidden(r, fmt.Sprintf("node %q must not set blockOwnerDeletion on an owner reference", node))
	}
	switch {
	case pod.Spec.ServiceAccountName != "":
		return forbidden(r, fmt.Sprintf("node %q can not create pods that reference a service account", node))
	case slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.PersistentVolumeClaim != nil }):
		return forbidden(r, fmt.Sprintf("node %q can not create pods that reference a persistentvolumeclaim", node))
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Secret != nil || v.ConfigMap != nil || v.Projected != nil {
			return forbidden(r, fmt.Sprintf("node %q can not create pods that reference secrets or configmaps", node))
		}
	}
	return nil
}

// token lets an agent have tokens bound to a pod that runs on its node under that account.
func (n restriction) token(ctx context.Context, r *Request, node string) error {
	request, ok := r.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return nil
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return forbidden(r, "node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return forbidden(r, "node requested token with a pod binding without a uid")
	}
	o, err := n.reader.Get(ctx, core.Pods.Kind, r.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return forbidden(r, err.Error())
	}
	pod := core.Pods.Cast(o)
	switch {
	case ref.UID != pod.UID:
		return forbidden(r, fmt.Sprintf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	case pod.Spec.NodeName != node:
		return forbidden(r, "node requested token bound to a pod scheduled on a different node")
	}
	return nil
}
