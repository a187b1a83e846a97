// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/api/call"
	"knarr.dev/api/codec"
	"knarr.dev/api/core"
)

// benchPod is a pod such as a Deployment of a web service with a sidecar makes, with all defaults spelt out.
func benchPod(name string) *corev1.Pod {
	yes, no, grace, mode, zero := true, false, int64(30), int32(0o644), int32(0)
	user, group, soon, hour := int64(1000), int64(2000), int64(300), int64(3607)
	lower := corev1.PreemptLowerPriority
	container := func(name string, port int32, settings int, cpu, memory string) corev1.Container {
		c := corev1.Container{
			Name: name, Image: "registry.example.com/shop/" + name + ":v1.24.3", ImagePullPolicy: corev1.PullIfNotPresent,
			Args:  []string{"--listen=:8080", "--log-format=json", "--metrics-path=/metrics"},
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: port, Protocol: corev1.ProtocolTCP}},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "config", MountPath: "/etc/app", ReadOnly: true},
				{Name: "kube-api-access", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true},
			},
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, RunAsNonRoot: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
		}
		for i := range settings {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprintf("SERVICE_SETTING_%02d", i), Value: strings.Repeat("v", 24)})
		}
		c.Env = append(c.Env, corev1.EnvVar{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.podIP"}}})
		amount := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
		c.Resources = corev1.ResourceRequirements{Limits: amount, Requests: amount}
		probe := func(path string) *corev1.Probe {
			return &corev1.Probe{
				ProbeHandler:   corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("http"), Scheme: "HTTP"}},
				TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
			}
		}
		c.LivenessProbe, c.ReadinessProbe = probe("/healthz"), probe("/readyz")
		return c
	}
	toleration := func(key string) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &soon}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "default",
			Labels:      map[string]string{"app": "bench", "pod-template-hash": "6d4b75cb6d", "app.kubernetes.io/part-of": "shop"},
			Annotations: map[string]string{"stamp": "0", "prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "shop-6d4b75cb6d", UID: "7a9e6e8a-5f0c-4f0b-9f3f-3a2b0c1d4e5f",
				Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{container("frontend", 8080, 6, "100m", "128Mi"), container("sidecar", 15001, 2, "10m", "32Mi")},
			Volumes: []corev1.Volume{
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
					DefaultMode: &mode, LocalObjectReference: corev1.LocalObjectReference{Name: "frontend-config"}}}},
				{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
					DefaultMode: &mode, Sources: []corev1.VolumeProjection{
						{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: &hour, Path: "token"}},
						{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
							Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
					}}}},
			},
			RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, DNSPolicy: corev1.DNSClusterFirst,
			ServiceAccountName: "default", DeprecatedServiceAccount: "default", SchedulerName: "default-scheduler",
			SecurityContext:    &corev1.PodSecurityContext{RunAsUser: &user, FSGroup: &group},
			EnableServiceLinks: &yes, Priority: &zero, PreemptionPolicy: &lower,
			Tolerations: []corev1.Toleration{toleration(corev1.TaintNodeNotReady), toleration(corev1.TaintNodeUnreachable)},
		},
	}
}

const benchStatus = `{"status":{"phase":"Running","hostIP":"10.0.0.7","podIP":"10.244.1.17","podIPs":[{"ip":"10.244.1.17"}],` +
	`"startTime":"2026-01-01T00:00:00Z","conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T00:00:10Z","message":"%d"},` +
	`{"type":"Initialized","status":"True","lastTransitionTime":"2026-01-01T00:00:01Z"}],` +
	`"containerStatuses":[{"name":"frontend","ready":true,"started":true,"restartCount":0,"image":"registry.example.com/shop/frontend:v1.24.3",` +
	`"imageID":"sha256:0","containerID":"containerd://0","state":{"running":{"startedAt":"2026-01-01T00:00:05Z"}},"lastState":{}}]}}`

// bench sends requests to the handler of a server.
type bench struct {
	*testing.B
	handler http.Handler
}

