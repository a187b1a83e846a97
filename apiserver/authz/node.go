// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/authn"
)

const nodePrefix = "system:node:"

// NodeName returns the node that a node agent's identity stands for, or "".
func NodeName(user *call.Identity) string {
	name, ok := strings.CutPrefix(user.Name, nodePrefix)
	if !ok || !slices.Contains(user.Groups, authn.GroupNodes) {
		return ""
	}
	return name
}

// Node allows a node agent what the pods bound to its node need, and its own objects.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/node/. What an agent may change of its objects is the
// matter of the admission step NodeRestriction.
type Node struct {
	reader Reader
	rules  []rbacv1.PolicyRule
}

// NewNode returns the node authorizer.
func NewNode(reader Reader) *Node { return &Node{reader: reader, rules: nodeRules()} }

// Authorize implements Authorizer.
func (n *Node) Authorize(ctx context.Context, a *Attributes) (bool, string, error) {
	node := NodeName(a.User)
	if node == "" || a.Path != "" {
		return false, "", nil
	}
	switch a.Group + "/" + a.Resource {
	case "/secrets", "/configmaps", "/persistentvolumeclaims":
		return n.referenced(ctx, node, a)
	case "/serviceaccounts":
		if a.Subresource == "token" {
			return n.token(ctx, node, a)
		}
		if a.Verb == "get" && a.Subresource == "" {
			return n.related(ctx, node, a, func(p *corev1.Pod) bool { return p.Spec.ServiceAccountName == a.Name })
		}
	case "/nodes":
		return n.node(node, a)
	case "/pods":
		return n.pod(ctx, node, a)
	case "coordination.k8s.io/leases":
		return lease(node, a)
	case "storage.k8s.io/csinodes":
		if a.Verb != "create" && a.Name != node {
			return false, fmt.Sprintf("can only access CSINode with the same name as the requesting node %s", quoted(node)), nil
		}
	}
	for i := range n.rules {
		if allows(&n.rules[i], a) {
			return true, "", nil
		}
	}
	return false, "", nil
}

func quoted(s string) string { return "'" + s + "'" }

func noRelation(node string) string {
	return fmt.Sprintf("no relationship found between node %s and this object", quoted(node))
}

// related looks for a pod of the node, in the request's namespace, that is related to the object.
func (n *Node) related(ctx context.Context, node string, a *Attributes, related func(*corev1.Pod) bool) (bool, string, error) {
	found := false
	err := n.reader.List(ctx, core.Pods.Kind, a.Namespace, func(o resource.Object) bool {
		p := core.Pods.Cast(o)
		found = p.Spec.NodeName == node && related(p)
		return !found
	})
	if !found {
		return false, noRelation(node), err
	}
	return true, "", nil
}

func (n *Node) referenced(ctx context.Context, node string, a *Attributes) (bool, string, error) {
	if a.Subresource != "" && a.Resource != "persistentvolumeclaims" {
		return false, "cannot read subresource", nil
	}
	switch a.Verb {
	case "get", "list", "watch":
	default:
		if a.Resource == "persistentvolumeclaims" && a.Subresource == "status" {
			break
		}
		return false, "can only read resources of this type", nil
	}
	if a.Name == "" || a.Namespace == "" {
		return false, "No Object name found", nil
	}
	return n.related(ctx, node, a, func(p *corev1.Pod) bool { return References(p, a.Resource, a.Name) })
}

func (n *Node) token(ctx context.Context, node string, a *Attributes) (bool, string, error) {
	if a.Verb != "create" {
		return false, "can only create tokens for individual service accounts", nil
	}
	if a.Name == "" {
		return false, "can only create tokens for individual service accounts", nil
	}
	return n.related(ctx, node, a, func(p *corev1.Pod) bool { return p.Spec.ServiceAccountName == a.Name })
}

// node: an agent sees and writes its own Node; NodeRestriction names the node in a refused write, so writes pass here.
func (n *Node) node(node string, a *Attributes) (bool, string, error) {
	switch a.Verb {
	case "create", "update", "patch":
		return a.Subresource == "" || a.Subresource == "status", "", nil
	case "get", "list", "watch":
		if a.Subresource != "" {
			return false, "", nil
		}
		if a.Name == node {
			return true, "", nil
		}
		if a.Name == "" && a.Fields != nil {
			if only, ok := a.Fields.RequiresExactMatch("metadata.name"); ok && only == node {
				return true, "", nil
			}
		}
		return false, fmt.Sprintf("node %s cannot read %s, only its own Node object", quoted(node), quotedOr(a.Name, "all nodes")), nil
	}
	return false, "", nil
}

