// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// StatefulSets run numbered pods, each with a name and volumes of its own.
var StatefulSets = resource.WithList(resource.Define(resource.Definition[appsv1.StatefulSet]{
	Group: "apps", Version: "v1", Kind: "StatefulSet", Resource: "statefulsets",
	ShortNames:  []string{"sts"},
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "statefulsets",
	Default:     defaultStatefulSet,
	PrepareCreate: func(s *appsv1.StatefulSet) {
		s.Status, s.Generation = appsv1.StatefulSetStatus{}, 1
		if r := s.Spec.UpdateStrategy.RollingUpdate; r != nil {
			r.MaxUnavailable = nil // its feature is off
		}
	},
	PrepareUpdate: func(s, old *appsv1.StatefulSet) {
		s.Status, s.Generation = *old.Status.DeepCopy(), old.Generation
		if r, was := s.Spec.UpdateStrategy.RollingUpdate, old.Spec.UpdateStrategy.RollingUpdate; r != nil && (was == nil || was.MaxUnavailable == nil) {
			r.MaxUnavailable = nil
		}
		if !equality.Semantic.DeepEqual(s.Spec, old.Spec) {
			s.Generation++
		}
	},
	Name:           statefulSetName,
	ValidateCreate: validateNewStatefulSet,
	ValidateUpdate: validateStatefulSetUpdate,
	Warnings:       statefulSetWarnings,
	WarningsUpdate: func(s, old *appsv1.StatefulSet) []string {
		if s.Generation == old.Generation {
			return nil
		}
		return statefulSetWarnings(s)
	},
	Columns: []resource.Column[appsv1.StatefulSet]{
		{Name: "Ready", Description: "Number of the pod with ready state",
			Value: func(s *appsv1.StatefulSet, _ time.Time) any { return outOf(s.Status.ReadyReplicas, s.Spec.Replicas) }},
		{Name: "Age", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
			Value: func(s *appsv1.StatefulSet, now time.Time) any { return core.Age(s.CreationTimestamp, now) }},
		{Name: "Containers", Wide: true, Description: core.ContainersDoc,
			Value: func(s *appsv1.StatefulSet, _ time.Time) any { return core.ContainerNames(&s.Spec.Template.Spec) }},
		{Name: "Images", Wide: true, Description: core.ImagesDoc,
			Value: func(s *appsv1.StatefulSet, _ time.Time) any { return core.ContainerImages(&s.Spec.Template.Spec) }},
	},
	Subresources: resource.Subresources[appsv1.StatefulSet]{
		Status: &resource.Status[appsv1.StatefulSet]{Prepare: func(obj, old *appsv1.StatefulSet) {
			status := obj.Status
			*obj = *old.DeepCopy()
			obj.Status = status
		}, Validate: validateStatefulSetStatus},
		Scale: &resource.Scale[appsv1.StatefulSet]{
			Path: ".spec.replicas",
			Get: func(s *appsv1.StatefulSet) (int32, int32, string) {
				return *s.Spec.Replicas, s.Status.Replicas, metav1.FormatLabelSelector(s.Spec.Selector)
			},
			Set: func(s *appsv1.StatefulSet, n int32) { s.Spec.Replicas = &n },
		},
	},
}), func() runtime.Object { return new(appsv1.StatefulSetList) })

