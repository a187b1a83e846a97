// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"knarr.dev/cluster"
)

// serving holds the flags that up, server and apiserver share.
type serving struct {
	config cluster.Config
	file   string
}

func (s *serving) bind(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.file, "config", "", "configuration `FILE`; flags win over it")
	f.StringVar(&s.config.DataDir, "data-dir", "", "directory of all state (default "+cluster.DefaultDataDir()+")")
	f.StringVar(&s.config.Listen, "listen", "", "address of the API server (default 127.0.0.1:6443)")
	f.StringVar(&s.config.Kubeconfig, "kubeconfig", "", "where to write the administrator's kubeconfig (default DATA-DIR/admin.kubeconfig)")
	f.StringVar(&s.config.ServiceCIDR, "service-cidr", "", "range of Service addresses (default 10.43.0.0/16); server and apiserver take an IPv6 one too, after a comma")
	bindFlags(f, etcdFlags(&s.config.Etcd))
	f.StringVar(&s.config.TokenFile, "token-auth-file", "", "file of static bearer tokens, for development")
	bindFlags(f, admissionFlags(&s.config.Admission))
	bindFlags(f, append(requestFlags(&s.config.Requests), servingFlags(&s.config.Serving)...))
	bindFlags(f, append(securityFlags(&s.config.Security), auditFlags(&s.config.Audit)...))
	f.StringVar(&s.config.LogLevel, "log-level", "", "debug, info, warn or error (default warn)")
	f.StringVar(&s.config.LogFormat, "log-format", "", "text or json (default text)")
	f.StringVar(&s.config.LogFormat, "logging-format", "", "the name that --log-format has in Kubernetes")
	f.IntVarP(&s.config.Verbosity, "v", "v", 0, "log more, by Kubernetes' numbers: 1 is info, 3 shows each request, 4 is debug")
}

// load merges the configuration file with the flags, which win.
func (s *serving) load(c *cobra.Command) error {
	err := s.merge(c)
	s.config.Flags = map[string]string{}
	c.Flags().VisitAll(func(f *pflag.Flag) { s.config.Flags[f.Name] = f.Value.String() })
	return err
}

func (s *serving) merge(c *cobra.Command) error {
	if s.file == "" {
		return s.config.Validate()
	}
	flags := s.config
	s.config = cluster.Config{}
	if err := cluster.LoadConfig(s.file, &s.config); err != nil {
		return err
	}
	changed := c.Flags().Changed
	for _, m := range []struct {
		flag     string
		to, from *string
	}{
		{"data-dir", &s.config.DataDir, &flags.DataDir}, {"listen", &s.config.Listen, &flags.Listen},
		{"kubeconfig", &s.config.Kubeconfig, &flags.Kubeconfig}, {"service-cidr", &s.config.ServiceCIDR, &flags.ServiceCIDR},
		{"token-auth-file", &s.config.TokenFile, &flags.TokenFile}, {"pod-cidr", &s.config.PodCIDR, &flags.PodCIDR},
		{"node-cidr", &s.config.NodeCIDR, &flags.NodeCIDR}, {"node-name", &s.config.NodeName, &flags.NodeName},
		{"log-level", &s.config.LogLevel, &flags.LogLevel}, {"log-format", &s.config.LogFormat, &flags.LogFormat},
		{"logging-format", &s.config.LogFormat, &flags.LogFormat},
		{"container-runtime-endpoint", &s.config.ContainerRuntimeEndpoint, &flags.ContainerRuntimeEndpoint},
	} {
		if changed(m.flag) {
			*m.to = *m.from
		}
	}
	overrideFlags(etcdFlags(&s.config.Etcd), etcdFlags(&flags.Etcd), changed)
	overrideFlags(securityFlags(&s.config.Security), securityFlags(&flags.Security), changed)
	overrideFlags(admissionFlags(&s.config.Admission), admissionFlags(&flags.Admission), changed)
	overrideFlags(requestFlags(&s.config.Requests), requestFlags(&flags.Requests), changed)
	overrideFlags(servingFlags(&s.config.Serving), servingFlags(&flags.Serving), changed)
	overrideFlags(auditFlags(&s.config.Audit), auditFlags(&flags.Audit), changed)
	if changed("v") {
		s.config.Verbosity = flags.Verbosity
	}
	if changed("nodes") {
		s.config.Nodes = flags.Nodes
	}
	if changed("simulated-nodes") {
		s.config.SimulatedNodes = flags.SimulatedNodes
	}
	if changed("keep-pods") {
		s.config.KeepPods = flags.KeepPods
	}
	if changed("eviction-hard") {
		s.config.EvictionHard = flags.EvictionHard
	}
	if changed("controllers") {
		s.config.Controllers = flags.Controllers
	}
	if changed("image") {
		s.config.Images = flags.Images
	}
	if flags.Role != "" {
		s.config.Role = flags.Role
	}
	return s.config.Validate()
}

