// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"knarr.dev/node/image"
	"knarr.dev/node/pod"
	"knarr.dev/test/images"
)

// world is a node with a containerd of its own in a network namespace of its own. It stands in for the API server: it
// keeps pods and their statuses.
type world struct {
	t     *testing.T
	agent *Agent
	ctx   context.Context
	stop  func()

	mu      sync.Mutex
	changed *sync.Cond
	pods    map[types.UID]*corev1.Pod
	gone    map[types.UID]bool
	events  []string
	configs map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
}

func (w *world) Status(_ context.Context, p *corev1.Pod, status *corev1.PodStatus) (*corev1.Pod, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	current := w.pods[p.UID]
	if current == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, p.Name)
	}
	current = current.DeepCopy()
	current.Status = *status
	w.pods[p.UID] = current
	w.changed.Broadcast()
	return current, nil
}

func (w *world) Gone(_ context.Context, p *corev1.Pod) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, p.UID)
	w.gone[p.UID] = true
	w.changed.Broadcast()
	return nil
}

func (w *world) Event(e *corev1.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e.Reason+": "+e.Message)
	w.changed.Broadcast()
}

func (w *world) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.configs[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (w *world) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.secrets[name]; s != nil {
		return s, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (w *world) Token(_ context.Context, p *corev1.Pod, _ *corev1.ServiceAccountTokenProjection) (string, error) {
	return "token of " + p.Name, nil
}

// newWorld starts containerd; everything it made is gone at the end of the test, whatever happens.
func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real containers need root")
	}
	for _, program := range []string{"containerd", "runc", "ctr", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("real containers need %s", program)
		}
	}
	dir, err := os.MkdirTemp("", "knarr-node")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(dir)
	run(t, "ip", "netns", "add", name)
	run(t, "ip", "-n", name, "link", "set", "lo", "up")
	w := &world{
		t: t, pods: map[types.UID]*corev1.Pod{}, gone: map[types.UID]bool{}, configs: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{},
	}
	w.changed = sync.NewCond(&w.mu)
	var log bytes.Buffer
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(log.String())
			w.mu.Lock()
			t.Log(strings.Join(w.events, "\n"))
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() { sweepMachine(t, dir, name) })
	agent, err := New(Config{
		Name: "n1", DataDir: dir, PodCIDR: netip.MustParsePrefix("10.42.7.0/24"), NodeIP: "127.0.0.1", NetNS: "/run/netns/" + name,
		ClusterDNS: "10.43.0.10",
	}, nil, slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, nil)).With("node", "n1"))
	if err != nil {
		t.Fatal(err)
	}
	agent.reports, agent.source = w, w
	w.agent = agent
	w.start()
	archives := filepath.Join(dir, "images")
	if err := images.Build(w.ctx, archives); err != nil {
		t.Fatal(err)
	}
	for _, archive := range []string{"web.tar", "busybox.tar"} {
		if err := image.Import(w.ctx, agent.Socket(), filepath.Join(archives, archive)); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// start runs the parts of the agent that need no API server.
func (w *world) start() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	w.ctx = ctx
	below, stopBelow := context.WithCancel(context.Background())
	var wait, loops sync.WaitGroup
	w.stop = sync.OnceFunc(func() {
		cancel()
		loops.Wait()
		w.agent.wait.Wait()
		if w.agent.cri != nil && !w.agent.config.KeepPods {
			w.agent.stopPods(below)
		}
		stopBelow()
		wait.Wait()
	})
	w.t.Cleanup(w.stop)
	if err := w.agent.startRuntime(ctx, below, &wait, make(chan error, 2)); err != nil {
		w.t.Fatal(err)
	}
	synced := make(chan struct{})
	w.mu.Lock()
	for _, p := range w.pods {
		w.agent.podChanged(ctx, p, nil)
	}
	w.mu.Unlock()
	close(synced)
	loops.Go(func() { w.agent.relist(ctx, synced) })
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// sweepMachine ends what a failed test may have left: processes, mounts, namespaces, control groups.
func sweepMachine(t *testing.T, dir, netns string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !bytes.Contains(line, []byte(dir)) {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err == nil && pid != os.Getpid() {
			t.Logf("ending a process that was left: %q", line)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	_ = exec.Command("ip", "netns", "del", netns).Run()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			_ = unix.Unmount(fields[4], unix.MNT_DETACH)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// apply gives a pod to the node.
func (w *world) apply(p *corev1.Pod) *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.UID == "" {
		p.UID, p.Namespace, p.Spec.NodeName = types.UID("uid-"+p.Name+fmt.Sprint(time.Now().UnixNano())), "default", "n1"
		if p.Spec.RestartPolicy == "" {
			p.Spec.RestartPolicy = corev1.RestartPolicyAlways
		}
		for i := range p.Spec.Containers {
			p.Spec.Containers[i].TerminationMessagePath = "/dev/termination-log"
		}
	}
	p.ResourceVersion = fmt.Sprint(time.Now().UnixNano())
	w.pods[p.UID] = p
	w.agent.podChanged(w.ctx, p, nil)
	return p
}

// remove deletes a pod with grace, in seconds.
func (w *world) remove(p *corev1.Pod, grace int64) {
	w.mu.Lock()
	p = w.pods[p.UID].DeepCopy()
	w.mu.Unlock()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now().Add(time.Duration(grace) * time.Second)}, &grace
	w.apply(p)
}

// until waits until the pod's state is as wanted.
func (w *world) until(what string, p *corev1.Pod, want func(*corev1.Pod) bool) *corev1.Pod {
	w.t.Helper()
	stop := context.AfterFunc(w.ctx, func() {
		w.mu.Lock()
		w.changed.Broadcast()
		w.mu.Unlock()
	})
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		current := w.pods[p.UID]
		if want(current) {
			return current
		}
		if w.ctx.Err() != nil {
			w.mu.Unlock()
			defer w.mu.Lock()
			w.t.Fatalf("%s: the time is over; status: %+v", what, current)
		}
		w.changed.Wait()
	}
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func isGone(p *corev1.Pod) bool { return p == nil }

// get asks a server inside of the node's network.
func (w *world) get(url string) string {
	w.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: w.agent.dialer.DialContext, DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(raw)
}

func (w *world) logs(p *corev1.Pod, container, query string) string {
	w.t.Helper()
	answer, err := http.Get(fmt.Sprintf("%s/containerLogs/default/%s/%s?%s", w.serve(w.t), p.Name, container, query))
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(raw)
}

func box(name string, script string) corev1.Container {
	return corev1.Container{
		Name: name, Image: images.BusyboxRef, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", script},
	}
}

func TestPodsRun(t *testing.T) {
	w := newWorld(t)
	t.Run("a server with everything answers", w.testServer)
	t.Run("containers run in their order", w.testOrder)
	t.Run("what crashes waits longer each time", w.testCrash)
	t.Run("a failing liveness probe restarts", w.testLiveness)
	t.Run("the spec shapes the container", w.testShape)
	t.Run("logs stay in bounds", w.testRotation)
	t.Run("a pod ends in good order", w.testEnd)
	t.Run("commands and ports reach containers", w.testStreams)
	t.Run("containers survive the agent", w.testAdoption)
}

func (w *world) testServer(t *testing.T) {
	w.t = t
	w.configs["conf"] = &corev1.ConfigMap{Data: map[string]string{"greeting": "hello"}}
	w.secrets["key"] = &corev1.Secret{Data: map[string][]byte{"password": []byte("s3cret")}}
	p := w.apply(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			Volumes: []corev1.Volume{
				{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}}},
				{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
					{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "key"}}},
					{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
						Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"},
					}}}},
				}}}},
			},
			Containers: []corev1.Container{{
				Name: "web", Image: images.WebRef, ImagePullPolicy: corev1.PullNever,
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, HostPort: 18080}},
				Env: []corev1.EnvVar{
					{Name: "GREETING", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}, Key: "greeting"}}},
					{Name: "BOTH", Value: "$(GREETING) $(NOBODY) $$"},
					{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
				},
				VolumeMounts: []corev1.VolumeMount{
					{Name: "conf", MountPath: "/conf"}, {Name: "all", MountPath: "/all", ReadOnly: true},
					{Name: "conf", MountPath: "/one", SubPath: "greeting"},
				},
				ReadinessProbe: &corev1.Probe{
					ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http")}}, PeriodSeconds: 1,
				},
			}},
		},
	})
	p = w.until("ready", p, ready)
	base := "http://" + p.Status.PodIP + ":8080"
	for path, want := range map[string]string{
		"/env?name=BOTH": "hello $(NOBODY) $\n", "/env?name=POD_IP": p.Status.PodIP + "\n", "/file?path=/conf/greeting": "hello", "/file?path=/one": "hello",
		"/file?path=/all/token": "token of web", "/file?path=/all/password": "s3cret", "/file?path=/all/labels": `app="web"`, "/hostname": "web\n",
	} {
		if got := strings.TrimRight(w.get(base+path), "\n"); got != strings.TrimRight(want, "\n") {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if got := w.get("http://10.42.7.1:18080/hostname"); got != "web\n" {
		t.Errorf("through the host port: %q", got)
	}
	if s := p.Status.ContainerStatuses[0]; p.Status.Phase != corev1.PodRunning || !strings.HasPrefix(s.ContainerID, "containerd://") || s.Image != images.WebRef {
		t.Errorf("status: %+v", s)
	}
	w.remove(p, 5)
	w.until("gone", p, isGone)
	if _, err := os.Stat(w.agent.volumes.PodDir(p)); !os.IsNotExist(err) {
		t.Errorf("the pod's directory is still there: %v", err)
	}
}

func (w *world) testOrder(t *testing.T) {
	w.t = t
	always := corev1.ContainerRestartPolicyAlways
	sidecar := box("side", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
	sidecar.RestartPolicy = &always
	share := []corev1.VolumeMount{{Name: "share", MountPath: "/share"}}
	first, last := box("first", "echo first > /share/log"), box("main", "echo main >> /share/log; cat /share/log; echo bye > /dev/termination-log; exit 3")
	first.VolumeMounts, last.VolumeMounts = share, share
	p := w.apply(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "order"},
		Spec: corev1.PodSpec{
			RestartPolicy:  corev1.RestartPolicyNever,
			Volumes:        []corev1.Volume{{Name: "share", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			InitContainers: []corev1.Container{first, sidecar}, Containers: []corev1.Container{last},
		},
	})
	p = w.until("failed", p, func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodFailed && p.Status.InitContainerStatuses[1].State.Terminated != nil
	})
	end := p.Status.ContainerStatuses[0].State.Terminated
	if end == nil || end.ExitCode != 3 || end.Message != "bye\n" || end.Reason != "Error" {
		t.Errorf("main ended with %+v", end)
	}
	if got := w.logs(p, "main", ""); got != "first\nmain\n" {
		t.Errorf("log: %q", got)
	}
	if got := w.logs(p, "main", "tailLines=1"); got != "main\n" {
		t.Errorf("last line of the log: %q", got)
	}
	w.remove(p, 1)
	w.until("gone", p, isGone)
}

func (w *world) testCrash(t *testing.T) {
	w.t = t
	p := w.apply(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "crash"}, Spec: corev1.PodSpec{Containers: []corev1.Container{box("c", "exit 1")}}})
	p = w.until("back-off", p, func(p *corev1.Pod) bool {
		waiting := p.Status.ContainerStatuses != nil && p.Status.ContainerStatuses[0].State.Waiting != nil
		return waiting && p.Status.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	if s := p.Status.ContainerStatuses[0]; s.RestartCount != 1 || s.LastTerminationState.Terminated == nil ||
		s.State.Waiting.Message != fmt.Sprintf("back-off 10s restarting failed container=c pod=crash_default(%s)", p.UID) {
		t.Errorf("status: %+v", s)
	}
	w.remove(p, 0)
	w.until("gone", p, isGone)
}

func (w *world) testLiveness(t *testing.T) {
	w.t = t
	c := box("c", "touch /tmp/well; sleep 1; rm /tmp/well; trap 'exit 0' TERM; while :; do sleep 0.1; done")
	c.LivenessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "/tmp/well"}}}, PeriodSeconds: 1, FailureThreshold: 1,
	}
	p := w.apply(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "live"}, Spec: corev1.PodSpec{Containers: []corev1.Container{c}}})
	w.until("restarted", p, func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses != nil && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	w.remove(p, 1)
	w.until("gone", p, isGone)
	w.mu.Lock()
	defer w.mu.Unlock()
	all := strings.Join(w.events, "\n")
	for _, want := range []string{"Unhealthy: Liveness probe failed: cat: can't open '/tmp/well'", "Killing: Container c failed liveness probe, will be restarted"} {
		if !strings.Contains(all, want) {
			t.Errorf("no event %q", want)
		}
	}
}

