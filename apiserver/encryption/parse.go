// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

// Set replaces the configuration by an EncryptionConfiguration (apiserver.config.k8s.io/v1, YAML or JSON). It reports every problem, and
// then changes nothing. Connections to key services are made at their first use.
func (c *Config) Set(data []byte, log *slog.Logger) error {
	var file apiserverv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return fmt.Errorf("encryption configuration: %w", err)
	}
	if file.APIVersion != apiserverv1.SchemeGroupVersion.String() || file.Kind != "EncryptionConfiguration" {
		return fmt.Errorf("encryption configuration: it is a %s %s", file.APIVersion, file.Kind)
	}
	p := &parser{log: log, figures: c.figures, rules: &rules{}}
	if len(file.Resources) == 0 {
		p.bad("resources: Required value")
	}
	for i := range file.Resources {
		p.resource(fmt.Sprintf("resources[%d]", i), &file.Resources[i])
	}
	if len(p.problems) > 0 {
		p.rules.close()
		return fmt.Errorf("encryption configuration: %w", errors.Join(p.problems...))
	}
	old := c.current.Swap(p.rules)
	old.retire()
	return nil
}

type parser struct {
	log      *slog.Logger
	figures  *figures
	rules    *rules
	problems []error
	services map[string]*kms
}

func (p *parser) bad(format string, args ...any) {
	p.problems = append(p.problems, fmt.Errorf(format, args...))
}

func (p *parser) resource(path string, r *apiserverv1.ResourceConfiguration) {
	if len(r.Resources) == 0 {
		p.bad("%s.resources: Required value", path)
	}
	if len(r.Providers) == 0 {
		p.bad("%s.providers: Required value", path)
		return
	}
	var t transformer
	for i := range r.Providers {
		t = append(t, p.provider(fmt.Sprintf("%s.providers[%d]", path, i), &r.Providers[i])...)
	}
	p.names(path, r.Resources)
	earlier := rules{list: p.rules.list}
	for _, name := range r.Resources {
		u := rule{transformer: t}
		if u.resource, u.group, _ = strings.Cut(name, "."); name == "*.*" {
			u.group = "*"
		}
		if masks := earlier.masking(u); masks != "" {
			p.bad("resource %q is masked by earlier rule %q", name, masks)
			continue
		}
		i := slices.IndexFunc(p.rules.list, func(o rule) bool { return o.group == u.group && o.resource == u.resource })
		if i >= 0 { // named again, its providers follow
			p.rules.list[i].transformer = slices.Concat(p.rules.list[i].transformer, t)
			continue
		}
		p.rules.list = append(p.rules.list, u)
	}
}

// names checks the names of one list of resources.
func (p *parser) names(path string, names []string) {
	list := "[\"" + strings.Join(names, "\",\"") + "\"]"
	seen := map[string]bool{}
	for _, name := range names {
		seen[name] = true
	}
	for name := range seen {
		resource, group, _ := strings.Cut(name, ".")
		if seen["*.*"] && name != "*.*" || seen["*."+group] && resource != "*" {
			p.bad("%s.resources: Invalid value: %s: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked", path, list)
			break
		}
	}
	if len(seen) < len(names) {
		p.bad("%s.resources: Invalid value: %s: the same resource cannot be specified multiple times", path, list)
	}
	for i, name := range names {
		problem, group := "", name[strings.Index(name, ".")+1:]
		switch {
		case strings.ToLower(name) != name:
			problem = "resource name should not contain capital letters"
		case name == "*":
			problem = "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
		case group == "extensions" && group != name:
			problem = "'extensions' group has been removed and cannot be used for encryption"
		case group == "events.k8s.io" && group != name:
			problem = "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"
		default:
			continue
		}
		p.bad("%s.resources[%d]: Invalid value: %q: %s", path, i, name, problem)
	}
}

