// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/api/scheduling"
)

// objects is a small store.
type objects struct {
	mu   sync.Mutex
	list map[*resource.Kind][]resource.Object
}

func (s *objects) add(kind *resource.Kind, list ...resource.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list == nil {
		s.list = map[*resource.Kind][]resource.Object{}
	}
	s.list[kind] = append(s.list[kind], list...)
}

func (s *objects) replace(kind *resource.Kind, o resource.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Clone(s.list[kind])
	for i := range list {
		if list[i].GetNamespace() == o.GetNamespace() && list[i].GetName() == o.GetName() {
			list[i] = o
		}
	}
	s.list[kind] = list
}

func (s *objects) Get(_ context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.list[kind] {
		if o.GetNamespace() == namespace && o.GetName() == name {
			return o, nil
		}
	}
	return nil, apierrors.NewNotFound(kind.GroupResource(), name)
}

func (s *objects) List(_ context.Context, kind *resource.Kind, namespace string, each func(resource.Object) bool) error {
	s.mu.Lock()
	list := s.list[kind]
	s.mu.Unlock()
	for _, o := range list {
		if (namespace == "" || o.GetNamespace() == namespace) && !each(o) {
			break
		}
	}
	return nil
}

func world() *objects {
	s := &objects{}
	for _, name := range []string{"n", "default", "kube-node-lease"} {
		s.add(core.Namespaces.Kind, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}})
	}
	s.add(core.Namespaces.Kind, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}})
	s.add(core.ServiceAccounts.Kind, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "default"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}})
	return s
}

func clock() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// admit runs all steps, and takes back reservations if one refuses.
func admit(t *testing.T, steps []Step, r *Request) error {
	t.Helper()
	if r.User == nil {
		r.User = &call.Identity{Name: "jane"}
	}
	var undo []func()
	r.Undo = func(f func()) { undo = append(undo, f) }
	if r.Warn == nil {
		r.Warn = func(string) {}
	}
	r.Annotate = func(string, string) {}
	for _, pass := range []func(*Step) func(context.Context, *Request) error{
		func(s *Step) func(context.Context, *Request) error { return s.Mutate },
		func(s *Step) func(context.Context, *Request) error { return s.Validate },
	} {
		for i := range steps {
			f := pass(&steps[i])
			if f == nil {
				continue
			}
			if err := f(t.Context(), r); err != nil {
				for _, f := range undo {
					f()
				}
				return err
			}
		}
	}
	return nil
}

func create(kind *resource.Kind, o resource.Object) *Request {
	return &Request{Verb: "create", Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), Object: o}
}

func amounts(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		list[corev1.ResourceName(name)] = apiresource.MustParse(value)
	}
	return list
}

func pod(name string, requests, limits corev1.ResourceList) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
	}}}}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestNamespaceLifecycle(t *testing.T) {
	steps := Steps(world(), nil, Config{Now: clock})
	configMap := func(namespace string) *Request {
		return create(core.ConfigMaps.Kind, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "c"}})
	}
	for _, test := range []struct {
		r    *Request
		want string
	}{
		{configMap("n"), ""},
		{configMap("none"), `namespaces "none" not found`},
		{configMap("going"), `configmaps "c" is forbidden: unable to create new content in namespace going because it is being terminated`},
		{&Request{Verb: "delete", Kind: core.Namespaces.Kind, Name: "default"}, `namespaces "default" is forbidden: this namespace may not be deleted`},
		{&Request{Verb: "delete", Kind: core.Namespaces.Kind, Name: "n"}, ""},
		{&Request{Verb: "delete", Kind: core.ConfigMaps.Kind, Namespace: "going", Name: "c"}, ""},
	} {
		err := admit(t, steps, test.r)
		if got := text(err); got != test.want {
			t.Errorf("%s %s: %s, want %s", test.r.Verb, test.r.Namespace, got, test.want)
		}
		if test.r.Namespace == "going" && test.want != "" && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			t.Error("no cause says that the namespace is going")
		}
	}
}

