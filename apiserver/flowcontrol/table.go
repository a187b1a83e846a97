// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"cmp"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"knarr.dev/api/call"
)

// table is what the objects say, compiled. It is immutable.
type table struct {
	schemas []Schema // in order of precedence; the last one matches everything
}

// Schema is a FlowSchema with its priority level.
type Schema struct {
	// UID and LevelUID are those of the objects, each as the one value of a header; nil if there is no object yet.
	UID, LevelUID []string

	name       string
	precedence int32
	level      *level
	stats      *stats
	by         flowcontrolv1.FlowDistinguisherMethodType
	hash       uint64 // of the name
	rules      []rule
}

// Name is the name of the FlowSchema.
func (s *Schema) Name() string { return s.name }

// Level is the name of its priority level.
func (s *Schema) Level() string { return s.level.name }

// rule is one of FlowSchemaSpec.Rules.
type rule struct {
	anybody       bool
	users, groups []string
	accounts      []string // how the user names of all service accounts of a namespace begin
	resources     []resourceRule
	paths         []pathRule
}

type resourceRule struct {
	verbs, groups, namespaces set
	resources                 []resourceName // nil is all
	clusterScope              bool
}

type resourceName struct{ resource, subresource string }

type pathRule struct {
	verbs set
	all   bool
	paths []string // those that end in "/*" without the star, which stand for all below
	below []string
}

// set is a list of values that may be "*".
type set struct {
	all    bool
	values []string
}

func setOf(values []string) set {
	if slices.Contains(values, "*") {
		return set{all: true}
	}
	return set{values: values}
}

func (s *set) has(value string) bool { return s.all || slices.Contains(s.values, value) }

// compile makes the table of schemas whose level is known.
func compile(schemas []*flowcontrolv1.FlowSchema, levels map[string]*level) *table {
	t := &table{schemas: make([]Schema, 0, len(schemas))}
	for _, o := range schemas {
		l := levels[o.Spec.PriorityLevelConfiguration.Name]
		if l == nil {
			continue // it dangles
		}
		s := Schema{
			UID: header(string(o.UID)), LevelUID: header(l.uid), name: o.Name, precedence: o.Spec.MatchingPrecedence,
			level: l, stats: l.statsOf(o.Name), hash: extend(fnvOffset, o.Name),
		}
		if m := o.Spec.DistinguisherMethod; m != nil {
			s.by = m.Type
		}
		for i := range o.Spec.Rules {
			s.rules = append(s.rules, compileRule(&o.Spec.Rules[i]))
		}
		t.schemas = append(t.schemas, s)
	}
	slices.SortFunc(t.schemas, func(a, b Schema) int {
		return cmp.Or(cmp.Compare(a.precedence, b.precedence), strings.Compare(a.name, b.name))
	})
	return t
}

func header(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

func compileRule(p *flowcontrolv1.PolicyRulesWithSubjects) rule {
	var r rule
	for i := range p.Subjects {
		r.addSubject(&p.Subjects[i])
	}
	for _, o := range p.ResourceRules {
		c := resourceRule{verbs: setOf(o.Verbs), groups: setOf(o.APIGroups), namespaces: setOf(o.Namespaces), clusterScope: o.ClusterScope}
		if !slices.Contains(o.Resources, "*") {
			c.resources = make([]resourceName, len(o.Resources))
			for i, name := range o.Resources {
				c.resources[i].resource, c.resources[i].subresource, _ = strings.Cut(name, "/")
			}
		}
		r.resources = append(r.resources, c)
	}
	for _, o := range p.NonResourceRules {
		c := pathRule{verbs: setOf(o.Verbs)}
		for _, url := range o.NonResourceURLs {
			switch {
			case url == "*":
				c.all = true
			case strings.HasSuffix(url, "/*"):
				c.below = append(c.below, strings.TrimSuffix(url, "*"))
			default:
				c.paths = append(c.paths, url)
			}
		}
		r.paths = append(r.paths, c)
	}
	return r
}

func (r *rule) addSubject(s *flowcontrolv1.Subject) {
	switch {
	case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil:
		r.anybody = r.anybody || s.User.Name == "*"
		r.users = append(r.users, s.User.Name)
	case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil:
		r.anybody = r.anybody || s.Group.Name == "*"
		r.groups = append(r.groups, s.Group.Name)
	case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
		prefix := "system:serviceaccount:" + s.ServiceAccount.Namespace + ":"
		if s.ServiceAccount.Name == "*" {
			r.accounts = append(r.accounts, prefix)
		} else {
			r.users = append(r.users, prefix+s.ServiceAccount.Name)
		}
	}
}

func (t *table) match(r *Request) *Schema {
	for i := range t.schemas {
		s := &t.schemas[i]
		for j := range s.rules {
			if s.rules[j].matches(r) {
				return s
			}
		}
	}
	return &t.schemas[len(t.schemas)-1]
}

func (r *rule) matches(q *Request) bool {
	if !r.of(q.User) {
		return false
	}
	if q.Resource == "" {
		for i := range r.paths {
			if r.paths[i].matches(q) {
				return true
			}
		}
		return false
	}
	for i := range r.resources {
		if r.resources[i].matches(q) {
			return true
		}
	}
	return false
}

// of says whether the rule is for requests of a user.
func (r *rule) of(user *call.Identity) bool {
	if r.anybody || slices.Contains(r.users, user.Name) {
		return true
	}
	for _, prefix := range r.accounts {
		if strings.HasPrefix(user.Name, prefix) {
			return true
		}
	}
	for _, group := range r.groups {
		if slices.Contains(user.Groups, group) {
			return true
		}
	}
	return false
}

func (r *resourceRule) matches(q *Request) bool {
	if !r.verbs.has(q.Verb) || !r.groups.has(q.Group) {
		return false
	}
	if r.resources != nil && !slices.Contains(r.resources, resourceName{q.Resource, q.Subresource}) {
		return false
	}
	if q.Namespace == "" {
		return r.clusterScope
	}
	return r.namespaces.has(q.Namespace)
}

func (r *pathRule) matches(q *Request) bool {
	if !r.verbs.has(q.Verb) {
		return false
	}
	if r.all || slices.Contains(r.paths, q.Path) {
		return true
	}
	for _, prefix := range r.below {
		if strings.HasPrefix(q.Path, prefix) {
			return true
		}
	}
	return false
}

// MaxSeats is the most seats that one request of the schema may take; see Work.
func (s *Schema) MaxSeats() int { return int(s.level.widest.Load()) }

// Exempt says that requests of the schema never wait.
func (s *Schema) Exempt() bool { return s.level.exempt.Load() }

// flow tells the flow of a request: its distinguisher, and a hash of that and the schema.
func (s *Schema) flow(r *Request) (string, uint64) {
	distinguisher := ""
	switch s.by {
	case flowcontrolv1.FlowDistinguisherMethodByUserType:
		distinguisher = r.User.Name
	case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		distinguisher = r.Namespace
	}
	return distinguisher, mix(extend((s.hash^0xff)*fnvPrime, distinguisher))
}
