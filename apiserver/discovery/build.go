// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"knarr.dev/api/resource"
)

// GroupPriority is the priority of a group of this server in discovery, as Kubernetes has it; ok is false for those of
// CustomResourceDefinitions.
func GroupPriority(group string) (priority int32, ok bool) {
	priority, ok = map[string]int32{
		"": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
		"autoscaling": 17500, "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
		"rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800, "apiextensions.k8s.io": 16700,
		"admissionregistration.k8s.io": 16700, "scheduling.k8s.io": 16600, "coordination.k8s.io": 16500, "node.k8s.io": 16300,
		"discovery.k8s.io": 16200, "resource.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100,
	}[group]
	return priority, ok
}

type groupKinds struct {
	name     string
	versions []string // preferred first
	kinds    map[string][]*resource.Kind
	remotes  map[string]*Remote
	priority int
}

// Priorities of groups and versions that GroupPriority does not know. The group of APIServices is before all that any of them can ask for.
const (
	firstGroup    = 30000
	customGroup   = 1000
	localVersion  = 15
	customVersion = 100
)

func groupsOf(kinds []*resource.Kind, remotes []Remote) []*groupKinds {
	byName := map[string]*groupKinds{}
	var groups []*groupKinds
	group := func(name string) *groupKinds {
		g := byName[name]
		if g == nil {
			g = &groupKinds{name: name, kinds: map[string][]*resource.Kind{}, remotes: map[string]*Remote{}}
			byName[name] = g
			groups = append(groups, g)
		}
		return g
	}
	for _, k := range kinds {
		g := group(k.Group)
		own, ok := GroupPriority(k.Group)
		switch {
		case ok:
			g.priority = max(g.priority, int(own))
		case k.Group == "apiregistration.k8s.io":
			g.priority = firstGroup
		default:
			g.priority = max(g.priority, customGroup)
		}
		if g.kinds[k.Version] == nil {
			g.versions = append(g.versions, k.Version)
		}
		g.kinds[k.Version] = append(g.kinds[k.Version], k)
	}
	for i := range remotes {
		r := &remotes[i]
		g := group(r.Group)
		g.priority = max(g.priority, int(r.GroupPriority))
		if g.kinds[r.Version] == nil && g.remotes[r.Version] == nil {
			g.versions = append(g.versions, r.Version)
		}
		g.remotes[r.Version] = r
	}
	slices.SortFunc(groups, func(a, b *groupKinds) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), strings.Compare(a.name, b.name))
	})
	for _, g := range groups {
		slices.SortFunc(g.versions, func(a, b string) int {
			return cmp.Or(cmp.Compare(g.versionPriority(b), g.versionPriority(a)), version.CompareKubeAwareVersionStrings(b, a))
		})
		for _, v := range g.versions {
			slices.SortFunc(g.kinds[v], func(a, b *resource.Kind) int { return strings.Compare(a.Resource, b.Resource) })
		}
	}
	return groups
}

func (g *groupKinds) versionPriority(v string) int {
	switch {
	case g.remotes[v] != nil:
		return int(g.remotes[v].VersionPriority)
	case g.kinds[v][0].Custom != nil:
		return customVersion
	}
	return localVersion
}

func build(kinds []*resource.Kind, remotes []Remote) *documents {
	d := &documents{plain: map[string]*document{}, aggregated: map[string]*document{}, own: map[string]bool{}}
	for _, k := range kinds {
		if k.Custom == nil {
			d.own[k.Group] = true
		}
	}
	list := &metav1.APIGroupList{Groups: []metav1.APIGroup{}}
	legacy, others := &apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}, &apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}
	versions := &metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{}} // without apiVersion, as in Kubernetes
	for _, g := range groupsOf(kinds, remotes) {
		into, prefix := others, "/apis/"+g.name
		if g.name == "" {
			into, prefix = legacy, "/api"
			versions.Versions = g.versions
		} else {
			group := g.describe()
			list.Groups = append(list.Groups, *group)
			d.plain[prefix] = newDocument(metaKind("APIGroup"), group)
		}
		into.Items = append(into.Items, g.aggregate())
		for _, v := range g.versions {
			if g.remotes[v] != nil {
				continue // which says that itself
			}
			d.plain[prefix+"/"+v] = newDocument(metaKind("APIResourceList"), g.resources(v))
		}
	}
	d.plain["/api"] = newDocument(metaKind("APIVersions"), versions)
	d.plain["/apis"] = newDocument(metaKind("APIGroupList"), list)
	d.aggregated["/api"] = newDocument(aggregatedKind(), legacy)
	d.aggregated["/apis"] = newDocument(aggregatedKind(), others)
	return d
}

func (g *groupKinds) describe() *metav1.APIGroup {
	out := &metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{
			GroupVersion: schema.GroupVersion{Group: g.name, Version: v}.String(), Version: v})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

