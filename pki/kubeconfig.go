// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// clusterName names the cluster in kubeconfigs.
const clusterName = "knarr"

// kubeconfig is a file that Run keeps valid.
type kubeconfig struct {
	path, server, commonName string
	orgs                     []string
}

// Kubeconfig makes a kubeconfig for a user with a new client certificate. The administrator is "admin" of
// "system:masters". server is a URL.
func (s *Set) Kubeconfig(server, commonName string, orgs []string) ([]byte, error) {
	certificate, key, err := s.IssueClient(commonName, orgs, 0)
	if err != nil {
		return nil, err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[clusterName] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: s.Certificate(ServerCA)}
	config.AuthInfos[commonName] = &clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
	name := commonName + "@" + clusterName
	config.Contexts[name] = &clientcmdapi.Context{Cluster: clusterName, AuthInfo: commonName}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("encode the kubeconfig of %s: %w", commonName, err)
	}
	return data, nil
}

// KeepKubeconfig writes a kubeconfig (see Kubeconfig) to path, mode 0600, unless a good one is there, and has Run renew it.
func (s *Set) KeepKubeconfig(path, server, commonName string, orgs []string) error {
	k := &kubeconfig{path: path, server: server, commonName: commonName, orgs: orgs}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.keep(k); err != nil {
		return err
	}
	s.kubeconfigs = append(s.kubeconfigs, k)
	return nil
}

func (s *Set) keep(k *kubeconfig) error {
	data, err := os.ReadFile(k.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the kubeconfig: %w", err)
	}
	if err == nil && s.good(k, data) {
		return nil
	}
	if data, err = s.Kubeconfig(k.server, k.commonName, k.orgs); err != nil {
		return err
	}
	return writeFile(k.path, data, 0o600)
}

// good tells whether a kubeconfig on disk still does.
func (s *Set) good(k *kubeconfig, data []byte) bool {
	config, err := clientcmd.Load(data)
	if err != nil {
		return false
	}
	cluster, user := config.Clusters[clusterName], config.AuthInfos[k.commonName]
	if cluster == nil || user == nil || cluster.Server != k.server {
		return false
	}
	if !bytes.Equal(cluster.CertificateAuthorityData, s.Certificate(ServerCA)) {
		return false
	}
	block, _ := pem.Decode(user.ClientCertificateData)
	if block == nil {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false
	}
	return c.CheckSignatureFrom(s.authorities[ClientCA].present.Load().certificate) == nil &&
		!due(c, s.now()) && c.Subject.CommonName == k.commonName && slices.Equal(c.Subject.Organization, k.orgs)
}