func defaultStatefulSet(o *appsv1.StatefulSet) {
	s := &o.Spec
	if s.PodManagementPolicy == "" {
		s.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	if s.UpdateStrategy.Type == "" {
		s.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		if s.UpdateStrategy.RollingUpdate == nil {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
	}
	if s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && s.UpdateStrategy.RollingUpdate != nil {
		orDefault(&s.UpdateStrategy.RollingUpdate.Partition, 0)
	}
	if s.PersistentVolumeClaimRetentionPolicy == nil {
		s.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	for _, p := range []*appsv1.PersistentVolumeClaimRetentionPolicyType{
		&s.PersistentVolumeClaimRetentionPolicy.WhenDeleted, &s.PersistentVolumeClaimRetentionPolicy.WhenScaled,
	} {
		if *p == "" {
			*p = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
		}
	}
	orDefault(&s.Replicas, 1)
	orDefault(&s.RevisionHistoryLimit, 10)
	core.DefaultPodTemplate(&s.Template)
	for i := range s.VolumeClaimTemplates {
		c := &s.VolumeClaimTemplates[i]
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
		core.DefaultClaim(c)
	}
}

func validateStatefulSet(o *appsv1.StatefulSet) field.ErrorList {
	s, at := &o.Spec, field.NewPath("spec")
	var problems field.ErrorList
	switch s.PodManagementPolicy {
	case "":
		problems = append(problems, field.Required(at.Child("podManagementPolicy"), ""))
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		problems = append(problems, field.Invalid(at.Child("podManagementPolicy"), s.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'"))
	}
	problems = append(problems, validateStatefulSetStrategy(&s.UpdateStrategy, at.Child("updateStrategy"))...)
	problems = append(problems, validateRetention(s.PersistentVolumeClaimRetentionPolicy, at.Child("persistentVolumeClaimRetentionPolicy"))...)
	return problems
}

// validateNewStatefulSet has all rules for new stateful sets, in the order of Kubernetes' causes.
func validateNewStatefulSet(o *appsv1.StatefulSet) field.ErrorList {
	at := field.NewPath("spec")
	problems := validateStatefulSet(o)
	for i := range o.Spec.VolumeClaimTemplates {
		problems = append(problems, core.ValidateClaimTemplate(&o.Spec.VolumeClaimTemplates[i], at.Child("volumeClaimTemplates").Index(i))...)
	}
	problems = append(problems, validateStatefulSetNumbers(&o.Spec, at)...)
	if name := o.Spec.ServiceName; name != "" {
		for _, m := range validation.IsDNS1123Label(name) {
			problems = append(problems, field.Invalid(at.Child("serviceName"), name, m))
		}
	}
	return append(problems, validateStatefulSetTemplate(&o.Spec, at)...)
}

func validateStatefulSetNumbers(s *appsv1.StatefulSetSpec, at *field.Path) field.ErrorList {
	problems := apivalidation.ValidateNonnegativeField(int64(*s.Replicas), at.Child("replicas"))
	problems = append(problems, apivalidation.ValidateNonnegativeField(int64(s.MinReadySeconds), at.Child("minReadySeconds"))...)
	if s.Ordinals != nil {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(s.Ordinals.Start), at.Child("ordinals", "start"))...)
	}
	return problems
}

func validateStatefulSetTemplate(s *appsv1.StatefulSetSpec, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	if s.Selector == nil {
		problems = append(problems, field.Required(at.Child("selector"), ""))
	} else {
		problems = append(problems, metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
		if len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
			problems = append(problems, field.Invalid(at.Child("selector"), s.Selector, "empty selector is invalid for statefulset"))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err != nil {
		problems = append(problems, field.Invalid(at.Child("selector"), s.Selector, ""))
	} else {
		problems = append(problems, core.ValidateSelected(selector, s.Selector == nil, &s.Template, at)...)
		t := *withClaims(s)
		t.Spec.Hostname, t.Spec.Subdomain = "", "" // which the controller sets
		problems = append(problems, core.ValidateTemplate(&t, at.Child("template"))...)
		problems = append(problems, core.ValidateTemplateNotes(&t, at.Child("template"))...) // again, as Kubernetes does
	}
	return append(problems, validateRestart("StatefulSet", &s.Template, at)...)
}

// withClaims is the template with a volume for each claim template, in front of its own volumes, which they replace.
func withClaims(s *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	if len(s.VolumeClaimTemplates) == 0 {
		return &s.Template
	}
	t := s.Template
	t.Spec.Volumes = nil
	claimed := map[string]bool{}
	for i := range s.VolumeClaimTemplates {
		name := s.VolumeClaimTemplates[i].Name
		if !claimed[name] {
			t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
			}})
		}
		claimed[name] = true
	}
	for _, v := range s.Template.Spec.Volumes {
		if !claimed[v.Name] {
			t.Spec.Volumes = append(t.Spec.Volumes, v)
		}
	}
	return &t
}

func validateStatefulSetStrategy(s *appsv1.StatefulSetUpdateStrategy, at *field.Path) (problems field.ErrorList) {
	switch s.Type {
	case "":
		problems = append(problems, field.Required(at, ""))
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			problems = append(problems, field.Invalid(at.Child("rollingUpdate"), core.Shown(s.RollingUpdate), "only allowed for updateStrategy 'RollingUpdate'"))
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if r := s.RollingUpdate; r != nil {
			at := at.Child("rollingUpdate")
			if r.Partition != nil {
				problems = append(problems, apivalidation.ValidateNonnegativeField(int64(*r.Partition), at.Child("partition"))...)
			}
		}
	default:
		problems = append(problems, field.Invalid(at, core.Shown(s), "must be 'RollingUpdate' or 'OnDelete'"))
	}
	return problems
}

func validateRetention(p *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, at *field.Path) (problems field.ErrorList) {
	if p == nil {
		return nil
	}
	known := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
	for _, f := range []struct {
		name  string
		value appsv1.PersistentVolumeClaimRetentionPolicyType
	}{{"whenDeleted", p.WhenDeleted}, {"whenScaled", p.WhenScaled}} {
		if f.value != known[0] && f.value != known[1] {
			problems = append(problems, field.NotSupported(at.Child(f.name), f.value, known))
		}
	}
	return problems
}

func validateStatefulSetUpdate(o, old *appsv1.StatefulSet) field.ErrorList {
	at := field.NewPath("spec")
	problems := validateStatefulSet(o)
	problems = append(problems, validateStatefulSetNumbers(&o.Spec, at)...)
	problems = append(problems, validateStatefulSetTemplate(&o.Spec, at)...)
	s := o.Spec.DeepCopy() // with what may change as it was
	s.Replicas, s.Template, s.UpdateStrategy, s.Ordinals = old.Spec.Replicas, old.Spec.Template, old.Spec.UpdateStrategy, old.Spec.Ordinals
	s.MinReadySeconds, s.RevisionHistoryLimit = old.Spec.MinReadySeconds, old.Spec.RevisionHistoryLimit
	s.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if equality.Semantic.DeepEqual(s, &old.Spec) {
		return problems
	}
	return append(problems, field.Forbidden(at,
		"updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
}

func validateStatefulSetStatus(o, old *appsv1.StatefulSet) field.ErrorList {
	s, at := &o.Status, field.NewPath("status")
	var problems field.ErrorList
	for _, f := range []count{
		{"replicas", s.Replicas}, {"readyReplicas", s.ReadyReplicas}, {"currentReplicas", s.CurrentReplicas},
		{"updatedReplicas", s.UpdatedReplicas}, {"availableReplicas", s.AvailableReplicas},
	} {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(f.value), at.Child(f.name))...)
	}
	problems = append(problems, apivalidation.ValidateNonnegativeField(s.ObservedGeneration, at.Child("observedGeneration"))...)
	if c := s.CollisionCount; c != nil {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(*c), at.Child("collisionCount"))...)
	}
	for _, f := range []count{
		{"readyReplicas", s.ReadyReplicas}, {"currentReplicas", s.CurrentReplicas}, {"updatedReplicas", s.UpdatedReplicas}, {"availableReplicas", s.AvailableReplicas},
	} {
		if f.value > s.Replicas {
			problems = append(problems, field.Invalid(at.Child(f.name), f.value, "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		problems = append(problems, field.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than status.readyReplicas"))
	}
	return append(problems, validateDecrement(s.CollisionCount, old.Status.CollisionCount)...)
}

func statefulSetWarnings(o *appsv1.StatefulSet) []string {
	at := field.NewPath("spec")
	out := core.TemplateWarnings(at.Child("template"), &o.Spec.Template)
	for i := range o.Spec.VolumeClaimTemplates {
		storage := o.Spec.VolumeClaimTemplates[i].Spec.Resources.Requests[corev1.ResourceStorage]
		if storage.MilliValue()%1000 != 0 {
			out = append(out, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer",
				at.Child("volumeClaimTemplates").Index(i).Child("resources", "requests").Key("storage"), storage.String()))
		}
	}
	if n := o.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
		out = append(out, at.Child("revisionHistoryLimit").String()+": a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return out
}

// statefulSetName checks a name, of which the names of pods are made.
func statefulSetName(name string, prefix bool) []string {
	return apivalidation.NameIsDNSLabel(name, prefix)
}
