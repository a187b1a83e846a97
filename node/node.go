// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package node is the agent of a node: it runs the pods that are bound to its node, on a container runtime.
//
// Agent watches the pods of its node and gives each a worker, which observes the runtime, asks package pod what to do,
// does it and reports the status, until nothing is left to do. Containers outlive the agent if they should: workers find
// what runs by labels and go on from there, so an agent that was killed continues where it was.
//
// Below: pod decides, cri speaks to the runtime, volume, cgroup, probe and image do one thing each, and server answers
// the API server's requests for logs and streams. Start at New and worker.step.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/node/cgroup"
	"knarr.dev/node/cri"
	"knarr.dev/node/image"
	"knarr.dev/node/netns"
	"knarr.dev/node/pod"
	"knarr.dev/node/probe"
	"knarr.dev/node/server"
	"knarr.dev/node/volume"
)

// Config is what an agent needs to know. Name, DataDir, NodeIP and PodCIDR must be given.
type Config struct {
	Name string
	// DataDir keeps volumes, logs and the runtime's state.
	DataDir string
	// LogDir keeps containers' logs; DataDir/logs unless set.
	LogDir string
	// PodCIDR is the range of the node's pods.
	PodCIDR netip.Prefix
	// NodeIP is the address of the node.
	NodeIP string
	// NetNS is the path of the network namespace of the node; empty is the one of the process.
	NetNS string
	// Bridge is the name of the pods' bridge; knarr0 unless set. MTU is of the pods' interfaces, 0 is the kernel's choice.
	Bridge string
	MTU    int
	// ContainerdSocket is the runtime to use; the agent runs a containerd of its own if it is empty.
	ContainerdSocket string
	// RegistryDir has hosts.toml files for the agent's own containerd.
	RegistryDir string
	// ClusterDNS is the address of the cluster's DNS; pods get the node's resolver if it is empty. ClusterDomain is
	// cluster.local unless set.
	ClusterDNS, ClusterDomain string
	// ResolvConf is the node's resolver configuration; /etc/resolv.conf unless set.
	ResolvConf string
	// Serving is the TLS configuration of the agent's server; it should demand the API server's client certificate.
	// Without it there is no server.
	Serving *tls.Config
	// Port of the agent's server; 10250 unless set. Listener, if set, is used instead.
	Port     int
	Listener net.Listener
	// KeepPods leaves containers running when the agent stops.
	KeepPods bool
	// EvictionHard is what must be left of memory and disk; below it the node reports pressure and gets no new pods. DefaultEvictionHard
	// unless set.
	EvictionHard string
	// MaxPods is 110 unless set.
	MaxPods int
	// Labels are added to the node.
	Labels map[string]string
	// Version is the Kubernetes version to report, such as v1.36.3.
	Version string
}

// Agent runs the pods of one node.
type Agent struct {
	config     Config
	client     *client.Client
	thresholds map[string]threshold
	log        *slog.Logger
	now        func() time.Time
	reports    reports
	source     volume.Source

	// Set by Run, before workers start.
	cri                   *cri.Client
	socket                string
	cgroups               *cgroup.Tree
	volumes               *volume.Volumes
	prober                *probe.Prober
	dialer                *netns.Dialer
	capacity, allocatable corev1.ResourceList
	runtimeVersion        string
	listServices          func(namespace string) []*corev1.Service
	recorder              *recorder
	sequence              atomic.Uint64
	ready                 chan struct{}

	mu      sync.Mutex
	workers map[string]*worker // by pod UID
	closed  bool
	wait    sync.WaitGroup
	node    *corev1.Node // as last written
}

// New returns an agent that Run starts. c carries the identity system:node:NAME.
func New(config Config, c *client.Client, log *slog.Logger) (*Agent, error) {
	var problems []error
	if config.Name == "" {
		problems = append(problems, errors.New("name: must be given"))
	}
	if !filepath.IsAbs(config.DataDir) {
		problems = append(problems, fmt.Errorf("data dir: %q is not an absolute path", config.DataDir))
	}
	if _, err := netip.ParseAddr(config.NodeIP); err != nil {
		problems = append(problems, fmt.Errorf("node IP: %w", err))
	}
	if config.EvictionHard == "" {
		config.EvictionHard = DefaultEvictionHard
	}
	thresholds, err := parseThresholds(config.EvictionHard)
	if err != nil {
		problems = append(problems, fmt.Errorf("eviction-hard: %w", err))
	}
	if config.ContainerdSocket == "" && !config.PodCIDR.IsValid() {
		problems = append(problems, errors.New("pod CIDR: must be given"))
	}
	if len(config.Bridge) > 15 {
		problems = append(problems, fmt.Errorf("bridge: %q is longer than 15 characters", config.Bridge))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("node agent: %w", err)
	}
	if config.LogDir == "" {
		config.LogDir = filepath.Join(config.DataDir, "logs")
	}
	if config.Bridge == "" {
		config.Bridge = "knarr0"
	}
	if config.ClusterDomain == "" {
		config.ClusterDomain = "cluster.local"
	}
	if config.Port == 0 {
		config.Port = 10250
	}
	if config.MaxPods == 0 {
		config.MaxPods = 110
	}
	if config.Version == "" {
		config.Version = "v1.36.3"
	}
	a := &Agent{
		config: config, client: c, log: log, now: time.Now, workers: map[string]*worker{}, ready: make(chan struct{}),
		socket: config.ContainerdSocket, recorder: newRecorder(c, log), thresholds: thresholds,
	}
	a.reports = &apiReports{client: c, recorder: a.recorder}
	a.source = newSource(c, a.now)
	return a, nil
}

