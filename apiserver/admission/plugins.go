// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"fmt"
	"slices"
)

// Plugins chooses steps by the names of Kubernetes' plug-ins; the zero value is Kubernetes' choice, and NodeRestriction.
type Plugins struct {
	// Enable adds to those that act by default, Disable takes away.
	Enable, Disable []string
}

// optional are the plug-ins that act only if they are enabled.
var optional = []string{
	"AlwaysAdmit", "AlwaysDeny", "AlwaysPullImages", "DenyServiceExternalIPs", "EventRateLimit", "ExtendedResourceToleration",
	"ImagePolicyWebhook", "LimitPodHardAntiAffinityTopology", "NamespaceAutoProvision", "NamespaceExists",
	"OwnerReferencesPermissionEnforcement", "PodNodeSelector", "PodTolerationRestriction",
}

// usual are the plug-ins that act unless they are disabled. ClusterTrustBundleAttest, JobValidation and the two for PodGroups
// are about kinds and features that Kubernetes does not serve by default, nor does this server: they have no step.
var usual = []string{
	"CertificateApproval", "CertificateSigning", "CertificateSubjectRestriction", "ClusterTrustBundleAttest", "DefaultIngressClass",
	"DefaultStorageClass", "DefaultTolerationSeconds", "JobValidation", "LimitRanger", "MutatingAdmissionPolicy",
	"MutatingAdmissionWebhook", "NamespaceLifecycle", "NodeDeclaredFeatureValidator", "NodeRestriction",
	"PersistentVolumeClaimResize", "PodGroupProtection", "PodGroupWorkloadExists", "PodResizeValidator", "PodSecurity",
	"PodTopologyLabels", "Priority", "ResourceQuota", "RuntimeClass", "ServiceAccount", "StorageObjectInUseProtection",
	"TaintNodesByCondition", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook",
}

// Validate says what is wrong with the choice.
func (p Plugins) Validate() error {
	for _, names := range [][]string{p.Enable, p.Disable} {
		for _, name := range names {
			switch {
			case !slices.Contains(optional, name) && !slices.Contains(usual, name):
				return fmt.Errorf("admission plug-in %q is unknown", name)
			case slices.Contains(p.Enable, name) && slices.Contains(p.Disable, name):
				return fmt.Errorf("admission plug-in %q is both enabled and disabled", name)
			}
		}
	}
	return nil
}

// acts tells whether a step is chosen. Steps that are no plug-in of Kubernetes always are.
func (p Plugins) acts(name string) bool {
	return !slices.Contains(p.Disable, name) && (!slices.Contains(optional, name) || slices.Contains(p.Enable, name))
}