// run serves until ctx ends.
func (s *serving) run(ctx context.Context, out io.Writer) error {
	log, level, err := logger(s.config.LogLevel, s.config.LogFormat, s.config.Verbosity)
	if err != nil {
		return err
	}
	s.config.Level = level
	begin := time.Now()
	go driveCollector(ctx)
	c, err := cluster.Start(ctx, s.config, log)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "knarr ready in %v  %s  kubeconfig %s\n", time.Since(begin).Round(time.Millisecond), c.URL(), c.KubeconfigFile())
	go keepSmall(ctx)
	<-c.Done() // ctx ended or something failed
	return c.Close()
}

func upCommand() *cobra.Command {
	s := &serving{}
	detach := false
	c := &cobra.Command{
		Use:   "up",
		Short: "Run a whole cluster: control plane and node(s), in the foreground",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := s.load(c); err != nil {
				return err
			}
			if detach {
				return detached(c.Context(), s.config, c.OutOrStdout())
			}
			return s.run(c.Context(), c.OutOrStdout())
		},
	}
	s.bind(c)
	f := c.Flags()
	f.IntVar(&s.config.Nodes, "nodes", 0, "real nodes on this machine (default 1)")
	f.IntVar(&s.config.SimulatedNodes, "simulated-nodes", 0, "nodes whose pods run without containers; need no root")
	f.StringVar(&s.config.PodCIDR, "pod-cidr", "", "range of pod addresses (default 10.42.0.0/16)")
	f.StringVar(&s.config.NodeCIDR, "node-cidr", "", "range of node addresses on this machine (default 10.44.0.0/16)")
	f.StringVar(&s.config.NodeName, "node-name", "", "name of the first node (default the host name)")
	f.StringArrayVar(&s.config.Images, "image", nil, "image archive `FILE` to import into every node; repeatable")
	f.StringVar(&s.config.ContainerRuntimeEndpoint, "container-runtime-endpoint", "", "`SOCKET` of a running containerd (default: start one)")
	f.BoolVar(&s.config.KeepPods, "keep-pods", false, "leave containers running at the end; the next start adopts them")
	evictionFlag(f, &s.config.EvictionHard)
	f.StringSliceVar(&s.config.Controllers, "controllers", nil, "control loops: *, NAME or -NAME (default *)")
	f.BoolVar(&detach, "detach", false, "return when the cluster is ready and leave it running; stop it with knarr down")
	return c
}

// detached starts this program again without --detach, in a session of its own, and waits for its ready line.
func detached(ctx context.Context, config cluster.Config, out io.Writer) error {
	dir := config.DataDir
	if dir == "" {
		dir = cluster.DefaultDataDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if pid, ok := running(dir); ok {
		return fmt.Errorf("a cluster with data directory %s runs already, as process %d; stop it with knarr down", dir, pid)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := make([]string, 0, len(os.Args))
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "--detach") {
			args = append(args, a)
		}
	}
	logFile := filepath.Join(dir, "knarr.log")
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = write, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		write.Close()
		return err
	}
	write.Close()
	if err := os.WriteFile(pidFile(dir), fmt.Appendf(nil, "%d\n", cmd.Process.Pid), 0o644); err != nil {
		return err
	}
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		state, _ := cmd.Process.Wait()
		os.Remove(pidFile(dir))
		return errors.Join(fmt.Errorf("the cluster did not start (%v); its log is %s", state, logFile), lastLine(logFile))
	}
	fmt.Fprint(out, line)
	return cmd.Process.Release()
}

// lastLine is the last thing that a log says, as an error.
func lastLine(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return errors.New(lines[len(lines)-1])
}