func newBench(b *testing.B) *bench {
	s := start(b)
	tr := local(s)
	for _, q := range []*call.Request{
		{Kind: core.ServiceAccounts.Kind, Object: &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}}},
	} {
		q.Verb, q.Namespace = "create", "default"
		if _, err := tr.Do(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
	return &bench{b, s.Handler()}
}

// discard is a writer of answers that costs nothing.
type discard struct {
	header http.Header
	code   int
	body   []byte
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(code int)        { d.code = code }
func (d *discard) Write(p []byte) (int, error) { d.body = p; return len(p), nil }

func (b *bench) send(method, path, media, accept string, body []byte) {
	r := httptest.NewRequest(method, path, io.NopCloser(bytes.NewReader(body)))
	r.Header.Set("Content-Type", media)
	r.Header.Set("Accept", accept)
	r.Header.Set("User-Agent", "bench/1")
	w := &discard{header: http.Header{}}
	b.handler.ServeHTTP(w, r)
	if w.code >= 300 {
		b.Fatalf("%s %s: %d %s", method, path, w.code, w.body)
	}
}

func encoded(b *testing.B, media, name string, obj any, stamp int) []byte {
	gvk := schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	if p, ok := obj.(*corev1.Pod); ok {
		gvk.Kind = "Pod"
		p.Name, p.Annotations["stamp"] = name, fmt.Sprint(stamp)
	} else {
		m := obj.(*corev1.ConfigMap)
		m.Name, m.Data["stamp"] = name, fmt.Sprint(stamp)
	}
	encode := codec.EncodeProto
	if media == codec.JSON {
		encode = codec.EncodeJSON
	}
	raw, err := encode(gvk, obj)
	if err != nil {
		b.Fatal(err)
	}
	return raw
}

// BenchmarkWrites measures writes from the request's bytes to those of the answer, with a store in memory.
func BenchmarkWrites(b *testing.B) {
	const pods, maps, spare = "/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/configmaps", 64
	for _, media := range []string{codec.Proto, codec.JSON} {
		form := media[strings.LastIndexByte(media, '.')+1:]
		for _, c := range []struct {
			name, path, patch string
			media             string
			object            func() any
		}{
			{"Pod", pods, benchStatus, "application/strategic-merge-patch+json", func() any { return benchPod("p") }},
			{"ConfigMap", maps, `{"data":{"generation":"%d"}}`, "application/merge-patch+json",
				func() any { return configMap("m", map[string]string{"k": strings.Repeat("x", 800)}) }},
		} {
			run := func(verb string, seed bool, do func(h *bench, i int, obj any)) {
				b.Run(c.name+"/"+verb+"/"+form, func(b *testing.B) {
					h, obj := newBench(b), c.object()
					if seed {
						for i := range spare {
							h.send(http.MethodPost, c.path, media, media, encoded(b, media, fmt.Sprintf("o-%d", i), obj, 0))
						}
					}
					b.ReportAllocs()
					i := 0
					for b.Loop() {
						do(h, i, obj)
						i++
					}
				})
			}
			run("create", false, func(h *bench, i int, obj any) {
				h.send(http.MethodPost, c.path, media, media, encoded(b, media, fmt.Sprintf("o-%d", i), obj, 0))
			})
			run("update", true, func(h *bench, i int, obj any) {
				name := fmt.Sprintf("o-%d", i%spare)
				h.send(http.MethodPut, c.path+"/"+name, media, media, encoded(b, media, name, obj, i+1))
			})
			path := ""
			if c.name == "Pod" {
				path = "/status"
			}
			run("patch", true, func(h *bench, i int, obj any) {
				h.send(http.MethodPatch, fmt.Sprintf("%s/o-%d%s", c.path, i%spare, path), c.media, media, fmt.Appendf(nil, c.patch, i))
			})
			run("delete", false, func(h *bench, i int, obj any) {
				name := fmt.Sprintf("o-%d", i)
				h.send(http.MethodPost, c.path, media, media, encoded(b, media, name, obj, 0))
				h.send(http.MethodDelete, c.path+"/"+name+"?gracePeriodSeconds=0", media, media, nil)
			})
		}
	}
}
