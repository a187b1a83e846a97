// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"context"
	"errors"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	documents "knarr.dev/apiserver/discovery"
)

// automanaged is the label of APIServices that the server makes: "onstart" for its own groups, "true" for those of
// CustomResourceDefinitions, which go with them.
const automanaged = "kube-aggregator.kubernetes.io/automanaged"

// Priorities of groups that documents.GroupPriority does not know, which are those of CustomResourceDefinitions.
const (
	customGroup   = 1000
	customVersion = 100
)

// priority is that of a group and version in discovery, as Kubernetes has it.
func priority(gv schema.GroupVersion) (group, version int32) {
	group, ok := documents.GroupPriority(gv.Group)
	switch {
	case !ok:
		return customGroup, customVersion
	case gv.Group == "":
		return group, 1
	case gv.Group == "autoscaling" && gv.Version == "v2":
		return group, 30
	case gv.Group == "flowcontrol.apiserver.k8s.io" || gv.Group == "resource.k8s.io":
		return group, 21
	}
	return group, 15
}

// Local are the APIServices of the server's own kinds, which exist from the start.
func Local(kinds []*resource.Kind) []*apiregistrationv1.APIService {
	var out []*apiregistrationv1.APIService
	for _, gv := range versions(kinds) {
		if gv.Group != apiregistrationv1.GroupName { // which is not served by way of itself
			out = append(out, service(gv, "onstart"))
		}
	}
	return out
}

func versions(kinds []*resource.Kind) []schema.GroupVersion {
	var out []schema.GroupVersion
	for _, k := range kinds {
		if !slices.Contains(out, k.GroupVersion()) {
			out = append(out, k.GroupVersion())
		}
	}
	return out
}

func service(gv schema.GroupVersion, how string) *apiregistrationv1.APIService {
	group, version := priority(gv)
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group, Labels: map[string]string{automanaged: how}},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: group, VersionPriority: version,
		},
	}
}

// SyncCustom makes the APIServices of custom kinds that lack one and deletes those that stand for none any more.
func (h *Handler) SyncCustom(ctx context.Context, kinds []*resource.Kind) error {
	var custom []*resource.Kind
	for _, k := range kinds {
		if k.Custom != nil {
			custom = append(custom, k)
		}
	}
	missing := map[string]schema.GroupVersion{}
	for _, gv := range versions(custom) {
		missing[gv.Version+"."+gv.Group] = gv
	}
	var gone []string
	err := h.cfg.Server.List(ctx, extension.APIServices.Kind, "", func(obj resource.Object) bool {
		_, wanted := missing[obj.GetName()]
		delete(missing, obj.GetName())
		if !wanted && obj.GetLabels()[automanaged] == "true" {
			gone = append(gone, obj.GetName())
		}
		return true
	})
	problems := []error{err}
	for _, gv := range missing {
		_, err := h.cfg.Server.Do(ctx, &call.Request{Verb: "create", Kind: extension.APIServices.Kind, Object: service(gv, "true")})
		if !apierrors.IsAlreadyExists(err) {
			problems = append(problems, err)
		}
	}
	for _, name := range gone {
		_, err := h.cfg.Server.Do(ctx, &call.Request{Verb: "delete", Kind: extension.APIServices.Kind, Name: name})
		if !apierrors.IsNotFound(err) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