// masking is the earlier rule with a wildcard that leaves nothing to a later one; empty if there is none.
func (r *rules) masking(u rule) string {
	for _, o := range r.list {
		switch {
		case o.resource != "*", o.group == u.group && o.resource == u.resource:
		case o.group == "*":
			return "*.*"
		case o.group == u.group && u.resource != "*":
			return "*." + o.group
		}
	}
	return ""
}

func (p *parser) provider(path string, c *apiserverv1.ProviderConfiguration) (list []entry) {
	set := 0
	for _, is := range []bool{c.AESGCM != nil, c.AESCBC != nil, c.Secretbox != nil, c.Identity != nil, c.KMS != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		p.bad("%s: exactly one provider must be set, not %d", path, set)
		return nil
	}
	keys := func(name string, keys []apiserverv1.Key, sizes []int, make func(secret []byte) (provider, error)) {
		if len(keys) == 0 {
			p.bad("%s.%s.keys: Required value", path, name)
		}
		for i, k := range keys {
			at := fmt.Sprintf("%s.%s.keys[%d]", path, name, i)
			if k.Name == "" || strings.Contains(k.Name, ":") {
				p.bad("%s.name: a key needs a name without colons", at)
				continue
			}
			secret, err := base64.StdEncoding.DecodeString(k.Secret)
			if err != nil {
				p.bad("%s.secret: secrets must be base64 encoded", at)
				continue
			}
			if !slices.Contains(sizes, len(secret)) {
				p.bad("%s.secret: secret is not of the expected length, got %d, expected one of %v", at, len(secret), sizes)
				continue
			}
			e := entry{prefix: anyEncrypted + name + ":v1:" + k.Name + ":"}
			if e.provider, err = make(secret); err != nil {
				p.bad("%s.secret: %w", at, err)
				continue
			}
			list = append(list, e)
		}
	}
	switch {
	case c.AESGCM != nil:
		keys("aesgcm", c.AESGCM.Keys, []int{16, 24, 32}, newGCM)
	case c.AESCBC != nil:
		keys("aescbc", c.AESCBC.Keys, []int{16, 24, 32}, newCBC)
	case c.Secretbox != nil:
		keys("secretbox", c.Secretbox.Keys, []int{32}, newSecretbox)
	case c.Identity != nil:
		list = append(list, entry{provider: identity{}})
	case c.KMS != nil:
		list = append(list, p.kms(path+".kms", c.KMS)...)
	}
	return list
}

func (p *parser) kms(path string, c *apiserverv1.KMSConfiguration) []entry {
	if c.APIVersion != "v2" {
		p.bad("%s.apiVersion: %q is not v2; v1 is not supported any more", path, c.APIVersion)
	}
	if c.Name == "" || strings.Contains(c.Name, ":") {
		p.bad("%s.name: a key service needs a name without colons", path)
	}
	if !strings.HasPrefix(c.Endpoint, "unix://") {
		p.bad("%s.endpoint: %q is not a unix:// address", path, c.Endpoint)
	}
	if c.CacheSize != nil {
		p.bad("%s.cachesize: it is not supported in v2", path)
	}
	timeout := 3 * time.Second
	if c.Timeout != nil {
		timeout = c.Timeout.Duration
	}
	if timeout <= 0 {
		p.bad("%s.timeout: it must be positive", path)
	}
	if k := p.services[c.Name]; k != nil {
		if k.endpoint != c.Endpoint {
			p.bad("%s.name: Duplicate value: %q", path, c.Name)
		}
		return []entry{{anyEncrypted + "kms:v2:" + c.Name + ":", k}}
	}
	k, err := newKMS(c.Name, c.Endpoint, timeout, p.log)
	if err != nil {
		p.bad("%s.endpoint: %w", path, err)
		return nil
	}
	k.figures = p.figures
	if p.services == nil {
		p.services = map[string]*kms{}
	}
	p.services[c.Name], p.rules.kms = k, append(p.rules.kms, k)
	return []entry{{anyEncrypted + "kms:v2:" + c.Name + ":", k}}
}
