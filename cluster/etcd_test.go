// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api"
	"knarr.dev/api/codec"
	"knarr.dev/api/coordination"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/store"
	"knarr.dev/store/etcd"
	"knarr.dev/store/etcd/etcdtest"
)

// stored is a key that kube-apiserver v1.36 wrote to etcd. testdata has one for each of its kinds.
type stored struct {
	key   string
	value []byte
}

func recorded(t *testing.T) []stored {
	t.Helper()
	f, err := os.Open("testdata/kube-apiserver-v1.36.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []stored
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text()) // key, whether it has a TTL, value
		value, err := base64.StdEncoding.DecodeString(fields[2])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, stored{fields[0], value})
	}
	return all
}

// kindAt returns the kind whose objects are at a key, or nil.
func kindAt(key string) *resource.Kind {
	for _, k := range api.Kinds() {
		if !k.Virtual && k.Stored == nil && strings.HasPrefix(key, k.Key("", "")) {
			return k
		}
	}
	return nil
}

// TestStoredForm holds keys and encodings to those of Kubernetes: what it stored must come back as the same bytes at the same key.
func TestStoredForm(t *testing.T) {
	seen := map[*resource.Kind]bool{}
	for _, s := range recorded(t) {
		k := kindAt(s.key)
		if k == nil {
			t.Logf("%s: no kind of this server is there", s.key)
			continue
		}
		seen[k] = true
		obj, err := codec.DecodeStored(k, s.value)
		if err != nil {
			t.Errorf("%s: %v", s.key, err)
			continue
		}
		if key := k.Key(obj.GetNamespace(), obj.GetName()); key != s.key {
			t.Errorf("%s would be at %s", s.key, key)
		}
		value, err := codec.EncodeStored(k, obj)
		if err != nil {
			t.Errorf("%s: %v", s.key, err)
		} else if !same(value, s.value) {
			t.Errorf("%s: stored as\n%q\nKubernetes has\n%q", s.key, value, s.value)
		}
	}
	for _, k := range api.Kinds() {
		if !k.Virtual && k.Stored == nil && !seen[k] {
			t.Errorf("%s %s is at %s, where Kubernetes has nothing", k.GroupVersion(), k.Kind, k.Key("", ""))
		}
	}
}

// same compares stored values: JSON by its meaning, protobuf by its bytes.
func same(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil {
		return reflect.DeepEqual(x, y)
	}
	return bytes.Equal(a, b)
}

// startOn starts a server on an etcd.
func startOn(t *testing.T, server *etcdtest.Server, role Role) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), Config{
		Role: role, DataDir: t.TempDir(), NoSockets: true, Etcd: EtcdConfig{Servers: []string{server.Endpoint}},
	}, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestTakeOver starts servers on an etcd that kube-apiserver wrote, and looks whether what they write is what it could have written.
func TestTakeOver(t *testing.T) {
	server := etcdtest.Start(t)
	raw, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{server.Endpoint}, CompactionInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, s := range recorded(t) {
		if _, err := raw.Write(t.Context(), store.Op{Key: s.key, Value: s.value, Expect: store.Absent}); err != nil {
			t.Fatal(err)
		}
	}
	a, b := startOn(t, server, RoleAPIServer), startOn(t, server, RoleAPIServer)
	ctx := t.Context()
	maps, others := client.Of(a.Client(Administrator()), core.ConfigMaps), client.Of(b.Client(Administrator()), core.ConfigMaps)
	key := client.Key{Namespace: "gold", Name: "a"}
	for i := range 50 { // what one server acknowledged, the other shows at once
		m, err := maps.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		m = m.DeepCopy()
		m.Data = map[string]string{"n": fmt.Sprint(i)}
		if _, err := maps.Update(ctx, m); err != nil {
			t.Fatal(err)
		}
		if n, err := others.Get(ctx, key); err != nil || n.Data["n"] != fmt.Sprint(i) {
			t.Fatalf("the other server has %v, %v, want %d", n, err, i)
		}
		maps, others = others, maps
	}
	page, err := raw.Read(ctx, store.Query{Key: "/registry/configmaps/gold/a"})
	if err != nil || len(page.Records) != 1 {
		t.Fatal(page, err)
	}
	obj, err := codec.DecodeStored(core.ConfigMaps.Kind, page.Records[0].Value)
	if err != nil || obj.GetResourceVersion() != "" || core.ConfigMaps.Cast(obj).Data["n"] != "49" {
		t.Errorf("stored: %v, %v", obj, err)
	}
	pods := client.Of(a.Client(Administrator()), core.Pods)
	if p, err := pods.Get(ctx, key); err != nil || p.Spec.Containers[0].Name == "" {
		t.Errorf("pod: %v, %v", p, err)
	}
}