func TestPodDefaults(t *testing.T) {
	s := world()
	s.add(scheduling.PriorityClasses.Kind, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "std"}, Value: 42, GlobalDefault: true})
	p := pod("p", nil, nil)
	p.Spec.Tolerations = []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists}}
	if err := admit(t, Steps(s, nil, Config{Now: clock}), create(core.Pods.Kind, p)); err != nil {
		t.Fatal(err)
	}
	volume := p.Spec.Volumes[0]
	if p.Spec.ServiceAccountName != "default" || p.Spec.DeprecatedServiceAccount != "default" || p.Spec.ImagePullSecrets[0].Name != "pull" {
		t.Errorf("service account: %+v", p.Spec)
	}
	if !strings.HasPrefix(volume.Name, "kube-api-access-") || len(volume.Name) != len("kube-api-access-")+5 || *volume.Projected.Sources[0].ServiceAccountToken.ExpirationSeconds != 3607 {
		t.Errorf("volume: %+v", volume)
	}
	if m := p.Spec.Containers[0].VolumeMounts[0]; m.Name != volume.Name || m.MountPath != tokenMountPath || !m.ReadOnly {
		t.Errorf("mount: %+v", m)
	}
	if len(p.Spec.Tolerations) != 2 || p.Spec.Tolerations[1].Key != "node.kubernetes.io/unreachable" || *p.Spec.Tolerations[1].TolerationSeconds != 300 {
		t.Errorf("tolerations: %+v", p.Spec.Tolerations)
	}
	if *p.Spec.Priority != 42 || p.Spec.PriorityClassName != "std" || *p.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("priority: %+v", p.Spec)
	}
	off := false
	p = pod("q", nil, nil)
	p.Spec.AutomountServiceAccountToken = &off
	if err := admit(t, Steps(s, nil, Config{Now: clock}), create(core.Pods.Kind, p)); err != nil || len(p.Spec.Volumes) != 0 {
		t.Errorf("opted out: %v %v", err, p.Spec.Volumes)
	}
}

func TestPodRefusals(t *testing.T) {
	s := world()
	s.add(scheduling.PriorityClasses.Kind, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "hi"}, Value: 777})
	steps := Steps(s, nil, Config{Now: clock})
	five, never := int32(5), corev1.PreemptNever
	for _, test := range []struct {
		spec corev1.PodSpec
		want string
	}{
		{corev1.PodSpec{ServiceAccountName: "absent"}, `error looking up service account n/absent: serviceaccount "absent" not found`},
		{corev1.PodSpec{PriorityClassName: "absent"}, `no PriorityClass with name absent was found`},
		{corev1.PodSpec{PriorityClassName: "hi", Priority: &five}, `the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 777 from the given PriorityClass name`},
		{corev1.PodSpec{PreemptionPolicy: &never}, `the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller computed PreemptLowerPriority from the given PriorityClass name`},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "a"}, Spec: test.spec}
		if got := text(admit(t, steps, create(core.Pods.Kind, p))); got != `pods "a" is forbidden: `+test.want {
			t.Errorf("got %s\nwant %s", got, test.want)
		}
	}
}

func TestLimitRanger(t *testing.T) {
	container, perPod := corev1.LimitTypeContainer, corev1.LimitTypePod
	for _, test := range []struct {
		name             string
		item             corev1.LimitRangeItem
		requests, limits corev1.ResourceList
		want             string
	}{
		{"max", corev1.LimitRangeItem{Type: container, Max: amounts("cpu=1")}, amounts("cpu=2"), amounts("cpu=2"), "maximum cpu usage per Container is 1, but limit is 2"},
		{"min", corev1.LimitRangeItem{Type: container, Min: amounts("cpu=100m")}, amounts("cpu=50m"), nil, "minimum cpu usage per Container is 100m, but request is 50m"},
		{"ratio", corev1.LimitRangeItem{Type: container, MaxLimitRequestRatio: amounts("cpu=2")}, amounts("cpu=200m"), amounts("cpu=1"),
			"cpu max limit to request ratio per Container is 2, but provided ratio is 5.000000"},
		{"within", corev1.LimitRangeItem{Type: container, Max: amounts("cpu=1"), Min: amounts("cpu=100m")}, amounts("cpu=500m"), amounts("cpu=1"), ""},
		{"pod", corev1.LimitRangeItem{Type: perPod, Max: amounts("cpu=1"), Min: amounts("memory=64Mi")}, nil, nil,
			"[minimum memory usage per Pod is 64Mi.  No request is specified, maximum cpu usage per Pod is 1.  No limit is specified]"},
	} {
		s := world()
		s.add(core.LimitRanges.Kind, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{test.item}}})
		want := test.want
		if want != "" {
			want = `pods "p" is forbidden: ` + want
		}
		if got := text(admit(t, Steps(s, nil, Config{Now: clock}), create(core.Pods.Kind, pod("p", test.requests, test.limits)))); got != want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, want)
		}
	}
	s := world()
	s.add(core.LimitRanges.Kind, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: container, Default: amounts("cpu=500m", "memory=128Mi"), DefaultRequest: amounts("cpu=100m", "memory=128Mi")}}}})
	p := pod("p", nil, nil)
	if err := admit(t, Steps(s, nil, Config{Now: clock}), create(core.Pods.Kind, p)); err != nil {
		t.Fatal(err)
	}
	if got := p.Annotations[limitAnnotation]; got != "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c" {
		t.Error(got)
	}
}

