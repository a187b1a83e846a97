// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"knarr.dev/api/core"
	"knarr.dev/api/storage"
	"knarr.dev/apiserver/authz"
)

// token lets an agent have tokens bound to a pod that runs on its node under that account, for audiences that the pod has use for.
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
		return apierrors.NewNotFound(schema.GroupResource{Resource: "pod"}, ref.Name)
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
	return n.audience(ctx, r, pod, request.Spec.Audiences)
}

// audience checks for whom the token shall be: a volume of the pod must say so, or the agent be allowed to ask for it.
func (n restriction) audience(ctx context.Context, r *Request, pod *corev1.Pod, audiences []string) error {
	switch {
	case len(audiences) > 1:
		return forbidden(r, "node may only request 0 or 1 audiences")
	case len(audiences) == 0 || audiences[0] == "":
		return nil // the API server itself
	}
	audience := audiences[0]
	found, problems := n.volumesWant(ctx, pod, audience)
	if found {
		return nil
	}
	allowed, _, err := n.authorizer.Authorize(ctx, &authz.Attributes{
		User: r.User, Verb: "request-serviceaccounts-token-audience", Version: "v1", Resource: audience, Namespace: r.Namespace, Name: r.Name,
	})
	switch {
	case err == nil && allowed:
		return nil
	case len(problems) > 0:
		return forbidden(r, fmt.Sprintf("error validating audience %q: %v", audience, utilerrors.NewAggregate(problems)))
	}
	return forbidden(r, fmt.Sprintf("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", audience, r.User.Name))
}

// volumesWant says whether a volume of the pod, or the driver behind it, wants tokens for an audience.
func (n restriction) volumesWant(ctx context.Context, pod *corev1.Pod, audience string) (found bool, problems []error) {
	driver := func(name string) {
		wants, err := n.driverWants(ctx, name, audience)
		found = found || wants
		if err != nil {
			problems = append(problems, err)
		}
	}
	claim := func(name string) {
		name, err := n.driverOf(ctx, pod.Namespace, name)
		if err != nil {
			problems = append(problems, err)
		} else if name != "" {
			driver(name)
		}
	}
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				found = found || s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience
			}
		case v.CSI != nil:
			driver(v.CSI.Driver)
		case v.PersistentVolumeClaim != nil:
			claim(v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			claim(pod.Name + "-" + v.Name)
		}
	}
	return found, problems
}

// driverOf is the CSI driver of a claim's volume; empty if it has none.
func (n restriction) driverOf(ctx context.Context, namespace, claim string) (string, error) {
	o, err := n.reader.Get(ctx, core.PersistentVolumeClaims.Kind, namespace, claim)
	if err != nil {
		return "", notFoundText(err, core.PersistentVolumeClaims.Kind, claim)
	}
	name := core.PersistentVolumeClaims.Cast(o).Spec.VolumeName
	if name == "" {
		return "", nil
	}
	if o, err = n.reader.Get(ctx, core.PersistentVolumes.Kind, "", name); err != nil {
		return "", notFoundText(err, core.PersistentVolumes.Kind, name)
	}
	if csi := core.PersistentVolumes.Cast(o).Spec.CSI; csi != nil {
		return csi.Driver, nil
	}
	return "", nil
}

func (n restriction) driverWants(ctx context.Context, name, audience string) (bool, error) {
	o, err := n.reader.Get(ctx, storage.CSIDrivers.Kind, "", name)
	if err != nil {
		return false, notFoundText(err, storage.CSIDrivers.Kind, name)
	}
	for _, t := range storage.CSIDrivers.Cast(o).Spec.TokenRequests {
		if t.Audience == audience {
			return true, nil
		}
	}
	return false, nil
}
