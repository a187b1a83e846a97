// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// loginInterval is how often the files of credentials are looked at.
const loginInterval = 10 * time.Second

// login is who the client is: it follows the files of its credentials.
type login struct {
	cfg HTTPConfig
	tls *tls.Config

	mu          sync.Mutex
	connections *http.Transport
	token       string
	cert, key   []byte // as last read from files
	checked     time.Time
}

func newLogin(cfg HTTPConfig, tlsConfig *tls.Config) (*login, error) {
	l := &login{cfg: cfg, tls: tlsConfig, token: cfg.Token, cert: cfg.Cert, key: cfg.Key}
	if cfg.CertFile != "" {
		l.cert, l.key = nil, nil
	}
	if _, err := l.read(); err != nil {
		return nil, err
	}
	if l.connections == nil {
		if err := l.connect(); err != nil {
			return nil, err
		}
	}
	l.checked = time.Now()
	return l, nil
}

func loadCA(data *[]byte, file string) error {
	if len(*data) > 0 || file == "" {
		return nil
	}
	read, err := os.ReadFile(file)
	*data = read
	return err
}

// connect makes new connections with the current certificate.
func (l *login) connect() error {
	config := l.tls.Clone()
	if len(l.cert) > 0 {
		pair, err := tls.X509KeyPair(l.cert, l.key)
		if err != nil {
			return fmt.Errorf("client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if l.connections != nil {
		l.connections.CloseIdleConnections() // those of watches end with these, and they are bounded
	}
	l.connections = newConnections(config)
	return nil
}

// read reads the files and says whether anything changed. A certificate without its key, as between two writes of a
// renewal, changes nothing.
func (l *login) read() (changed bool, err error) {
	if l.cfg.TokenFile != "" {
		data, err := os.ReadFile(l.cfg.TokenFile)
		if err != nil {
			return false, fmt.Errorf("token: %w", err)
		}
		if token := strings.TrimSpace(string(data)); token != l.token {
			l.token, changed = token, true
		}
	}
	if l.cfg.CertFile == "" {
		return changed, nil
	}
	cert, err := os.ReadFile(l.cfg.CertFile)
	if err != nil {
		return changed, fmt.Errorf("client certificate: %w", err)
	}
	key, err := os.ReadFile(l.cfg.KeyFile)
	if err != nil {
		return changed, fmt.Errorf("client key: %w", err)
	}
	if bytes.Equal(cert, l.cert) && bytes.Equal(key, l.key) {
		return changed, nil
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return changed, fmt.Errorf("client certificate: %w", err)
	}
	l.cert, l.key = cert, key
	return true, l.connect()
}

// refresh reads the files again if they have not been looked at for a while, or now, and says whether they changed.
func (l *login) refresh(now bool) bool {
	if l.cfg.TokenFile == "" && l.cfg.CertFile == "" {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !now && time.Since(l.checked) < loginInterval {
		return false
	}
	l.checked = time.Now()
	changed, err := l.read()
	if err != nil {
		l.cfg.Log.Warn("reread credentials", "err", err)
	}
	return changed
}

func (l *login) current() (*http.Transport, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.connections, l.token
}

func (l *login) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.connections.CloseIdleConnections()
}