// Ready is closed once the node is registered and ready for pods.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Socket is the container runtime's unix socket. It is known from the start when it is the agent's own.
func (a *Agent) Socket() string {
	if a.config.ContainerdSocket != "" {
		return a.config.ContainerdSocket
	}
	return RuntimeSocket(a.config.DataDir)
}

// RuntimeSocket is the socket of the containerd that the agent with a data directory runs.
func RuntimeSocket(dataDir string) string {
	return filepath.Join(dataDir, "containerd", "containerd.sock")
}

// Run runs the node's pods until ctx ends. It then stops them, unless they are to be kept.
func (a *Agent) Run(ctx context.Context) error {
	// The runtime and the recorder end after the workers.
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wait sync.WaitGroup
	defer wait.Wait()
	defer stop()
	failed := make(chan error, 2)
	if err := a.startRuntime(ctx, below, &wait, failed); err != nil {
		return err
	}
	defer a.cri.Close()
	wait.Go(func() { a.recorder.run(below) })
	if err := a.watchServices(ctx); err != nil {
		return fmt.Errorf("watch services: %w", err)
	}
	if err := a.serve(ctx, &wait, failed); err != nil {
		return err
	}
	if err := a.register(ctx); err != nil {
		return fmt.Errorf("register node: %w", err)
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	var loops sync.WaitGroup
	loops.Go(func() { a.heartbeat(running) })
	loops.Go(func() { a.renewLease(running) })
	synced := make(chan struct{})
	loops.Go(func() { a.followPods(running, synced) })
	loops.Go(func() { a.relist(running, synced) })
	loops.Go(func() { a.follow(running) })
	loops.Go(func() { a.rotateLogs(running) })
	close(a.ready)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	cancel()
	loops.Wait()
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.wait.Wait()
	if !a.config.KeepPods && err == nil {
		a.stopPods(below)
		if err := a.removeBridge(); err != nil {
			a.log.Warn("cannot remove the pods' bridge", "error", err)
		}
	}
	return err
}

// startRuntime connects to the container runtime, starting one if none is given, and looks at the machine.
func (a *Agent) startRuntime(ctx, below context.Context, wait *sync.WaitGroup, failed chan error) error {
	if err := os.MkdirAll(a.config.DataDir, 0o755); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	var err error
	if a.cgroups, err = cgroup.Mounted(); err != nil {
		return err
	}
	if a.capacity, a.allocatable, err = a.resourcesOfMachine(); err != nil {
		return err
	}
	a.dialer = &netns.Dialer{Path: a.config.NetNS}
	a.prober = &probe.Prober{Dial: a.dialer.DialContext, Exec: a.exec}
	a.volumes = &volume.Volumes{Dir: filepath.Join(a.config.DataDir, "pods"), Source: a.source, Allocatable: a.allocatable}
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	own := a.config.ContainerdSocket == ""
	if own {
		child := cri.NewChild(cri.ChildConfig{
			Dir: filepath.Dir(a.Socket()), NetNS: a.config.NetNS, PodCIDR: a.config.PodCIDR, Bridge: a.config.Bridge, MTU: a.config.MTU,
			PauseImage: image.PauseRef, RegistryDir: a.config.RegistryDir,
		}, a.log)
		wait.Go(func() {
			if err := child.Run(below); err != nil {
				cancel()
				failed <- err
			}
		})
	}
	if a.cri, err = cri.Dial(a.Socket()); err != nil {
		return err
	}
	version, err := a.cri.WaitReady(starting, own)
	if err != nil {
		select {
		case cause := <-failed:
			return cause
		default:
			return err
		}
	}
	a.runtimeVersion = version.RuntimeName + "://" + version.RuntimeVersion
	if own {
		return a.importPause(ctx)
	}
	return nil
}

// importPause gives the runtime the sandbox image.
func (a *Agent) importPause(ctx context.Context) error {
	answer, err := a.cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image.PauseRef}})
	if err == nil && answer.Image != nil {
		return nil
	}
	file := filepath.Join(a.config.DataDir, "pause.tar")
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write sandbox image: %w", err)
	}
	defer os.Remove(file)
	if err := errors.Join(image.WritePause(f, runtime.GOARCH), f.Close()); err != nil {
		return fmt.Errorf("write sandbox image: %w", err)
	}
	if err := image.Import(ctx, a.Socket(), file); err != nil {
		return err
	}
	// The runtime's image service learns of images by events; containers need it there.
	for ctx.Err() == nil {
		answer, err := a.cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image.PauseRef}})
		if err == nil && answer.Image != nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	return ctx.Err()
}

