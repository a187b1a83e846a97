// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// The orders that kube-apiserver v1.36 logs at start with every plug-in enabled that it offers.
const (
	mutatingOrder = "NamespaceAutoProvision,NamespaceLifecycle,LimitRanger,ServiceAccount,NodeRestriction,TaintNodesByCondition,AlwaysPullImages,PodNodeSelector,Priority,DefaultTolerationSeconds,PodTolerationRestriction,ExtendedResourceToleration,DefaultStorageClass,StorageObjectInUseProtection,PodGroupProtection,RuntimeClass,DefaultIngressClass,PodTopologyLabels,MutatingAdmissionPolicy,MutatingAdmissionWebhook"

	validatingOrder = "NamespaceExists,LimitPodHardAntiAffinityTopology,LimitRanger,ServiceAccount,AlwaysPullImages,ImagePolicyWebhook,PodSecurity,PodNodeSelector,Priority,PodTolerationRestriction,EventRateLimit,OwnerReferencesPermissionEnforcement,PersistentVolumeClaimResize,RuntimeClass,CertificateApproval,CertificateSigning,ClusterTrustBundleAttest,CertificateSubjectRestriction,DenyServiceExternalIPs,PodGroupWorkloadExists,NodeDeclaredFeatureValidator,JobValidation,PodResizeValidator,ValidatingAdmissionPolicy,ValidatingAdmissionWebhook,ResourceQuota"
)

func TestPluginOrder(t *testing.T) {
	// Those without a step: what they are about is not served.
	absent := []string{"ClusterTrustBundleAttest", "JobValidation", "PodGroupProtection", "PodGroupWorkloadExists"}
	all := Config{Plugins: Plugins{Enable: optional}}
	if err := all.Plugins.Validate(); err != nil {
		t.Fatal(err)
	}
	index := map[string]int{}
	for i, s := range Steps(world(), nil, all) {
		index[s.Name] = i
	}
	for _, order := range []string{mutatingOrder, validatingOrder} {
		last := ""
		for name := range strings.SplitSeq(order, ",") {
			at, ok := index[name]
			switch {
			case !ok && !slices.Contains(absent, name):
				t.Errorf("%s has no step", name)
			case ok && last != "" && at < index[last]:
				t.Errorf("%s acts before %s", name, last)
			case ok:
				last = name
			}
		}
	}
	names := func(c Config) (list []string) {
		for _, s := range Steps(world(), nil, c) {
			list = append(list, s.Name)
		}
		return list
	}
	for _, name := range names(Config{}) {
		if slices.Contains(optional, name) {
			t.Errorf("%s acts without being enabled", name)
		}
		if less := names(Config{Plugins: Plugins{Disable: []string{name}}}); slices.Contains(less, name) {
			t.Errorf("%s acts though it is disabled", name)
		}
	}
	for _, p := range []Plugins{{Enable: []string{"Foo"}}, {Enable: []string{"AlwaysDeny"}, Disable: []string{"AlwaysDeny"}}} {
		if p.Validate() == nil {
			t.Errorf("%v passes", p)
		}
	}
}

// only are the steps of one plug-in.
func only(s *objects, name string, c Configuration) []Step {
	steps := Steps(s, &quotaWriter{objects: s}, Config{Now: clock, Plugins: Plugins{Enable: []string{name}}, Configuration: c})
	return slices.DeleteFunc(steps, func(s Step) bool { return s.Name != name })
}

func annotated(name, annotation, value string) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if annotation != "" {
		n.Annotations = map[string]string{annotation: value}
	}
	return n
}

func TestPodNodeSelector(t *testing.T) {
	s := &objects{}
	s.add(core.Namespaces.Kind, annotated("bare", "", ""), annotated("own", selectorAnnotation, "z=1"), annotated("none", selectorAnnotation, ""),
		annotated("bad", selectorAnnotation, "z=1,,b"), annotated("bound", selectorAnnotation, "c=d"))
	steps := only(s, "PodNodeSelector", Configuration{NodeSelectors: map[string]string{clusterSelector: "a=b", "bound": "c=d"}})
	for _, c := range []struct{ namespace, key, value, want, problem string }{
		{namespace: "bare", want: "a=b"},
		{namespace: "bare", key: "a", value: "x", problem: `pods "p" is forbidden: pod node label selector conflicts with its namespace node label selector`},
		{namespace: "own", key: "z", value: "1", want: "z=1"},
		{namespace: "own", key: "y", value: "2", want: "y=2,z=1"},
		{namespace: "none"},
		{namespace: "bad", problem: "invalid selector: []"},
		{namespace: "bound", want: "c=d"},
		{namespace: "bound", key: "e", value: "f", problem: `pods "p" is forbidden: pod node label selector labels conflict with its namespace whitelist`},
	} {
		p := pod("p", nil, nil)
		p.Namespace = c.namespace
		if c.key != "" {
			p.Spec.NodeSelector = map[string]string{c.key: c.value}
		}
		err := admit(t, steps, create(core.Pods.Kind, p))
		if got := metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: p.Spec.NodeSelector}); text(err) != c.problem || err == nil && got != c.want && (c.want != "" || got != "<none>") {
			t.Errorf("%s %s=%s: %v, %s", c.namespace, c.key, c.value, err, got)
		}
	}
}

