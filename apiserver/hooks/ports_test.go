// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/resource"
	"knarr.dev/store"
)

// recordedPorts is what kube-apiserver v1.36.3 stores when 30007 and 30009 are taken.
const recordedPorts = "k8s\x00\n\x15\n\x02v1\x12\x0fRangeAllocation\x12#\n\x10\n\x00\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00\x12\x0b30000-32767\x1a\x02\x02\x80\x1a\x00\"\x00"

// oneKey is a store of one key.
type oneKey struct{ record store.Record }

func (k *oneKey) Read(context.Context, store.Query) (page store.Page, err error) {
	if k.record.Value != nil {
		page.Records = []store.Record{k.record}
	}
	return page, nil
}

func (k *oneKey) Write(_ context.Context, op store.Op) (store.Record, error) {
	if op.Expect != k.record.Modified {
		return k.record, store.ErrConflict
	}
	k.record = store.Record{Key: op.Key, Value: op.Value, Modified: k.record.Modified + 1}
	return k.record, nil
}

// only are Services; nothing can be done to them.
type only struct {
	Store
	list []*corev1.Service
}

func (o *only) List(_ context.Context, _ *resource.Kind, _ string, each func(resource.Object) bool) error {
	for _, s := range o.list {
		each(s)
	}
	return nil
}

func withPorts(ports ...int32) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n"}}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{NodePort: p})
	}
	return s
}

func taking(t *testing.T, p *sharedPorts) (ports []int) {
	t.Helper()
	now, err := p.read(t.Context())
	if err != nil || now.foreign {
		t.Fatal(now, err)
	}
	for i := range now.bits.BitLen() {
		if now.bits.Bit(i) == 1 {
			ports = append(ports, p.ports[0]+i)
		}
	}
	return ports
}

func TestSharedPortsAreStoredAsInKubernetes(t *testing.T) {
	keys := &oneKey{}
	p := &sharedPorts{keys: keys, ports: [2]int{30000, 32767}}
	objects := &only{list: []*corev1.Service{withPorts(30007), withPorts(30009, 40000)}}
	if err := p.repair(t.Context(), objects, map[int]int{}); err != nil {
		t.Fatal(err)
	}
	if got := string(keys.record.Value); got != recordedPorts {
		t.Errorf("stored %q\nKubernetes has %q", got, recordedPorts)
	}
	p.release(t.Context(), []int32{30007, 40000})
	if got := taking(t, p); !slices.Equal(got, []int{30009}) {
		t.Errorf("after a release: %v", got)
	}
}

func TestRepairOfSharedPorts(t *testing.T) {
	keys := &oneKey{record: store.Record{Value: []byte(recordedPorts), Modified: 1}}
	p := &sharedPorts{keys: keys, ports: [2]int{30000, 32767}}
	objects, leaks := &only{list: []*corev1.Service{withPorts(30009, 30010)}}, map[int]int{}
	for i, want := range [][]int{{30007, 30009, 30010}, {30007, 30009, 30010}, {30009, 30010}, {30009, 30010}} {
		if err := p.repair(t.Context(), objects, leaks); err != nil {
			t.Fatal(err)
		}
		if got := taking(t, p); !slices.Equal(got, want) {
			t.Errorf("repair %d: %v, want %v", i, got, want)
		}
	}
	if len(leaks) > 0 {
		t.Errorf("left: %v", slices.Collect(maps.Keys(leaks)))
	}
	other := &sharedPorts{keys: keys, ports: [2]int{30005, 30100}}
	if err := other.repair(t.Context(), objects, leaks); err != nil {
		t.Fatal(err)
	}
	if got := taking(t, other); !slices.Equal(got, []int{30009, 30010}) {
		t.Errorf("another range: %v", got)
	}
}
