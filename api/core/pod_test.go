// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func podOf(t *testing.T, spec string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	p.Name = "a"
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatal(err)
	}
	if len(p.Spec.Containers) == 0 {
		p.Spec.Containers = []corev1.Container{{}}
	}
	orDefault(&p.Spec.Containers[0].Name, "c")
	orDefault(&p.Spec.Containers[0].Image, "i:1")
	defaultPod(p)
	return p
}

func texts(problems field.ErrorList) (out []string) {
	for _, p := range problems {
		out = append(out, p.Error())
	}
	return out
}

func TestPodSpecProblems(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		want       []string
	}{
		{"fine", `{}`, nil},
		{"env without a source", `containers: [{env: [{name: A, valueFrom: {}}]}]`,
			[]string{"spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"}},
		{"env from an unknown field", `containers: [{env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.bogus}}}]}]`,
			[]string{`spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.bogus": error converting fieldPath: field label not supported: metadata.bogus`}},
		{"env from a label", `containers: [{env: [{name: A, valueFrom: {fieldRef: {fieldPath: "metadata.labels['x']"}}}]}]`, nil},
		{"mount of nothing", `containers: [{volumeMounts: [{name: none, mountPath: /x}]}]`,
			[]string{`spec.containers[0].volumeMounts[0].name: Not found: "none"`}},
		{"two sources", `volumes: [{name: v, emptyDir: {}, hostPath: {path: /}}]`,
			[]string{`spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type`}},
		{"steps back", `volumes: [{name: v, configMap: {name: c, items: [{key: k, path: ../up}]}}]`,
			[]string{`spec.volumes[0].configMap.items[0].path: Invalid value: "../up": must not contain '..'`}},
		{"huge pages", `containers: [{resources: {limits: {hugepages-2Mi: 3Mi, cpu: "1"}}}]`, []string{
			`spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
			`spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
		}},
		{"extended without limit", `containers: [{resources: {requests: {example.com/x: "1"}}}]`,
			[]string{`spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources`}},
		{"sleep", `containers: [{lifecycle: {preStop: {sleep: {seconds: 100}}}}]`,
			[]string{`spec.containers[0].lifecycle.preStop.sleep: Invalid value: 100: must be non-negative and less than terminationGracePeriodSeconds (30)`}},
		{"probe of an init container", `initContainers: [{name: i, image: i, livenessProbe: {tcpSocket: {port: 1}}}]`,
			[]string{`spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always`}},
		{"spread", `topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: X}]`,
			[]string{`spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "X": supported values: "DoNotSchedule", "ScheduleAnyway"`}},
		{"claim without a source", `resourceClaims: [{name: r}]`,
			[]string{"spec.resourceClaims[0]: Invalid value: {\"Name\":\"r\",\"ResourceClaimName\":null,\"ResourceClaimTemplateName\":null}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"}},
		{"own DNS without servers", `dnsPolicy: None`,
			[]string{"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"}},
		{"affinity", `affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: k, operator: Exists, values: [a]}]}]}}}`,
			[]string{"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"}},
		{"host users", "hostUsers: false\nhostNetwork: true", []string{"spec.hostNetwork: Forbidden: when `hostUsers` is false"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := texts(validatePod(podOf(t, c.spec))); !slices.Equal(got, c.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
		})
	}
}

func TestPodUpdateProblems(t *testing.T) {
	old := podOf(t, `tolerations: [{key: k, operator: Exists}]`)
	change := func(change func(*corev1.Pod)) *corev1.Pod {
		p := old.DeepCopy()
		change(p)
		return p
	}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want string // how the problem starts and ends
		end  string
	}{
		{"image", change(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "x" }), "", ""},
		{"toleration added", change(func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "z", Operator: "Exists"})
		}), "", ""},
		{"toleration gone", change(func(p *corev1.Pod) { p.Spec.Tolerations = nil }),
			"spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds", ""},
		{"container added", change(func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d"}) }),
			"spec.containers: Forbidden: pod updates may not add or remove containers", ""},
		{"node", change(func(p *corev1.Pod) { p.Spec.NodeName = "n" }), "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,",
			"\n  \"AutomountServiceAccountToken\": null,\n- \"NodeName\": \"\",\n+ \"NodeName\": \"n\",\n  \"SecurityContext\": {\n   \"HostNetwork\": false,\n   \"HostPID\": false,\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(texts(validatePodUpdate(c.pod, old)), "; ")
			if !strings.HasPrefix(got, c.want) || !strings.HasSuffix(got, c.end) || c.want == "" && got != "" {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestResize(t *testing.T) {
	old := podOf(t, `containers: [{resources: {requests: {cpu: 100m, memory: 64Mi}}}]`)
	for _, c := range []struct{ name, spec, want string }{
		{"more cpu", `containers: [{resources: {requests: {cpu: 200m, memory: 64Mi}}}]`, ""},
		{"another resource", `containers: [{resources: {requests: {cpu: 100m, memory: 64Mi, ephemeral-storage: 1Gi}}}]`,
			"spec: Forbidden: only cpu and memory resources are mutable"},
		{"another class", `containers: [{resources: {limits: {cpu: 100m, memory: 64Mi}}}]`,
			`spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing`},
		{"less", `containers: [{resources: {requests: {memory: 64Mi}}}]`, "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"},
		{"another name", `containers: [{name: z, resources: {requests: {cpu: 100m, memory: 64Mi}}}]`, "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"},
		{"one more", `{containers: [{resources: {requests: {cpu: 100m, memory: 64Mi}}}], initContainers: [{name: i, image: x, imagePullPolicy: Always, terminationMessagePolicy: File}]}`,
			"spec.initContainers: Forbidden: initContainers may not be added or removed on resize"},
		{"of the pod", `{resources: {requests: {cpu: "1"}}, containers: [{resources: {requests: {cpu: 100m, memory: 64Mi}}}]}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			stored := old.DeepCopy()
			if got := strings.Join(texts(ResizePod(podOf(t, c.spec), stored)), "; "); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestPodWarnings(t *testing.T) {
	p := podOf(t, `{nodeSelector: {beta.kubernetes.io/os: linux}, containers: [{ports: [{containerPort: 80, name: a}, {containerPort: 80, name: b}]}]}`)
	want := []string{
		`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`,
		`spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]`,
	}
	if got := podWarnings(p); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
