// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"knarr.dev/api/core"
	"knarr.dev/client"
)

// Cluster is what a machine must know to believe that a server is its cluster's.
type Cluster struct {
	// Server is the URL.
	Server string
	// TokenID and TokenSecret are the halves of a bootstrap token. The cluster shows that it knows it by a signature.
	TokenID, TokenSecret string
	// CAHash pins the authority that signs the server's certificate: see CAHash. Without it the token's signature must do.
	CAHash string
}

// signatureWait is how long a signature that is not there yet is waited for: a token may be very new.
const signatureWait = 5 * time.Second

// Discover reads kube-public/cluster-info from the server, whoever it is, checks that it comes from the cluster, and
// returns the authority, in PEM, that the server's certificate must be signed by. Nothing secret is sent.
func Discover(ctx context.Context, c Cluster) ([]byte, error) {
	transport, err := client.NewHTTP(client.HTTPConfig{Server: c.Server, Insecure: true, UserAgent: "knarr"})
	if err != nil {
		return nil, err
	}
	defer transport.Close()
	maps := client.Of(client.New(transport), core.ConfigMaps)
	for deadline := time.Now().Add(signatureWait); ; {
		info, err := maps.Get(ctx, client.Key{Namespace: metav1.NamespacePublic, Name: "cluster-info"})
		switch {
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			return nil, fmt.Errorf("%s does not tell how to join it: it shows no ConfigMap kube-public/cluster-info (%w)", c.Server, err)
		case err != nil:
			return nil, Explain(c.Server, err)
		}
		ca, err := c.verify(info.Data)
		if !errors.Is(err, errUnsigned) || time.Now().After(deadline) {
			return ca, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

var errUnsigned = errors.New("is not signed with it")

// verify checks what a server says about its cluster and returns the authority.
func (c Cluster) verify(data map[string]string) ([]byte, error) {
	kubeconfig := data["kubeconfig"]
	config, err := clientcmd.Load([]byte(kubeconfig))
	if err != nil {
		return nil, fmt.Errorf("cluster-info of %s: %w", c.Server, err)
	}
	var ca []byte
	for _, cluster := range config.Clusters {
		ca = cluster.CertificateAuthorityData
	}
	hash, err := CAHash(ca)
	if err != nil {
		return nil, fmt.Errorf("cluster-info of %s: %w", c.Server, err)
	}
	if c.CAHash != "" {
		want := strings.ToLower(c.CAHash)
		if !strings.HasPrefix(want, "sha256:") || len(want) != len(hash) {
			return nil, fmt.Errorf("the CA hash %q has not the form sha256:<64 hexadecimal digits>", c.CAHash)
		}
		if subtle.ConstantTimeCompare([]byte(want), []byte(hash)) != 1 {
			return nil, fmt.Errorf("%s is not the expected cluster: the hash of its CA is %s, not %s", c.Server, hash, c.CAHash)
		}
		return ca, nil
	}
	signature, ok := data["jws-kubeconfig-"+c.TokenID]
	if !ok {
		return nil, fmt.Errorf("the token is not known to %s: its cluster-info %w; the token is wrong or expired (make one with: knarr token create), or give --ca-hash", c.Server, errUnsigned)
	}
	if !signedWith(signature, kubeconfig, c.TokenSecret) {
		return nil, fmt.Errorf("the token is not that of %s: the signature of its cluster-info does not fit; the token's second half is wrong, or this is another cluster", c.Server)
	}
	return ca, nil
}

// signedWith verifies a JWS (RFC 7515) by HS256 without its payload. The secrets of tokens are shorter than libraries want keys
// to be.
func signedWith(signature, payload, secret string) bool {
	header, rest, ok := strings.Cut(signature, "..")
	if !ok {
		return false
	}
	decoded, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		return false
	}
	var algorithm struct{ Alg string }
	if err := json.Unmarshal(decoded, &algorithm); err != nil || algorithm.Alg != "HS256" {
		return false
	}
	got, err := base64.RawURLEncoding.DecodeString(rest)
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, []byte(secret))
	io.WriteString(mac, header+"."+base64.RawURLEncoding.EncodeToString([]byte(payload)))
	return hmac.Equal(got, mac.Sum(nil))
}

// CAHash is what pins a certificate authority: the SHA-256 of its public key, as kubeadm writes it.
func CAHash(ca []byte) (string, error) {
	block, _ := pem.Decode(ca)
	if block == nil {
		return "", errors.New("the certificate authority is no PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("the certificate authority: %w", err)
	}
	sum := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Explain says in a user's words why a server did not answer.
func Explain(server string, err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var lookup *net.DNSError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%s is not the cluster's: its certificate is signed by another authority: %w", server, unknown)
	case errors.As(err, &name):
		return fmt.Errorf("%s: the certificate of the server is not for this address: %w", server, name)
	case errors.As(err, &lookup):
		return fmt.Errorf("cannot reach %s: %w", server, lookup)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("cannot reach %s: connection refused: is the server running, and does it listen on this address (--listen)?", server)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fmt.Errorf("cannot reach %s: no route to it", server)
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return fmt.Errorf("cannot reach %s: no answer in time; a firewall may be between", server)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("cannot reach %s: it closed the connection", server)
	case apierrors.IsServiceUnavailable(err):
		return fmt.Errorf("cannot reach %s: %w", server, err)
	}
	return fmt.Errorf("%s: %w", server, err)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
