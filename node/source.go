// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/api/core"
	"knarr.dev/client"
)

// How long objects and tokens are kept, and how many.
const (
	sourceTTL     = time.Second
	sourceEntries = 1000
)

// source reads what pods need from the API, through a small cache.
type source struct {
	client *client.Client
	now    func() time.Time

	mu      sync.Mutex
	entries map[string]sourceEntry
}

type sourceEntry struct {
	value any
	// until is when the entry is not used any more.
	until time.Time
}

func newSource(c *client.Client, now func() time.Time) *source {
	return &source{client: c, now: now, entries: map[string]sourceEntry{}}
}

func (s *source) get(key string) (any, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[key]
	return e.value, ok && s.now().Before(e.until)
}

func (s *source) put(key string, value any, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) >= sourceEntries {
		now := s.now()
		for k, e := range s.entries {
			if now.After(e.until) {
				delete(s.entries, k)
			}
		}
		for k := range s.entries { // any, if all are fresh
			if len(s.entries) < sourceEntries {
				break
			}
			delete(s.entries, k)
		}
	}
	s.entries[key] = sourceEntry{value, until}
}

// ConfigMap implements volume.Source.
func (s *source) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	key := "configmap/" + namespace + "/" + name
	if v, ok := s.get(key); ok {
		return v.(*corev1.ConfigMap), nil
	}
	object, err := client.Of(s.client, core.ConfigMaps).Get(ctx, client.Key{Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	s.put(key, object, s.now().Add(sourceTTL))
	return object, nil
}

// Secret implements volume.Source.
func (s *source) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	key := "secret/" + namespace + "/" + name
	if v, ok := s.get(key); ok {
		return v.(*corev1.Secret), nil
	}
	object, err := client.Of(s.client, core.Secrets).Get(ctx, client.Key{Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	s.put(key, object, s.now().Add(sourceTTL))
	return object, nil
}

// Token implements volume.Source. A token is used for 80 % of its life, and for a day at most.
func (s *source) Token(ctx context.Context, p *corev1.Pod, want *corev1.ServiceAccountTokenProjection) (string, error) {
	seconds := int64(3600)
	if want.ExpirationSeconds != nil {
		seconds = *want.ExpirationSeconds
	}
	account := p.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	key := fmt.Sprintf("token/%s/%s/%s/%d", p.UID, account, want.Audience, seconds)
	if v, ok := s.get(key); ok {
		return v.(string), nil
	}
	request := &authenticationv1.TokenRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: account},
		Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: &seconds,
			BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID},
		},
	}
	if want.Audience != "" {
		request.Spec.Audiences = []string{want.Audience}
	}
	answer, err := client.Of(s.client, core.ServiceAccounts).CreateSub(ctx, client.Key{Namespace: p.Namespace, Name: account}, "token", request)
	if err != nil {
		return "", err
	}
	token, ok := answer.(*authenticationv1.TokenRequest)
	if !ok {
		return "", fmt.Errorf("the API answered %T to a token request", answer)
	}
	now := s.now()
	life := min(token.Status.ExpirationTimestamp.Sub(now)*8/10, 24*time.Hour)
	s.put(key, token.Status.Token, now.Add(life))
	return token.Status.Token, nil
}

// pullAuth finds credentials for an image in the pod's pull secrets; nil if there are none.
func (a *Agent) pullAuth(ctx context.Context, p *corev1.Pod, image string) *runtimeapi.AuthConfig {
	registry, _, ok := strings.Cut(image, "/")
	if !ok || !strings.ContainsAny(registry, ".:") && registry != "localhost" {
		registry = "docker.io"
	}
	for _, ref := range p.Spec.ImagePullSecrets {
		secret, err := a.source.Secret(ctx, p.Namespace, ref.Name)
		if err != nil {
			a.event(p, "", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
			continue
		}
		if auth := dockerAuth(secret, registry); auth != nil {
			return auth
		}
	}
	return nil
}

// dockerAuth finds a registry in a secret of type kubernetes.io/dockerconfigjson or dockercfg.
func dockerAuth(secret *corev1.Secret, registry string) *runtimeapi.AuthConfig {
	type entry struct{ Username, Password, Auth, IdentityToken string }
	var config struct{ Auths map[string]entry }
	if raw, ok := secret.Data[corev1.DockerConfigJsonKey]; ok {
		if json.Unmarshal(raw, &config) != nil {
			return nil
		}
	} else if json.Unmarshal(secret.Data[corev1.DockerConfigKey], &config.Auths) != nil {
		return nil
	}
	for server, e := range config.Auths {
		name := strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
		name, _, _ = strings.Cut(name, "/")
		if name != registry && (registry != "docker.io" || name != "index.docker.io") {
			continue
		}
		auth := &runtimeapi.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken}
		if raw, err := base64.StdEncoding.DecodeString(e.Auth); err == nil && auth.Username == "" {
			auth.Username, auth.Password, _ = strings.Cut(string(raw), ":")
		}
		return auth
	}
	return nil
}
