// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestValidateNamesEveryKey(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Fatalf("the zero value must be valid: %v", err)
	}
	for _, test := range []struct {
		config Config
		want   []string
	}{
		{Config{PodCIDR: "10.43.0.0/16"}, []string{"serviceCIDR: 10.43.0.0/16 overlaps podCIDR"}},
		{Config{PodCIDR: "x", Listen: "y", Nodes: -1}, []string{"podCIDR:", "listen:", "nodes:"}},
		{Config{ServiceCIDR: "10.3.0.0/16,fd00::/112"}, []string{"serviceCIDR: fd00::/112: only for the roles server and apiserver"}},
		{Config{Role: RoleAPIServer, ServiceCIDR: "10.3.0.0/16,10.4.0.0/16"}, []string{"serviceCIDR: 10.4.0.0/16 is not an IPv6 range"}},
		{Config{ClusterDNS: "1.2.3.4"}, []string{"clusterDNS: 1.2.3.4 is not in serviceCIDR"}},
		{Config{Etcd: EtcdConfig{Servers: []string{"10.0.0.1:2379", "http://a:1", "https://b:1"}, CertFile: "x", Prefix: "y"}}, []string{
			`etcdServers: "10.0.0.1:2379" is not`, "etcdServers: either all", "etcdCertFile:", "etcdPrefix:",
		}},
		{Config{Etcd: EtcdConfig{CAFile: "x"}}, []string{"etcdServers: is needed"}},
		{Config{Role: "boss"}, []string{`role: "boss"`}},
		{Config{Serving: ServingConfig{KubeletPreferredAddressTypes: []string{"InternalIP", "Tailnet"}}}, []string{`kubeletPreferredAddressTypes: "Tailnet" is none of`}},
		{Config{Nodes: 2, ContainerRuntimeEndpoint: "/run/x.sock"}, []string{"containerRuntimeEndpoint:"}},
	} {
		err := test.config.Validate()
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: got %v, want %q", test.config, err, want)
			}
		}
	}
}

func TestLoadConfigNamesTheLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "knarr.yaml")
	os.WriteFile(file, []byte("nodes: 2\nnods: 3\n"), 0o600)
	var c Config
	if err := LoadConfig(file, &c); err == nil || !strings.Contains(err.Error(), "line 2") || !strings.Contains(err.Error(), "nods") {
		t.Fatalf("got %v", err)
	}
	os.WriteFile(file, []byte("nodes: 2\nlisten: 127.0.0.1:7443\n"), 0o600)
	if err := LoadConfig(file, &c); err != nil || c.Nodes != 2 || c.Listen != "127.0.0.1:7443" {
		t.Fatalf("got %+v, %v", c, err)
	}
}

func TestSelected(t *testing.T) {
	names := []string{"a", "b", "c"}
	for _, test := range []struct {
		patterns, want []string
	}{
		{[]string{"*"}, names}, {[]string{"*", "-b"}, []string{"a", "c"}}, {[]string{"b"}, []string{"b"}}, {[]string{"-b"}, nil},
	} {
		if got, err := selected(names, test.patterns); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%v: got %v, %v", test.patterns, got, err)
		}
	}
	if _, err := selected(names, []string{"*", "-x"}); err == nil {
		t.Error("an unknown name must be an error")
	}
}

func TestPodRange(t *testing.T) {
	p := netip.MustParsePrefix("10.42.0.0/15")
	for i, want := range map[int]string{0: "10.42.0.0/24", 1: "10.42.1.0/24", 255: "10.42.255.0/24", 256: "10.43.0.0/24"} {
		if got := podRange(p, i).String(); got != want {
			t.Errorf("node %d: got %s, want %s", i, got, want)
		}
	}
}
