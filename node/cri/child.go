// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"knarr.dev/node/netns"
)

// ChildConfig says how to run a containerd for one node.
type ChildConfig struct {
	// Dir keeps everything: config.toml, root, state, socket, log and CNI configuration.
	Dir string
	// NetNS is the path of the network namespace of the node; empty is the one of the process.
	NetNS string
	// PodCIDR is the range of the node's pods.
	PodCIDR netip.Prefix
	// Bridge is the name of the pods' bridge, at most 15 characters.
	Bridge string
	// MTU of the pods' interfaces; 0 leaves it to the kernel.
	MTU int
	// CNIBinDirs is where CNI plugins are; the first that has the bridge plugin is used. Nil means the usual places.
	CNIBinDirs []string
	// PauseImage is the sandbox image.
	PauseImage string
	// RegistryDir holds hosts.toml files, as containerd's config_path; empty uses none.
	RegistryDir string
	// Program is the containerd to run; empty searches the path.
	Program string
}

// Child is a containerd process that belongs to this program. It ends when this program ends, however that happens;
// the containers' shims live on, so the next child finds the containers running.
type Child struct {
	config ChildConfig
	log    *slog.Logger
}

// NewChild returns a child that Run starts.
func NewChild(config ChildConfig, log *slog.Logger) *Child { return &Child{config: config, log: log} }

// Socket is the path of the child's unix socket.
func (c *Child) Socket() string { return filepath.Join(c.config.Dir, "containerd.sock") }

// Run keeps containerd running until ctx ends, starting it again when it dies. Containers are left as they are.
func (c *Child) Run(ctx context.Context) error {
	if err := c.prepare(); err != nil {
		return fmt.Errorf("prepare containerd: %w", err)
	}
	delay := 50 * time.Millisecond
	for {
		started := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("start containerd: %w", err)
		}
		if time.Since(started) > time.Minute {
			delay = 50 * time.Millisecond
		}
		c.log.Error("containerd ended, starting it again", "error", err, "delay", delay, "output", c.lastLines())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, 10*time.Second)
	}
}

// prepare writes the configuration.
func (c *Child) prepare() error {
	cni := filepath.Join(c.config.Dir, "cni")
	if err := os.MkdirAll(cni, 0o755); err != nil {
		return err
	}
	// Containers of other users reach their files through these directories.
	if err := os.Chmod(c.config.Dir, 0o711); err != nil {
		return err
	}
	list, err := c.conflist()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(cni, "10-knarr.conflist"), list, 0o644); err != nil {
		return err
	}
	toml, err := c.toml()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.config.Dir, "config.toml"), []byte(toml), 0o644)
}

// conflist is the CNI configuration: a bridge with host-local addresses, and host ports.
func (c *Child) conflist() ([]byte, error) {
	bridge := map[string]any{
		"type": "bridge", "bridge": c.config.Bridge, "isGateway": true, "hairpinMode": true, "ipMasq": false,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(c.config.Dir, "ipam"),
			"ranges": [][]map[string]string{{{"subnet": c.config.PodCIDR.String()}}},
			"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
		},
	}
	if c.config.MTU > 0 {
		bridge["mtu"] = c.config.MTU
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0", "name": "knarr",
		"plugins": []any{bridge, map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}}},
	}, "", "  ")
}

func (c *Child) toml() (string, error) {
	dirs := c.config.CNIBinDirs
	if dirs == nil {
		dirs = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}
	}
	at := slices.IndexFunc(dirs, func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "bridge"))
		return err == nil
	})
	if at < 0 {
		return "", fmt.Errorf("no CNI plugins in %s: install the package containernetworking-plugins", strings.Join(dirs, ", "))
	}
	v2, err := c.second()
	if err != nil {
		return "", err
	}
	dir := c.config.Dir
	head := fmt.Sprintf("root = %q\nstate = %q\noom_score = 0\n[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.Socket(), c.Socket()+".ttrpc")
	// Without CAP_SYS_RESOURCE, oom_score_adj cannot be lowered, which sandboxes want.
	if v2 {
		return "version = 3\n" + head + fmt.Sprintf(`[plugins.'io.containerd.cri.v1.images']
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = %q
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = %q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [%q]
    conf_dir = %q
`, c.config.PauseImage, c.config.RegistryDir, dirs[at], filepath.Join(dir, "cni")), nil
	}
	return "version = 2\n" + head + fmt.Sprintf(`[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  enable_unprivileged_ports = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %q
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
`, c.config.PauseImage, c.config.RegistryDir, dirs[at], filepath.Join(dir, "cni")), nil
}

func (c *Child) program() string {
	if c.config.Program != "" {
		return c.config.Program
	}
	return "containerd"
}

// second tells whether the program is containerd 2, whose configuration differs.
func (c *Child) second() (bool, error) {
	out, err := exec.Command(c.program(), "--version").Output()
	if err != nil {
		return false, fmt.Errorf("ask containerd for its version: %w", err)
	}
	fields := strings.Fields(string(out))
	return len(fields) > 2 && strings.HasPrefix(strings.TrimPrefix(fields[2], "v"), "2."), nil
}

// once runs containerd until it or ctx ends. It has a thread of its own: the kernel signals the child when the thread
// that started it ends, and the child has the thread's network namespace.
func (c *Child) once(ctx context.Context) error {
	result := make(chan error, 1)
	go func() {
		if err := netns.Lock(c.config.NetNS); err != nil {
			result <- err
			return
		}
		result <- c.process(ctx)
	}()
	return <-result
}

func (c *Child) process(ctx context.Context) error {
	output, err := os.OpenFile(filepath.Join(c.config.Dir, "containerd.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := exec.Command(c.program(), "--config", filepath.Join(c.config.Dir, "config.toml"))
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-stopped
	return err
}

// lastLines returns the end of containerd's log, for a message.
func (c *Child) lastLines() string {
	raw, err := os.ReadFile(filepath.Join(c.config.Dir, "containerd.log"))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "\n")
}