func TestPodTolerationRestriction(t *testing.T) {
	s := &objects{}
	s.add(core.Namespaces.Kind, annotated("defaults", tolerationsAnnotation, `[{"key":"k1","operator":"Exists","effect":"NoSchedule"}]`),
		annotated("allow", allowedAnnotation, `[{"key":"k3","operator":"Equal","value":"v"}]`),
		annotated("bad", tolerationsAnnotation, "bad"), annotated("bare", "", ""))
	steps := only(s, "PodTolerationRestriction", Configuration{Tolerations: Tolerations{Default: []corev1.Toleration{{Key: "dk", Operator: "Exists"}}}})
	conflict := "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist"
	for _, c := range []struct{ namespace, tolerations, want, problem string }{
		{"defaults", "", "k1:Exists::NoSchedule", ""},
		{"defaults", "k2:Exists::", "k2:Exists:: k1:Exists::NoSchedule", ""},
		{"defaults", "k1:Exists::", "k1:Exists::", ""},
		{"defaults", "k1:Equal:x:NoSchedule", "k1:Exists::NoSchedule", ""},
		{"bare", "", "dk:Exists::", ""},
		{"allow", "k3:Exists::", "", conflict},
		{"bad", "", "", "invalid character 'b' looking for beginning of value"},
	} {
		p := pod("p", nil, nil)
		p.Namespace = c.namespace
		for _, word := range strings.Fields(c.tolerations) {
			f := strings.Split(word, ":")
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: f[0], Operator: corev1.TolerationOperator(f[1]), Value: f[2], Effect: corev1.TaintEffect(f[3])})
		}
		err := admit(t, steps, create(core.Pods.Kind, p))
		var got []string
		for _, o := range p.Spec.Tolerations {
			got = append(got, strings.Join([]string{o.Key, string(o.Operator), o.Value, string(o.Effect)}, ":"))
		}
		if text(err) != c.problem || err == nil && strings.Join(got, " ") != c.want {
			t.Errorf("%s %s: %v, %v", c.namespace, c.tolerations, err, got)
		}
	}
}

func TestEventRateLimit(t *testing.T) {
	now := clock()
	step := eventRateLimit([]EventLimit{{Type: "SourceAndObject", QPS: 1, Burst: 2, CacheSize: 1}, {Type: "Namespace", QPS: 1, Burst: 3}}, func() time.Time { return now })
	event := func(name string) string {
		e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "ns1", Name: name}}
		r := create(core.Events.Kind, e)
		r.User = &call.Identity{Name: "jane"}
		return text(step.Validate(t.Context(), r))
	}
	const first = "Too many requests: limit reached on type SourceAndObject for key Podns1p"
	for i, want := range []string{"", "", first, "Too many requests: [limit reached on type SourceAndObject for key Podns1p, limit reached on type Namespace for key ns1]"} {
		if got := event("p"); got != want {
			t.Errorf("event %d: %q, want %q", i, got, want)
		}
	}
	if now = now.Add(time.Second); event("p") != "" {
		t.Error("no token after a second")
	}
}

func TestOptionalPlugins(t *testing.T) {
	s := world()
	apart := pod("aa", nil, nil)
	apart.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: "zone"}}}}
	elsewhere := pod("p", nil, nil)
	elsewhere.Namespace = "nosuch"
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}, Spec: corev1.ServiceSpec{ExternalIPs: []string{"1.2.3.4"}}}
	for _, c := range []struct {
		plugin string
		kind   *resource.Kind
		object resource.Object
		want   string
	}{
		{"LimitPodHardAntiAffinityTopology", core.Pods.Kind, apart, `pods "aa" is forbidden: affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed`},
		{"DenyServiceExternalIPs", core.Services.Kind, service, `services "s" is forbidden: Use of external IPs is denied by admission control`},
		{"AlwaysDeny", core.Pods.Kind, apart, `pods "aa" is forbidden: admission control is denying all modifications`},
		{"NamespaceExists", core.Pods.Kind, elsewhere, `namespaces "nosuch" not found`},
	} {
		if err := admit(t, only(s, c.plugin, Configuration{}), create(c.kind, c.object)); text(err) != c.want {
			t.Errorf("%s: %v", c.plugin, err)
		}
	}
	p := pod("p", amounts("example.com/gpu=1", "cpu=1"), nil)
	p.Spec.InitContainers = []corev1.Container{{Name: "i", ImagePullPolicy: corev1.PullNever, Resources: corev1.ResourceRequirements{Requests: amounts("example.com/foo=1")}}}
	if err := admit(t, append(only(s, "AlwaysPullImages", Configuration{}), only(s, "ExtendedResourceToleration", Configuration{})...), create(core.Pods.Kind, p)); err != nil {
		t.Fatal(err)
	}
	if p.Spec.InitContainers[0].ImagePullPolicy != corev1.PullAlways || len(p.Spec.Tolerations) != 2 || p.Spec.Tolerations[0].Key != "example.com/foo" {
		t.Errorf("%+v", p.Spec)
	}
}

