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
	"k8s.io/apimachinery/pkg/fields"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/devices"
	"knarr.dev/api/resource"
	"knarr.dev/api/storage"
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

// IsNamelessNode says that a user is a node agent that does not say of which node.
func IsNamelessNode(user *call.Identity) bool {
	return user.Name == nodePrefix && slices.Contains(user.Groups, authn.GroupNodes)
}

// Node allows a node agent what the pods bound to its node need, and its own objects.
//
// It follows the references from pods to secrets, config maps, claims, volumes and accounts in the server's caches. See
// https://kubernetes.io/docs/reference/access-authn-authz/node/. What an agent may change of its objects is the matter of the
// admission step NodeRestriction.
type Node struct {
	reader Reader
	rules  []rbacv1.PolicyRule
}

// NewNode returns the node authorizer.
func NewNode(reader Reader) *Node { return &Node{reader: reader, rules: nodeRules()} }

// Kubernetes' reasons.
const (
	onlyIndividual = "can only get individual resources of this type"
	onlyTokens     = "can only create tokens for individual service accounts"
	noName         = "No Object name found"
	onlyOwnSlices  = "can only list/watch/deletecollection resourceslices with nodeName field selector"
)

// Authorize implements Authorizer.
func (n *Node) Authorize(ctx context.Context, a *Attributes) (bool, string, error) {
	node := NodeName(a.User)
	if node == "" || a.Path != "" {
		return false, "", nil
	}
	switch a.Group + "/" + a.Resource {
	case "/secrets", "/configmaps":
		return n.referenced(ctx, node, a)
	case "/persistentvolumeclaims":
		return n.claim(ctx, node, a)
	case "/persistentvolumes", "storage.k8s.io/volumeattachments", "resource.k8s.io/resourceclaims":
		return n.individual(ctx, node, a)
	case "/serviceaccounts":
		return n.account(ctx, node, a)
	case "/nodes":
		if reads(a.Verb) && a.Subresource == "" {
			return ownNode(node, a)
		}
	case "/pods":
		if reads(a.Verb) && a.Subresource == "" {
			return n.pod(ctx, node, a)
		}
	case "coordination.k8s.io/leases":
		return lease(node, a)
	case "storage.k8s.io/csinodes":
		return csiNode(node, a)
	case "resource.k8s.io/resourceslices":
		return n.slice(ctx, node, a)
	}
	return n.rule(a), "", nil
}

// rule applies the rules of system:node.
func (n *Node) rule(a *Attributes) bool {
	return slices.ContainsFunc(n.rules, func(r rbacv1.PolicyRule) bool { return allows(&r, a) })
}

func reads(verb string) bool { return verb == "get" || verb == "list" || verb == "watch" }

func quoted(s string) string { return "'" + s + "'" }

func noRelation(node string) string {
	return fmt.Sprintf("no relationship found between node %s and this object", quoted(node))
}

// answer words a relation that was looked for.
func answer(node string, found bool, err error) (bool, string, error) {
	if found {
		return true, "", nil
	}
	return false, noRelation(node), err
}

// related looks for a pod of the node, in a namespace, that is related to something. Mirror pods relate to nothing: agents make them.
func (n *Node) related(ctx context.Context, node, namespace string, related func(*corev1.Pod) bool) (found bool, err error) {
	err = n.reader.List(ctx, core.Pods.Kind, namespace, func(o resource.Object) bool {
		p := core.Pods.Cast(o)
		if p.Spec.NodeName != node {
			return true
		}
		if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
			found = related(p)
		}
		return !found
	})
	return found, err
}