// watchServices keeps what service links are made of.
func (a *Agent) watchServices(ctx context.Context) error {
	view, err := client.Of(a.client, core.Services).View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	a.listServices = func(namespace string) []*corev1.Service {
		var list []*corev1.Service
		for s := range view.All(namespace) {
			list = append(list, s)
		}
		return list
	}
	return nil
}

// services lists the services that a pod of the namespace may be told of.
func (a *Agent) services(namespace string) []*corev1.Service {
	if a.listServices == nil {
		return nil
	}
	list := a.listServices(namespace)
	if namespace != corev1.NamespaceDefault {
		list = append(list, a.listServices(corev1.NamespaceDefault)...)
	}
	return list
}

// serve starts the agent's server.
func (a *Agent) serve(ctx context.Context, wait *sync.WaitGroup, failed chan error) error {
	if a.config.Serving == nil {
		return nil
	}
	listener := a.config.Listener
	if listener == nil {
		var err error
		address := net.JoinHostPort(a.config.NodeIP, fmt.Sprint(a.config.Port))
		if listener, err = netns.Listen(ctx, a.config.NetNS, "tcp", address); err != nil {
			return fmt.Errorf("listen for the API server: %w", err)
		}
	}
	s := server.New(server.Config{Pods: a.pods, CRI: a.cri, Dial: a.dialer.DialContext, LogDir: a.config.LogDir, Log: a.log})
	wait.Go(func() {
		if err := s.Run(ctx, tls.NewListener(listener, a.config.Serving)); err != nil {
			failed <- err
		}
	})
	return nil
}

// pods lists the pods that the agent looks after.
func (a *Agent) pods() []*corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*corev1.Pod, 0, len(a.workers))
	for _, w := range a.workers {
		w.mu.Lock()
		list = append(list, w.latest)
		w.mu.Unlock()
	}
	return list
}

// followPods gives each pod of the node a worker. synced is closed when all pods that there are have one.
func (a *Agent) followPods(ctx context.Context, synced chan struct{}) {
	selector := fields.OneTermEqualSelector("spec.nodeName", a.config.Name)
	for ctx.Err() == nil {
		view, err := client.Of(a.client, core.Pods).View(ctx, client.ListOptions{Fields: selector})
		if err == nil {
			err = view.Subscribe(ctx, func(obj, old *corev1.Pod) { a.podChanged(ctx, obj, old) }, func() {
				select {
				case <-synced:
				default:
					close(synced)
				}
			})
		}
		if ctx.Err() == nil {
			a.log.Warn("cannot watch the node's pods", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(retryDelay):
			}
		}
	}
}

func (a *Agent) podChanged(ctx context.Context, obj, old *corev1.Pod) {
	if obj != nil && obj.Spec.NodeName != a.config.Name {
		obj = nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old != nil && (obj == nil || obj.UID != old.UID) {
		if w := a.workers[string(old.UID)]; w != nil {
			w.update(nil)
		}
	}
	if obj == nil || a.closed {
		return
	}
	if w := a.workers[string(obj.UID)]; w != nil {
		w.update(obj)
		return
	}
	w := newWorker(a, obj)
	if obj.Status.StartTime == nil && !pod.Terminal(obj.Status.Phase) && obj.DeletionTimestamp == nil {
		if problem := a.admit(obj); problem != nil {
			w.memory.Failed, w.memory.Rejected = problem, true
		}
	}
	a.startWorker(ctx, w)
}

// startWorker runs a worker; the caller holds the lock.
func (a *Agent) startWorker(ctx context.Context, w *worker) {
	a.workers[w.uid] = w
	a.wait.Go(func() {
		w.run(ctx)
		a.mu.Lock()
		delete(a.workers, w.uid)
		a.mu.Unlock()
	})
}
