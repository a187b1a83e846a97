// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of the life of projected service account tokens, in seconds.
const (
	tokenSecondsMin = 10 * 60
	tokenSecondsMax = 1 << 32
)

// volumeSet is what the rest of a pod needs to know of its volumes.
type volumeSet map[string]*corev1.Volume

// validateVolumes checks volumes and returns them by name.
func validateVolumes(volumes []corev1.Volume, at *field.Path) (volumeSet, field.ErrorList) {
	byName := volumeSet{}
	var problems field.ErrorList
	for i := range volumes {
		v, at := &volumes[i], nth(at, i)
		source := validateVolumeSource(v, at)
		switch {
		case v.Name == "":
			source = append(source, field.Required(at.Child("name"), ""))
		default:
			source = append(source, dnsLabel(v.Name, under(at, "name"))...)
		}
		if byName[v.Name] != nil {
			source = append(source, field.Duplicate(at.Child("name"), v.Name))
		}
		problems = append(problems, source...)
		if len(source) == 0 {
			byName[v.Name] = v
		}
	}
	return byName, problems
}

// volumeCheck is one type of volume: its field and its rules.
type volumeCheck struct {
	field    string
	set      bool
	problems func(at *field.Path) field.ErrorList
}

func validateVolumeSource(v *corev1.Volume, at *field.Path) field.ErrorList {
	if problems, one := validateUsualSource(v, at); one {
		return problems
	}
	var problems field.ErrorList
	n := 0
	checks := slices.DeleteFunc(append(fileVolumes(v), deviceVolumes(v, at.Child("persistentDisk"))...), func(c volumeCheck) bool { return !c.set })
	if len(checks) > 1 { // the first of them is the one that counts
		order := volumeOrder()
		slices.SortFunc(checks, func(a, b volumeCheck) int { return slices.Index(order, a.field) - slices.Index(order, b.field) })
	}
	for _, c := range checks {
		switch {
		case n > 0:
			problems = append(problems, field.Forbidden(at.Child(c.field), "may not specify more than 1 volume type"))
		case c.problems != nil:
			problems = append(problems, c.problems(under(at, c.field))...)
		}
		n++
	}
	if n == 0 {
		problems = append(problems, field.Required(at, "must specify a volume type"))
	}
	return problems
}

// volumeOrder is the order in which Kubernetes looks at the types of a volume.
func volumeOrder() []string {
	return []string{
		"emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs", "iscsi", "glusterfs", "flocker",
		"persistentVolumeClaim", "rbd", "cinder", "cephfs", "quobyte", "downwardAPI", "fc", "flexVolume", "configMap", "azureFile",
		"vsphereVolume", "photonPersistentDisk", "portworxVolume", "azureDisk", "storageos", "projected", "scaleIO", "csi", "ephemeral", "image",
	}
}

// validateUsualSource checks a volume that is of one of the usual types and of no other; false if it is not.
func validateUsualSource(v *corev1.Volume, at *field.Path) (field.ErrorList, bool) {
	rest := v.VolumeSource
	rest.ConfigMap, rest.Secret, rest.EmptyDir, rest.Projected = nil, nil, nil, nil
	if rest != (corev1.VolumeSource{}) {
		return nil, false
	}
	switch rest = v.VolumeSource; rest {
	case corev1.VolumeSource{ConfigMap: v.ConfigMap}:
		if v.ConfigMap != nil {
			return validateConfigMapVolume(v.ConfigMap, under(at, "configMap")), true
		}
	case corev1.VolumeSource{Secret: v.Secret}:
		return validateSecretVolume(v.Secret, under(at, "secret")), true
	case corev1.VolumeSource{EmptyDir: v.EmptyDir}:
		return validateEmptyDir(v.EmptyDir, under(at, "emptyDir")), true
	case corev1.VolumeSource{Projected: v.Projected}:
		return validateProjectedVolume(v.Projected, under(at, "projected")), true
	}
	return nil, false
}

