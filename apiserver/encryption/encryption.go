// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package encryption encrypts objects on their way to the store, as an EncryptionConfiguration says.
//
// Wrap puts it in front of any store. Values are as kube-apiserver writes them ("k8s:enc:aescbc:v1:KEY:..."), so either can read
// what the other wrote. The first provider of a resource writes, all read; what another key or provider wrote is stale, and the
// next update rewrites it even if it changes nothing. The configuration may be replaced while the store is in use. See
// https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/.
package encryption

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/resource"
)

// anyEncrypted is what every value begins with that is not plain.
const anyEncrypted = "k8s:enc:"

// provider encrypts with one key or key service.
type provider interface {
	// encrypt returns what follows the prefix. about, the key of the record, is bound to the result where the algorithm can do so.
	encrypt(ctx context.Context, plain, about []byte) ([]byte, error)
	// decrypt says with stale that the value should be written again.
	decrypt(ctx context.Context, payload, about []byte) (plain []byte, stale bool, err error)
}

// entry is a provider with the prefix of its values.
type entry struct {
	prefix   string
	provider provider
}

// transformer is the providers of one resource; the first one writes.
type transformer []entry

func (t transformer) encrypt(ctx context.Context, plain []byte, key string) ([]byte, error) {
	payload, err := t[0].provider.encrypt(ctx, plain, []byte(key))
	if err != nil {
		return nil, fmt.Errorf("encrypt %s: %w", key, err)
	}
	if t[0].prefix == "" {
		return payload, nil
	}
	return append([]byte(t[0].prefix), payload...), nil
}

func (t transformer) decrypt(ctx context.Context, stored []byte, key string) (plain []byte, stale bool, err error) {
	var problems []error
	for i, e := range t {
		if e.prefix == "" && bytes.HasPrefix(stored, []byte(anyEncrypted)) || !bytes.HasPrefix(stored, []byte(e.prefix)) {
			continue
		}
		plain, old, err := e.provider.decrypt(ctx, stored[len(e.prefix):], []byte(key))
		if err == nil {
			return plain, old || i > 0, nil
		}
		problems = append(problems, err)
	}
	if len(problems) == 0 {
		problems = append(problems, errors.New("no matching prefix found"))
	}
	return nil, false, fmt.Errorf("unable to transform key %q: %w", key, errors.Join(problems...))
}

// Config is a configuration at work. It may be replaced by Set.
type Config struct {
	resources map[string]schema.GroupResource
	current   atomic.Pointer[rules]
	figures   *figures // nil counts nothing
}

// rules are the transformers of resources, first match first.
type rules struct {
	list []rule
	kms  []*kms
}

type rule struct {
	// group and resource may be "*".
	group, resource string
	transformer     transformer
}

// NewConfig returns a configuration that encrypts nothing. kinds say where their objects are stored.
func NewConfig(kinds []*resource.Kind) *Config {
	c := &Config{resources: map[string]schema.GroupResource{}}
	for _, k := range kinds {
		if !k.Virtual && k.Stored == nil {
			c.resources["/registry/"+k.StoragePath+"/"] = k.GroupResource()
		}
	}
	c.current.Store(&rules{})
	return c
}

// resourceOf says what is stored under a key. Custom resources are at /registry/GROUP/RESOURCE/.
func (c *Config) resourceOf(key string) (schema.GroupResource, bool) {
	rest, ok := strings.CutPrefix(key, "/registry/")
	if !ok {
		return schema.GroupResource{}, false
	}
	first, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return schema.GroupResource{}, false
	}
	if g, ok := c.resources["/registry/"+first+"/"]; ok {
		return g, true
	}
	second, _, ok := strings.Cut(rest, "/")
	if !ok {
		return schema.GroupResource{}, false
	}
	if g, ok := c.resources["/registry/"+first+"/"+second+"/"]; ok {
		return g, true
	}
	return schema.GroupResource{Group: first, Resource: second}, strings.Contains(first, ".")
}

// transformer returns nil for what is stored plain, whatever it says.
func (c *Config) transformer(key string) transformer {
	r := c.current.Load()
	if len(r.list) == 0 {
		return nil
	}
	g, ok := c.resourceOf(key)
	if !ok {
		return nil
	}
	for i := range r.list {
		if u := &r.list[i]; (u.group == "*" || u.group == g.Group) && (u.resource == "*" || u.resource == g.Resource) {
			return u.transformer
		}
	}
	return nil
}
