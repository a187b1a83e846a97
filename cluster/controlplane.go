// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/csv"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"knarr.dev/api"
	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/admission"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/authz"
	"knarr.dev/apiserver/discovery"
	"knarr.dev/apiserver/hooks"
	"knarr.dev/apiserver/openapi"
	"knarr.dev/apiserver/stream"
	"knarr.dev/controllers/accounttoken"
)

// startServer starts the API server and waits until it answers.
func (c *Cluster) startServer(ctx context.Context) error {
	config, err := c.serverConfig()
	if err != nil {
		return err
	}
	if c.server, err = apiserver.New(config); err != nil {
		return err
	}
	if c.unauthorized != nil {
		return c.unauthorized
	}
	c.parts.run("API server", c.server.Run)
	select {
	case <-c.server.Ready():
	case <-c.parts.done:
		return c.parts.stop()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.config.NoSockets {
		return nil
	}
	return c.pki.KeepKubeconfig(c.config.Kubeconfig, c.URL(), "admin", []string{"system:masters"})
}

func (c *Cluster) serverConfig() (apiserver.Config, error) {
	config := apiserver.Config{
		Store: c.store, Shared: c.config.Etcd.used(), Kinds: api.Kinds(), Log: c.log, Metrics: c.metrics,
		StoreSize: c.storeSize, Flags: c.config.Flags, Level: c.config.Level,
		Shutdown: c.config.Serving.shutdown(), LastingPaths: []string{backupPath}, NoProfiling: !yes(c.config.Serving.Profiling),
		ServiceCIDR: c.serviceRange(), SecondaryServiceCIDR: c.secondServiceRange(), Listener: c.listener, Components: c.components(),
	}
	if host, err := os.Hostname(); err == nil { // else it goes without a Lease of its own
		config.Hostname = strings.ToLower(host)
	}
	c.config.Requests.bound(&config)
	policy, err := authz.Bootstrap()
	if err != nil {
		return config, err
	}
	c.extend(policy)
	config.Policy = policy
	issuer, err := c.tokenIssuer()
	if err != nil {
		return config, err
	}
	c.issuer = issuer
	identities, err := c.identities(issuer)
	if err != nil {
		return config, err
	}
	identities.Figures = authn.NewFigures(c.figures)
	if config.Audit, err = c.auditor(); err != nil {
		return config, err
	}
	if config.Tracer, err = c.tracer(); err != nil {
		return config, err
	}
	if c.encrypted != nil {
		config.Stale = c.encrypted.Stale
	}
	config.Authenticators, config.Anonymous = authn.New(identities), c.anonymous()
	trusted, err := c.authenticationConfigMap(identities.FrontProxy)
	if err != nil {
		return config, err
	}
	config.Bootstrap = append(config.Bootstrap, trusted, apiserver.Bootstrap{Kind: core.ConfigMaps.Kind, Object: accounttoken.Tracking(time.Now())})
	admitting, err := c.config.Admission.load()
	if err != nil {
		return config, err
	}
	var authorizer authz.Authorizer // the server calls these in order
	config.Authorizer = func(r admission.Reader) authz.Authorizer {
		identities.Objects.Bind(r)
		authorizer, c.unauthorized = c.authorizer(r)
		return authorizer
	}
	config.Steps = func(r admission.Reader, w admission.Writer) []admission.Step {
		return admission.Steps(r, w, admission.Config{
			Authorizer: authorizer, Plugins: c.config.Admission.plugins(), Configuration: *admitting, Figures: c.figures,
		})
	}
	var streams *stream.Handler
	config.Hooks = func(objects hooks.Store) []hooks.Hook {
		streams = stream.New(stream.Config{
			Objects: objects, KubeletTLS: c.pki.KubeletClientTLS(), NodeAddressTypes: c.config.Serving.nodeAddressTypes(c.config.Role), Fail: apiserver.Fail, Log: c.log,
		})
		return hooks.Security(hooks.SecurityDeps{
			Reader: objects, Authorizer: authorizer, Issuer: issuer, Tokens: authn.NewTokens(identities),
		})
	}
	config.Connect = func(w http.ResponseWriter, r *http.Request, user *call.Identity, q *call.Request) {
		streams.Connect(w, r, user, q)
	}
	c.parts.onStop("streams", func() error {
		if streams != nil {
			streams.Close()
		}
		return nil
	})
	config.Paths = map[string]http.Handler{"/openid/v1/jwks": issuer.Keys(), backupPath: http.HandlerFunc(c.serveBackup)}
	resources, schemas := discovery.New(config.Kinds, c.address()), openapi.New(config.Kinds)
	config.FrontProxyTLS = c.pki.FrontProxyTLS()
	config.RemotesChanged = func(remotes []discovery.Remote) {
		resources.SetRemotes(remotes)
		described := make([]openapi.Remote, len(remotes))
		for i, r := range remotes {
			described[i] = openapi.Remote{Name: "apis/" + r.Group + "/" + r.Version, Address: r.OpenAPI, V2: r.OpenAPI2}
		}
		schemas.SetRemotes(described)
	}
	config.KindsChanged = func(kinds []*resource.Kind) {
		resources.Set(kinds)
		schemas.Set(kinds)
	}
	for _, path := range discovery.Paths() {
		config.Paths[path] = resources
	}
	for _, path := range openapi.Paths() {
		config.Paths[path] = schemas
	}
	defer func() {
		config.Paths["/.well-known/openid-configuration"] = issuer.Configuration(c.publicBase())
	}()
	if c.listener == nil {
		return config, nil
	}
	if config.TLS, err = c.serverTLS(); err != nil {
		return config, err
	}
	if c.joinable() {
		if config.Bootstrap, err = c.joinObjects(); err != nil {
			return config, err
		}
	}
	config.AdvertisePort = c.listener.Addr().(*net.TCPAddr).Port
	if ip, ok := c.outside(); ok {
		config.AdvertiseIP = ip
	} else if c.config.Nodes > 0 {
		config.AdvertiseIP = c.network.Gateway()
	} else if ip, ok := MachineAddress(""); ok { // as kube-apiserver does when it listens on loopback
		config.AdvertiseIP = ip
	}
	return config, nil
}

// staticTokens reads a file of bearer tokens: token,user,uid,"group1,group2".
func staticTokens(file string) ([]authn.StaticToken, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("tokenFile: %w", err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.FieldsPerRecord = -1
	rows, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("tokenFile %s: %w", file, err)
	}
	var tokens []authn.StaticToken
	for i, row := range rows {
		if len(row) < 3 {
			return nil, fmt.Errorf("tokenFile %s: line %d has %d fields, want token,user,uid,groups", file, i+1, len(row))
		}
		t := authn.StaticToken{Token: row[0], Identity: call.Identity{Name: row[1], UID: row[2]}}
		if len(row) > 3 && row[3] != "" {
			t.Identity.Groups = strings.Split(row[3], ",")
		}
		tokens = append(tokens, t)
	}
	return tokens, nil
}