func (w *world) testShape(t *testing.T) {
	w.t = t
	c := box("c", `id -u; id -G; cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max
		cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max
		grep CapBnd /proc/self/status | cut -f2; grep NoNewPrivs /proc/self/status | cut -f2; grep Seccomp: /proc/self/status | cut -f2
		touch /x 2>/dev/null || echo read-only; touch /data/y && stat -c %g /data/y; hostname; cat /etc/resolv.conf; tail -n 4 /etc/hosts
		df -T /mem | tail -n 1 | awk '{print $2}'; stat -L -c %a /sec/password`)
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	c.SecurityContext = &corev1.SecurityContext{
		RunAsUser: ptr.To[int64](1000), ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "mem", MountPath: "/mem"}, {Name: "sec", MountPath: "/sec"}}
	w.secrets["key"] = &corev1.Secret{Data: map[string][]byte{"password": []byte("s3cret")}}
	p := w.apply(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "shape"}, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, Hostname: "h", Subdomain: "sub", DNSPolicy: corev1.DNSClusterFirst,
		HostAliases:     []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}},
		SecurityContext: &corev1.PodSecurityContext{FSGroup: ptr.To[int64](2000), SupplementalGroups: []int64{3000}},
		Volumes: []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
			{Name: "sec", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key", DefaultMode: ptr.To[int32](0o400)}}},
		},
		Containers: []corev1.Container{c},
	}})
	p = w.until("ended", p, func(p *corev1.Pod) bool { return pod.Terminal(p.Status.Phase) })
	lines := strings.Split(w.logs(p, "c", ""), "\n")
	for i, want := range []string{"1000", "0 2000 3000", "50000", "67108864", "0000000000000400", "1", "2", "read-only", "2000", "h"} {
		if i >= len(lines) || lines[i] != want {
			t.Errorf("line %d: want %q in %q", i, want, lines)
		}
	}
	rest := strings.Join(lines[min(10, len(lines)):], "\n")
	for _, want := range []string{
		"search default.svc.cluster.local svc.cluster.local cluster.local", "nameserver 10.43.0.10", "options ndots:5",
		p.Status.PodIP + "\th.sub.default.svc.cluster.local\th\n", "1.2.3.4\ta\tb\n", "tmpfs\n", "\n440\n",
	} {
		if !strings.Contains(rest, want) {
			t.Errorf("no %q in %q", want, rest)
		}
	}
	w.remove(p, 1)
	w.until("gone", p, isGone)
}

