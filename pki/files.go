// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

func (s *Set) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

// readCertificate returns an error that is fs.ErrNotExist if there is no such file.
func (s *Set) readCertificate(name string) (*x509.Certificate, error) {
	file := s.path(name + ".crt")
	block, err := readPEM(file)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s is not a certificate: %w", file, err)
	}
	return c, nil
}

func (s *Set) readKey(name string) (crypto.Signer, error) {
	file := s.path(name + ".key")
	block, err := readPEM(file)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(block)
	if err != nil {
		return nil, fmt.Errorf("%s is not a private key: %w", file, err)
	}
	return key, nil
}

func parseKey(block *pem.Block) (crypto.Signer, error) {
	switch block.Type {
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	return signer, nil
}

func readPEM(file string) (*pem.Block, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	// EC keys may be preceded by their parameters.
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "EC PARAMETERS" {
			return block, nil
		}
	}
	return nil, fmt.Errorf("%s is not a PEM file", file)
}

func (s *Set) createKey(name string) (crypto.Signer, error) {
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", s.path(name+".key"), err)
	}
	data, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(s.path(name+".key"), data, 0o600)
}

// openTokenKey reads or makes sa.key, and writes sa.pub whenever it does not fit.
func (s *Set) openTokenKey() error {
	key, err := s.readKey("sa")
	if errors.Is(err, fs.ErrNotExist) {
		key, err = s.createKey("sa")
	}
	if err != nil {
		return err
	}
	s.tokenKey = key
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode %s: %w", s.path("sa.pub"), err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	if have, err := os.ReadFile(s.path("sa.pub")); err == nil && string(have) == string(data) {
		return nil
	}
	return writeFile(s.path("sa.pub"), data, 0o644)
}

func encodeCertificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// writeFile replaces a file as a whole: after a crash it is the old one or the new one.
func writeFile(file string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", file, err)
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
