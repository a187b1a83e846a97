// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/store/backup"
	"knarr.dev/store/etcd/etcdtest"
)

// TestBackupWhileServing moves a cluster that is written to from the data directory to an etcd and back to another directory.
func TestBackupWhileServing(t *testing.T) {
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	config := Config{Role: RoleAPIServer, DataDir: t.TempDir(), Listen: "127.0.0.1:0"}
	c, err := Start(t.Context(), config, log)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	maps := client.Of(c.Client(Administrator()), core.ConfigMaps)
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	begun := make(chan struct{})
	all.Go(func() { // each map is only made when the one before is there
		for i := 0; writing.Err() == nil; i++ {
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("m-%06d", i)}}
			if _, err := maps.Create(writing, m); err != nil && writing.Err() == nil {
				t.Error(err)
				return
			}
			if i == 20 {
				close(begun)
			}
		}
	})
	<-begun
	server, onDisk, back := etcdtest.Start(t), Place{DataDir: config.DataDir}, Place{DataDir: t.TempDir()}
	inEtcd := Place{Etcd: EtcdConfig{Servers: []string{server.Endpoint}}}
	there, err := Migrate(t.Context(), onDisk, inEtcd, "")
	if err != nil || there.Records < 20 {
		t.Fatal(there, err)
	}
	stop()
	all.Wait()
	if _, err := Restore(t.Context(), bytes.NewReader(nil), onDisk); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("restore of nothing: %v", err)
	}
	returned, err := Migrate(t.Context(), inEtcd, back, "")
	if err != nil || returned.Records != there.Records {
		t.Fatal(returned, there, err)
	}
	if _, err := Migrate(t.Context(), onDisk, inEtcd, ""); !errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("migrated into what is not empty: %v", err)
	}
	again, err := Start(t.Context(), Config{Role: RoleAPIServer, DataDir: back.DataDir, NoSockets: true}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	list, _, err := client.Of(again.Client(Administrator()), core.ConfigMaps).List(t.Context(), client.ListOptions{Namespace: "default"})
	if err != nil || len(list) < 20 {
		t.Fatal(len(list), err)
	}
	for i, m := range list { // as of one moment: none is missing before the last
		if m.Name != fmt.Sprintf("m-%06d", i) {
			t.Fatalf("map %d is %s", i, m.Name)
		}
	}
}
