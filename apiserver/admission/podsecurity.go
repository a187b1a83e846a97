// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/pod-security-admission/api"
	security "k8s.io/pod-security-admission/policy"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Bounds of the check of the pods that are there when a namespace gets stricter, as in Kubernetes.
const (
	podsChecked     = 3000
	podsCheckedTime = time.Second
)

// PodSecurity tunes the step of that name. The zero value is Kubernetes' default: nothing is refused but where the labels
// of a namespace say so.
type PodSecurity struct {
	// Defaults are the levels of namespaces without labels, by the keys of the labels behind pod-security.kubernetes.io/: enforce,
	// enforce-version, audit and so on. A level that is missing is privileged, a version latest.
	Defaults map[string]string
	// Usernames, RuntimeClasses and Namespaces are exempt.
	Usernames, RuntimeClasses, Namespaces []string

	figures *securityFigures // nil counts nothing
}

// podSecurity holds pods to the Pod Security Standards that the labels of their namespace name.
//
// See https://kubernetes.io/docs/concepts/security/pod-security-admission/.
func podSecurity(reader Reader, cfg PodSecurity, now func() time.Time) Step {
	s := &securityStep{
		reader: reader, cfg: cfg, now: now,
		evaluator: sync.OnceValues(func() (security.Evaluator, error) {
			return security.NewEvaluator(security.DefaultChecks(), nil)
		}),
		defaults: sync.OnceValues(func() (api.Policy, error) { return defaultPolicy(cfg.Defaults) }),
	}
	return Step{Name: "PodSecurity", Validate: s.validate}
}

type securityStep struct {
	reader    Reader
	cfg       PodSecurity
	now       func() time.Time
	evaluator func() (security.Evaluator, error)
	defaults  func() (api.Policy, error)
}

// defaultPolicy reads levels and versions.
func defaultPolicy(levels map[string]string) (api.Policy, error) {
	least := api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()}
	policy := api.Policy{Enforce: least, Audit: least, Warn: least}
	for mode, into := range map[string]*api.LevelVersion{"enforce": &policy.Enforce, "audit": &policy.Audit, "warn": &policy.Warn} {
		var err error
		if text := levels[mode]; text != "" {
			if into.Level, err = api.ParseLevel(text); err != nil {
				return policy, fmt.Errorf("pod security default %s: %w", mode, err)
			}
		}
		if text := levels[mode+"-version"]; text != "" {
			if into.Version, err = api.ParseVersion(text); err != nil {
				return policy, fmt.Errorf("pod security default %s-version: %w", mode, err)
			}
		}
	}
	return policy, nil
}

func (s *securityStep) validate(ctx context.Context, r *Request) error {
	if r.Verb != "create" && r.Verb != "update" || r.Object == nil {
		return nil
	}
	if r.Kind == core.Namespaces.Kind {
		if r.Subresource != "" {
			return nil
		}
		return s.namespace(ctx, r)
	}
	if r.Kind == core.Pods.Kind {
		if r.Subresource == "" || r.Subresource == "ephemeralcontainers" {
			return s.pod(ctx, r)
		}
		return nil
	}
	if r.Subresource != "" {
		return nil
	}
	if template := templateOf(r.Object); template != nil {
		return s.template(ctx, r, template)
	}
	return nil
}

// templateOf is the pod template of an object that makes pods; nil for others.
func templateOf(o resource.Object) *corev1.PodTemplateSpec {
	switch o := any(o).(type) {
	case *corev1.PodTemplate:
		return &o.Template
	case *corev1.ReplicationController:
		return o.Spec.Template
	case *appsv1.ReplicaSet:
		return &o.Spec.Template
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	case *batchv1.Job:
		return &o.Spec.Template
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template
	}
	return nil
}

// policyOf is what a namespace wants, with the problems of its labels.
func (s *securityStep) policyOf(n *corev1.Namespace) (api.Policy, field.ErrorList, error) {
	defaults, err := s.defaults()
	if err != nil {
		return defaults, nil, err
	}
	policy, errs := api.PolicyToEvaluate(n.Labels, defaults)
	return policy, errs, nil
}