// TestOneLeads runs two servers with all control loops on one etcd: one of them leads, and the other does when that one is gone.
func TestOneLeads(t *testing.T) {
	server := etcdtest.Start(t)
	a := startOn(t, server, RoleServer)
	b := startOn(t, server, RoleServer)
	leases := client.Of(b.Client(Administrator()), coordination.Leases)
	holder := func(other string) string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for {
			l, err := leases.Get(ctx, client.Key{Namespace: "kube-system", Name: "kube-controller-manager"})
			if err == nil && l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity != "" && *l.Spec.HolderIdentity != other {
				return *l.Spec.HolderIdentity
			}
			select {
			case <-ctx.Done():
				t.Fatalf("no leader but %q: %v", other, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	first := holder("")
	if own, err := a.serverIdentity(); err != nil || own != first {
		t.Fatalf("%s leads, want the first server %s, %v", first, own, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	second := holder(first)
	if own, err := b.serverIdentity(); err != nil || own != second {
		t.Errorf("%s leads, want %s, %v", second, own, err)
	}
	// The loops of the second server work: every namespace gets its service account.
	ctx := t.Context()
	namespaces := client.Of(b.Client(Administrator()), core.Namespaces)
	if _, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "made"}}); err != nil {
		t.Fatal(err)
	}
	accounts := client.Of(b.Client(Administrator()), core.ServiceAccounts)
	for {
		if _, err := accounts.Get(ctx, client.Key{Namespace: "made", Name: "default"}); err == nil {
			return
		}
		select {
		case <-b.Done():
			t.Fatal("the server ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestServersAgree lets two servers work on the same objects in turn: what one acknowledged, the other builds on at once.
func TestServersAgree(t *testing.T) {
	server := etcdtest.Start(t)
	a, b := startOn(t, server, RoleAPIServer), startOn(t, server, RoleAPIServer)
	clients := []*client.Client{a.Client(Administrator()), b.Client(Administrator())}
	ctx := t.Context()
	for i := range 30 {
		here, there := clients[i%2], clients[(i+1)%2]
		key := client.Key{Namespace: fmt.Sprintf("n%d", i), Name: "m"}
		if _, err := client.Of(here, core.Namespaces).Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: key.Namespace}}); err != nil {
			t.Fatal(err)
		}
		m, err := client.Of(there, core.ConfigMaps).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}})
		if err != nil {
			t.Fatalf("create in a namespace that the other server made: %v", err)
		}
		for n := range 4 {
			m = m.DeepCopy()
			m.Data = map[string]string{"n": fmt.Sprint(n)}
			if m, err = client.Of(clients[(i+n)%2], core.ConfigMaps).Update(ctx, m); err != nil {
				t.Fatalf("update of what the other server wrote: %v", err)
			}
		}
		version := m.ResourceVersion
		err = client.Of(there, core.ConfigMaps).Delete(ctx, key, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
		if err != nil {
			t.Fatalf("delete what the other server wrote: %v", err)
		}
		if _, err := client.Of(here, core.ConfigMaps).Get(ctx, key); !apierrors.IsNotFound(err) {
			t.Fatalf("get what the other server deleted: %v", err)
		}
	}
}