func TestResourceQuota(t *testing.T) {
	s := world()
	hard := amounts("pods=2", "requests.cpu=1", "count/configmaps=0", "services=3", "secrets=1")
	s.add(core.ResourceQuotas.Kind, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "q"},
		Spec:       corev1.ResourceQuotaSpec{Hard: amounts("pods=99")}, // what is not in the status yet is not in force
		Status:     corev1.ResourceQuotaStatus{Hard: hard, Used: amounts("pods=0", "requests.cpu=600m", "count/configmaps=0", "services=3")},
	})
	steps := Steps(s, &quotaWriter{objects: s}, Config{Now: clock})
	for _, test := range []struct {
		kind *resource.Kind
		obj  resource.Object
		want string
	}{
		{core.Pods.Kind, pod("a", amounts("cpu=500m"), nil), `pods "a" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1`},
		{core.Pods.Kind, pod("a", nil, nil), `pods "a" is forbidden: failed quota: q: must specify requests.cpu for: c`},
		{core.Pods.Kind, pod("a", amounts("cpu=100m"), nil), ""},
		{core.Pods.Kind, pod("b", amounts("cpu=100m"), nil), ""},
		{core.Pods.Kind, pod("c", amounts("cpu=300m"), nil), `pods "c" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=300m, used: pods=2,requests.cpu=800m, limited: pods=2,requests.cpu=1`},
		{core.ConfigMaps.Kind, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c"}},
			`configmaps "c" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=0, limited: count/configmaps=0`},
		{core.Services.Kind, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}},
			`services "s" is forbidden: exceeded quota: q, requested: services=1, used: services=3, limited: services=3`},
		{core.Secrets.Kind, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}},
			`secrets "s" is forbidden: status unknown for quota: q, resources: secrets`},
	} {
		if got := text(admit(t, steps, create(test.kind, test.obj))); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.obj.GetName(), got, test.want)
		}
	}
}

// quotaWriter writes quotas, and lets somebody else be faster now and then.
type quotaWriter struct {
	*objects
	mu     sync.Mutex
	rivals int // how many of the next writes conflict
	writes int
}

func (w *quotaWriter) Do(_ context.Context, r *call.Request) (*call.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found, err := w.Get(context.Background(), r.Kind, r.Namespace, r.Name)
	if err != nil || r.Verb == "get" {
		return &call.Result{Object: found}, err
	}
	if w.rivals > 0 {
		w.rivals--
		return nil, apierrors.NewConflict(r.Kind.GroupResource(), r.Name, errors.New("it was changed"))
	}
	w.writes++
	w.replace(r.Kind, r.Object)
	return &call.Result{Object: r.Object}, nil
}

// TestQuotaRace lets many creates compete: exactly as many as the quota allows pass, and all of those are charged.
func TestQuotaRace(t *testing.T) {
	s := world()
	for _, name := range []string{"q", "r"} {
		s.add(core.ResourceQuotas.Kind, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name},
			Status: corev1.ResourceQuotaStatus{Hard: amounts("pods=5"), Used: amounts("pods=0")}})
	}
	w := &quotaWriter{objects: s, rivals: 3}
	step := resourceQuota(s, w, clock, nil)
	var wg sync.WaitGroup
	var passed atomic.Int32
	for i := range 40 {
		wg.Go(func() {
			r := create(core.Pods.Kind, pod(fmt.Sprint("p", i), nil, nil))
			r.DryRun = i%2 == 0
			if step.Validate(t.Context(), r) == nil && !r.DryRun {
				passed.Add(1)
			}
		})
	}
	wg.Wait()
	found, err := s.Get(t.Context(), core.ResourceQuotas.Kind, "n", "r")
	if err != nil {
		t.Fatal(err)
	}
	used := core.ResourceQuotas.Cast(found).Status.Used[corev1.ResourcePods]
	if passed.Load() != 5 || used.Value() != 5 || w.writes > 10 {
		t.Errorf("%d passed, %d charged with %d writes; want 5, 5 and at most 10", passed.Load(), used.Value(), w.writes)
	}
}
