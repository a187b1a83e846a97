// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"knarr.dev/store"
	"knarr.dev/store/backup"
	"knarr.dev/store/etcd"
	"knarr.dev/store/pebble"
)

// backupPath is where a server gives a backup to whom may get that path.
const backupPath = "/knarr/backup"

// Place is where objects are: in an etcd if one is named, else in a data directory.
type Place struct {
	DataDir string
	Etcd    EtcdConfig
}

// String names the place.
func (p Place) String() string {
	if p.Etcd.used() {
		return fmt.Sprintf("etcd %v", p.Etcd.Servers)
	}
	return p.DataDir
}

// Copied is what a backup, a restoration or a migration came to.
type Copied struct {
	Records, Revision int64
	Time              time.Time
}

func copied(s backup.Summary) Copied { return Copied{s.Records, s.Revision, s.Time} }

// serveBackup answers with a backup of the store. What is cut off is no backup: its end is missing.
func (c *Cluster) serveBackup(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := backup.Write(r.Context(), c.store, storeBase+"/", time.Now(), w); err != nil {
		c.log.Warn("backup ended early", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// Backup copies all objects of a place, as of one revision, to w. A data directory that a server uses is asked for through that server,
// with the administrator's kubeconfig (a file in the data directory if that is empty); it serves on meanwhile.
func Backup(ctx context.Context, from Place, kubeconfig string, w io.Writer) (Copied, error) {
	if from.Etcd.used() {
		s, err := openEtcd(ctx, from.Etcd, etcd.Options{CompactionInterval: -1})
		if err != nil {
			return Copied{}, err
		}
		return backupOf(ctx, s, w)
	}
	if _, err := os.Stat(filepath.Join(from.DataDir, "store")); err != nil {
		return Copied{}, fmt.Errorf("%s holds no objects: %w", from.DataDir, err)
	}
	unlock, err := lockDir(from.DataDir)
	if errors.Is(err, errInUse) {
		return backupThrough(ctx, from, kubeconfig, w)
	}
	if err != nil {
		return Copied{}, err
	}
	defer unlock()
	s, err := pebble.Open(filepath.Join(from.DataDir, "store"), pebble.Options{})
	if err != nil {
		return Copied{}, err
	}
	return backupOf(ctx, s, w)
}

func backupOf(ctx context.Context, s store.Store, w io.Writer) (Copied, error) {
	summary, err := backup.Write(ctx, s, storeBase+"/", time.Now(), w)
	return copied(summary), errors.Join(err, s.Close())
}

// backupThrough takes a backup from a running server and checks it on the way.
func backupThrough(ctx context.Context, from Place, kubeconfig string, w io.Writer) (Copied, error) {
	if kubeconfig == "" {
		kubeconfig = filepath.Join(from.DataDir, "admin.kubeconfig")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return Copied{}, fmt.Errorf("%s is in use, and its server cannot be asked: %w", from.DataDir, err)
	}
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		return Copied{}, err
	}
	defer c.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+backupPath, nil)
	if err != nil {
		return Copied{}, err
	}
	answer, err := c.Do(request)
	if err != nil {
		return Copied{}, fmt.Errorf("ask the server for a backup: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return Copied{}, fmt.Errorf("ask the server for a backup: %s: %s", answer.Status, text)
	}
	summary, err := backup.Verify(io.TeeReader(answer.Body, w))
	return copied(summary), err
}

// VerifyBackup reads a whole backup and tells what it holds.
func VerifyBackup(from io.Reader) (Copied, error) {
	summary, err := backup.Verify(from)
	return copied(summary), err
}

// Restore verifies a backup and writes its objects to a place that has none and that no server uses.
func Restore(ctx context.Context, from io.ReadSeeker, to Place) (Copied, error) {
	known, err := backup.Verify(from)
	if err != nil {
		return Copied{}, err
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return Copied{}, err
	}
	s, done, err := openTarget(ctx, to, known.Revision)
	if err != nil {
		return Copied{}, err
	}
	summary, err := backup.Restore(ctx, from, s, time.Now)
	return copied(summary), errors.Join(err, done())
}

// openTarget opens a place to restore into; the embedded store is made with a revision.
func openTarget(ctx context.Context, to Place, revision int64) (store.Store, func() error, error) {
	if to.Etcd.used() {
		s, err := openEtcd(ctx, to.Etcd, etcd.Options{CompactionInterval: -1})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}
	unlock, err := lockDir(to.DataDir)
	if err != nil {
		return nil, nil, err
	}
	s, err := pebble.Open(filepath.Join(to.DataDir, "store"), pebble.Options{First: revision, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, errors.Join(err, unlock())
	}
	return s, func() error { return errors.Join(s.Close(), unlock()) }, nil
}

// Migrate copies all objects of one place, as of one revision, to another that has none, by way of a backup in a
// temporary file, which is checked before anything is written.
func Migrate(ctx context.Context, from, to Place, kubeconfig string) (Copied, error) {
	file, err := os.CreateTemp("", "knarr-migrate-*")
	if err != nil {
		return Copied{}, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := Backup(ctx, from, kubeconfig, file); err != nil {
		return Copied{}, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return Copied{}, err
	}
	return Restore(ctx, file, to)
}
