// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gvks "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"knarr.dev/api/resource"
)

// part is what one document of v3 is about: a group, a version of one, or a path beside them.
type part struct {
	gv    gvks.GroupVersion
	kinds []*resource.Kind
	paths func(*models) []path
}

// parts lists the documents of v3 by name, such as apis/apps/v1.
func parts(kinds []*resource.Kind) map[string]part {
	out := map[string]part{
		"api": {paths: func(m *models) []path {
			return []path{fixed("/api/", "getCoreAPIVersions", "core", "get available API versions", m.meta(metav1.APIVersions{}), objectMedia())}
		}},
		"apis": {paths: func(m *models) []path {
			return []path{fixed("/apis/", "getAPIVersions", "apis", "get available API versions", m.meta(metav1.APIGroupList{}), objectMedia())}
		}},
		"version": {paths: func(m *models) []path {
			return []path{fixed("/version/", "getCodeVersion", "version", "get the version information for this server",
				m.meta(version.Info{}), []string{"application/json"})}
		}},
		".well-known/openid-configuration": {paths: func(*models) []path {
			return []path{fixed("/.well-known/openid-configuration/", "getServiceAccountIssuerOpenIDConfiguration", "WellKnown",
				"get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'", "", []string{"application/json"})}
		}},
		"openid/v1/jwks": {paths: func(*models) []path {
			return []path{fixed("/openid/v1/jwks/", "getServiceAccountIssuerOpenIDKeyset", "openid",
				"get service account issuer OpenID JSON Web Key Set (contains public token verification keys)", "", []string{"application/jwk-set+json"})}
		}},
	}
	byVersion := map[gvks.GroupVersion][]*resource.Kind{}
	for _, k := range kinds {
		byVersion[k.GroupVersion()] = append(byVersion[k.GroupVersion()], k)
	}
	for gv, list := range byVersion {
		name := "api/" + gv.Version
		if gv.Group != "" {
			name = "apis/" + gv.String()
		}
		if gv.Group != "" && !allCustom(list) {
			out["apis/"+gv.Group] = part{paths: func(m *models) []path {
				tag, title := friendly(gv.Group)
				return []path{fixed("/apis/"+gv.Group+"/", "get"+title+"APIGroup", tag, "get information of a group", m.meta(metav1.APIGroup{}), objectMedia())}
			}}
		}
		out[name] = part{gv: gv, kinds: list, paths: func(m *models) []path { return versionPaths(m, gv, "/"+name, list) }}
	}
	return out
}

func versionPaths(m *models, gv gvks.GroupVersion, prefix string, kinds []*resource.Kind) []path {
	tag, title := friendly(gv.Group)
	v := strings.ToUpper(gv.Version[:1]) + gv.Version[1:]
	s := &surface{gv: gv, prefix: prefix, tag: tag + "_" + gv.Version, id: title + v, models: m}
	if !allCustom(kinds) {
		s.paths = []path{fixed(prefix+"/", "get"+s.id+"APIResources", s.tag, "get available resources", m.meta(metav1.APIResourceList{}), objectMedia())}
	}
	for _, k := range kinds {
		s.resource(k)
	}
	slices.SortFunc(s.paths, func(a, b path) int { return strings.Compare(a.name, b.name) })
	return s.paths
}

// allCustom is true for versions that definitions of custom resources made, which have no description of themselves.
func allCustom(kinds []*resource.Kind) bool {
	return !slices.ContainsFunc(kinds, func(k *resource.Kind) bool { return k.Custom == nil })
}

// friendly is the name of a group in tags and operations: rbacAuthorization and RbacAuthorization.
func friendly(group string) (tag, title string) {
	if group == "" {
		return "core", "Core"
	}
	for i, label := range strings.Split(strings.TrimSuffix(group, ".k8s.io"), ".") {
		upper := strings.ToUpper(label[:1]) + label[1:]
		title += upper
		if i == 0 {
			tag = label
		} else {
			tag += upper
		}
	}
	return tag, title
}

// outline is a document before it is encoded.
type outline struct {
	models      *models
	paths       []path
	about       []gvks.GroupVersion
	definitions []string // names
	foreign     foreign
}

// outline3 is that of one document of v3.
func outline3(m *models, p part) outline {
	o := outline{models: m, paths: p.paths(m), about: []gvks.GroupVersion{p.gv}}
	o.definitions = m.needed(o.paths)
	return o
}

// outline2 is that of the document of v2, which has everything.
func outline2(m *models, all map[string]part) outline {
	m.v2 = true
	o := outline{models: m}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p := all[name]
		o.paths = append(o.paths, p.paths(m)...)
		if p.gv.Version != "" {
			o.about = append(o.about, p.gv)
		}
	}
	slices.SortFunc(o.paths, func(a, b path) int { return strings.Compare(a.name, b.name) })
	o.definitions = m.needed(o.paths)
	return o
}

// needed returns the definitions that the bodies of paths need, by name.
func (m *models) needed(paths []path) []string {
	names := map[string]bool{}
	for _, p := range paths {
		for _, op := range p.operations {
			if op.body != "" {
				names[op.body] = true
			}
			for _, r := range op.responses {
				if r.model != "" {
					names[r.model] = true
				}
			}
		}
	}
	return m.closure(names)
}

// json3 writes a document of v3, reusing the memory of b.
func (o outline) json3(b []byte) []byte {
	w := &writer{b: b[:0], v3: true}
	w.open('{')
	w.field("openapi", "3.0.0")
	w.info()
	w.key("paths")
	w.open('{')
	for _, q := range o.paths {
		w.path(q, nil)
	}
	w.close('}')
	w.key("components")
	w.open('{')
	if len(o.definitions) > 0 {
		w.key("schemas")
		w.open('{')
		for _, name := range o.definitions {
			w.key(name)
			w.schema(o.models.get(name).schema, o.models.kindsOf(name, o.about))
		}
		w.close('}')
	}
	w.key("securitySchemes")
	w.raw(`{"BearerToken":{"type":"apiKey","description":"Bearer Token authentication","name":"authorization","in":"header"}}`)
	w.close('}')
	w.close('}')
	return w.b
}

// json2 writes the document of v2, reusing the memory of b.
func (o outline) json2(b []byte) []byte {
	w := &writer{b: b[:0]}
	w.open('{')
	w.field("swagger", "2.0")
	w.info()
	w.key("paths")
	w.open('{')
	shared := &sharedParameters{byName: map[string]parameter{}}
	for _, p := range o.paths {
		w.path(p, shared)
	}
	w.members(o.foreign.paths)
	w.close('}')
	w.key("definitions")
	w.open('{')
	for _, name := range o.definitions {
		w.key(name)
		w.schema(o.models.get(name).schema, o.models.kindsOf(name, o.about))
	}
	w.members(o.foreign.definitions)
	w.close('}')
	w.key("parameters")
	w.open('{')
	for _, name := range slices.Sorted(maps.Keys(shared.byName)) {
		if o.foreign.parameters[name] != nil {
			continue // the same: names have the hash of the content
		}
		w.key(name)
		if p := shared.byName[name]; p.in == "body" {
			w.bodyParameter2(p)
		} else {
			w.plainParameter2(p)
		}
	}
	w.members(o.foreign.parameters)
	w.close('}')
	w.raw(`"securityDefinitions":{"BearerToken":{"description":"Bearer Token authentication","type":"apiKey","name":"authorization","in":"header"}}`)
	w.raw(`"security":[{"BearerToken":[]}]`)
	w.close('}')
	return w.b
}
