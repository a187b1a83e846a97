// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"iter"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/api/devices"
	"knarr.dev/api/resource"
)

func amounts(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = apiresource.MustParse(pairs[i+1])
	}
	return out
}

func pod(phase corev1.PodPhase, requests corev1.ResourceList) *corev1.Pod {
	return &corev1.Pod{
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{Requests: requests}}}},
		Status: corev1.PodStatus{
			Phase: phase,
		},
	}
}

func TestSum(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	grace := int64(30)
	lost := pod(corev1.PodRunning, amounts("cpu", "4"))
	lost.DeletionTimestamp, lost.DeletionGracePeriodSeconds = &metav1.Time{Time: now.Add(-time.Minute)}, &grace
	objects := map[*resource.Kind]iter.Seq[resource.Object]{
		core.Pods.Kind: slices.Values([]resource.Object{
			pod(corev1.PodRunning, amounts("cpu", "500m")), pod(corev1.PodPending, nil),
			pod(corev1.PodSucceeded, amounts("cpu", "2")), lost,
		}),
		core.ConfigMaps.Kind: slices.Values([]resource.Object{&corev1.ConfigMap{}, &corev1.ConfigMap{}}),
		core.Services.Kind: slices.Values([]resource.Object{&corev1.Service{Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Ports: make([]corev1.ServicePort, 2),
		}}}),
	}
	for _, test := range []struct {
		name       string
		scopes     []corev1.ResourceQuotaScope
		hard, want corev1.ResourceList
	}{
		{"only what is limited", nil, amounts("pods", "1"), amounts("pods", "2")},
		{"requests", nil, amounts("requests.cpu", "1", "cpu", "1"), amounts("requests.cpu", "500m", "cpu", "500m")},
		{"nothing of it", nil, amounts("secrets", "1", "limits.memory", "1Gi"), amounts("secrets", "0", "limits.memory", "0")},
		{"counts", nil, amounts("count/configmaps", "9", "configmaps", "9", "services.nodeports", "9"),
			amounts("count/configmaps", "2", "configmaps", "2", "services.nodeports", "2")},
		{"scope", []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}, amounts("pods", "9"), amounts("pods", "1")},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: test.hard, Scopes: test.scopes}}
			if got := Sum(q, objects, now); !equality.Semantic.DeepEqual(got, test.want) {
				t.Errorf("used %v, want %v", got, test.want)
			}
		})
	}
}

// What kube-apiserver v1.36 counts.
func TestVolumeAttributesClassScope(t *testing.T) {
	claim := func(spec, current, target string) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{}
		if spec != "" {
			c.Spec.VolumeAttributesClassName = &spec
		}
		if current != "" {
			c.Status.CurrentVolumeAttributesClassName = &current
		}
		if target != "" {
			c.Status.ModifyVolumeStatus = &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: target}
		}
		return c
	}
	for _, test := range []struct {
		operator corev1.ScopeSelectorOperator
		values   []string
		object   resource.Object
		want     bool
	}{
		{corev1.ScopeSelectorOpIn, []string{"gold"}, claim("", "", ""), false},
		{corev1.ScopeSelectorOpIn, []string{"gold"}, claim("gold", "", ""), true},
		{corev1.ScopeSelectorOpIn, []string{"gold"}, claim("silver", "", ""), false},
		{corev1.ScopeSelectorOpIn, []string{"gold"}, claim("silver", "gold", "silver"), true},
		{corev1.ScopeSelectorOpIn, []string{"gold"}, claim("silver", "silver", "gold"), true},
		{corev1.ScopeSelectorOpNotIn, []string{"gold"}, claim("", "", ""), true},
		{corev1.ScopeSelectorOpNotIn, []string{"gold"}, claim("gold", "", ""), false},
		{corev1.ScopeSelectorOpNotIn, []string{"gold"}, claim("silver", "", ""), true},
		{corev1.ScopeSelectorOpExists, nil, claim("", "", ""), false},
		{corev1.ScopeSelectorOpExists, nil, claim("gold", "", ""), true},
		{corev1.ScopeSelectorOpDoesNotExist, nil, claim("", "", ""), true},
		{corev1.ScopeSelectorOpDoesNotExist, nil, claim("gold", "", ""), false},
		{corev1.ScopeSelectorOpExists, nil, &corev1.Pod{}, false},
	} {
		q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
			{ScopeName: corev1.ResourceQuotaScopeVolumeAttributesClass, Operator: test.operator, Values: test.values},
		}}}}
		if got := InScope(q, test.object); got != test.want {
			t.Errorf("%s %v %v: got %v", test.operator, test.values, test.object, got)
		}
	}
}

