// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controllers lists the control loops. To add one, write its package and add its line to All.
package controllers

import (
	"net/netip"

	rbacv1 "k8s.io/api/rbac/v1"

	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
	"knarr.dev/controllers/accounttoken"
	"knarr.dev/controllers/bootstraptoken"
	"knarr.dev/controllers/clusterroleaggregation"
	"knarr.dev/controllers/csr"
	"knarr.dev/controllers/deployment"
	"knarr.dev/controllers/endpointslice"
	"knarr.dev/controllers/garbagecollector"
	"knarr.dev/controllers/namespace"
	"knarr.dev/controllers/nodeipam"
	"knarr.dev/controllers/nodelifecycle"
	"knarr.dev/controllers/podgc"
	"knarr.dev/controllers/policystatus"
	"knarr.dev/controllers/replicaset"
	"knarr.dev/controllers/resourcequota"
	"knarr.dev/controllers/rootca"
	"knarr.dev/controllers/serviceaccount"
	"knarr.dev/controllers/servicecidr"
)

// Config is what loops need to know of the cluster.
type Config struct {
	// Kinds are all that are served.
	Kinds []*resource.Kind
	// CA is the certificate authority of the API server, in PEM form.
	CA []byte
	// Signer holds the keys of the authorities; nothing is signed if it is nil.
	Signer csr.Signer
	// Tokens signs the tokens of Secrets that ask for one; none are made if it is nil.
	Tokens accounttoken.Signer
	// Reader is a client that may list and watch everything.
	Reader *client.Client
	// PodCIDR is the range that nodes' ranges of pod addresses come from; none are given if it is zero.
	PodCIDR netip.Prefix
}

// Loop is one control loop.
type Loop struct {
	// Name is what --controllers selects it by.
	Name string
	// Account is its service account in kube-system, after which its role system:controller:ACCOUNT is named; or a user of
	// Kubernetes' own, such as system:kube-controller-manager, whose role has what it needs.
	Account string
	Needs   []rbacv1.PolicyRule
	New     func(*client.Client, Config) controller.Controller
}

// All returns the loops in the order in which they start.
func All() []Loop {
	plain := func(f func(*client.Client) controller.Controller) func(*client.Client, Config) controller.Controller {
		return func(c *client.Client, _ Config) controller.Controller { return f(c) }
	}
	return []Loop{
		{"serviceaccount", "service-account-controller", serviceaccount.Needs(), plain(serviceaccount.New)},
		{"serviceaccount-token", "system:kube-controller-manager", accounttoken.Needs(), func(c *client.Client, cfg Config) controller.Controller {
			return accounttoken.New(c, cfg.Tokens, cfg.CA)
		}},
		{"legacy-serviceaccount-token-cleaner", "legacy-service-account-token-cleaner", accounttoken.CleanerNeeds(), func(c *client.Client, cfg Config) controller.Controller {
			return accounttoken.NewCleaner(c, cfg.Reader)
		}},
		{"root-ca-certificate-publisher", "root-ca-cert-publisher", rootca.Needs(), func(c *client.Client, cfg Config) controller.Controller {
			return rootca.New(c, cfg.CA)
		}},
		{"clusterrole-aggregation", "clusterrole-aggregation-controller", clusterroleaggregation.Needs(), plain(clusterroleaggregation.New)},
		{"namespace", "namespace-controller", namespace.Needs(), func(c *client.Client, cfg Config) controller.Controller {
			return namespace.New(c, cfg.Kinds)
		}},
		{"garbage-collector", "generic-garbage-collector", garbagecollector.Needs(), func(c *client.Client, cfg Config) controller.Controller {
			return garbagecollector.New(c, cfg.Kinds)
		}},
		{"deployment", "deployment-controller", deployment.Needs(), plain(deployment.New)},
		{"replicaset", "replicaset-controller", replicaset.Needs(), plain(replicaset.New)},
		{"resourcequota", "resourcequota-controller", resourcequota.Needs(), func(c *client.Client, cfg Config) controller.Controller {
			return resourcequota.New(c, cfg.Kinds)
		}},
		{"service-cidr", "service-cidrs-controller", servicecidr.Needs(), plain(servicecidr.New)},
		{"endpointslice", "endpointslice-controller", endpointslice.Needs(), plain(endpointslice.New)},
		{"nodelifecycle", "node-controller", nodelifecycle.Needs(), plain(nodelifecycle.New)},
		{"csrapproving", "node-certificate-approver", csr.ApprovingNeeds(), plain(csr.NewApproving)},
		{"csrsigning", "certificate-controller", csr.SigningNeeds(), func(c *client.Client, cfg Config) controller.Controller {
			return csr.NewSigning(c, cfg.Signer)
		}},
		{"csrcleaner", "certificate-controller", csr.CleaningNeeds(), plain(csr.NewCleaning)},
		{"nodeipam", "node-controller", nodeipam.Needs(), func(c *client.Client, cfg Config) controller.Controller {
			return nodeipam.New(c, cfg.PodCIDR)
		}},
		{"bootstrapsigner", "bootstrap-signer", bootstraptoken.SigningNeeds(), plain(bootstraptoken.NewSigning)},
		{"tokencleaner", "token-cleaner", bootstraptoken.CleaningNeeds(), plain(bootstraptoken.NewCleaning)},
		{"podgc", "pod-garbage-collector", podgc.Needs(), plain(podgc.New)},
		{"validatingadmissionpolicy-status", "validatingadmissionpolicy-status-controller", policystatus.Needs(), func(c *client.Client, cfg Config) controller.Controller {
			return policystatus.New(c, cfg.Kinds)
		}},
	}
}