func quotedOr(name, otherwise string) string {
	if name == "" {
		return otherwise
	}
	return quoted(name)
}

func (n *Node) pod(ctx context.Context, node string, a *Attributes) (bool, string, error) {
	switch {
	case a.Verb == "get" && a.Subresource == "":
		o, err := n.reader.Get(ctx, core.Pods.Kind, a.Namespace, a.Name)
		if apierrors.IsNotFound(err) {
			return true, "", nil // which the answer will say
		}
		if err != nil {
			return false, "", err
		}
		if core.Pods.Cast(o).Spec.NodeName != node {
			return false, noRelation(node), nil
		}
		return true, "", nil
	case a.Verb == "list" || a.Verb == "watch":
		if a.Subresource != "" {
			return false, "", nil
		}
		if a.Fields == nil {
			return true, "", nil
		}
		if only, ok := a.Fields.RequiresExactMatch("spec.nodeName"); ok && only == node {
			return true, "", nil
		}
		return false, fmt.Sprintf("can only list/watch pods with spec.nodeName field selector for node %s", quoted(node)), nil
	}
	for i := range n.rules {
		if allows(&n.rules[i], a) {
			return true, "", nil
		}
	}
	return false, "", nil
}

func lease(node string, a *Attributes) (bool, string, error) {
	switch a.Verb {
	case "get", "create", "update", "patch", "delete":
	default:
		return false, "can only get, create, update, patch, or delete a node lease", nil
	}
	if a.Namespace != corev1.NamespaceNodeLease {
		return false, fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease), nil
	}
	// The name of a new lease is not known here; NodeRestriction checks it.
	if a.Verb != "create" && a.Name != node {
		return false, "can only access node lease with the same name as the requesting node", nil
	}
	return true, "", nil
}

// References tells whether a pod refers to the secret, configmap or persistentvolumeclaim of that name.
func References(p *corev1.Pod, resource, name string) bool {
	switch resource {
	case "secrets":
		return refersToSecret(p, name)
	case "configmaps":
		return refersToConfigMap(p, name)
	case "persistentvolumeclaims":
		return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == name ||
				v.Ephemeral != nil && p.Name+"-"+v.Name == name
		})
	}
	return false
}

// environments calls f for the environment of every container until it returns true.
func environments(p *corev1.Pod, f func([]corev1.EnvVar, []corev1.EnvFromSource) bool) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if f(list[i].Env, list[i].EnvFrom) {
				return true
			}
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if c := &p.Spec.EphemeralContainers[i]; f(c.Env, c.EnvFrom) {
			return true
		}
	}
	return false
}

func refersToConfigMap(p *corev1.Pod, name string) bool {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.ConfigMap != nil && v.ConfigMap.Name == name {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil && s.ConfigMap.Name == name {
				return true
			}
		}
	}
	return environments(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if s := env[i].ValueFrom; s != nil && s.ConfigMapKeyRef != nil && s.ConfigMapKeyRef.Name == name {
				return true
			}
		}
		return slices.ContainsFunc(from, func(s corev1.EnvFromSource) bool { return s.ConfigMapRef != nil && s.ConfigMapRef.Name == name })
	})
}

func refersToSecret(p *corev1.Pod, name string) bool {
	for _, s := range p.Spec.ImagePullSecrets {
		if s.Name == name {
			return true
		}
	}
	for i := range p.Spec.Volumes {
		if volumeRefersToSecret(&p.Spec.Volumes[i], name) {
			return true
		}
	}
	return environments(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if s := env[i].ValueFrom; s != nil && s.SecretKeyRef != nil && s.SecretKeyRef.Name == name {
				return true
			}
		}
		return slices.ContainsFunc(from, func(s corev1.EnvFromSource) bool { return s.SecretRef != nil && s.SecretRef.Name == name })
	})
}

func volumeRefersToSecret(v *corev1.Volume, name string) bool {
	local := func(r *corev1.LocalObjectReference) bool { return r != nil && r.Name == name }
	switch {
	case v.Secret != nil:
		return v.Secret.SecretName == name
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil && s.Secret.Name == name {
				return true
			}
		}
	case v.CSI != nil:
		return local(v.CSI.NodePublishSecretRef)
	case v.AzureFile != nil:
		return v.AzureFile.SecretName == name
	case v.CephFS != nil:
		return local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		return local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		return local(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		return local(v.ISCSI.SecretRef)
	case v.RBD != nil:
		return local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		return local(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		return local(v.StorageOS.SecretRef)
	}
	return false
}