func TestOwnerReferences(t *testing.T) {
	block := true
	references := func(kind, uid string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "o", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: kind, Name: "p", UID: "u1", BlockOwnerDeletion: &block}}}}
	}
	s := &known{world()}
	steps := slices.DeleteFunc(Steps(s, nil, Config{Now: clock, Plugins: Plugins{Enable: []string{"OwnerReferencesPermissionEnforcement"}}}), func(s Step) bool { return s.Name != "OwnerReferencesPermissionEnforcement" })
	for _, c := range []struct{ verb, kind, want string }{
		{"create", "Pod", `configmaps "o" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>`},
		{"create", "Pox", `configmaps "o" is forbidden: cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion v1 Kind Pox: no matches for kind "Pox" in version "v1"`},
		{"update", "Pod", `configmaps "o" is forbidden: cannot set an ownerRef on a resource you can't delete: , <nil>`},
	} {
		r := create(core.ConfigMaps.Kind, references(c.kind, "u1"))
		r.Verb, r.Old = c.verb, &corev1.ConfigMap{}
		if err := admit(t, steps, r); text(err) != c.want {
			t.Errorf("%s %s: %v", c.verb, c.kind, err)
		}
	}
}

func TestResizeAgainstNode(t *testing.T) {
	s := world()
	s.add(core.Nodes.Kind, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Allocatable: amounts("cpu=2", "memory=1Gi")}})
	steps := Steps(s, nil, Config{Now: clock})
	for _, c := range []struct{ node, cpu, memory, level, want string }{
		{"n1", "2", "1Gi", "", ""},
		{"n1", "5", "2Gi", "", `pods "rz" is forbidden: node didn't have enough allocatable resources: cpu, requested: 5000, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824`},
		{"n2", "1", "1Gi", "", `pods "rz" is forbidden: node "n2" not found`},
		{"", "9", "9Gi", "", ""},
		{"n1", "1", "1Gi", "1", `pods "rz" is forbidden: pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node "n1"`},
	} {
		old := pod("rz", amounts("cpu=1", "memory=1Mi"), nil)
		old.Spec.NodeName = c.node
		now := old.DeepCopy()
		now.Spec.Containers[0].Resources.Requests = amounts("cpu="+c.cpu, "memory="+c.memory)
		if c.level != "" {
			old.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("cpu=2")}
			now.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("cpu=" + c.level)}
		}
		r := create(core.Pods.Kind, now)
		r.Verb, r.Subresource, r.Old = "update", "resize", old
		if err := admit(t, steps, r); text(err) != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestLimitedResources(t *testing.T) {
	s := world()
	cfg := Configuration{LimitedResources: []LimitedResource{
		{Resource: "persistentvolumeclaims", MatchContains: []string{".storageclass.storage.k8s.io/requests.storage"}},
		{Resource: "pods", MatchScopes: []corev1.ScopedResourceSelectorRequirement{{ScopeName: "PriorityClass", Operator: "In", Values: []string{"cluster-services"}}}},
	}}
	steps := only(s, "ResourceQuota", cfg)
	class := "sc1"
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c1"}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage=1Gi")}}}
	p := pod("p", nil, nil)
	p.Spec.PriorityClassName = "cluster-services"
	if err := admit(t, steps, create(core.PersistentVolumeClaims.Kind, claim)); text(err) != `persistentvolumeclaims "c1" is forbidden: insufficient quota to consume: sc1.storageclass.storage.k8s.io/requests.storage` {
		t.Error(err)
	}
	if err := admit(t, steps, create(core.Pods.Kind, p)); text(err) != "insufficient quota to match these scopes: [{PriorityClass In [cluster-services]}]" {
		t.Error(err)
	}
	s.add(core.ResourceQuotas.Kind, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "q"}, Status: corev1.ResourceQuotaStatus{
		Hard: amounts("sc1.storageclass.storage.k8s.io/requests.storage=5Gi"), Used: amounts("sc1.storageclass.storage.k8s.io/requests.storage=0")}},
		&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}, Spec: corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: cfg.LimitedResources[1].MatchScopes}},
			Status: corev1.ResourceQuotaStatus{Hard: amounts("pods=5"), Used: amounts("pods=0")}})
	for _, r := range []*Request{create(core.PersistentVolumeClaims.Kind, claim), create(core.Pods.Kind, p)} {
		if err := admit(t, steps, r); err != nil {
			t.Error(err)
		}
	}
}