func validateConfigMapVolume(c *corev1.ConfigMapVolumeSource, at *field.Path) field.ErrorList {
	problems := needed(at, "name", c.Name)
	problems = append(problems, fileMode(c.DefaultMode, under(at, "defaultMode"))...)
	return append(problems, keysToPaths(c.Items, at)...)
}

func validateSecretVolume(s *corev1.SecretVolumeSource, at *field.Path) field.ErrorList {
	problems := needed(at, "secretName", s.SecretName)
	problems = append(problems, fileMode(s.DefaultMode, under(at, "defaultMode"))...)
	return append(problems, keysToPaths(s.Items, at)...)
}

func validateEmptyDir(e *corev1.EmptyDirVolumeSource, at *field.Path) field.ErrorList {
	if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		return field.ErrorList{field.Forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
	}
	return nil
}

func validateProjectedVolume(p *corev1.ProjectedVolumeSource, at *field.Path) field.ErrorList {
	problems := fileMode(p.DefaultMode, under(at, "defaultMode"))
	return append(problems, validateProjected(p, at)...)
}

func needed(at *field.Path, values ...string) (problems field.ErrorList) {
	for i := 0; i+1 < len(values); i += 2 {
		if values[i+1] == "" {
			problems = append(problems, field.Required(at.Child(values[i]), ""))
		}
	}
	return problems
}

// fileVolumes are the volumes that hold files of the cluster or the node.
func fileVolumes(v *corev1.Volume) []volumeCheck {
	return []volumeCheck{
		{"emptyDir", v.EmptyDir != nil, func(at *field.Path) field.ErrorList { return validateEmptyDir(v.EmptyDir, at) }},
		{"hostPath", v.HostPath != nil, func(at *field.Path) field.ErrorList { return validateHostPath(v.HostPath, at) }},
		{"gitRepo", v.GitRepo != nil, func(at *field.Path) field.ErrorList {
			problems := needed(at, "repository", v.GitRepo.Repository)
			return append(problems, descending(v.GitRepo.Directory, under(at, "directory"))...)
		}},
		{"secret", v.Secret != nil, func(at *field.Path) field.ErrorList { return validateSecretVolume(v.Secret, at) }},
		{"persistentVolumeClaim", v.PersistentVolumeClaim != nil, func(at *field.Path) field.ErrorList {
			return needed(at, "claimName", v.PersistentVolumeClaim.ClaimName)
		}},
		{"downwardAPI", v.DownwardAPI != nil, func(at *field.Path) field.ErrorList {
			problems := fileMode(v.DownwardAPI.DefaultMode, under(at, "defaultMode"))
			for i := range v.DownwardAPI.Items {
				problems = append(problems, validateDownwardFile(&v.DownwardAPI.Items[i], at)...)
			}
			return problems
		}},
		{"configMap", v.ConfigMap != nil, func(at *field.Path) field.ErrorList { return validateConfigMapVolume(v.ConfigMap, at) }},
		{"projected", v.Projected != nil, func(at *field.Path) field.ErrorList { return validateProjectedVolume(v.Projected, at) }},
		{"ephemeral", v.Ephemeral != nil, func(at *field.Path) field.ErrorList {
			if v.Ephemeral.VolumeClaimTemplate == nil {
				return field.ErrorList{field.Required(at.Child("volumeClaimTemplate"), "")}
			}
			return validateEphemeral(v.Ephemeral.VolumeClaimTemplate, under(at, "volumeClaimTemplate"))
		}},
		{"image", v.Image != nil, func(at *field.Path) field.ErrorList {
			return validatePullPolicy(v.Image.PullPolicy, under(at, "pullPolicy"))
		}},
	}
}

