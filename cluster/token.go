// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/cluster/internal/enroll"
)

// Token is a bootstrap token, with which a machine joins as a node. See
// https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/.
type Token struct {
	// ID has 6 characters and is no secret; Secret has 16.
	ID, Secret  string
	Description string
	// Expires is when it stops working; zero is never.
	Expires time.Time
	Usages  []string
	Groups  []string
}

// String is what a client presents.
func (t Token) String() string { return t.ID + "." + t.Secret }

// TokenTTL is how long tokens work unless told otherwise.
const TokenTTL = 24 * time.Hour

// joinGroup is the group of tokens that may ask for a node's certificate.
const joinGroup = "system:bootstrappers:knarr:default-node-token"

const tokenPrefix = "bootstrap-token-" // of names of secrets

// tokenForm is how tokens look.
func tokenForm() *regexp.Regexp { return regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`) }

// ParseToken checks the form of a token.
func ParseToken(s string) (Token, error) {
	m := tokenForm().FindStringSubmatch(s)
	if m == nil {
		return Token{}, errors.New("a token has the form abcdef.0123456789abcdef")
	}
	return Token{ID: m[1], Secret: m[2]}, nil
}

// NewToken makes a random token.
func NewToken() Token {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	word := func(n int) string {
		out, random := make([]byte, 0, n), make([]byte, 4*n)
		for len(out) < n {
			_, _ = rand.Read(random) // never fails
			for _, b := range random {
				if b < 252 && len(out) < n { // 252 is a multiple of 36: no letter is likelier than another
					out = append(out, alphabet[int(b)%len(alphabet)])
				}
			}
		}
		return string(out)
	}
	return Token{ID: word(6), Secret: word(16)}
}

// secret is the object that holds a token.
func (t Token) secret() *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: tokenPrefix + t.ID},
		Type:       corev1.SecretTypeBootstrapToken,
		Data:       map[string][]byte{"token-id": []byte(t.ID), "token-secret": []byte(t.Secret)},
	}
	for _, usage := range t.Usages {
		s.Data["usage-bootstrap-"+usage] = []byte("true")
	}
	if t.Description != "" {
		s.Data["description"] = []byte(t.Description)
	}
	if !t.Expires.IsZero() {
		s.Data["expiration"] = []byte(t.Expires.UTC().Format(time.RFC3339))
	}
	if len(t.Groups) > 0 {
		s.Data["auth-extra-groups"] = []byte(strings.Join(t.Groups, ","))
	}
	return s
}

func tokenOf(s *corev1.Secret) Token {
	t := Token{ID: string(s.Data["token-id"]), Secret: string(s.Data["token-secret"]), Description: string(s.Data["description"])}
	if at, err := time.Parse(time.RFC3339, string(s.Data["expiration"])); err == nil {
		t.Expires = at
	}
	for key, value := range s.Data {
		if usage, ok := strings.CutPrefix(key, "usage-bootstrap-"); ok && string(value) == "true" {
			t.Usages = append(t.Usages, usage)
		}
	}
	slices.Sort(t.Usages)
	if groups := string(s.Data["auth-extra-groups"]); groups != "" {
		t.Groups = strings.Split(groups, ",")
	}
	return t
}

// CreateToken stores a token, by default one that authenticates nodes that join. It lasts ttl, or for ever if that is 0.
func CreateToken(ctx context.Context, c *client.Client, t Token, ttl time.Duration) (Token, error) {
	if _, err := ParseToken(t.String()); err != nil {
		return t, err
	}
	if ttl < 0 {
		return t, fmt.Errorf("a token cannot last %v", ttl)
	}
	if ttl > 0 {
		t.Expires = time.Now().Add(ttl)
	}
	if t.Usages == nil {
		t.Usages = []string{"authentication", "signing"}
	}
	if t.Groups == nil {
		t.Groups = []string{joinGroup}
	}
	_, err := client.Of(c, core.Secrets).Create(ctx, t.secret())
	return t, err
}

// ListTokens returns all tokens there are, by ID.
func ListTokens(ctx context.Context, c *client.Client) ([]Token, error) {
	secrets, _, err := client.Of(c, core.Secrets).List(ctx, client.ListOptions{
		Namespace: metav1.NamespaceSystem, Fields: fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)),
	})
	if err != nil {
		return nil, err
	}
	var tokens []Token
	for _, s := range secrets {
		tokens = append(tokens, tokenOf(s))
	}
	return tokens, nil
}

// DeleteToken removes a token, given whole or by its ID.
func DeleteToken(ctx context.Context, c *client.Client, token string) error {
	id, _, _ := strings.Cut(token, ".")
	return client.Of(c, core.Secrets).Delete(ctx, client.Key{Namespace: metav1.NamespaceSystem, Name: tokenPrefix + id}, nil)
}

// CAHash is what pins a certificate authority: the SHA-256 of its public key, as kubeadm writes it.
func CAHash(ca []byte) (string, error) { return enroll.CAHash(ca) }