func TestLoadConfiguration(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("limits.yaml", "{apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [{type: User, qps: 1, burst: 2}]}")
	users := write("users", "{apiVersion: v1, kind: Config, users: [{name: '*.n.svc', user: {token: t}}]}")
	c, err := LoadConfiguration(write("a.yaml", `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: latest}
    exemptions: {namespaces: [kube-system], usernames: [bob], runtimeClasses: [rc]}
- {name: EventRateLimit, path: limits.yaml}
- name: PodNodeSelector
  configuration: {podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: a=b}}
- name: PodTolerationRestriction
  configuration: {apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1, kind: Configuration, default: [{key: k, operator: Exists}]}
- name: ResourceQuota
  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: ResourceQuotaConfiguration, limitedResources: [{resource: pods, matchContains: [cpu]}]}
- name: ValidatingAdmissionWebhook
  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: "`+users+`"}
- {name: Other, configuration: {a: b}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.PodSecurity.Defaults["enforce"] != "baseline" || c.PodSecurity.Usernames[0] != "bob" || c.EventLimits[0].Burst != 2 || c.NodeSelectors[clusterSelector] != "a=b" ||
		c.Tolerations.Default[0].Key != "k" || c.LimitedResources[0].Resource != "pods" || c.ValidatingWebhooks == nil || c.MutatingWebhooks != nil {
		t.Errorf("%+v", c)
	}
	bare := pod("p", nil, nil)
	bare.Spec.HostNetwork = true
	if err := admit(t, only(world(), "PodSecurity", *c), create(core.Pods.Kind, bare)); !strings.Contains(text(err), `violates PodSecurity "baseline:latest"`) {
		t.Error(err)
	}
	for _, bad := range []string{
		"{apiVersion: v1, kind: AdmissionConfiguration}",
		"{apiVersion: apiserver.config.k8s.io/v1, kind: AdmissionConfiguration, plugin: []}",
		"{apiVersion: apiserver.config.k8s.io/v1, kind: AdmissionConfiguration, plugins: [{name: PodSecurity, configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: foo}}}]}",
		"{apiVersion: apiserver.config.k8s.io/v1, kind: AdmissionConfiguration, plugins: [{name: EventRateLimit, configuration: {apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [{type: Foo, qps: 1, burst: 1}]}}]}",
		"{apiVersion: apiserver.config.k8s.io/v1, kind: AdmissionConfiguration, plugins: [{name: EventRateLimit, path: nosuch}]}",
	} {
		if _, err := LoadConfiguration(write("bad.yaml", bad)); err == nil {
			t.Errorf("%s passes", bad)
		}
	}
}

// known is a small store that knows kinds.
type known struct{ *objects }

func (known) KindOf(gvk schema.GroupVersionKind) *resource.Kind {
	if gvk == core.Pods.GroupVersionKind {
		return core.Pods.Kind
	}
	return nil
}

func (known) Merge(_ *resource.Kind, obj resource.Object, _ map[string]any) (resource.Object, error) {
	return obj, nil
}

// writer makes objects in a small store.
type writer struct{ *objects }

func (w writer) Do(_ context.Context, r *call.Request) (*call.Result, error) {
	w.add(r.Kind, r.Object)
	return &call.Result{Object: r.Object, Created: true}, nil
}

func TestNamespaceAutoProvision(t *testing.T) {
	s := world()
	steps := slices.DeleteFunc(Steps(s, writer{s}, Config{Now: clock, Plugins: Plugins{Enable: []string{"NamespaceAutoProvision"}}}), func(s Step) bool {
		return s.Name != "NamespaceAutoProvision" && s.Name != "NamespaceLifecycle"
	})
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "fresh", Name: "m"}}
	dry := create(core.ConfigMaps.Kind, m)
	dry.DryRun = true
	if err := admit(t, steps, dry); text(err) != `namespaces "fresh" not found` {
		t.Errorf("a dry run: %v", err)
	}
	for range 2 {
		if err := admit(t, steps, create(core.ConfigMaps.Kind, m)); err != nil {
			t.Error(err)
		}
	}
	if n := len(s.list[core.Namespaces.Kind]); n != len(world().list[core.Namespaces.Kind])+1 {
		t.Errorf("%d namespaces", n)
	}
}