// deviceVolumes are the volumes of storage systems; disk is what Kubernetes calls the field gcePersistentDisk in messages.
func deviceVolumes(v *corev1.Volume, disk *field.Path) []volumeCheck {
	return []volumeCheck{
		{"gcePersistentDisk", v.GCEPersistentDisk != nil, func(*field.Path) field.ErrorList {
			return append(needed(disk, "pdName", v.GCEPersistentDisk.PDName), partition(v.GCEPersistentDisk.Partition, disk)...)
		}},
		{"awsElasticBlockStore", v.AWSElasticBlockStore != nil, func(at *field.Path) field.ErrorList {
			return append(needed(at, "volumeID", v.AWSElasticBlockStore.VolumeID), partition(v.AWSElasticBlockStore.Partition, at)...)
		}},
		{"nfs", v.NFS != nil, func(at *field.Path) field.ErrorList {
			problems := needed(at, "server", v.NFS.Server, "path", v.NFS.Path)
			if !path.IsAbs(v.NFS.Path) {
				problems = append(problems, field.Invalid(at.Child("path"), v.NFS.Path, "must be an absolute path"))
			}
			return problems
		}},
		{"iscsi", v.ISCSI != nil, func(at *field.Path) field.ErrorList { return validateISCSI(v.ISCSI, at) }},
		{"glusterfs", v.Glusterfs != nil, func(at *field.Path) field.ErrorList {
			return needed(at, "endpoints", v.Glusterfs.EndpointsName, "path", v.Glusterfs.Path)
		}},
		{"flocker", v.Flocker != nil, func(at *field.Path) field.ErrorList { return validateFlocker(v.Flocker, at) }},
		{"rbd", v.RBD != nil, func(at *field.Path) field.ErrorList {
			var problems field.ErrorList
			if len(v.RBD.CephMonitors) == 0 {
				problems = append(problems, field.Required(at.Child("monitors"), ""))
			}
			return append(problems, needed(at, "image", v.RBD.RBDImage)...)
		}},
		{"cinder", v.Cinder != nil, func(at *field.Path) field.ErrorList {
			return append(needed(at, "volumeID", v.Cinder.VolumeID), secretName(v.Cinder.SecretRef, at)...)
		}},
		{"cephfs", v.CephFS != nil, func(at *field.Path) field.ErrorList {
			if len(v.CephFS.Monitors) == 0 {
				return field.ErrorList{field.Required(at.Child("monitors"), "")}
			}
			return nil
		}},
		{"quobyte", v.Quobyte != nil, func(at *field.Path) field.ErrorList { return validateQuobyte(v.Quobyte, at) }},
		{"fc", v.FC != nil, func(at *field.Path) field.ErrorList { return validateFibre(v.FC, at) }},
		{"flexVolume", v.FlexVolume != nil, func(at *field.Path) field.ErrorList { return needed(at, "driver", v.FlexVolume.Driver) }},
		{"azureFile", v.AzureFile != nil, func(at *field.Path) field.ErrorList {
			return needed(at, "secretName", v.AzureFile.SecretName, "shareName", v.AzureFile.ShareName)
		}},
		{"vsphereVolume", v.VsphereVolume != nil, func(at *field.Path) field.ErrorList { return needed(at, "volumePath", v.VsphereVolume.VolumePath) }},
		{"photonPersistentDisk", v.PhotonPersistentDisk != nil, func(at *field.Path) field.ErrorList { return needed(at, "pdID", v.PhotonPersistentDisk.PdID) }},
		{"portworxVolume", v.PortworxVolume != nil, func(at *field.Path) field.ErrorList { return needed(at, "volumeID", v.PortworxVolume.VolumeID) }},
		{"azureDisk", v.AzureDisk != nil, func(at *field.Path) field.ErrorList { return validateAzureDisk(v.AzureDisk, at) }},
		{"storageos", v.StorageOS != nil, func(at *field.Path) field.ErrorList {
			return append(storageOSNames(v.StorageOS.VolumeName, v.StorageOS.VolumeNamespace, at), secretName(v.StorageOS.SecretRef, at)...)
		}},
		{"scaleIO", v.ScaleIO != nil, func(at *field.Path) field.ErrorList {
			return needed(at, "gateway", v.ScaleIO.Gateway, "system", v.ScaleIO.System, "volumeName", v.ScaleIO.VolumeName)
		}},
		{"csi", v.CSI != nil, func(at *field.Path) field.ErrorList {
			problems := driverName(v.CSI.Driver, under(at, "driver"))
			switch ref := v.CSI.NodePublishSecretRef; {
			case ref == nil:
				return problems
			case ref.Name == "":
				return append(problems, field.Required(at.Child("nodePublishSecretRef", "name"), ""))
			default:
				return append(problems, subdomain(ref.Name, under(at, "name"))...)
			}
		}},
	}
}

