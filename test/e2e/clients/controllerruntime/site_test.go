// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package controllerruntime

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
)

// Site is a website: a Deployment and its settings. This is its stored version.
type Site struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              SiteSpec   `json:"spec,omitempty"`
	Status            SiteStatus `json:"status,omitempty"`
}

// SiteSpec is what is wanted.
type SiteSpec struct {
	Owner    string `json:"owner,omitempty"`
	Replicas *int32 `json:"replicas,omitempty"`
}

// SiteStatus is what there is.
type SiteStatus struct {
	Ready      int32              `json:"ready,omitempty"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SiteList is a list of sites.
type SiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Site `json:"items"`
}

// Hub implements conversion.Hub.
func (*Site) Hub() {}

// DeepCopyObject implements runtime.Object.
func (s *Site) DeepCopyObject() runtime.Object {
	out := *s
	s.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	if s.Spec.Replicas != nil {
		n := *s.Spec.Replicas
		out.Spec.Replicas = &n
	}
	out.Status.Conditions = append([]metav1.Condition(nil), s.Status.Conditions...)
	return &out
}

// DeepCopyObject implements runtime.Object.
func (l *SiteList) DeepCopyObject() runtime.Object {
	out := *l
	out.Items = nil
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*Site))
	}
	return &out
}

// OldSite is a site of an older version, where replicas were pods.
type OldSite struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              OldSiteSpec `json:"spec,omitempty"`
}

// OldSiteSpec is what is wanted.
type OldSiteSpec struct {
	Owner string `json:"owner,omitempty"`
	Pods  *int32 `json:"pods,omitempty"`
}

// DeepCopyObject implements runtime.Object.
func (s *OldSite) DeepCopyObject() runtime.Object {
	out := *s
	s.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

// ConvertTo implements conversion.Convertible.
func (s *OldSite) ConvertTo(hub conversion.Hub) error {
	to := hub.(*Site)
	to.ObjectMeta, to.Spec.Owner, to.Spec.Replicas = s.ObjectMeta, s.Spec.Owner, s.Spec.Pods
	return nil
}

// ConvertFrom implements conversion.Convertible.
func (s *OldSite) ConvertFrom(hub conversion.Hub) error {
	from := hub.(*Site)
	s.ObjectMeta, s.Spec.Owner, s.Spec.Pods = from.ObjectMeta, from.Spec.Owner, from.Spec.Replicas
	return nil
}

var group = schema.GroupVersion{Group: "web.example.com", Version: "v1"}

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		panic(err)
	}
	old := schema.GroupVersion{Group: group.Group, Version: "v1beta1"}
	s.AddKnownTypes(group, &Site{}, &SiteList{})
	s.AddKnownTypeWithName(old.WithKind("Site"), &OldSite{})
	metav1.AddToGroupVersion(s, group)
	metav1.AddToGroupVersion(s, old)
	return s
}
