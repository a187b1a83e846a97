// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// crashRounds is how often the server is killed; KNARR_CRASH_ROUNDS sets another number.
const crashRounds = 200

// ledger is what clients know about one object: the last acknowledged value, and one that may or may not have been written.
type ledger struct {
	sync.Mutex
	acknowledged map[string]int // name -> value; -1: deleted
	open         map[string]int // name -> value of a write without an answer
}

func (l *ledger) begin(name string, value int) {
	l.Lock()
	defer l.Unlock()
	l.open[name] = value
}

func (l *ledger) end(name string, value int, err error) {
	l.Lock()
	defer l.Unlock()
	if err == nil {
		l.acknowledged[name] = value
	}
	if err == nil || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		delete(l.open, name)
	}
}

// TestKilledUnderLoad kills a cluster's process at random moments while clients write and watch, and then looks whether
// every acknowledged write is there, none is half there, no watch lost, repeated or reordered an event, and the containers
// that ran before are the ones that run.
func TestKilledUnderLoad(t *testing.T) {
	requireNode(t)
	rounds := crashRounds
	if s := os.Getenv("KNARR_CRASH_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("KNARR_CRASH_ROUNDS: %v", err)
		}
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d rounds", seed, rounds)
	random := rand.New(rand.NewPCG(seed, 0))

	archives := imageArchives(t)
	s := startServer(t, "up", "--node-name", "node", "--image", archives[0],
		"--pod-cidr", "10.152.0.0/16", "--service-cidr", "10.153.0.0/16", "--node-cidr", "10.154.0.0/16")
	s.args = slices.DeleteFunc(s.args, func(a string) bool { return a == "--image" || a == archives[0] }) // imported by now
	containers := startContainers(t, s)
	l := &ledger{acknowledged: map[string]int{}, open: map[string]int{}}
	follower := &follower{state: map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var following sync.WaitGroup
	following.Go(func() { follower.follow(ctx, s.clientset(t)) })

	for round := range rounds {
		kube := s.clientset(t)
		load, stop := context.WithCancel(ctx)
		var writers sync.WaitGroup
		for w := range 8 {
			writers.Go(func() { write(load, kube, l, fmt.Sprintf("w%d", w), round) })
		}
		time.Sleep(time.Duration(20+random.IntN(180)) * time.Millisecond)
		s.kill(t)
		stop()
		writers.Wait()
		s.start(t)
		check(t, s.clientset(t), l, round)
		if now := runningContainers(t, s); !maps.Equal(now, containers) {
			t.Errorf("round %d: containers %v, before %v", round, now, containers)
		}
		if t.Failed() {
			return
		}
	}

	// The follower must reach the final state by events alone.
	kube := s.clientset(t)
	last, err := kube.CoreV1().ConfigMaps("default").Create(ctx, configMap("last", 0), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error {
		follower.Lock()
		defer follower.Unlock()
		if len(follower.problems) > 0 {
			return nil // told below
		}
		if follower.state["last"] != last.ResourceVersion {
			return fmt.Errorf("watch number %d is at revision %d, not at %s: %w", follower.watches, follower.revision, last.ResourceVersion, follower.last)
		}
		return nil
	})
	cancel()
	following.Wait()
	list, err := kube.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, c := range list.Items {
		want[c.Name] = c.ResourceVersion
	}
	if !maps.Equal(want, follower.state) {
		t.Errorf("objects by events differ from the list: %d and %d objects", len(follower.state), len(want))
	}
	for _, p := range follower.problems {
		t.Error(p)
	}
	eventually(t, time.Minute, func() error { // the agent has looked at them, and writes
		pods, err := kube.CoreV1().Pods("kept").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			if c := p.Status.ContainerStatuses[0]; !c.Ready {
				return fmt.Errorf("%s: %+v", p.Name, c)
			}
		}
		return nil
	})
	if now := runningContainers(t, s); !maps.Equal(now, containers) {
		t.Errorf("containers at the end %v, before %v", now, containers)
	}
	t.Logf("%d objects, %d events, %d watches", len(want), follower.events, follower.watches)
}

// startContainers starts pods that no later kill may touch, and returns their containers.
func startContainers(t *testing.T, s *server) map[string]string {
	t.Helper()
	kube := s.clientset(t)
	if _, err := kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const pods = 3
	for i := range pods {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web-%d", i)},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name: "web", Image: "knarr.dev/web:1",
				ReadinessProbe: &corev1.Probe{
					ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(8080)}},
					PeriodSeconds: 1,
				},
			}}},
		}
		eventually(t, time.Minute, func() error { // the namespace's service account comes a little later
			_, err := kube.CoreV1().Pods("kept").Create(t.Context(), pod, metav1.CreateOptions{})
			return err
		})
	}
	eventually(t, 2*time.Minute, func() error {
		if n := len(runningContainers(t, s)); n != pods {
			return fmt.Errorf("%d of %d containers run", n, pods)
		}
		return nil
	})
	return runningContainers(t, s)
}

// runningContainers tells, by pod, which container runs and how often it was restarted.
func runningContainers(t *testing.T, s *server) map[string]string {
	t.Helper()
	pods, err := s.clientset(t).CoreV1().Pods("kept").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Running != nil {
				out[p.Name] = fmt.Sprintf("%s restarted %d times", c.ContainerID, c.RestartCount)
			}
		}
	}
	return out
}

func configMap(name string, value int) *corev1.ConfigMap {
	v := strconv.Itoa(value)
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Data:       map[string]string{"value": v, "padding": strings.Repeat(v+".", 200), "again": v},
	}
}