func driverName(name string, at *field.Path) (problems field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	if len(name) > 63 {
		problems = append(problems, field.TooLong(at, "", 63))
	}
	for _, m := range validation.IsDNS1123Subdomain(strings.ToLower(name)) {
		problems = append(problems, field.Invalid(at, name, m))
	}
	return problems
}

func validateHostPath(h *corev1.HostPathVolumeSource, at *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(at.Child("path"), "")}
	}
	problems := noBackSteps(h.Path, under(at, "path"))
	if h.Type == nil {
		return problems
	}
	return append(problems, allowed(under(at, "type"), *h.Type, corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
		corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
}

func validateISCSI(s *corev1.ISCSIVolumeSource, at *field.Path) field.ErrorList {
	problems := needed(at, "targetPortal", s.TargetPortal, "iqn", s.IQN)
	if s.IQN != "" {
		problems = append(problems, qualifiedInitiator(s.IQN, at.Child("iqn"))...)
	}
	if s.Lun < 0 || s.Lun > 255 {
		problems = append(problems, field.Invalid(at.Child("lun"), s.Lun, validation.InclusiveRangeError(0, 255)))
	}
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		problems = append(problems, field.Required(at.Child("secretRef"), ""))
	}
	if s.InitiatorName != nil {
		problems = append(problems, qualifiedInitiator(*s.InitiatorName, at.Child("initiatorname"))...)
	}
	return problems
}

// qualifiedInitiator is initiator with a word about how such names start.
func qualifiedInitiator(name string, at *field.Path) field.ErrorList {
	for _, kind := range []string{"iqn", "eui", "naa"} {
		if strings.HasPrefix(name, kind) {
			return initiator(name, at)
		}
	}
	return field.ErrorList{field.Invalid(at, name, "must be valid format starting with iqn, eui, or naa")}
}

func secretName(ref *corev1.LocalObjectReference, at *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	return needed(at.Child("secretRef"), "name", ref.Name)
}

// validateEphemeral checks the claim that a pod makes for itself.
func validateEphemeral(t *corev1.PersistentVolumeClaimTemplate, at *field.Path) field.ErrorList {
	problems := ValidateTemplateMeta(&t.ObjectMeta, at.Child("metadata"))
	return append(problems, ValidateClaimTemplate(&corev1.PersistentVolumeClaim{Spec: t.Spec}, at)...)
}

// ValidateTemplateMeta allows nothing but labels and annotations for objects that are made later.
func ValidateTemplateMeta(m *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	problems := apivalidation.ValidateAnnotations(m.Annotations, at.Child("annotations"))
	problems = append(problems, metavalidation.ValidateLabels(m.Labels, at.Child("labels"))...)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", m.Name != ""}, {"generateName", m.GenerateName != ""}, {"namespace", m.Namespace != ""}, {"selfLink", m.SelfLink != ""},
		{"uID", m.UID != ""}, {"resourceVersion", m.ResourceVersion != ""}, {"generation", m.Generation != 0},
		{"creationTimestamp", !m.CreationTimestamp.IsZero()}, {"deletionTimestamp", m.DeletionTimestamp != nil},
		{"deletionGracePeriodSeconds", m.DeletionGracePeriodSeconds != nil}, {"ownerReferences", m.OwnerReferences != nil},
		{"finalizers", m.Finalizers != nil}, {"managedFields", m.ManagedFields != nil},
	} {
		if f.set {
			problems = append(problems, field.Forbidden(at.Child(f.name), "cannot be set"))
		}
	}
	return problems
}

func fileMode(mode *int32, at *field.Path) field.ErrorList {
	if mode == nil || *mode >= 0 && *mode <= 0o777 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
}

