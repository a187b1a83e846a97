// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/coordination"
	"knarr.dev/api/core"
	"knarr.dev/api/devices"
	"knarr.dev/api/resource"
	"knarr.dev/api/storage"
	"knarr.dev/apiserver/authz"
)

// nodeRestriction lets a node agent write only its own node and the pods bound to it.
//
// Whoever is a node without a name may write nothing at all.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction.
func nodeRestriction(reader Reader, authorizer authz.Authorizer) Step {
	n := restriction{reader, authorizer}
	return Step{Name: "NodeRestriction", Mutate: func(ctx context.Context, r *Request) error {
		node := authz.NodeName(r.User)
		switch {
		case authz.IsNamelessNode(r.User):
			return forbidden(r, fmt.Sprintf("could not determine node from user %q", r.User.Name))
		case node == "":
			return nil
		}
		switch r.Kind {
		case core.Nodes.Kind:
			return n.node(r, node)
		case core.Pods.Kind:
			return n.pod(ctx, r, node)
		case core.PersistentVolumeClaims.Kind:
			return n.claim(r, node)
		case coordination.Leases.Kind:
			if r.Namespace == corev1.NamespaceNodeLease && nameOf(r) != node {
				return forbidden(r, "can only access node lease with the same name as the requesting node")
			}
		case storage.CSINodes.Kind:
			if nameOf(r) != node {
				return forbidden(r, "can only access CSINode with the same name as the requesting node")
			}
		case devices.ResourceSlices.Kind:
			return n.slice(r, node)
		case core.ServiceAccounts.Kind:
			if r.Subresource == "token" {
				return n.token(ctx, r, node)
			}
		}
		return nil
	}}
}

type restriction struct {
	reader     Reader
	authorizer authz.Authorizer
}

func nameOf(r *Request) string {
	if r.Name == "" && r.Object != nil {
		return r.Object.GetName()
	}
	return r.Name
}

// restrictedPrefix marks labels that are for administrators alone.
const restrictedPrefix = "node-restriction.kubernetes.io/"

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
	if name := nameOf(r); name != node {
		return forbidden(r, fmt.Sprintf("node %q is not allowed to modify node %q", node, name))
	}
	switch r.Verb {
	case "create":
		obj := core.Nodes.Cast(r.Object)
		if len(obj.OwnerReferences) > 0 {
			return forbidden(r, fmt.Sprintf("node %q is not allowed to set ownerReferences", node))
		}
		if refused := refusedLabels(obj.Labels, nil); len(refused) > 0 {
			return forbidden(r, fmt.Sprintf("node %q is not allowed to set the following labels: %s", node, strings.Join(refused, ", ")))
		}
	case "update":
		obj, old := core.Nodes.Cast(r.Object), core.Nodes.Cast(r.Old)
		switch {
		case !equality.Semantic.DeepEqual(obj.Spec.Taints, old.Spec.Taints):
			return forbidden(r, fmt.Sprintf("node %q is not allowed to modify taints", node))
		case !equality.Semantic.DeepEqual(obj.OwnerReferences, old.OwnerReferences):
			return forbidden(r, fmt.Sprintf("node %q is not allowed to modify ownerReferences", node))
		}
		if refused := refusedLabels(obj.Labels, old.Labels); len(refused) > 0 {
			return forbidden(r, "is not allowed to modify labels: "+strings.Join(refused, ", "))
		}
	}
	return nil
}

// refusedLabels are the changed labels that are for administrators.
func refusedLabels(now, before map[string]string) (refused []string) {
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
	slices.Sort(refused)
	return refused
}

