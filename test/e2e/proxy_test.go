// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestProxyAlone runs knarr proxy as a command of its own, on a machine that nothing else of a cluster runs on: Services follow their
// endpoints there, on the cluster's address and on a node port, and the rules go with the command.
func TestProxyAlone(t *testing.T) {
	requireNode(t)
	w := newWire(t)
	s := startServer(t, "apiserver", "--listen", w.server+":16443", "--service-cidr", "10.163.0.0/16")
	const address = "10.164.0.11"
	machine := w.machine(t, "proxy", address)
	p := newInside(t, machine, "proxy")
	p.says = "knarr proxy runs against"
	p.args = append(p.args, "--kubeconfig", s.kubeconfig(), "--pod-cidr", "10.162.0.0/16", "--node-name", "one", "--node-ip", address)
	one, two := w.says(t, "one"), w.says(t, "two")
	inside := func(name string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + machine, name}, args...)...).CombinedOutput()
		return string(out), err
	}
	until := func(want string) {
		t.Helper()
		eventually(t, 30*time.Second, func() error {
			got, err := inside("bash", "-c", "exec 3<>/dev/tcp/10.163.0.9/80 && cat <&3")
			if !strings.Contains(got, want) {
				return fmt.Errorf("got %q, %v, want %q", got, err, want)
			}
			return nil
		})
	}
	s.apply(t, fmt.Sprintf(alone, w.server, one))
	p.start(t)
	until("this is one")
	c, err := net.DialTimeout("tcp", address+":30080", 10*time.Second)
	if err != nil {
		t.Fatal("the node port: ", err)
	}
	defer c.Close()
	b := make([]byte, 100)
	if n, err := c.Read(b); string(b[:n]) != "this is one" {
		t.Errorf("the node port: %q, %v", b[:n], err)
	}
	s.apply(t, fmt.Sprintf(alone, w.server, two))
	until("this is two")
	s.kubectl(t, "delete", "endpointslice", "web")
	until("Connection refused")
	p.stop(t)
	if out, err := inside("nft", "list", "tables"); err != nil || strings.Contains(out, "knarr") {
		t.Errorf("after the proxy ended: %s, %v", out, err)
	}
}

// says answers every connection to the server's address and the port that it returns.
func (w wire) says(t *testing.T, name string) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", w.server+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "this is %s", name)
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

const alone = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, clusterIP: 10.163.0.9, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [%s]}]
ports: [{port: %d}]
`