func (n *Node) referenced(ctx context.Context, node string, a *Attributes) (bool, string, error) {
	switch {
	case !reads(a.Verb):
		return false, "can only read resources of this type", nil
	case a.Subresource != "":
		return false, "cannot read subresource", nil
	case a.Name == "" || a.Namespace == "":
		return false, noName, nil
	}
	found, err := n.related(ctx, node, a.Namespace, func(p *corev1.Pod) bool { return References(p, a.Resource, a.Name) })
	if err == nil && !found && a.Resource == "secrets" {
		found, err = n.volumeSecret(ctx, node, a.Namespace, a.Name)
	}
	return answer(node, found, err)
}

// volumeSecret says whether a volume that a pod of the node claims needs a secret.
func (n *Node) volumeSecret(ctx context.Context, node, namespace, name string) (found bool, err error) {
	var problem error
	err = n.reader.List(ctx, core.PersistentVolumes.Kind, "", func(o resource.Object) bool {
		v := core.PersistentVolumes.Cast(o)
		if v.Spec.ClaimRef == nil || !volumeNeeds(v, namespace, name) {
			return true
		}
		found, problem = n.volume(ctx, node, v)
		return !found && problem == nil
	})
	if err == nil {
		err = problem
	}
	return found, ignoreAbsent(err)
}

// ignoreAbsent is for kinds that the server does not serve: nothing refers through them.
func ignoreAbsent(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// volume says whether a pod of the node claims a volume.
func (n *Node) volume(ctx context.Context, node string, v *corev1.PersistentVolume) (bool, error) {
	claim := v.Spec.ClaimRef
	if claim == nil {
		return false, nil
	}
	return n.related(ctx, node, claim.Namespace, func(p *corev1.Pod) bool { return References(p, "persistentvolumeclaims", claim.Name) })
}

func (n *Node) claim(ctx context.Context, node string, a *Attributes) (bool, string, error) {
	switch a.Subresource {
	case "":
		if a.Verb != "get" {
			return false, onlyIndividual, nil
		}
	case "status":
		if a.Verb != "update" && a.Verb != "patch" {
			return false, "can only get/update/patch this type", nil
		}
	default:
		return false, "cannot get subresource", nil
	}
	if a.Name == "" {
		return false, noName, nil
	}
	found, err := n.related(ctx, node, a.Namespace, func(p *corev1.Pod) bool { return References(p, a.Resource, a.Name) })
	return answer(node, found, err)
}

// individual is for kinds that an agent may get one by one.
func (n *Node) individual(ctx context.Context, node string, a *Attributes) (bool, string, error) {
	switch {
	case a.Verb != "get":
		return false, onlyIndividual, nil
	case a.Subresource != "":
		return false, "cannot get subresource", nil
	case a.Name == "":
		return false, noName, nil
	}
	var found bool
	var err error
	switch a.Resource {
	case "persistentvolumes":
		var o resource.Object
		if o, err = n.reader.Get(ctx, core.PersistentVolumes.Kind, "", a.Name); err == nil {
			found, err = n.volume(ctx, node, core.PersistentVolumes.Cast(o))
		}
	case "volumeattachments":
		var o resource.Object
		if o, err = n.reader.Get(ctx, storage.VolumeAttachments.Kind, "", a.Name); err == nil {
			found = storage.VolumeAttachments.Cast(o).Spec.NodeName == node
		}
	case "resourceclaims":
		found, err = n.related(ctx, node, a.Namespace, func(p *corev1.Pod) bool { return claimsDevices(p, a.Name) })
	}
	return answer(node, found, ignoreAbsent(err))
}

// claimsDevices says whether a pod uses a ResourceClaim.
func claimsDevices(p *corev1.Pod, name string) bool {
	for _, c := range p.Spec.ResourceClaims {
		if c.ResourceClaimName != nil && *c.ResourceClaimName == name {
			return true
		}
	}
	for _, c := range p.Status.ResourceClaimStatuses {
		if c.ResourceClaimName != nil && *c.ResourceClaimName == name {
			return true
		}
	}
	return p.Status.ExtendedResourceClaimStatus != nil && p.Status.ExtendedResourceClaimStatus.ResourceClaimName == name
}

func (n *Node) account(ctx context.Context, node string, a *Attributes) (bool, string, error) {
	mine := func(p *corev1.Pod) bool { return p.Spec.ServiceAccountName == a.Name }
	switch {
	case a.Verb == "get" && a.Subresource == "":
		if a.Name == "" {
			return false, noName, nil
		}
	case a.Verb != "create" || a.Name == "":
		return false, onlyTokens, nil
	case a.Subresource != "token":
		return false, "can only create token subresource of serviceaccount", nil
	}
	found, err := n.related(ctx, node, a.Namespace, mine)
	return answer(node, found, err)
}

// ownNode: an agent sees its own Node. What it writes is the matter of NodeRestriction.
func ownNode(node string, a *Attributes) (bool, string, error) {
	if a.Name == node {
		return true, "", nil
	}
	what := "all nodes"
	if a.Name != "" {
		what = quoted(a.Name)
	}
	return false, fmt.Sprintf("node %s cannot read %s, only its own Node object", quoted(node), what), nil
}

// only says whether a selector limits a field to one value.
func only(selector fields.Selector, field, value string) bool {
	if selector == nil {
		return false
	}
	v, ok := selector.RequiresExactMatch(field)
	return ok && v == value
}

func (n *Node) pod(ctx context.Context, node string, a *Attributes) (bool, string, error) {
	if a.Name == "" {
		switch {
		case a.Verb == "get":
			return false, noName, nil
		case !only(a.Fields, "spec.nodeName", node):
			return false, "can only list/watch pods with spec.nodeName field selector", nil
		}
		return true, "", nil
	}
	o, err := n.reader.Get(ctx, core.Pods.Kind, a.Namespace, a.Name)
	found := err == nil && core.Pods.Cast(o).Spec.NodeName == node
	return answer(node, found, ignoreAbsent(err))
}

// ownWrites are the verbs for objects that an agent keeps itself.
func ownWrites(verb string) bool {
	switch verb {
	case "get", "create", "update", "patch", "delete":
		return true
	}
	return false
}

func lease(node string, a *Attributes) (bool, string, error) {
	switch {
	case !ownWrites(a.Verb):
		return false, "can only get, create, update, patch, or delete a node lease", nil
	case a.Namespace != corev1.NamespaceNodeLease:
		return false, fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease), nil
	// The name of a new lease is not known here; NodeRestriction checks it.
	case a.Verb != "create" && a.Name != node:
		return false, "can only access node lease with the same name as the requesting node", nil
	}
	return true, "", nil
}