// What kube-apiserver v1.36 counts for claims.
func TestDevices(t *testing.T) {
	exactly := func(mode resourcev1.DeviceAllocationMode, n int64) resourcev1.DeviceRequest {
		return resourcev1.DeviceRequest{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gold", AllocationMode: mode, Count: n}}
	}
	sub := func(class string, mode resourcev1.DeviceAllocationMode, n int64) resourcev1.DeviceSubRequest {
		return resourcev1.DeviceSubRequest{DeviceClassName: class, AllocationMode: mode, Count: n}
	}
	const exact, all = resourcev1.DeviceAllocationModeExactCount, resourcev1.DeviceAllocationModeAll
	for _, test := range []struct {
		requests     []resourcev1.DeviceRequest
		gold, silver int64
	}{
		{[]resourcev1.DeviceRequest{exactly(exact, 3), exactly(exact, 1)}, 4, 0},
		{[]resourcev1.DeviceRequest{exactly(all, 0)}, 32, 0},
		{[]resourcev1.DeviceRequest{{FirstAvailable: []resourcev1.DeviceSubRequest{sub("gold", exact, 2), sub("gold", exact, 5)}}}, 5, 0},
		{[]resourcev1.DeviceRequest{{FirstAvailable: []resourcev1.DeviceSubRequest{sub("gold", exact, 2), sub("silver", exact, 5)}}}, 2, 5},
		{[]resourcev1.DeviceRequest{{FirstAvailable: []resourcev1.DeviceSubRequest{sub("gold", exact, 2), sub("gold", all, 0)}}}, 32, 0},
	} {
		claim := &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: test.requests}}}
		usage := Usage(devices.ResourceClaims.Kind, claim, time.Time{})
		for name, want := range map[corev1.ResourceName]int64{
			"gold.deviceclass.resource.k8s.io/devices": test.gold, "requests.deviceclass.resource.kubernetes.io/gold": test.gold,
			"silver.deviceclass.resource.k8s.io/devices": test.silver, "count/resourceclaims.resource.k8s.io": 1,
		} {
			if got := usage[name]; got.Value() != want {
				t.Errorf("%v: %s is %v, want %d", test.requests, name, got.Value(), want)
			}
		}
	}
}

func TestNames(t *testing.T) {
	hard := corev1.ResourceList{}
	for _, name := range []string{
		"pods", "count/pods", "cpu", "limits.memory", "requests.storage", "requests.example.com/gpu", "hugepages-2Mi", "requests.hugepages-2Mi", "services",
		"services.nodeports", "count/services", "gold.storageclass.storage.k8s.io/requests.storage", "persistentvolumeclaims", "secrets", "count/deployments.apps",
		"gold.deviceclass.resource.k8s.io/devices", "requests.deviceclass.resource.kubernetes.io/gold",
	} {
		hard[corev1.ResourceName(name)] = apiresource.Quantity{}
	}
	for _, test := range []struct {
		kind *resource.Kind
		want []corev1.ResourceName
	}{
		{core.Pods.Kind, []corev1.ResourceName{"count/pods", "cpu", "hugepages-2Mi", "limits.memory", "pods", "requests.deviceclass.resource.kubernetes.io/gold", "requests.example.com/gpu", "requests.hugepages-2Mi"}},
		{core.Services.Kind, []corev1.ResourceName{"count/services", "services", "services.nodeports"}},
		{core.PersistentVolumeClaims.Kind, []corev1.ResourceName{"gold.storageclass.storage.k8s.io/requests.storage", "persistentvolumeclaims", "requests.storage"}},
		{core.Secrets.Kind, []corev1.ResourceName{"secrets"}},
		{core.ConfigMaps.Kind, nil},
		{devices.ResourceClaims.Kind, []corev1.ResourceName{"gold.deviceclass.resource.k8s.io/devices"}},
	} {
		if got := Names(test.kind, hard); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.kind.Resource, got, test.want)
		}
	}
}
