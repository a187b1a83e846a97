// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"

	"k8s.io/client-go/rest"

	"knarr.dev/pki"
)

// RESTConfig returns how client-go reaches the API server as a user, with a client certificate of its own. The caller owns it.
func (c *Cluster) RESTConfig(user string, groups ...string) (*rest.Config, error) {
	if c.listener == nil {
		return nil, errors.New("the cluster has no sockets")
	}
	certificate, key, err := c.pki.IssueClient(user, groups, 0)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", user, err)
	}
	return &rest.Config{
		Host:            c.URL(),
		TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.Certificate(pki.ServerCA), CertData: certificate, KeyData: key},
	}, nil
}
