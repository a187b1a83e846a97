// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/cluster/internal/enroll"
)

// membership is what a machine knows of the cluster that it joined: the file cluster.json.
type membership struct {
	Server string `json:"server"`
	// CA is who signs the server's certificate, in PEM.
	CA       string        `json:"ca"`
	Node     string        `json:"node"`
	Settings agentSettings `json:"settings"`
}

const membershipFile = "cluster.json"

// readMembership returns what is stored in dir; false if this machine has not joined.
func readMembership(dir string) (m membership, joined bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, membershipFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, false, fmt.Errorf("%s: %w", filepath.Join(dir, membershipFile), err)
	}
	return m, true, nil
}

func (m membership) save(dir string) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return enroll.WriteFile(filepath.Join(dir, membershipFile), append(data, '\n'), 0o600)
}

func nodeUser(node string) string { return "system:node:" + node }

// loginCertificate is the identity of the node.
func (a *Agent) loginCertificate() *enroll.Certificate {
	return &enroll.Certificate{
		Dir: a.dir(), Name: "node", Node: a.joined.Node, Signer: certificatesv1.KubeAPIServerClientKubeletSignerName,
		Usage: certificatesv1.UsageClientAuth, CommonName: nodeUser(a.joined.Node), Organizations: []string{"system:nodes"},
	}
}

// join makes this machine a member of the cluster, or takes up the membership that it has.
func (a *Agent) join(ctx context.Context) error {
	stored, joined, err := readMembership(a.dir())
	if err != nil {
		return err
	}
	if joined {
		err = a.rejoin(ctx, stored)
	} else {
		err = a.joinFirst(ctx)
	}
	if err != nil {
		return err
	}
	if a.address, err = a.nodeAddress(); err != nil {
		return err
	}
	if a.api == nil {
		a.api, err = a.dial(a.login)
	}
	return err
}

// rejoin checks that the membership is the one that was asked for and still holds.
func (a *Agent) rejoin(ctx context.Context, stored membership) error {
	a.joined = stored
	if n := a.config.NodeName; n != "" && n != stored.Node {
		return fmt.Errorf("this machine has joined as node %s; to join as %s, remove %s", stored.Node, n, a.dir())
	}
	if a.config.CAHash != "" {
		if hash, err := CAHash([]byte(stored.CA)); err != nil || !strings.EqualFold(hash, a.config.CAHash) {
			return errors.Join(fmt.Errorf("this machine has joined a cluster whose CA hash is %s; to join another one, remove %s", hash, a.dir()), err)
		}
	}
	if a.config.Server != "" {
		a.joined.Server = a.config.Server
	}
	a.login = a.loginCertificate()
	err := a.login.Load(time.Now())
	if err == nil {
		return nil
	}
	if a.config.Token == "" {
		return fmt.Errorf("%w; to get a new one, give a --token (from: knarr token create)", err)
	}
	return a.enroll(ctx)
}

// joinFirst finds out who the cluster is, gets the node's certificate and remembers both.
func (a *Agent) joinFirst(ctx context.Context) error {
	switch {
	case a.config.Server == "":
		return errors.New("this machine has not joined a cluster yet: give --server URL and --token TOKEN")
	case a.config.Token == "":
		return errors.New("this machine has not joined a cluster yet: give a --token (from: knarr token create, on the server)")
	}
	token, err := ParseToken(a.config.Token)
	if err != nil {
		return err
	}
	ca, err := enroll.Discover(ctx, enroll.Cluster{
		Server: a.config.Server, TokenID: token.ID, TokenSecret: token.Secret, CAHash: a.config.CAHash,
	})
	if err != nil {
		return err
	}
	name := a.config.NodeName
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("the machine's name: %w", err)
		}
		name = strings.ToLower(host)
	}
	a.joined = membership{Server: a.config.Server, CA: string(ca), Node: name}
	a.login = a.loginCertificate()
	// What an attempt left that did not come to its end is of no known cluster.
	if err := os.RemoveAll(a.dir()); err != nil {
		return err
	}
	if err := a.enroll(ctx); err != nil {
		return err
	}
	if a.api, err = a.dial(a.login); err != nil {
		return err
	}
	if err := a.nameIsFree(ctx); err != nil {
		return err
	}
	return a.joined.save(a.dir())
}

// enroll gets the node's certificate by the token.
func (a *Agent) enroll(ctx context.Context) error {
	transport, err := client.NewHTTP(client.HTTPConfig{
		Server: a.joined.Server, CA: []byte(a.joined.CA), Token: a.config.Token, UserAgent: "knarr", Log: a.log,
	})
	if err != nil {
		return err
	}
	defer transport.Close()
	err = a.login.Obtain(ctx, client.New(transport))
	switch {
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s refuses the token: it is wrong or has expired; make one with: knarr token create", a.joined.Server)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the token may not join nodes: %w", err)
	case apierrors.IsServiceUnavailable(err):
		return enroll.Explain(a.joined.Server, err)
	}
	return err
}

// nameIsFree refuses the name of a node that another machine is.
func (a *Agent) nameIsFree(ctx context.Context) error {
	n, err := client.Of(a.api, core.Nodes).Get(ctx, client.Key{Name: a.joined.Node})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return enroll.Explain(a.joined.Server, err)
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return fmt.Errorf("the cluster has a node named %s, and it is ready: give this machine another --node-name, or delete that Node first", n.Name)
		}
	}
	return nil
}

// nodeAddress is the configured address or the one that this machine uses towards the server.
func (a *Agent) nodeAddress() (netip.Addr, error) {
	if a.config.NodeIP != "" {
		return netip.ParseAddr(a.config.NodeIP)
	}
	u, err := url.Parse(a.joined.Server)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("server: %w", err)
	}
	if ip, ok := MachineAddress(u.Hostname()); ok {
		return ip, nil
	}
	if ip, ok := MachineAddress(""); ok {
		return ip, nil
	}
	return netip.Addr{}, errors.New("this machine has no address that the cluster reaches: give one with --node-ip")
}
