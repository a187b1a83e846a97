// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package clustertest_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"knarr.dev/api/core"
	"knarr.dev/cluster/clustertest"
)

func clientset(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// goroutines returns the stacks of all goroutines by their number.
func goroutines() map[string]string {
	buffer := make([]byte, 1<<20)
	for n := runtime.Stack(buffer, true); n == len(buffer); n = runtime.Stack(buffer, true) {
		buffer = make([]byte, 2*len(buffer))
	}
	all := map[string]string{}
	for _, stack := range strings.Split(string(bytes.TrimRight(buffer, "\x00")), "\n\n") {
		if number, _, ok := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " "); ok {
			all[number] = stack
		}
	}
	return all
}

// leftBehind returns the stacks of goroutines that were not there before and do not end within a while: some libraries'
// goroutines notice only at the next tick that they are to end.
func leftBehind(before map[string]string) []string {
	var left []string
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 250 {
		left = nil
		for number, stack := range goroutines() {
			if _, old := before[number]; !old && !strings.Contains(stack, "leftBehind") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return nil
		}
		<-tick.C
	}
	return left
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // finalizers of the first
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// live starts a cluster, uses it and stops it.
func live(t *testing.T, name string) {
	t.Run(name, func(t *testing.T) {
		c := clustertest.New(t)
		clustertest.Create(t, c, core.Pods, "default", `{metadata: {name: web, labels: {app: web}}, spec: {nodeName: simulated-1, containers: [{name: c, image: i}]}}`)
		c.WaitReady(t, "default", "app=web", 1)
	})
}

func TestNothingIsLeftBehind(t *testing.T) {
	one, many := 100, 20
	if testing.Short() {
		one, many = 5, 5
	}
	live(t, "first") // what the process makes once
	before, heapBefore := goroutines(), heap()
	for i := range one {
		live(t, fmt.Sprint("one-", i))
	}
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() { live(t, fmt.Sprint("many-", i)) })
	}
	all.Wait()
	if left := leftBehind(before); len(left) > 0 {
		t.Errorf("%d goroutines are left behind, such as\n%s", len(left), strings.Join(left[:min(len(left), 10)], "\n\n"))
	}
	if after := heap(); after > heapBefore+8<<20 {
		t.Errorf("the heap grew from %d to %d bytes", heapBefore, after)
	} else {
		t.Logf("heap: %d bytes before, %d after", heapBefore, after)
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		c := clustertest.New(b, clustertest.WithoutSockets())
		if err := c.Cluster().Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStartWithSockets(b *testing.B) {
	for b.Loop() {
		c := clustertest.New(b)
		if err := c.Cluster().Close(); err != nil {
			b.Fatal(err)
		}
	}
}