// entry is one resource with its subresources.
type entry struct {
	name, singular string
	kind           *resource.Kind          // nil for bindings, which no kind describes
	gvk            schema.GroupVersionKind // of bodies
	namespaced     bool
	verbs          []string
	subresources   []resource.Subresource
}

// entries are the resources of a version by name.
func (g *groupKinds) entries(version string) []entry {
	var out []entry
	for _, k := range g.kinds[version] {
		e := entry{
			name: k.Resource, singular: k.Singular, kind: k, gvk: k.GroupVersionKind,
			namespaced: k.Scope == resource.Namespaced, verbs: verbsOf(k), subresources: subresourcesOf(k),
		}
		if k.Group == "" && k.Resource == "pods" {
			for _, sub := range e.subresources {
				if sub.Name == "binding" { // reachable by its old path too
					out = append(out, entry{name: "bindings", singular: "binding", gvk: sub.Kind, namespaced: true, verbs: []string{"create"}})
				}
			}
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return out
}

// verbsOf are the verbs of a kind in the order in which clients see them: custom kinds have one of their own.
func verbsOf(k *resource.Kind) []string {
	if k.Custom != nil && k.Verbs == nil && !k.Virtual {
		return []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}
	}
	verbs := k.ServedVerbs()
	slices.Sort(verbs)
	return verbs
}

// subresourcesOf are those of a kind, by name; of custom kinds clients see status first.
func subresourcesOf(k *resource.Kind) []resource.Subresource {
	out := k.ServedSubresources()
	if k.Custom == nil {
		slices.SortFunc(out, func(a, b resource.Subresource) int { return strings.Compare(a.Name, b.Name) })
	}
	return out
}

func (g *groupKinds) resources(version string) *metav1.APIResourceList {
	gv := schema.GroupVersion{Group: g.name, Version: version}
	out := &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: []metav1.APIResource{}}
	if g.name == "" {
		out.Kind = "APIResourceList" // without apiVersion, as in Kubernetes
	}
	for _, e := range g.entries(version) {
		r := metav1.APIResource{Name: e.name, SingularName: e.singular, Namespaced: e.namespaced, Kind: e.gvk.Kind, Verbs: e.verbs}
		if k := e.kind; k != nil {
			r.ShortNames, r.Categories = k.ShortNames, k.Categories
			if !k.Virtual {
				r.StorageVersionHash = storageVersionHash(k)
			}
		}
		out.APIResources = append(out.APIResources, r)
		for _, sub := range e.subresources {
			s := metav1.APIResource{Name: e.name + "/" + sub.Name, Namespaced: e.namespaced, Kind: sub.Kind.Kind, Verbs: sub.Verbs}
			if sub.Kind.GroupVersion() != gv {
				s.Group, s.Version = sub.Kind.Group, sub.Kind.Version
			}
			out.APIResources = append(out.APIResources, s)
		}
	}
	return out
}

// storageVersionHash tells clients when the stored form changes; it means nothing else.
func storageVersionHash(k *resource.Kind) string {
	if k.Stored != nil {
		k = k.Stored.Hub
	}
	version := k.Version
	if k.StorageVersion != "" {
		version = k.StorageVersion
	}
	sum := sha256.Sum256([]byte(k.Group + "/" + version + "/" + k.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

func (g *groupKinds) aggregate() apidiscoveryv2.APIGroupDiscovery {
	out := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
	for _, v := range g.versions {
		gv := schema.GroupVersion{Group: g.name, Version: v}
		if r := g.remotes[v]; r != nil {
			out.Versions = append(out.Versions, r.aggregate())
			continue
		}
		av := apidiscoveryv2.APIVersionDiscovery{Version: v, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
		for _, e := range g.entries(v) {
			scope := apidiscoveryv2.ScopeCluster
			if e.namespaced {
				scope = apidiscoveryv2.ScopeNamespace
			}
			here := gv
			if e.kind != nil && e.kind.Custom != nil {
				here = schema.GroupVersion{} // custom kinds are named in full
			}
			r := apidiscoveryv2.APIResourceDiscovery{
				Resource: e.name, ResponseKind: responseKind(e.gvk, here), Scope: scope, SingularResource: e.singular, Verbs: e.verbs,
			}
			if e.kind != nil {
				r.ShortNames, r.Categories = e.kind.ShortNames, e.kind.Categories
			}
			for _, sub := range e.subresources {
				r.Subresources = append(r.Subresources, apidiscoveryv2.APISubresourceDiscovery{
					Subresource: sub.Name, ResponseKind: responseKind(sub.Kind, here), Verbs: sub.Verbs,
				})
			}
			av.Resources = append(av.Resources, r)
		}
		out.Versions = append(out.Versions, av)
	}
	return out
}

// responseKind leaves out the group and version that the document is about.
func responseKind(gvk schema.GroupVersionKind, here schema.GroupVersion) *metav1.GroupVersionKind {
	if gvk.GroupVersion() == here {
		return &metav1.GroupVersionKind{Kind: gvk.Kind}
	}
	return &metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
}