func csiNode(node string, a *Attributes) (bool, string, error) {
	switch {
	case !ownWrites(a.Verb):
		return false, "can only get, create, update, patch, or delete a CSINode", nil
	case a.Subresource != "":
		return false, "cannot authorize CSINode subresources", nil
	case a.Verb != "create" && a.Name != node:
		return false, "can only access CSINode with the same name as the requesting node", nil
	}
	return true, "", nil
}

func (n *Node) slice(ctx context.Context, node string, a *Attributes) (bool, string, error) {
	switch {
	case a.Subresource != "":
		return false, "cannot authorize ResourceSlice subresources", nil
	case a.Verb == "create": // NodeRestriction checks whose it is
		return true, "", nil
	case a.Verb == "list" || a.Verb == "watch" || a.Verb == "deletecollection":
		if !only(a.Fields, "spec.nodeName", node) {
			return false, onlyOwnSlices, nil
		}
		return true, "", nil
	case !ownWrites(a.Verb):
		return false, "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection", nil
	case a.Name == "":
		return false, noName, nil
	}
	o, err := n.reader.Get(ctx, devices.ResourceSlices.Kind, "", a.Name)
	found := false
	if err == nil {
		of := devices.ResourceSlices.Cast(o).Spec.NodeName
		found = of != nil && *of == node
	}
	return answer(node, found, ignoreAbsent(err))
}
