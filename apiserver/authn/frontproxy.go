// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"knarr.dev/api/call"
)

// FrontProxy is whom the server believes who a request is from, and how they say it; see
// https://kubernetes.io/docs/reference/access-authn-authz/authentication/#authenticating-proxy.
type FrontProxy struct {
	// CAs vouch for the proxy's client certificate.
	CAs func() *x509.CertPool
	// AllowedNames are the common names of proxies; empty allows any whose certificate is good.
	AllowedNames []string
	// The headers with the user; the first one that is set counts for name and UID.
	UsernameHeaders, UIDHeaders, GroupHeaders, ExtraHeaderPrefixes []string
}

// frontProxy recognises requests that an authenticating proxy passes on.
type frontProxy struct {
	FrontProxy
	now func() time.Time
}

func (f *frontProxy) Authenticate(r *http.Request) (*call.Identity, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || !f.speaks(r.Header) {
		return nil, nil
	}
	leaf, intermediates := r.TLS.PeerCertificates[0], x509.NewCertPool()
	for _, other := range r.TLS.PeerCertificates[1:] {
		intermediates.AddCert(other)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: f.CAs(), Intermediates: intermediates, CurrentTime: f.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return nil, fmt.Errorf("verify the certificate %q of a front proxy: %w", leaf.Subject, err)
	}
	if len(f.AllowedNames) > 0 && !slices.Contains(f.AllowedNames, leaf.Subject.CommonName) {
		return nil, fmt.Errorf("x509: subject with cn=%s is not in the allowed list", leaf.Subject.CommonName)
	}
	identity := &call.Identity{Name: first(r.Header, f.UsernameHeaders), UID: first(r.Header, f.UIDHeaders)}
	if identity.Name == "" {
		return nil, nil
	}
	for _, name := range f.GroupHeaders {
		for _, group := range r.Header.Values(name) {
			if group != "" {
				identity.Groups = append(identity.Groups, group)
			}
		}
	}
	identity.Extra = f.extra(r.Header)
	f.strip(r.Header)
	return identity, nil
}

// speaks says whether a request names a user; any other one needs no look at its certificate.
func (f *frontProxy) speaks(h http.Header) bool { return first(h, f.UsernameHeaders) != "" }

func first(h http.Header, names []string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}

func (f *frontProxy) extra(h http.Header) map[string][]string {
	var extra map[string][]string
	for name, values := range h {
		for _, prefix := range f.ExtraHeaderPrefixes {
			if len(name) < len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
				continue
			}
			key := strings.ToLower(name[len(prefix):])
			if decoded, err := url.PathUnescape(key); err == nil {
				key = decoded
			}
			if extra == nil {
				extra = map[string][]string{}
			}
			extra[key] = append(extra[key], values...)
		}
	}
	return extra
}

// strip takes the headers away, so that nobody behind believes them once more.
func (f *frontProxy) strip(h http.Header) {
	for _, list := range [][]string{f.UsernameHeaders, f.UIDHeaders, f.GroupHeaders} {
		for _, name := range list {
			h.Del(name)
		}
	}
	for name := range h {
		for _, prefix := range f.ExtraHeaderPrefixes {
			if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
				delete(h, name)
			}
		}
	}
}