// ruling is the policy for a request in a namespace; false if there is nothing to check.
func (s *securityStep) ruling(ctx context.Context, r *Request, spec *corev1.PodSpec) (api.Policy, field.ErrorList, bool, error) {
	exempt := ""
	switch {
	case slices.Contains(s.cfg.Namespaces, r.Namespace):
		exempt = "namespace"
	case slices.Contains(s.cfg.Usernames, r.User.Name):
		exempt = "user"
	case spec.RuntimeClassName != nil && slices.Contains(s.cfg.RuntimeClasses, *spec.RuntimeClassName):
		exempt = "runtimeClass"
	}
	if exempt != "" {
		s.cfg.figures.exempt(r)
		r.Annotate(api.AuditAnnotationPrefix+api.ExemptionReasonAnnotationKey, exempt)
		return api.Policy{}, nil, false, nil
	}
	o, err := s.reader.Get(ctx, core.Namespaces.Kind, "", r.Namespace)
	if err != nil {
		return api.Policy{}, nil, false, apierrors.NewInternalError(fmt.Errorf("failed to lookup namespace %q", r.Namespace))
	}
	policy, errs, err := s.policyOf(core.Namespaces.Cast(o))
	if err != nil {
		return policy, nil, false, err
	}
	if len(errs) == 0 && policy.FullyPrivileged() {
		if r.Kind == core.Pods.Kind {
			s.cfg.figures.evaluated(r, modeEnforce, policy.Enforce, true)
		}
		return policy, nil, false, nil
	}
	return policy, errs, true, nil
}

func (s *securityStep) pod(ctx context.Context, r *Request) error {
	pod := core.Pods.Cast(r.Object)
	if r.Verb == "update" && r.Subresource == "" && !matters(pod, core.Pods.Cast(r.Old)) {
		return nil
	}
	policy, errs, check, err := s.ruling(ctx, r, &pod.Spec)
	if err != nil || !check {
		return err
	}
	return s.evaluate(r, policy, errs, &pod.ObjectMeta, &pod.Spec, true)
}

// matters tells whether an update changes what the standards look at, rather than metadata, tolerations or deadline.
func matters(pod, old *corev1.Pod) bool {
	if a, b := podAnnotations(pod), podAnnotations(old); len(a)+len(b) > 0 && !maps.Equal(a, b) {
		return true
	}
	spec := pod.Spec
	spec.ActiveDeadlineSeconds, spec.Tolerations = old.Spec.ActiveDeadlineSeconds, old.Spec.Tolerations
	return !core.SamePodSpec(&spec, &old.Spec)
}

// podAnnotations are those that the standards look at.
func podAnnotations(p *corev1.Pod) map[string]string {
	var out map[string]string
	for key, value := range p.Annotations {
		for _, prefix := range [...]string{
			"seccomp.security.alpha.kubernetes.io/", "container.seccomp.security.alpha.kubernetes.io/", "container.apparmor.security.beta.kubernetes.io/",
		} {
			if strings.HasPrefix(key, prefix) {
				if out == nil {
					out = map[string]string{}
				}
				out[key] = value
			}
		}
	}
	return out
}

func (s *securityStep) template(ctx context.Context, r *Request, t *corev1.PodTemplateSpec) error {
	policy, errs, check, err := s.ruling(ctx, r, &t.Spec)
	if err != nil || !check {
		return err
	}
	return s.evaluate(r, policy, errs, &t.ObjectMeta, &t.Spec, false)
}

