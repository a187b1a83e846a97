// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Credentials are what the client shows to servers, by the names of users in a file of kubeconfig form: a user is named like the
// server, host.example.org, host.example.org:8443 or NAME.NAMESPACE.svc, with a star for leading labels, or a star alone.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#authenticate-apiservers.
type Credentials struct {
	users map[string]*user
}

type user struct {
	name, token, tokenFile, username, password string
	certificates                               []tls.Certificate
}

// LoadCredentials reads a file.
func LoadCredentials(file string) (*Credentials, error) {
	loaded, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("credentials for webhooks: %w", err)
	}
	if err := clientcmd.ResolveLocalPaths(loaded); err != nil {
		return nil, fmt.Errorf("credentials for webhooks %s: %w", file, err)
	}
	c := &Credentials{users: map[string]*user{}}
	for name, info := range loaded.AuthInfos {
		u, err := newUser(name, info)
		if err != nil {
			return nil, fmt.Errorf("credentials for webhooks %s: user %s: %w", file, name, err)
		}
		c.users[name] = u
	}
	return c, nil
}

func newUser(name string, info *clientcmdapi.AuthInfo) (*user, error) {
	u := &user{name: name, token: info.Token, tokenFile: info.TokenFile, username: info.Username, password: info.Password}
	data := func(inline []byte, file string) ([]byte, error) {
		if len(inline) > 0 || file == "" {
			return inline, nil
		}
		return os.ReadFile(file)
	}
	certificate, err := data(info.ClientCertificateData, info.ClientCertificate)
	if err != nil {
		return nil, err
	}
	key, err := data(info.ClientKeyData, info.ClientKey)
	if err != nil || len(certificate) == 0 {
		return u, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	u.certificates = []tls.Certificate{pair}
	return u, err
}

// of are the credentials for a server; nil is none.
func (c *Credentials) of(server string) *user {
	if c == nil {
		return nil
	}
	for _, name := range []string{server, strings.TrimSuffix(server, ":443")} {
		if u := c.users[name]; u != nil {
			return u
		}
		for rest := name; ; {
			_, after, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			if u := c.users["*."+after]; u != nil {
				return u
			}
			rest = after
		}
	}
	return c.users["*"]
}

// show adds the credentials to a request.
func (u *user) show(r *http.Request) error {
	if u == nil {
		return nil
	}
	token := u.token
	if u.tokenFile != "" {
		data, err := os.ReadFile(u.tokenFile)
		if err != nil {
			return err
		}
		token = strings.TrimSpace(string(data))
	}
	switch {
	case token != "":
		r.Header.Set("Authorization", "Bearer "+token)
	case u.username != "":
		r.SetBasicAuth(u.username, u.password)
	}
	return nil
}
