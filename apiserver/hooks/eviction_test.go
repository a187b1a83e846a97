// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/policy"
	"knarr.dev/api/resource"
)

// budgeted is a store of one pod and some budgets that counts what is written.
type budgeted struct {
	pod     *corev1.Pod
	budgets []*policyv1.PodDisruptionBudget
	calls   []string
	booked  *policyv1.PodDisruptionBudget
	marked  *corev1.Pod
}

func (s *budgeted) Get(context.Context, *resource.Kind, string, string) (resource.Object, error) {
	return s.pod, nil
}

func (s *budgeted) List(_ context.Context, _ *resource.Kind, _ string, each func(resource.Object) bool) error {
	for _, b := range s.budgets {
		each(b)
	}
	return nil
}

func (s *budgeted) Do(_ context.Context, q *call.Request) (*call.Result, error) {
	s.calls = append(s.calls, q.Verb+" "+q.Kind.Resource)
	if q.Verb == "update" {
		s.booked = policy.PodDisruptionBudgets.Cast(q.Object)
	}
	return &call.Result{}, nil
}

func (s *budgeted) Update(_ context.Context, _ *resource.Kind, _, _ string, _ bool, change func(resource.Object) error) (resource.Object, error) {
	s.marked = s.pod.DeepCopy()
	return s.marked, change(s.marked)
}

func TestEviction(t *testing.T) {
	budget := func(s policyv1.PodDisruptionBudgetStatus) *policyv1.PodDisruptionBudget {
		s.ObservedGeneration++
		return &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: "b", Generation: 1},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{}}, Status: s,
		}
	}
	always := budget(policyv1.PodDisruptionBudgetStatus{})
	policyAlways := policyv1.AlwaysAllow
	always.Spec.UnhealthyPodEvictionPolicy = &policyAlways
	unseen := budget(policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1})
	unseen.Status.ObservedGeneration = 0
	others := budget(policyv1.PodDisruptionBudgetStatus{})
	others.Spec.Selector = nil
	for name, c := range map[string]struct {
		phase   corev1.PodPhase
		ready   bool
		dryRun  bool
		budgets []*policyv1.PodDisruptionBudget
		calls   string
		err     string
	}{
		"no budget":          {corev1.PodRunning, true, false, nil, "delete pods", ""},
		"no budget of its":   {corev1.PodRunning, true, false, []*policyv1.PodDisruptionBudget{others}, "delete pods", ""},
		"not running":        {corev1.PodPending, false, false, []*policyv1.PodDisruptionBudget{unseen}, "delete pods", ""},
		"two budgets":        {corev1.PodRunning, true, false, []*policyv1.PodDisruptionBudget{always, always}, "", "more than one"},
		"budget not seen":    {corev1.PodRunning, true, false, []*policyv1.PodDisruptionBudget{unseen}, "", "Cannot evict"},
		"budget used up":     {corev1.PodRunning, true, false, []*policyv1.PodDisruptionBudget{budget(policyv1.PodDisruptionBudgetStatus{})}, "", "Cannot evict"},
		"negative budget":    {corev1.PodRunning, true, false, []*policyv1.PodDisruptionBudget{budget(policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: -1})}, "", "negative"},
		"budget":             {corev1.PodRunning, true, false, []*policyv1.PodDisruptionBudget{budget(policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1})}, "update poddisruptionbudgets, delete pods", ""},
		"budget, dry run":    {corev1.PodRunning, true, true, []*policyv1.PodDisruptionBudget{budget(policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1})}, "delete pods", ""},
		"unready":            {corev1.PodRunning, false, false, []*policyv1.PodDisruptionBudget{always}, "delete pods", ""},
		"unready, healthy":   {corev1.PodRunning, false, false, []*policyv1.PodDisruptionBudget{budget(policyv1.PodDisruptionBudgetStatus{CurrentHealthy: 1, DesiredHealthy: 1})}, "delete pods", ""},
		"unready, unhealthy": {corev1.PodRunning, false, false, []*policyv1.PodDisruptionBudget{budget(policyv1.PodDisruptionBudgetStatus{DesiredHealthy: 1})}, "", "Cannot evict"},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "b"}}, Status: corev1.PodStatus{Phase: c.phase}}
		if c.ready {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		s := &budgeted{pod: pod, budgets: c.budgets}
		_, err := Eviction(s).Create(t.Context(), nil, &call.Request{
			Kind: core.Pods.Kind, Name: "p", DryRun: c.dryRun, Object: &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}},
		})
		if got := strings.Join(s.calls, ", "); got != c.calls {
			t.Errorf("%s: did %q, want %q", name, got, c.calls)
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
		disrupted := s.marked != nil && slices.ContainsFunc(s.marked.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
		if deleted := strings.Contains(c.calls, "delete"); disrupted != (deleted && !c.dryRun) {
			t.Errorf("%s: the pod was marked: %v", name, disrupted)
		}
		if s.booked != nil && (s.booked.Status.DisruptionsAllowed != 0 || len(s.booked.Status.DisruptedPods) != 1 || len(s.booked.Status.Conditions) != 1) {
			t.Errorf("%s: budget is now %+v", name, s.booked.Status)
		}
	}
}
