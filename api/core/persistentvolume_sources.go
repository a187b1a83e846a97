// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"maps"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of fields of storage systems.
const (
	partitionMax = 255
	lunMax       = 255
	tenantMax    = 64
)

// validatePersistentSource checks that a volume is of exactly one kind of storage, and that one.
func validatePersistentSource(s *corev1.PersistentVolumeSpec, at *field.Path) (problems field.ErrorList) {
	n := 0
	for _, c := range slices.Concat(openSources(s), vendorSources(s, at)) {
		switch {
		case !c.set:
			continue
		case c.field == "flexVolume" && n > 0: // which Kubernetes does not count
			problems = append(problems, c.problems(at.Child(c.field))...)
		case c.field == "cephfs" && n > 0:
			problems = append(problems, field.Forbidden(at.Child("cephFS"), "may not specify more than 1 volume type"))
		case n > 0:
			problems = append(problems, field.Forbidden(at.Child(c.field), "may not specify more than 1 volume type"))
		default:
			problems = append(problems, c.problems(at.Child(c.field))...)
		}
		n++
	}
	if n == 0 {
		problems = append(problems, field.Required(at, "must specify a volume type"))
	}
	return problems
}

// openSources are storage that many systems speak, in the order in which Kubernetes looks at it; vendorSources follow.
func openSources(s *corev1.PersistentVolumeSpec) []volumeCheck {
	return []volumeCheck{
		{"hostPath", s.HostPath != nil, func(at *field.Path) field.ErrorList { return validateHostPath(s.HostPath, at) }},
		{"gcePersistentDisk", s.GCEPersistentDisk != nil, func(*field.Path) field.ErrorList {
			at := field.NewPath("spec", "persistentDisk")
			return append(needed(at, "pdName", s.GCEPersistentDisk.PDName), partition(s.GCEPersistentDisk.Partition, at)...)
		}},
		{"awsElasticBlockStore", s.AWSElasticBlockStore != nil, func(at *field.Path) field.ErrorList {
			return append(needed(at, "volumeID", s.AWSElasticBlockStore.VolumeID), partition(s.AWSElasticBlockStore.Partition, at)...)
		}},
		{"glusterfs", s.Glusterfs != nil, func(at *field.Path) field.ErrorList {
			problems := needed(at, "endpoints", s.Glusterfs.EndpointsName, "path", s.Glusterfs.Path)
			switch namespace := s.Glusterfs.EndpointsNamespace; {
			case namespace == nil:
			case *namespace == "":
				problems = append(problems, field.Invalid(at.Child("endpointsNamespace"), *namespace, "if the endpointnamespace is set, it must be a valid namespace name"))
			default:
				problems = append(problems, dnsLabel(*namespace, at.Child("endpointsNamespace"))...)
			}
			return problems
		}},
		{"flocker", s.Flocker != nil, func(at *field.Path) field.ErrorList { return validateFlocker(s.Flocker, at) }},
		{"nfs", s.NFS != nil, func(at *field.Path) field.ErrorList {
			problems := needed(at, "server", s.NFS.Server, "path", s.NFS.Path)
			if !path.IsAbs(s.NFS.Path) {
				problems = append(problems, field.Invalid(at.Child("path"), s.NFS.Path, "must be an absolute path"))
			}
			return problems
		}},
		{"rbd", s.RBD != nil, func(at *field.Path) (problems field.ErrorList) {
			if len(s.RBD.CephMonitors) == 0 {
				problems = append(problems, field.Required(at.Child("monitors"), ""))
			}
			return append(problems, needed(at, "image", s.RBD.RBDImage)...)
		}},
		{"quobyte", s.Quobyte != nil, func(at *field.Path) field.ErrorList { return validateQuobyte(s.Quobyte, at) }},
		{"cephfs", s.CephFS != nil, func(at *field.Path) field.ErrorList {
			if len(s.CephFS.Monitors) == 0 {
				return field.ErrorList{field.Required(at.Child("monitors"), "")}
			}
			return nil
		}},
		{"iscsi", s.ISCSI != nil, func(at *field.Path) field.ErrorList { return validatePersistentISCSI(s.ISCSI, at) }},
		{"cinder", s.Cinder != nil, func(at *field.Path) field.ErrorList {
			problems := needed(at, "volumeID", s.Cinder.VolumeID)
			if ref := s.Cinder.SecretRef; ref != nil {
				problems = append(problems, needed(at.Child("secretRef"), "name", ref.Name, "namespace", ref.Namespace)...)
			}
			return problems
		}},
		{"fc", s.FC != nil, func(at *field.Path) field.ErrorList { return validateFibre(s.FC, at) }},
	}
}

