// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestAgentConfigNamesEveryKey(t *testing.T) {
	if err := (AgentConfig{}).Validate(); err != nil {
		t.Fatalf("the zero value must be valid, a machine that has joined needs no more: %v", err)
	}
	if err := (AgentConfig{Server: "192.0.2.1:6443", Token: "abcdef.0123456789abcdef", NodeName: "Edge-1", NodeIP: "192.0.2.7"}).Validate(); err != nil {
		t.Error(err)
	}
	err := AgentConfig{Server: "http://x", Token: "abc", NodeName: "a_b", NodeIP: "::1", KubeletPort: 70000}.Validate()
	for _, want := range []string{"server:", "token:", "nodeName:", "nodeIP:", "kubeletPort:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte("server: https://192.0.2.1\ntokken: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := LoadConfig(file, &AgentConfig{}); err == nil || !strings.Contains(err.Error(), "line 2: field tokken not found") {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestMembershipIsKept(t *testing.T) {
	dir := t.TempDir()
	if _, joined, err := readMembership(dir); joined || err != nil {
		t.Errorf("nothing there: %v, %v", joined, err)
	}
	settings := agentSettings{ClientCA: "ca", PodCIDR: "10.1.0.0/16", NodeCIDR: "10.2.0.0/16", ServiceCIDR: "10.3.0.0/16", ClusterDNS: "10.3.0.10", ClusterDomain: "d"}
	read, err := readSettings(settings.data())
	if err != nil || read != settings {
		t.Errorf("settings: got %+v, %v", read, err)
	}
	m := membership{Server: "https://192.0.2.1:6443", CA: "pem", Node: "a", Settings: settings}
	if err := m.save(dir); err != nil {
		t.Fatal(err)
	}
	back, joined, err := readMembership(dir)
	if err != nil || !joined || !reflect.DeepEqual(back, m) {
		t.Errorf("got %+v, %v, %v", back, joined, err)
	}
	for _, missing := range []string{"podCIDR", "client-ca.crt"} {
		data := settings.data()
		delete(data, missing)
		if _, err := readSettings(data); err == nil {
			t.Errorf("settings without %s were accepted", missing)
		}
	}
}