func (w *world) testRotation(t *testing.T) {
	w.t = t
	p := w.apply(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "talk"}, Spec: corev1.PodSpec{Containers: []corev1.Container{
		box("c", "trap 'exit 0' TERM; while :; do echo word; sleep 0.05; done"),
	}}})
	w.until("ready", p, ready)
	dir := filepath.Join(w.agent.logDir(p), "c")
	seen := map[string]bool{}
	for len(seen) < maxLogFiles+2 && w.ctx.Err() == nil {
		w.agent.rotateOnce(w.ctx, 40)
		old, err := filepath.Glob(filepath.Join(dir, "0.log.*"))
		if err != nil || len(old) > maxLogFiles-1 {
			t.Fatalf("%d old logs: %v", len(old), err)
		}
		for _, name := range old {
			seen[name] = true
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "0.log")); err != nil {
		t.Error(err)
	}
	w.remove(p, 1)
	w.until("gone", p, isGone)
}

func (w *world) testEnd(t *testing.T) {
	w.t = t
	dir := filepath.Join(w.agent.config.DataDir, "told")
	tell := []corev1.VolumeMount{{Name: "told", MountPath: "/told"}}
	c := box("c", "trap 'echo term >> /told/log; exit 0' TERM; while :; do sleep 0.1; done")
	c.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo started >> /told/log"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo stopping >> /told/log"}}},
	}
	side := box("side", "trap 'echo side >> /told/log; exit 0' TERM; while :; do sleep 0.1; done")
	side.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	c.VolumeMounts, side.VolumeMounts = tell, tell
	p := w.apply(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "end"}, Spec: corev1.PodSpec{
		Volumes: []corev1.Volume{{Name: "told", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
			Path: dir, Type: ptr.To(corev1.HostPathDirectoryOrCreate),
		}}}},
		InitContainers: []corev1.Container{side}, Containers: []corev1.Container{c},
	}})
	p = w.until("ready", p, ready)
	w.remove(p, 30)
	w.until("gone", p, isGone)
	raw, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil || string(raw) != "started\nstopping\nterm\nside\n" {
		t.Errorf("told: %q %v", raw, err)
	}
	// One that does not listen is killed when a shorter grace period comes while it is stopped.
	p = w.apply(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "deaf"}, Spec: corev1.PodSpec{Containers: []corev1.Container{box("c", "trap '' TERM; while :; do sleep 0.1; done")}}})
	p = w.until("ready", p, ready)
	w.remove(p, 1000)
	w.remove(p, 0)
	w.until("gone", p, isGone)
}

