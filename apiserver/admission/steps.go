// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/resource"
	"knarr.dev/apiserver/authz"
	"knarr.dev/apiserver/measure"
)

// Config tunes the steps; the zero value is Kubernetes' default.
type Config struct {
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Authorizer answers who may grant roles (the verbs escalate and bind); authz.New over the reader if nil.
	Authorizer authz.Authorizer
	// Plugins chooses the steps.
	Plugins Plugins
	// Figures gets those of webhooks and policies; nil tells nobody.
	Figures *measure.Set
	// Configuration tunes single steps.
	Configuration
}

// Steps returns the admission steps in the order in which Kubernetes runs its plug-ins: a step may rely on what those before
// it filled in, and ResourceQuota is last because what it charges is charged even if something after it refuses.
func Steps(reader Reader, writer Writer, cfg Config) []Step {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Authorizer == nil {
		cfg.Authorizer = authz.New(reader)
	}
	policies := newDynamic(reader, &cfg)
	if cfg.Figures != nil {
		cfg.PodSecurity.figures = newSecurityFigures(cfg.Figures)
	}
	all := []Step{
		namespaceAutoProvision(reader, writer),
		namespaceLifecycle(reader),
		namespaceExists(reader),
		antiAffinityTopology(),
		limitRanger(reader),
		serviceAccount(reader),
		nodeRestriction(reader, cfg.Authorizer),
		taintNodesByCondition(),
		alwaysPullImages(),
		imagePolicy(cfg.ImagePolicy, cfg.Now),
		podSecurity(reader, cfg.PodSecurity, cfg.Now),
		podNodeSelector(reader, cfg.NodeSelectors),
		priority(reader),
		defaultTolerationSeconds(),
		podTolerationRestriction(reader, cfg.Tolerations),
		eventRateLimit(cfg.EventLimits, cfg.Now),
		extendedResourceToleration(),
		defaultStorageClass(reader),
		storageProtection(),
		ownerReferences(reader, cfg.Authorizer),
		claimResize(reader),
		runtimeClass(reader),
		roleGrants(reader, cfg.Authorizer),
		certificateRequests(),
		certificateApproval(cfg.Authorizer),
		certificateSigning(cfg.Authorizer),
		certificateSubject(),
		defaultIngressClass(reader),
		denyExternalIPs(),
		podTopologyLabels(reader),
		declaredFeatures(reader),
		podResize(reader),
		policies.mutatingPolicies(),
		policies.mutatingWebhooks(),
		policies.validatingPolicies(),
		policies.validatingWebhooks(),
		resourceQuota(reader, writer, cfg.Now, cfg.LimitedResources),
		alwaysDeny(),
	}
	return slices.DeleteFunc(all, func(s Step) bool { return !cfg.Plugins.acts(s.Name) })
}

// forbidden is the error of a step that refuses. It names what the object will be called as far as that is known.
func forbidden(r *Request, text string) *apierrors.StatusError {
	name := r.Name
	if name == "" && r.Object != nil {
		if name = r.Object.GetName(); name == "" {
			name = r.Object.GetGenerateName()
		}
		if name == "" {
			name = "Unknown"
		}
	}
	return apierrors.NewForbidden(r.Kind.GroupResource(), name, errors.New(text))
}

// creates tells whether the request creates an object of that kind itself, rather than a subresource.
func creates(r *Request, kind *resource.Kind) bool {
	return r.Verb == "create" && r.Subresource == "" && r.Kind == kind
}

// updates tells whether the request updates an object of that kind itself.
func updates(r *Request, kind *resource.Kind) bool {
	return r.Verb == "update" && r.Subresource == "" && r.Kind == kind
}

// aggregate words several problems as Kubernetes does: one alone, or a list in brackets, without repetition.
func aggregate(problems []string) string {
	if len(problems) == 1 {
		return problems[0]
	}
	seen := map[string]bool{}
	var distinct []string
	for _, p := range problems {
		if !seen[p] {
			seen[p] = true
			distinct = append(distinct, p)
		}
	}
	if len(distinct) == 1 {
		return distinct[0]
	}
	return "[" + strings.Join(distinct, ", ") + "]"
}

// roleGrants keeps people from giving more than they have.
func roleGrants(reader Reader, authorizer authz.Authorizer) Step {
	rbac := authz.NewRBAC(reader)
	return Step{Name: "RoleGrants", Validate: func(ctx context.Context, r *Request) error {
		if r.Kind.Group != "rbac.authorization.k8s.io" || r.Subresource != "" || r.Verb != "create" && r.Verb != "update" {
			return nil
		}
		return rbac.CheckGrant(ctx, authorizer, r.User, r.Kind, r.Object, r.Old)
	}}
}
