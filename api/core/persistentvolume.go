// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// PersistentVolumes are pieces of storage that claims bind to.
var PersistentVolumes = resource.WithList(resource.Define(resource.Definition[corev1.PersistentVolume]{
	Group: "", Version: "v1", Kind: "PersistentVolume", Resource: "persistentvolumes",
	ShortNames: []string{"pv"},
	Scope:      resource.Cluster,
	Default: func(v *corev1.PersistentVolume) {
		orDefault(&v.Status.Phase, corev1.VolumePending)
		orDefault(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
		setDefault(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		DefaultPersistentVolumeSpec(&v.Spec)
	},
	PrepareCreate: func(v *corev1.PersistentVolume) {
		now := metav1.Now()
		v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
	},
	PrepareUpdate: func(v, old *corev1.PersistentVolume) { v.Status = *old.Status.DeepCopy() },
	Validate:      validatePersistentVolume,
	ValidateUpdate: func(v, old *corev1.PersistentVolume) field.ErrorList {
		return append(validatePersistentVolume(v), validateVolumeChange(v, old)...)
	},
	Warnings: persistentVolumeWarnings,
	Columns: []resource.Column[corev1.PersistentVolume]{
		{Name: "Capacity", Value: func(v *corev1.PersistentVolume, _ time.Time) any { return storageAmount(v.Spec.Capacity) }},
		{Name: "Access Modes", Value: func(v *corev1.PersistentVolume, _ time.Time) any { return accessModesText(v.Spec.AccessModes) }},
		{Name: "Reclaim Policy", Value: func(v *corev1.PersistentVolume, _ time.Time) any { return string(v.Spec.PersistentVolumeReclaimPolicy) }},
		{Name: "Status", Value: func(v *corev1.PersistentVolume, _ time.Time) any {
			return phaseText(v.DeletionTimestamp, string(v.Status.Phase))
		}},
		{Name: "Claim", Value: func(v *corev1.PersistentVolume, _ time.Time) any {
			if v.Spec.ClaimRef == nil {
				return ""
			}
			return v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name
		}},
		{Name: "StorageClass", Value: func(v *corev1.PersistentVolume, _ time.Time) any { return VolumeClass(v) }},
		{Name: "VolumeAttributesClass", Value: func(v *corev1.PersistentVolume, _ time.Time) any { return orUnset(v.Spec.VolumeAttributesClassName) }},
		{Name: "Reason", Value: func(v *corev1.PersistentVolume, _ time.Time) any { return v.Status.Reason }},
		{Name: "Age", Value: func(v *corev1.PersistentVolume, now time.Time) any { return age(v.CreationTimestamp, now) }},
		{Name: "VolumeMode", Wide: true, Value: func(v *corev1.PersistentVolume, _ time.Time) any { return orUnset(v.Spec.VolumeMode) }},
	},
	Subresources: resource.Subresources[corev1.PersistentVolume]{
		Status: &resource.Status[corev1.PersistentVolume]{Prepare: prepareVolumeStatus},
	},
}), func() runtime.Object { return new(corev1.PersistentVolumeList) })

// DefaultPersistentVolumeSpec fills in what depends on the kind of storage.
func DefaultPersistentVolumeSpec(s *corev1.PersistentVolumeSpec) {
	defaultHostPath(s.HostPath)
	defaultAzureDisk(s.AzureDisk)
	if s.ISCSI != nil {
		orDefault(&s.ISCSI.ISCSIInterface, "default")
	}
	if s.RBD != nil {
		orDefault(&s.RBD.RBDPool, "rbd")
		orDefault(&s.RBD.RadosUser, "admin")
		orDefault(&s.RBD.Keyring, "/etc/ceph/keyring")
	}
	if s.ScaleIO != nil {
		orDefault(&s.ScaleIO.StorageMode, "ThinProvisioned")
		orDefault(&s.ScaleIO.FSType, "xfs")
	}
}

// prepareVolumeStatus notes when the phase changed, unless the writer says so.
func prepareVolumeStatus(v, old *corev1.PersistentVolume) {
	status := v.Status
	*v = *old.DeepCopy()
	v.Status = status
	changed := v.Status.Phase != old.Status.Phase
	switch given, before := v.Status.LastPhaseTransitionTime, old.Status.LastPhaseTransitionTime; {
	case changed && (given == nil || given.Equal(before)):
		now := metav1.Now()
		v.Status.LastPhaseTransitionTime = &now
	case !changed && given == nil:
		v.Status.LastPhaseTransitionTime = before.DeepCopy()
	}
}

// VolumeClass is the storage class of a volume: its old annotation comes before the field.
func VolumeClass(v *corev1.PersistentVolume) string {
	if class, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return v.Spec.StorageClassName
}

func orUnset[T ~string](s *T) string {
	if s == nil {
		return "<unset>"
	}
	return string(*s)
}

func phaseText(deleted *metav1.Time, phase string) string {
	if deleted != nil {
		return "Terminating"
	}
	return phase
}

func storageAmount(list corev1.ResourceList) string {
	q := list[corev1.ResourceStorage]
	return q.String()
}

// accessModesText is the modes in short, each once, in their usual order.
func accessModesText(modes []corev1.PersistentVolumeAccessMode) string {
	var all []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			all = append(all, m.short)
		}
	}
	return strings.Join(all, ",")
}