// write creates, updates and deletes objects of its own until the server is gone.
func write(ctx context.Context, kube kubernetes.Interface, l *ledger, writer string, round int) {
	maps := kube.CoreV1().ConfigMaps("default")
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("%s-%d-%d", writer, round, i/4)
		value := round*1_000_000 + i
		var err error
		switch i % 4 {
		case 0:
			l.begin(name, value)
			_, err = maps.Create(ctx, configMap(name, value), metav1.CreateOptions{})
			l.end(name, value, err)
		case 1, 2:
			l.begin(name, value)
			_, err = maps.Update(ctx, configMap(name, value), metav1.UpdateOptions{})
			l.end(name, value, err)
		case 3:
			if i%8 != 3 {
				continue
			}
			l.begin(name, -1)
			err = maps.Delete(ctx, name, metav1.DeleteOptions{})
			l.end(name, -1, err)
		}
		if err != nil {
			return
		}
	}
}

// check compares what is stored with what was acknowledged.
func check(t *testing.T, kube kubernetes.Interface, l *ledger, round int) {
	t.Helper()
	list, err := kube.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatalf("round %d: list after restart: %v", round, err)
	}
	stored := map[string]int{}
	for _, c := range list.Items {
		v, err := strconv.Atoi(c.Data["value"])
		if err != nil || c.Data["again"] != c.Data["value"] || c.Data["padding"] != strings.Repeat(c.Data["value"]+".", 200) {
			if c.Name != "kube-root-ca.crt" {
				t.Errorf("round %d: %s is half there: %v", round, c.Name, c.Data)
			}
			continue
		}
		stored[c.Name] = v
	}
	l.Lock()
	defer l.Unlock()
	for name, value := range l.acknowledged {
		got, found := stored[name]
		if !found {
			got = -1
		}
		if open, maybe := l.open[name]; got != value && !(maybe && got == open) {
			t.Errorf("round %d: %s: acknowledged %d, stored %d", round, name, value, got)
		}
	}
	for name, value := range l.open { // what is stored now is the truth from here on
		if got, found := stored[name]; found {
			l.acknowledged[name] = got
		} else if value == -1 {
			l.acknowledged[name] = -1
		}
		delete(l.open, name)
	}
}

// follower is a client that knows the objects only by a watch that it resumes after each break.
type follower struct {
	sync.Mutex
	state    map[string]string // name -> resourceVersion
	revision int64
	events   int
	watches  int
	problems []string
	last     error // of the last try to watch
}

func (f *follower) note(err error) {
	f.Lock()
	defer f.Unlock()
	f.last = err
}

func (f *follower) follow(ctx context.Context, kube kubernetes.Interface) {
	resume := ""
	for ctx.Err() == nil {
		if resume == "" {
			list, err := kube.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
			if err != nil {
				time.Sleep(20 * time.Millisecond)
				continue
			}
			f.Lock()
			for _, c := range list.Items {
				f.state[c.Name] = c.ResourceVersion
			}
			f.Unlock()
			resume = list.ResourceVersion
			f.Lock()
			f.revision, _ = strconv.ParseInt(resume, 10, 64)
			f.Unlock()
		}
		w, err := kube.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: resume, AllowWatchBookmarks: true})
		if err != nil {
			f.note(err)
			time.Sleep(20 * time.Millisecond)
			continue
		}
		f.note(nil)
		f.watches++
		for e := range w.ResultChan() {
			if e.Type == watch.Error && connectionBroke(e.Object) {
				break
			}
			if e.Type == watch.Error {
				f.problem("watch from %s: %v", resume, e.Object)
				return
			}
			resume = f.event(e)
		}
		w.Stop()
	}
}

// connectionBroke says whether an error of a watch comes from client-go, which could not read on, rather than from the server.
func connectionBroke(status runtime.Object) bool {
	s, ok := status.(*metav1.Status)
	return ok && s.Details != nil && slices.ContainsFunc(s.Details.Causes, func(c metav1.StatusCause) bool {
		return c.Type == "ClientWatchDecoding"
	})
}

// event applies one event and returns the revision to resume from.
func (f *follower) event(e watch.Event) string {
	f.Lock()
	defer f.Unlock()
	c := e.Object.(*corev1.ConfigMap)
	revision, err := strconv.ParseInt(c.ResourceVersion, 10, 64)
	if err != nil {
		f.problems = append(f.problems, err.Error())
		return c.ResourceVersion
	}
	if e.Type == watch.Bookmark {
		return c.ResourceVersion
	}
	f.events++
	if revision <= f.revision {
		f.problems = append(f.problems, fmt.Sprintf("%s %s at revision %d after %d", e.Type, c.Name, revision, f.revision))
	}
	f.revision = revision
	_, known := f.state[c.Name]
	switch {
	case e.Type == watch.Added && known, e.Type == watch.Modified && !known, e.Type == watch.Deleted && !known:
		f.problems = append(f.problems, fmt.Sprintf("%s of %s at %d, known before: %v", e.Type, c.Name, revision, known))
	}
	if e.Type == watch.Deleted {
		delete(f.state, c.Name)
	} else {
		f.state[c.Name] = c.ResourceVersion
	}
	return c.ResourceVersion
}

func (f *follower) problem(format string, args ...any) {
	f.Lock()
	defer f.Unlock()
	f.problems = append(f.problems, fmt.Sprintf(format, args...))
}
