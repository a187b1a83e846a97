// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"knarr.dev/store/etcd"
	"knarr.dev/store/pebble"
)

// storeBase is how the keys of all objects begin.
const storeBase = "/registry"

// EtcdConfig says which etcd holds the objects, if one does; its fields are kube-apiserver's flags. Several servers may use one etcd:
// they must have the same certificate authorities and the same key of service account tokens, which are in DataDir/pki.
type EtcdConfig struct {
	// Servers are URLs of the members; none keeps objects in DataDir.
	Servers []string `yaml:"etcdServers"`
	// CAFile, CertFile and KeyFile are in PEM form, for https.
	CAFile   string `yaml:"etcdCAFile"`
	CertFile string `yaml:"etcdCertFile"`
	KeyFile  string `yaml:"etcdKeyFile"`
	// Prefix is how keys begin. Default /registry.
	Prefix string `yaml:"etcdPrefix"`
	// CompactionInterval is how often the servers on one etcd drop history that is older. Default 5m; negative is never.
	CompactionInterval time.Duration `yaml:"etcdCompactionInterval"`
}

func (e EtcdConfig) used() bool { return len(e.Servers) > 0 }

// validate reports every problem with its key.
func (e EtcdConfig) validate(bad func(key, format string, args ...any)) {
	schemes := map[string]bool{}
	for _, s := range e.Servers {
		u, err := url.Parse(s)
		switch {
		case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
			bad("etcdServers", "%q is not https://HOST:PORT or http://HOST:PORT", s)
		default:
			schemes[u.Scheme] = true
		}
	}
	if len(schemes) > 1 {
		bad("etcdServers", "either all are https or none")
	}
	if (e.CertFile == "") != (e.KeyFile == "") {
		bad("etcdCertFile", "a certificate and its key go together")
	}
	if p := strings.TrimSuffix(e.Prefix, "/"); p != "" && !strings.HasPrefix(p, "/") {
		bad("etcdPrefix", "%q does not begin with a slash", e.Prefix)
	}
	if !e.used() && e.CAFile+e.CertFile+e.Prefix != "" {
		bad("etcdServers", "is needed with the other settings of etcd")
	}
}

// openStore opens the embedded store, or connects to etcd.
func (c *Cluster) openStore(ctx context.Context) error {
	if e := c.config.Etcd; e.used() {
		s, err := openEtcd(ctx, e, etcd.Options{CompactionInterval: e.CompactionInterval, Log: c.log})
		if err != nil {
			return err
		}
		c.store, c.storeSize = s, s.Size
		c.parts.onStop("store", s.Close)
		return nil
	}
	options := pebble.Options{Log: c.log}
	dir := filepath.Join(c.config.DataDir, "store")
	if c.config.InMemory {
		options.FS, dir = vfs.NewMem(), "store"
	}
	s, err := pebble.Open(dir, options)
	if err != nil {
		return err
	}
	c.store, c.storeSize = s, s.Size
	c.parts.onStop("store", s.Close)
	return nil
}

// openEtcd connects to an etcd.
func openEtcd(ctx context.Context, e EtcdConfig, o etcd.Options) (*etcd.Store, error) {
	config, err := etcd.Files{CA: e.CAFile, Cert: e.CertFile, Key: e.KeyFile}.TLS()
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	o.Endpoints, o.TLS, o.Base, o.Prefix = e.Servers, config, storeBase, e.Prefix
	if o.Prefix == "" {
		o.Prefix = storeBase
	}
	return etcd.Open(ctx, o)
}
