// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Mandatory returns the objects without which nothing works: their specs are fixed.
func Mandatory() ([]*flowcontrolv1.FlowSchema, []*flowcontrolv1.PriorityLevelConfiguration) {
	return []*flowcontrolv1.FlowSchema{exemptSchema(), catchAllSchema()}, []*flowcontrolv1.PriorityLevelConfiguration{exemptLevel(), catchAllLevel()}
}

// Suggested returns the objects that a cluster starts with, see
// https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#suggested-configuration-objects.
func Suggested() ([]*flowcontrolv1.FlowSchema, []*flowcontrolv1.PriorityLevelConfiguration) {
	everywhere := []flowcontrolv1.ResourcePolicyRule{anyResource()}
	anything := []flowcontrolv1.NonResourcePolicyRule{anyURL("*")}
	leases := flowcontrolv1.ResourcePolicyRule{Verbs: []string{"get", "create", "update"}, APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Namespaces: []string{"*"}}
	nodeLeases := leases
	nodeLeases.Verbs = []string{"*"}
	nodes := flowcontrolv1.ResourcePolicyRule{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"nodes", "nodes/status"}, ClusterScope: true, Namespaces: []string{"*"}}
	controllers, scheduler, accounts := user("system:kube-controller-manager"), user("system:kube-scheduler"), account("kube-system", "*")
	byUser, byNamespace := flowcontrolv1.FlowDistinguisherMethodByUserType, flowcontrolv1.FlowDistinguisherMethodByNamespaceType
	schemas := []*flowcontrolv1.FlowSchema{
		schema("system-nodes", "system", 500, byUser, rule(everywhere, anything, group("system:nodes"))),
		schema("system-node-high", "node-high", 400, byUser, rule([]flowcontrolv1.ResourcePolicyRule{nodes, nodeLeases}, nil, group("system:nodes"))),
		schema("probes", "exempt", 2, "", rule(nil, []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/readyz", "/livez"}}},
			group("system:unauthenticated"), group("system:authenticated"))),
		schema("system-leader-election", "leader-election", 100, byUser, rule([]flowcontrolv1.ResourcePolicyRule{leases}, nil, controllers, scheduler, accounts)),
		schema("kube-controller-manager", "workload-high", 800, byNamespace, rule(everywhere, anything, controllers)),
		schema("kube-scheduler", "workload-high", 800, byNamespace, rule(everywhere, anything, scheduler)),
		schema("kube-system-service-accounts", "workload-high", 900, byNamespace, rule(everywhere, anything, accounts)),
		schema("service-accounts", "workload-low", 9000, byUser, rule(everywhere, anything, group("system:serviceaccounts"))),
		schema("global-default", "global-default", 9900, byUser, rule(everywhere, anything, group("system:unauthenticated"), group("system:authenticated"))),
	}
	levels := []*flowcontrolv1.PriorityLevelConfiguration{
		level("system", 30, 33, 64, 6), level("node-high", 40, 25, 64, 6), level("leader-election", 10, 0, 16, 4),
		level("workload-high", 40, 50, 128, 6), level("workload-low", 100, 90, 128, 6), level("global-default", 20, 50, 128, 6),
	}
	return schemas, levels
}

func exemptSchema() *flowcontrolv1.FlowSchema {
	return schema(flowcontrolv1.FlowSchemaNameExempt, flowcontrolv1.PriorityLevelConfigurationNameExempt, 1, "",
		rule([]flowcontrolv1.ResourcePolicyRule{anyResource()}, []flowcontrolv1.NonResourcePolicyRule{anyURL("*")}, group("system:masters")))
}

func catchAllSchema() *flowcontrolv1.FlowSchema {
	return schema(flowcontrolv1.FlowSchemaNameCatchAll, flowcontrolv1.PriorityLevelConfigurationNameCatchAll, flowcontrolv1.FlowSchemaMaxMatchingPrecedence,
		flowcontrolv1.FlowDistinguisherMethodByUserType,
		rule([]flowcontrolv1.ResourcePolicyRule{anyResource()}, []flowcontrolv1.NonResourcePolicyRule{anyURL("*")}, group("system:unauthenticated"), group("system:authenticated")))
}

func exemptLevel() *flowcontrolv1.PriorityLevelConfiguration {
	zero, none := int32(0), int32(0)
	return &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: kept(flowcontrolv1.PriorityLevelConfigurationNameExempt),
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type:   flowcontrolv1.PriorityLevelEnablementExempt,
			Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: &zero, LendablePercent: &none},
		},
	}
}

func catchAllLevel() *flowcontrolv1.PriorityLevelConfiguration {
	shares, none := int32(5), int32(0)
	return &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: kept(flowcontrolv1.PriorityLevelConfigurationNameCatchAll),
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: &shares, LendablePercent: &none,
				LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
			},
		},
	}
}

// kept is the metadata of objects that are brought up to date unless somebody takes the annotation away.
func kept(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Annotations: map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}}
}

func level(name string, shares, lendable, queues, hand int32) *flowcontrolv1.PriorityLevelConfiguration {
	return &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: kept(name),
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: &shares, LendablePercent: &lendable,
				LimitResponse: flowcontrolv1.LimitResponse{
					Type:    flowcontrolv1.LimitResponseTypeQueue,
					Queuing: &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: hand, QueueLengthLimit: defaultQueueLength},
				},
			},
		},
	}
}

func schema(name, level string, precedence int32, by flowcontrolv1.FlowDistinguisherMethodType, rules ...flowcontrolv1.PolicyRulesWithSubjects) *flowcontrolv1.FlowSchema {
	s := &flowcontrolv1.FlowSchema{
		ObjectMeta: kept(name),
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level},
			MatchingPrecedence:         precedence, Rules: rules,
		},
	}
	if by != "" {
		s.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: by}
	}
	return s
}

func rule(resources []flowcontrolv1.ResourcePolicyRule, others []flowcontrolv1.NonResourcePolicyRule, subjects ...flowcontrolv1.Subject) flowcontrolv1.PolicyRulesWithSubjects {
	return flowcontrolv1.PolicyRulesWithSubjects{Subjects: subjects, ResourceRules: resources, NonResourceRules: others}
}

func anyResource() flowcontrolv1.ResourcePolicyRule {
	all := func() []string { return []string{"*"} }
	return flowcontrolv1.ResourcePolicyRule{Verbs: all(), APIGroups: all(), Resources: all(), ClusterScope: true, Namespaces: all()}
}

func anyURL(verbs ...string) flowcontrolv1.NonResourcePolicyRule {
	return flowcontrolv1.NonResourcePolicyRule{Verbs: verbs, NonResourceURLs: []string{"*"}}
}

func group(name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: name}}
}

func user(name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: name}}
}

func account(namespace, name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: namespace, Name: name}}
}
