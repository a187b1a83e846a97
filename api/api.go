// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package api lists the kinds that the program serves.
//
// Each group has a package, each kind a file in it. To add a kind, write its file and add its line here.
package api

import (
	"knarr.dev/api/admissionregistration"
	"knarr.dev/api/apps"
	"knarr.dev/api/authentication"
	"knarr.dev/api/authorization"
	"knarr.dev/api/autoscaling"
	"knarr.dev/api/batch"
	"knarr.dev/api/certificates"
	"knarr.dev/api/coordination"
	"knarr.dev/api/core"
	"knarr.dev/api/devices"
	"knarr.dev/api/discovery"
	"knarr.dev/api/events"
	"knarr.dev/api/extension"
	"knarr.dev/api/flowcontrol"
	"knarr.dev/api/networking"
	"knarr.dev/api/node"
	"knarr.dev/api/policy"
	"knarr.dev/api/rbac"
	"knarr.dev/api/resource"
	"knarr.dev/api/scheduling"
	"knarr.dev/api/storage"
)

// Kinds returns the built-in kinds in the order of discovery.
func Kinds() []*resource.Kind {
	return []*resource.Kind{
		core.Namespaces.Kind,
		core.Nodes.Kind,
		core.Pods.Kind,
		core.PodTemplates.Kind,
		core.ReplicationControllers.Kind,
		core.Services.Kind,
		core.Endpoints.Kind,
		core.ConfigMaps.Kind,
		core.Secrets.Kind,
		core.ServiceAccounts.Kind,
		core.Events.Kind,
		core.LimitRanges.Kind,
		core.ResourceQuotas.Kind,
		core.PersistentVolumes.Kind,
		core.PersistentVolumeClaims.Kind,
		core.ComponentStatuses.Kind,
		apps.Deployments.Kind,
		apps.ReplicaSets.Kind,
		apps.StatefulSets.Kind,
		apps.DaemonSets.Kind,
		apps.ControllerRevisions.Kind,
		autoscaling.HorizontalPodAutoscalers.Kind,
		autoscaling.HorizontalPodAutoscalersV1.Kind,
		batch.Jobs.Kind,
		batch.CronJobs.Kind,
		discovery.EndpointSlices.Kind,
		certificates.CertificateSigningRequests.Kind,
		coordination.Leases.Kind,
		admissionregistration.MutatingWebhookConfigurations.Kind,
		admissionregistration.ValidatingWebhookConfigurations.Kind,
		admissionregistration.MutatingAdmissionPolicies.Kind,
		admissionregistration.MutatingAdmissionPolicyBindings.Kind,
		admissionregistration.ValidatingAdmissionPolicies.Kind,
		admissionregistration.ValidatingAdmissionPolicyBindings.Kind,
		rbac.Roles.Kind,
		rbac.RoleBindings.Kind,
		rbac.ClusterRoles.Kind,
		rbac.ClusterRoleBindings.Kind,
		policy.PodDisruptionBudgets.Kind,
		scheduling.PriorityClasses.Kind,
		events.Events.Kind,
		storage.StorageClasses.Kind,
		storage.VolumeAttachments.Kind,
		storage.CSIDrivers.Kind,
		storage.CSINodes.Kind,
		storage.CSIStorageCapacities.Kind,
		storage.VolumeAttributesClasses.Kind,
		networking.Ingresses.Kind,
		networking.IngressClasses.Kind,
		networking.NetworkPolicies.Kind,
		networking.ServiceCIDRs.Kind,
		networking.IPAddresses.Kind,
		node.RuntimeClasses.Kind,
		flowcontrol.FlowSchemas.Kind,
		flowcontrol.PriorityLevelConfigurations.Kind,
		devices.DeviceClasses.Kind,
		devices.ResourceClaims.Kind,
		devices.ResourceClaimTemplates.Kind,
		devices.ResourceSlices.Kind,
		extension.CustomResourceDefinitions.Kind,
		extension.APIServices.Kind,
		authentication.TokenReviews.Kind,
		authentication.SelfSubjectReviews.Kind,
		authorization.SubjectAccessReviews.Kind,
		authorization.SelfSubjectAccessReviews.Kind,
		authorization.LocalSubjectAccessReviews.Kind,
		authorization.SelfSubjectRulesReviews.Kind,
	}
}
