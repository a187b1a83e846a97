// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/admissionregistration"
	"knarr.dev/api/expression"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/authz"
	"knarr.dev/apiserver/webhook"
)

// policyRefresh is how long policies and their bindings are in force as they were last read. Kubernetes looks for changed
// policies once a second too, and clients were seen to count on a pause between making one and being subject to it.
const policyRefresh = time.Second

// dynamic is what webhooks and policies share. Webhooks are read from the cache at each request, so they count from the
// moment their write is acknowledged; policies are read once in policyRefresh. What is made of one is remembered until it
// changes. Without any, a request pays for looking at an empty list.
type dynamic struct {
	reader     Reader
	authorizer authz.Authorizer
	compiler   expression.Compiler
	mutating   *webhook.Client
	validating *webhook.Client
	now        func() time.Time
	figures    *figures
}

func newDynamic(reader Reader, cfg *Config) *dynamic {
	return &dynamic{
		reader: reader, authorizer: cfg.Authorizer, now: cfg.Now, figures: newFigures(cfg.Figures),
		mutating: webhook.New(reader).WithCredentials(cfg.MutatingWebhooks), validating: webhook.New(reader).WithCredentials(cfg.ValidatingWebhooks),
	}
}

// inForce is what was made of the policies or bindings that were last read.
type inForce[T any] struct {
	remembered[T]
	reading sync.Mutex
	read    time.Time
	list    []T
}

// all returns what is made of each object of a kind, as of at most policyRefresh ago. A request that may change them, which
// comes before the change, reads them anew: so a change takes effect a full policyRefresh after it was asked for.
func (f *inForce[T]) all(ctx context.Context, d *dynamic, r *Request, kind *resource.Kind, build func(resource.Object) T) ([]T, error) {
	f.reading.Lock()
	defer f.reading.Unlock()
	now := d.now()
	if !f.read.IsZero() && now.Sub(f.read) < policyRefresh && !exempt(r) {
		return f.list, nil
	}
	list, err := f.remembered.all(ctx, d.reader, kind, build)
	if err != nil {
		return nil, err
	}
	f.read, f.list = now, list
	return list, nil
}

// remembered is what was made of the objects of a kind, each for one version of it.
type remembered[T any] struct {
	mu    sync.Mutex
	known map[types.UID]memo[T]
}

type memo[T any] struct {
	version string
	made    T
}

// all returns what is made of each object of a kind, in the order of their names.
func (m *remembered[T]) all(ctx context.Context, reader Reader, kind *resource.Kind, build func(resource.Object) T) ([]T, error) {
	var out []T
	err := reader.List(ctx, kind, "", func(o resource.Object) bool {
		out = append(out, m.of(o, build))
		return true
	})
	if err != nil && apierrors.IsNotFound(err) { // a server without this kind
		return nil, nil
	}
	m.forget(len(out))
	return out, err
}

func (m *remembered[T]) of(o resource.Object, build func(resource.Object) T) T {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k, ok := m.known[o.GetUID()]; ok && k.version == o.GetResourceVersion() {
		return k.made
	}
	if m.known == nil {
		m.known = map[types.UID]memo[T]{}
	}
	made := build(o)
	m.known[o.GetUID()] = memo[T]{o.GetResourceVersion(), made}
	return made
}

// forget starts anew when most of what is remembered is of objects that are gone.
func (m *remembered[T]) forget(present int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) > 2*present+8 {
		m.known = nil
	}
}

// exempt tells whether a request is about webhooks or policies, which neither must lock.
func exempt(r *Request) bool { return r.Kind.Group == admissionv1.GroupName }

// exemptPolicy tells whether a request is about policies, which policies must not lock.
func exemptPolicy(r *Request) bool {
	return exempt(r) && r.Kind != admissionregistration.ValidatingWebhookConfigurations.Kind && r.Kind != admissionregistration.MutatingWebhookConfigurations.Kind
}
