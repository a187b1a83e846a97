// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"knarr.dev/store"
	"knarr.dev/store/etcd/etcdtest"
)

// TestCrashes kills etcd again and again under writers and a watcher: what was acknowledged must be there, and the watcher must see
// every change once, in order.
func TestCrashes(t *testing.T) {
	server := etcdtest.Start(t)
	s := open(t, server, "/crash")
	w, err := s.Watch(t.Context(), "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const keys, crashes, between = 4, 3, 150
	var acknowledged [keys]atomic.Int64 // revision of the last acknowledged write
	wrote := make(chan struct{}, 1<<20)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	for k := range keys {
		writers.Go(func() {
			key := fmt.Sprintf("/%d", k)
			for i := 0; ctx.Err() == nil; i++ {
				short, done := context.WithTimeout(ctx, time.Second)
				r, err := s.Write(short, store.Op{Key: key, Value: fmt.Append(nil, i), Expect: store.Any})
				done()
				if err == nil { // else the outcome is open
					acknowledged[k].Store(r.Modified)
					wrote <- struct{}{}
				}
			}
		})
	}
	for n := range crashes + 1 {
		if n > 0 {
			server.Kill()
			server.Run()
		}
		for range between {
			<-wrote
		}
	}
	stop()
	writers.Wait()
	page, err := s.Read(t.Context(), store.Query{Key: "/", Prefix: true})
	if err != nil || len(page.Records) != keys {
		t.Fatal(page, err)
	}
	for k, r := range page.Records {
		if r.Modified < acknowledged[k].Load() {
			t.Errorf("%s is of revision %d, %d was acknowledged", r.Key, r.Modified, acknowledged[k].Load())
		}
	}
	last := map[string]store.Event{}
	for n := int64(0); len(last) < keys || !shows(last, page.Records); {
		events, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			before, seen := last[e.Key]
			switch {
			case e.Modified <= n:
				t.Fatalf("revision %d after %d", e.Modified, n)
			case seen && (e.Prev == nil || e.Prev.Modified != before.Modified):
				t.Fatalf("%s at %d: before it was %+v, the watch had %d", e.Key, e.Modified, e.Prev, before.Modified)
			}
			n, last[e.Key] = e.Modified, e
		}
	}
}

// shows tells whether a watch has shown a state. It may be ahead: a write that the end of the writers cut off can be carried out
// after the state was read.
func shows(last map[string]store.Event, records []store.Record) bool {
	for _, r := range records {
		if last[r.Key].Modified < r.Modified {
			return false
		}
	}
	return true
}

// TestCompactionWhileAway compacts what a watch has not seen: it must say so, not go on with a gap.
func TestCompactionWhileAway(t *testing.T) {
	server := etcdtest.Start(t)
	s := open(t, server, "/away")
	other := open(t, server, "/away")
	var first int64
	for i := range 5 * 2048 { // more than is in memory
		r, err := other.Write(t.Context(), store.Op{Key: fmt.Sprintf("/a/%d", i%3), Value: fmt.Append(nil, i), Expect: store.Any})
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = r.Modified
		}
	}
	w, err := s.Watch(t.Context(), "/a/", first)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	newest, err := s.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Compact(t.Context(), newest-1); err != nil {
		t.Fatal(err)
	}
	for last := first; ; {
		events, err := w.Next(t.Context())
		if errors.Is(err, store.ErrCompacted) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Modified != last+1 {
				t.Fatalf("revision %d after %d", e.Modified, last)
			}
			last = e.Modified
		}
	}
}

// TestCompactionLoop lets two servers pace compaction: in each interval one of them compacts to the revision of an interval ago.
func TestCompactionLoop(t *testing.T) {
	server := etcdtest.Start(t)
	a, b := open(t, server, "/pace"), open(t, server, "/pace")
	var pa, pb pace
	var history []int64
	for i := range 3 {
		r, err := a.Write(t.Context(), store.Op{Key: "/x", Value: fmt.Append(nil, i), Expect: store.Any})
		if err != nil {
			t.Fatal(err)
		}
		history = append(history, r.Modified)
		if pa, err = a.compactOnce(t.Context(), pa); err != nil {
			t.Fatal(err)
		}
		if pb, err = b.compactOnce(t.Context(), pb); err != nil {
			t.Fatal(err)
		}
		if pa.version != int64(i+1) || pb.version != int64(i+1) {
			t.Fatalf("after interval %d the clock is %d and %d", i, pa.version, pb.version)
		}
	}
	for i, want := range []error{store.ErrCompacted, store.ErrCompacted, nil} {
		if _, err := b.Read(t.Context(), store.Query{Key: "/x", Revision: history[i]}); !errors.Is(err, want) {
			t.Errorf("read at %d: %v, want %v", i, err, want)
		}
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	files := certificates(t, dir)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "https://" + listener.Addr().String()
	listener.Close()
	server := etcdtest.Start(t, "--listen-client-urls="+url, "--advertise-client-urls="+url, "--client-cert-auth",
		"--cert-file="+files.Cert, "--key-file="+files.Key, "--trusted-ca-file="+files.CA)
	config, err := files.TLS()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Options{Endpoints: []string{"https://127.0.0.1:1", server.Endpoint}, TLS: config, Prefix: "/t", CompactionInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Write(t.Context(), store.Op{Key: "/a", Value: []byte("x"), Expect: store.Absent}); err != nil {
		t.Error(err)
	}
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := (Files{Cert: files.Cert}).TLS(); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("a certificate without a key: %v", err)
	}
	if none, err := (Files{}).TLS(); none != nil || err != nil {
		t.Errorf("no files: %v, %v", none, err)
	}
}

// certificates makes an authority and one certificate of it for both sides.
func certificates(t *testing.T, dir string) Files {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	for name, block := range map[string]*pem.Block{
		f.CA: {Type: "CERTIFICATE", Bytes: certificate}, f.Cert: {Type: "CERTIFICATE", Bytes: certificate}, f.Key: {Type: "EC PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}