func (n restriction) pod(ctx context.Context, r *Request, node string) error {
	switch {
	case r.Verb == "create" && r.Subresource == "":
		return n.newMirrorPod(ctx, r, node)
	case r.Verb == "delete" && r.Subresource == "":
		return n.own(ctx, r, fmt.Sprintf("node %q can only delete pods with spec.nodeName set to itself", node), node)
	case r.Verb == "update" && r.Subresource == "status":
		old, obj := core.Pods.Cast(r.Old), core.Pods.Cast(r.Object)
		switch {
		case old.Spec.NodeName != node:
			return forbidden(r, fmt.Sprintf("node %q can only update pod status for pods with spec.nodeName set to itself", node))
		case !equality.Semantic.DeepEqual(old.Labels, obj.Labels):
			return forbidden(r, fmt.Sprintf("node %q cannot update labels through pod status", node))
		case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, obj.Status.ResourceClaimStatuses):
			return forbidden(r, fmt.Sprintf("node %q cannot update resource claim statues", node))
		case !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, obj.Status.ExtendedResourceClaimStatus):
			return forbidden(r, fmt.Sprintf("node %q cannot update extended resource claim status", node))
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

func (n restriction) newMirrorPod(ctx context.Context, r *Request, node string) error {
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
	if err := n.checkOwner(ctx, r, node, own, &pod.OwnerReferences[0]); err != nil {
		return err
	}
	// Accounts and secrets are refused by the step ServiceAccount, for whoever makes a mirror pod.
	for _, what := range []string{"serviceaccounts", "secrets", "configmaps", "persistentvolumeclaims"} {
		if what == "serviceaccounts" && pod.Spec.ServiceAccountName != "" || authz.References(pod, what, authz.AnyName) {
			return forbidden(r, fmt.Sprintf("node %q can not create pods that reference %s", node, what))
		}
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return forbidden(r, fmt.Sprintf("node %q can not create pods that reference resourceclaims", node))
	}
	return nil
}

func (n restriction) checkOwner(ctx context.Context, r *Request, node, own string, owner *metav1.OwnerReference) error {
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return forbidden(r, own)
	case owner.Controller == nil || !*owner.Controller:
		return forbidden(r, fmt.Sprintf("node %q can only create pods with a controller owner reference set to itself", node))
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return forbidden(r, fmt.Sprintf("node %q must not set blockOwnerDeletion on an owner reference", node))
	}
	o, err := n.reader.Get(ctx, core.Nodes.Kind, "", node)
	switch {
	case err != nil:
		return forbidden(r, err.Error())
	case owner.UID != o.GetUID():
		return forbidden(r, fmt.Sprintf("node %s UID mismatch: expected %s got %s", node, owner.UID, o.GetUID()))
	}
	return nil
}

// claim lets an agent report the size of a volume, and nothing else.
func (n restriction) claim(r *Request, node string) error {
	if r.Verb != "update" || r.Subresource != "status" {
		return forbidden(r, fmt.Sprintf("unexpected operation %s of node %q", strings.ToUpper(r.Verb), node))
	}
	before, after := core.PersistentVolumeClaims.Cast(r.Old).DeepCopy(), core.PersistentVolumeClaims.Cast(r.Object).DeepCopy()
	for _, c := range []*corev1.PersistentVolumeClaim{before, after} {
		c.ManagedFields, c.ResourceVersion = nil, ""
		c.Status.Capacity, c.Status.Conditions, c.Status.AllocatedResourceStatuses = nil, nil, nil
	}
	if !equality.Semantic.DeepEqual(before, after) {
		return forbidden(r, fmt.Sprintf("node %q is not allowed to update fields other than status.quantity and status.conditions", node))
	}
	return nil
}

func (n restriction) slice(r *Request, node string) error {
	of := func(o resource.Object) string {
		if name := devices.ResourceSlices.Cast(o).Spec.NodeName; name != nil {
			return *name
		}
		return ""
	}
	switch {
	case r.Verb == "create" && of(r.Object) != node:
		return forbidden(r, "can only create ResourceSlice with the same NodeName as the requesting node")
	case r.Verb == "update" && of(r.Old) != node:
		return forbidden(r, "can only update ResourceSlice with the same NodeName as the requesting node")
	case r.Verb == "delete" && r.Old != nil && of(r.Old) != node:
		return forbidden(r, "can only delete ResourceSlice with the same NodeName as the requesting node")
	}
	return nil
}

// notFoundText words an object that is not there as those who look into caches do.
func notFoundText(err error, kind *resource.Kind, name string) error {
	if apierrors.IsNotFound(err) {
		group := kind.Singular
		if kind.Group != "" {
			group += "." + kind.Group
		}
		return fmt.Errorf("%s %q not found", group, name)
	}
	return err
}