func keysToPaths(items []corev1.KeyToPath, at *field.Path) (problems field.ErrorList) {
	for i, item := range items {
		at := nth(under(at, "items"), i)
		problems = append(problems, needed(at, "key", item.Key)...)
		problems = append(problems, insidePath(item.Path, under(at, "path"))...)
		problems = append(problems, fileMode(item.Mode, under(at, "mode"))...)
	}
	return problems
}

// insidePath checks a path inside a volume that users may choose.
func insidePath(p string, at *field.Path) field.ErrorList {
	if p == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	problems := descending(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") && len(problems) == 0 {
		problems = append(problems, field.Invalid(at, p, "must not start with '..'"))
	}
	return problems
}

func descending(p string, at *field.Path) field.ErrorList {
	problems := noBackSteps(p, at)
	if path.IsAbs(p) {
		return append(field.ErrorList{field.Invalid(at, p, "must be a relative path")}, problems...)
	}
	return problems
}

func noBackSteps(p string, at *field.Path) field.ErrorList {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
		}
	}
	return nil
}

func validateDownwardFile(f *corev1.DownwardAPIVolumeFile, at *field.Path) field.ErrorList {
	problems := insidePath(f.Path, under(at, "path"))
	switch {
	case f.FieldRef != nil && f.ResourceFieldRef != nil:
		problems = append(problems, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
	case f.FieldRef != nil:
		problems = append(problems, validateFieldRef(f.FieldRef, volumeFields(), under(at, "fieldRef"))...)
	case f.ResourceFieldRef != nil:
		problems = append(problems, validateResourceRef(f.ResourceFieldRef, true, under(at, "resourceFieldRef"))...)
	default:
		problems = append(problems, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(problems, fileMode(f.Mode, under(at, "mode"))...)
}

func validateProjected(p *corev1.ProjectedVolumeSource, all *field.Path) (problems field.ErrorList) {
	paths := sets.New[string]()
	for i := range p.Sources {
		s, at := &p.Sources[i], nth(under(all, "sources"), i)
		n := 0
		source := func(name string, set bool, check func(at *field.Path) field.ErrorList) {
			switch {
			case !set:
				return
			case n > 0:
				problems = append(problems, field.Forbidden(at.Child(name), "may not specify more than 1 volume type per source"))
			default:
				problems = append(problems, check(under(at, name))...)
			}
			n++
		}
		once := func(at *field.Path, files ...string) (problems field.ErrorList) {
			for _, f := range files {
				if f != "" && paths.Has(f) {
					problems = append(problems, field.Invalid(at, f, "conflicting duplicate paths"))
				}
				paths.Insert(f)
			}
			return problems
		}
		source("secret", s.Secret != nil, func(at *field.Path) field.ErrorList {
			problems := append(needed(at, "name", s.Secret.Name), keysToPaths(s.Secret.Items, at)...)
			return append(problems, once(at, itemPaths(s.Secret.Items)...)...)
		})
		source("configMap", s.ConfigMap != nil, func(at *field.Path) field.ErrorList {
			problems := append(needed(at, "name", s.ConfigMap.Name), keysToPaths(s.ConfigMap.Items, at)...)
			return append(problems, once(at, itemPaths(s.ConfigMap.Items)...)...)
		})
		source("downwardAPI", s.DownwardAPI != nil, func(at *field.Path) (problems field.ErrorList) {
			for j := range s.DownwardAPI.Items {
				problems = append(problems, validateDownwardFile(&s.DownwardAPI.Items[j], at)...)
				problems = append(problems, once(at, s.DownwardAPI.Items[j].Path)...)
			}
			return problems
		})
		source("serviceAccountToken", s.ServiceAccountToken != nil, func(at *field.Path) field.ErrorList {
			return append(validateTokenSource(s.ServiceAccountToken, at, all), once(at, s.ServiceAccountToken.Path)...)
		})
	}
	return problems
}

func itemPaths(items []corev1.KeyToPath) (paths []string) {
	for _, i := range items {
		paths = append(paths, i.Path)
	}
	return paths
}

func validateTokenSource(s *corev1.ServiceAccountTokenProjection, at, volume *field.Path) (problems field.ErrorList) {
	if s.ExpirationSeconds != nil {
		switch seconds := *s.ExpirationSeconds; {
		case seconds < tokenSecondsMin:
			problems = append(problems, field.Invalid(at.Child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes"))
		case seconds > tokenSecondsMax:
			problems = append(problems, field.Invalid(at.Child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return append(problems, insidePath(s.Path, under(volume, "path"))...)
}

func validateMounts(mounts []corev1.VolumeMount, devices []corev1.VolumeDevice, volumes volumeSet, privileged bool, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	paths, devicePaths, deviceNames := sets.New[string](), sets.New[string](), sets.New[string]()
	for _, d := range devices {
		devicePaths.Insert(d.DevicePath)
		deviceNames.Insert(d.Name)
	}
	for i := range mounts {
		m, all, at := &mounts[i], at, nth(at, i)
		problems = append(problems, needed(at, "name", m.Name)...)
		if volumes[m.Name] == nil {
			problems = append(problems, field.NotFound(at.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			problems = append(problems, field.Required(at.Child("mountPath"), ""))
		}
		if paths.Has(m.MountPath) {
			problems = append(problems, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		paths.Insert(m.MountPath)
		if deviceNames.Has(m.Name) {
			problems = append(problems, field.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices"))
		}
		if devicePaths.Has(m.MountPath) {
			problems = append(problems, field.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
		}
		if m.SubPath != "" {
			problems = append(problems, descending(m.SubPath, under(all, "subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				problems = append(problems, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			problems = append(problems, descending(m.SubPathExpr, under(all, "subPathExpr"))...)
		}
		problems = append(problems, validatePropagation(m, privileged, all)...)
	}
	return problems
}

func validatePropagation(m *corev1.VolumeMount, privileged bool, at *field.Path) (problems field.ErrorList) {
	if p := m.MountPropagation; p != nil {
		problems = append(problems, allowed(under(at, "mountPropagation"), *p,
			corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)...)
		if *p == corev1.MountPropagationBidirectional && !privileged {
			problems = append(problems, field.Forbidden(at.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
		}
	}
	if r := m.RecursiveReadOnly; r != nil && *r != corev1.RecursiveReadOnlyDisabled {
		unsupported := allowed(under(at, "recursiveReadOnly"), *r,
			corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
		if len(unsupported) > 0 {
			return append(problems, unsupported...)
		}
		if !m.ReadOnly {
			problems = append(problems, field.Forbidden(at.Child("recursiveReadOnly"), "may only be specified when readOnly is true"))
		}
		if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
			problems = append(problems, field.Forbidden(at.Child("recursiveReadOnly"),
				fmt.Sprintf("may only be specified when mountPropagation is None or not specified; got %q", *m.MountPropagation)))
		}
	}
	return problems
}

func validateDevices(devices []corev1.VolumeDevice, mounts []corev1.VolumeMount, volumes volumeSet, at *field.Path) (problems field.ErrorList) {
	paths, names := sets.New[string](), sets.New[string]()
	mountNames := sets.New[string]()
	for _, m := range mounts {
		mountNames.Insert(m.Name)
	}
	for i, d := range devices {
		at := nth(at, i)
		v := volumes[d.Name]
		problems = append(problems, needed(at, "name", d.Name)...)
		switch {
		case names.Has(d.Name):
			problems = append(problems, field.Invalid(at.Child("name"), d.Name, "must be unique"))
		case v == nil:
			problems = append(problems, field.NotFound(at.Child("name"), d.Name))
		case v.PersistentVolumeClaim == nil && v.Ephemeral == nil:
			problems = append(problems, field.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		switch {
		case d.DevicePath == "":
			problems = append(problems, field.Required(at.Child("devicePath"), ""))
		case paths.Has(d.DevicePath):
			problems = append(problems, field.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique"))
		case len(noBackSteps(d.DevicePath, at)) > 0:
			problems = append(problems, field.Invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')"))
		}
		if mountNames.Has(d.Name) {
			problems = append(problems, field.Invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts"))
		}
		paths.Insert(d.DevicePath)
		names.Insert(d.Name)
	}
	return problems
}