func (w *world) testAdoption(t *testing.T) {
	w.t = t
	stay := w.apply(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "stay"}, Spec: corev1.PodSpec{Containers: []corev1.Container{box("c", "sleep 1000")}}})
	leave := w.apply(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "leave"}, Spec: corev1.PodSpec{Containers: []corev1.Container{box("c", "sleep 1000")}}})
	stay, leave = w.until("ready", stay, ready), w.until("ready", leave, ready)
	w.agent.config.KeepPods = true
	w.stop()
	w.mu.Lock()
	delete(w.pods, leave.UID)
	w.mu.Unlock()
	again, err := New(w.agent.config, nil, w.agent.log)
	if err != nil {
		t.Fatal(err)
	}
	again.config.KeepPods = false
	again.reports, again.source = w, w
	w.agent = again
	w.start()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		o, err := again.observe(w.ctx, string(leave.UID), map[string]pod.Container{})
		if err != nil {
			t.Fatal(err)
		}
		if len(o.Sandboxes) == 0 {
			break
		}
		<-tick.C
	}
	o, err := again.observe(w.ctx, string(stay.UID), map[string]pod.Container{})
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Containers) != 1 || pod.Prefix+o.Containers[0].ID != stay.Status.ContainerStatuses[0].ContainerID || o.Containers[0].State != pod.Running {
		t.Errorf("the container was not adopted: %+v, was %s", o.Containers, stay.Status.ContainerStatuses[0].ContainerID)
	}
	w.stop()
}