func persistentVolumeWarnings(v *corev1.PersistentVolume) (out []string) {
	for _, key := range []string{corev1.BetaStorageClassAnnotation, corev1.MountOptionAnnotation} {
		if _, ok := v.Annotations[key]; !ok {
			continue
		}
		at := field.NewPath("metadata", "annotations").Key(key).String()
		if key == corev1.MountOptionAnnotation {
			out = append(out, at+": deprecated since v1.31; use \"mountOptions\" attribute instead")
		} else {
			out = append(out, at+": deprecated since v1.8; use \"storageClassName\" attribute instead")
		}
	}
	s, at := &v.Spec, field.NewPath("spec")
	if s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		out = append(out, at.Child("persistentVolumeReclaimPolicy").String()+
			": The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if s.NodeAffinity != nil && s.NodeAffinity.Required != nil {
		for i := range s.NodeAffinity.Required.NodeSelectorTerms {
			for j, r := range s.NodeAffinity.Required.NodeSelectorTerms[i].MatchExpressions {
				if text := deprecatedNodeLabel(r.Key); text != "" {
					at := at.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i).Child("matchExpressions").Index(j).Child("key")
					out = append(out, at.String()+": "+r.Key+" is "+text)
				}
			}
		}
	}
	for _, old := range []struct {
		name string
		used bool
		text string
	}{
		{"photonPersistentDisk", s.PhotonPersistentDisk != nil, "deprecated in v1.11, non-functional in v1.16+"},
		{"scaleIO", s.ScaleIO != nil, "deprecated in v1.16, non-functional in v1.22+"},
		{"storageOS", s.StorageOS != nil, "deprecated in v1.22, non-functional in v1.25+"},
		{"glusterfs", s.Glusterfs != nil, "deprecated in v1.25, non-functional in v1.26+"},
		{"cephfs", s.CephFS != nil, "deprecated in v1.28, non-functional in v1.31+"},
		{"rbd", s.RBD != nil, "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if old.used {
			out = append(out, at.Child(old.name).String()+": "+old.text)
		}
	}
	return out
}

// validateVolumeChange: where the storage is may not change.
func validateVolumeChange(v, old *corev1.PersistentVolume) (problems field.ErrorList) {
	now, was := v.Spec.PersistentVolumeSource.DeepCopy(), &old.Spec.PersistentVolumeSource
	if now.CSI != nil && was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil { // which may be given later
		now.CSI.ControllerExpandSecretRef = nil
	}
	if !equality.Semantic.DeepEqual(now, was) {
		at := field.NewPath("spec", "persistentvolumesource")
		problems = append(problems, field.Forbidden(at, at.String()+" is immutable after creation\n"+difference(was, &v.Spec.PersistentVolumeSource)))
	}
	problems = append(problems, immutable(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.NodeAffinity != nil && !sameButForBeta(v.Spec.NodeAffinity, old.Spec.NodeAffinity) {
		problems = append(problems, field.Invalid(field.NewPath("nodeAffinity"), Shown(v.Spec.NodeAffinity), "field is immutable, except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		problems = append(problems, field.Forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return problems
}

// sameButForBeta compares node affinities; labels that were beta may be replaced by what became of them.
func sameButForBeta(a, old *corev1.VolumeNodeAffinity) bool {
	if equality.Semantic.DeepEqual(a, old) {
		return true
	}
	if a == nil || a.Required == nil || old.Required == nil {
		return false
	}
	renamed := old.DeepCopy()
	for i := range renamed.Required.NodeSelectorTerms {
		if i >= len(a.Required.NodeSelectorTerms) {
			return false
		}
		now := &a.Required.NodeSelectorTerms[i]
		for j := range renamed.Required.NodeSelectorTerms[i].MatchExpressions {
			r := &renamed.Required.NodeSelectorTerms[i].MatchExpressions[j]
			if j < len(now.MatchExpressions) && now.MatchExpressions[j].Key == stableNodeLabel(r.Key) {
				r.Key = now.MatchExpressions[j].Key
			}
		}
	}
	return equality.Semantic.DeepEqual(a, renamed)
}

func stableNodeLabel(beta string) string {
	return map[string]string{
		corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
		corev1.LabelInstanceType: corev1.LabelInstanceTypeStable,
		"beta.kubernetes.io/os":  corev1.LabelOSStable, "beta.kubernetes.io/arch": corev1.LabelArchStable,
	}[beta]
}