func vendorSources(s *corev1.PersistentVolumeSpec, spec *field.Path) []volumeCheck {
	return []volumeCheck{
		{"flexVolume", s.FlexVolume != nil, func(at *field.Path) field.ErrorList {
			return append(needed(at, "driver", s.FlexVolume.Driver), reservedOptions(s.FlexVolume.Options, at.Child("options"))...)
		}},
		{"azureFile", s.AzureFile != nil, func(at *field.Path) field.ErrorList {
			problems := needed(at, "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
			if n := s.AzureFile.SecretNamespace; n != nil {
				problems = append(problems, needed(at, "secretNamespace", *n)...)
			}
			return problems
		}},
		{"vsphereVolume", s.VsphereVolume != nil, func(at *field.Path) field.ErrorList { return needed(at, "volumePath", s.VsphereVolume.VolumePath) }},
		{"photonPersistentDisk", s.PhotonPersistentDisk != nil, func(at *field.Path) field.ErrorList { return needed(at, "pdID", s.PhotonPersistentDisk.PdID) }},
		{"portworxVolume", s.PortworxVolume != nil, func(at *field.Path) field.ErrorList { return needed(at, "volumeID", s.PortworxVolume.VolumeID) }},
		{"azureDisk", s.AzureDisk != nil, func(at *field.Path) field.ErrorList { return validateAzureDisk(s.AzureDisk, at) }},
		{"scaleIO", s.ScaleIO != nil, func(at *field.Path) field.ErrorList {
			return needed(at, "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
		}},
		{"local", s.Local != nil, func(at *field.Path) field.ErrorList {
			problems := needed(at, "path", s.Local.Path)
			if s.Local.Path != "" {
				problems = append(problems, noBackSteps(s.Local.Path, at.Child("path"))...)
			}
			if s.NodeAffinity == nil {
				problems = append(problems, field.Required(spec.Child("nodeAffinity"), "Local volume requires node affinity"))
			}
			return problems
		}},
		{"storageos", s.StorageOS != nil, func(at *field.Path) field.ErrorList { return validateStorageOS(s.StorageOS, at) }},
		{"csi", s.CSI != nil, func(at *field.Path) field.ErrorList { return validatePersistentCSI(s.CSI, at) }},
	}
}

func partition(n int32, at *field.Path) field.ErrorList {
	if n == 0 {
		return nil
	}
	return inRange(int(n), 1, partitionMax, at.Child("partition"))
}

func validateFlocker(f *corev1.FlockerVolumeSource, at *field.Path) (problems field.ErrorList) {
	switch {
	case f.DatasetName == "" && f.DatasetUUID == "":
		problems = append(problems, field.Required(at, "one of datasetName and datasetUUID is required"))
	case f.DatasetName != "" && f.DatasetUUID != "":
		problems = append(problems, field.Invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(f.DatasetName, "/") {
		problems = append(problems, field.Invalid(at.Child("datasetName"), f.DatasetName, "must not contain '/'"))
	}
	return problems
}

func validateQuobyte(q *corev1.QuobyteVolumeSource, at *field.Path) (problems field.ErrorList) {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	if q.Registry == "" {
		problems = append(problems, field.Required(at.Child("registry"), pairs))
	} else {
		for pair := range strings.SplitSeq(q.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				problems = append(problems, field.Invalid(at.Child("registry"), q.Registry, pairs))
			}
		}
		if len(q.Tenant) > tenantMax {
			problems = append(problems, field.Required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
		}
	}
	return append(problems, needed(at, "volume", q.Volume)...)
}

// initiator is the form of the names of both ends of iSCSI.
func initiator(name string, at *field.Path) field.ErrorList {
	form := `^iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`
	switch {
	case strings.HasPrefix(name, "eui"):
		form = `^eui\.[[:xdigit:]]{16}$`
	case strings.HasPrefix(name, "naa"):
		form = `^naa\.[[:xdigit:]]{32}$`
	}
	if regexp.MustCompile(form).MatchString(name) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, name, "must be valid format")}
}

func validatePersistentISCSI(s *corev1.ISCSIPersistentVolumeSource, at *field.Path) field.ErrorList {
	problems := needed(at, "targetPortal", s.TargetPortal, "iqn", s.IQN)
	if s.IQN != "" {
		problems = append(problems, initiator(s.IQN, at.Child("iqn"))...)
	}
	problems = append(problems, inRange(int(s.Lun), 0, lunMax, at.Child("lun"))...)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		problems = append(problems, field.Required(at.Child("secretRef"), ""))
	}
	if s.SecretRef != nil {
		problems = append(problems, needed(at.Child("secretRef"), "name", s.SecretRef.Name)...)
	}
	if s.InitiatorName != nil {
		problems = append(problems, initiator(*s.InitiatorName, at.Child("initiatorname"))...)
	}
	return problems
}

func validateFibre(f *corev1.FCVolumeSource, at *field.Path) (problems field.ErrorList) {
	switch {
	case len(f.TargetWWNs) == 0 && len(f.WWIDs) == 0:
		problems = append(problems, field.Required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	case len(f.TargetWWNs) > 0 && len(f.WWIDs) > 0:
		problems = append(problems, field.Invalid(at.Child("targetWWNs"), f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	if len(f.TargetWWNs) == 0 {
		return problems
	}
	if f.Lun == nil {
		return append(problems, field.Required(at.Child("lun"), "lun is required if targetWWNs is specified"))
	}
	return append(problems, inRange(int(*f.Lun), 0, lunMax, at.Child("lun"))...)
}

// reservedOptions refuses options in the name of Kubernetes.
func reservedOptions(options map[string]string, at *field.Path) (problems field.ErrorList) {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		domain, _, qualified := strings.Cut(key, "/")
		if !qualified {
			continue
		}
		for _, own := range []string{"kubernetes.io", "k8s.io"} {
			if strings.HasSuffix("."+domain, "."+own) {
				problems = append(problems, field.Invalid(at.Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
			}
		}
	}
	return problems
}

func validateAzureDisk(d *corev1.AzureDiskVolumeSource, at *field.Path) field.ErrorList {
	problems := needed(at, "diskName", d.DiskName, "diskURI", d.DataDiskURI)
	if d.CachingMode != nil {
		problems = append(problems, allowed(at.Child("cachingMode"), *d.CachingMode,
			corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	}
	if d.Kind == nil {
		return problems
	}
	problems = append(problems, allowed(at.Child("kind"), *d.Kind, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	prefix, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *d.Kind == corev1.AzureManagedDisk {
		prefix, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(d.DataDiskURI, prefix) {
		problems = append(problems, field.NotSupported(at.Child("diskURI"), d.DataDiskURI, []string{form}))
	}
	return problems
}

func validateStorageOS(s *corev1.StorageOSPersistentVolumeSource, at *field.Path) (problems field.ErrorList) {
	problems = storageOSNames(s.VolumeName, s.VolumeNamespace, at)
	if s.SecretRef != nil {
		problems = append(problems, needed(at.Child("secretRef"), "name", s.SecretRef.Name, "namespace", s.SecretRef.Namespace)...)
	}
	return problems
}

func storageOSNames(volume, namespace string, at *field.Path) (problems field.ErrorList) {
	if volume == "" {
		problems = append(problems, field.Required(at.Child("volumeName"), ""))
	} else {
		problems = append(problems, dnsLabel(volume, at.Child("volumeName"))...)
	}
	if namespace != "" {
		problems = append(problems, dnsLabel(namespace, at.Child("volumeNamespace"))...)
	}
	return problems
}

func validatePersistentCSI(s *corev1.CSIPersistentVolumeSource, at *field.Path) field.ErrorList {
	problems := driverName(s.Driver, at.Child("driver"))
	problems = append(problems, needed(at, "volumeHandle", s.VolumeHandle)...)
	for _, ref := range []struct { // of the node's staging secret Kubernetes checks nothing
		name   string
		secret *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", s.ControllerPublishSecretRef}, {"controllerExpandSecretRef", s.ControllerExpandSecretRef},
		{"nodePublishSecretRef", s.NodePublishSecretRef}, {"nodeExpandSecretRef", s.NodeExpandSecretRef},
	} {
		if ref.secret != nil {
			problems = append(problems, needed(at.Child(ref.name), "name", ref.secret.Name, "namespace", ref.secret.Namespace)...)
		}
	}
	return problems
}