// evaluate refuses, if it may, notes and warns.
func (s *securityStep) evaluate(r *Request, policy api.Policy, errs field.ErrorList, meta *metav1.ObjectMeta, spec *corev1.PodSpec, enforce bool) error {
	e, err := s.evaluator()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if len(errs) > 0 {
		r.Annotate(api.AuditAnnotationPrefix+"error", fmt.Sprintf("Failed to parse policy: %v", errs.ToAggregate()))
	}
	check := func(level api.LevelVersion) (string, bool) {
		result := security.AggregateCheckResults(e.EvaluatePod(level, meta, spec))
		return result.ForbiddenDetail(), result.Allowed
	}
	if enforce {
		r.Annotate(api.AuditAnnotationPrefix+api.EnforcedPolicyAnnotationKey, policy.Enforce.String())
	}
	detail, allowed := "", true
	if enforce {
		detail, allowed = check(policy.Enforce)
		s.cfg.figures.evaluated(r, modeEnforce, policy.Enforce, allowed)
	}
	if text, ok := check(policy.Audit); !ok {
		s.cfg.figures.evaluated(r, modeAudit, policy.Audit, false)
		r.Annotate(api.AuditAnnotationPrefix+api.AuditViolationsAnnotationKey, fmt.Sprintf("would violate PodSecurity %q: %s", policy.Audit.String(), text))
	}
	if !allowed {
		return forbidden(r, fmt.Sprintf("violates PodSecurity %q: %s", policy.Enforce.String(), detail))
	}
	if text, ok := check(policy.Warn); !ok {
		s.cfg.figures.evaluated(r, modeWarn, policy.Warn, false)
		r.Warn(fmt.Sprintf("would violate PodSecurity %q: %s", policy.Warn.String(), text))
	}
	return nil
}

// namespace checks the labels, and warns about pods that would not be let in any more.
func (s *securityStep) namespace(ctx context.Context, r *Request) error {
	n := core.Namespaces.Cast(r.Object)
	policy, errs, err := s.policyOf(n)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	invalid := func() error {
		if len(errs) == 0 {
			return nil
		}
		return apierrors.NewInvalid(core.Namespaces.GroupVersionKind.GroupKind(), r.Name, errs)
	}
	if r.Verb == "create" {
		return invalid()
	}
	old, oldErrs, err := s.policyOf(core.Namespaces.Cast(r.Old))
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if len(errs) > 0 {
		if len(oldErrs) > 0 { // they were wrong before
			return nil
		}
		return invalid()
	}
	looser := policy.Enforce.Version == old.Enforce.Version && api.CompareLevels(policy.Enforce.Level, old.Enforce.Level) < 1
	if policy.Enforce.Level == api.LevelPrivileged || looser || policy.Enforce.Equivalent(&old.Enforce) || slices.Contains(s.cfg.Namespaces, n.Name) {
		return nil
	}
	return s.existing(ctx, r, n.Name, policy.Enforce)
}

// existing warns about the pods of a namespace that violate a level, one warning for all that do so alike.
func (s *securityStep) existing(ctx context.Context, r *Request, namespace string, level api.LevelVersion) error {
	e, err := s.evaluator()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	type group struct {
		first  string
		others int
	}
	groups, until := map[string]*group{}, s.now().Add(podsCheckedTime)
	checked, all := 0, 0
	err = s.reader.List(ctx, core.Pods.Kind, namespace, func(o resource.Object) bool {
		all++
		if checked >= podsChecked || s.now().After(until) {
			return true
		}
		checked++
		pod := core.Pods.Cast(o)
		if c := pod.Spec.RuntimeClassName; c != nil && slices.Contains(s.cfg.RuntimeClasses, *c) {
			return true
		}
		result := security.AggregateCheckResults(e.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec))
		if result.Allowed {
			return true
		}
		reason := result.ForbiddenReason()
		if g := groups[reason]; g != nil {
			g.others++
		} else {
			groups[reason] = &group{first: pod.Name}
		}
		return true
	})
	if err != nil {
		return err
	}
	if checked < all {
		r.Warn(fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", checked, all))
	}
	if len(groups) == 0 {
		return nil
	}
	r.Warn(fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, level.String()))
	var lines []string
	for reason, g := range groups {
		switch g.others {
		case 0:
			lines = append(lines, g.first+": "+reason)
		case 1:
			lines = append(lines, g.first+" (and 1 other pod): "+reason)
		default:
			lines = append(lines, fmt.Sprintf("%s (and %d other pods): %s", g.first, g.others, reason))
		}
	}
	slices.Sort(lines)
	for _, line := range lines {
		r.Warn(line)
	}
	return nil
}
