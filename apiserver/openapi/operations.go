// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gvks "k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/resource"
)

// path is one path with what can be done at it.
type path struct {
	name       string
	operations []operation
	shared     []parameter // of all operations
}

type operation struct {
	method, id, description string
	tag                     string
	action                  string // x-kubernetes-action
	gvk                     *gvks.GroupVersionKind
	parameters              []parameter
	body                    string // name of a definition
	bodyRequired            bool
	consumes, produces      []string
	responses               []response
}

// response is an answer; an empty model with text set is a string, without it nothing is said.
type response struct {
	code, description, model string
	text                     bool
}

func textMedia() []string { return []string{"application/json", "application/yaml"} }

func objectMedia() []string { return append(textMedia(), "application/vnd.kubernetes.protobuf") }

func watchMedia() []string {
	return append(objectMedia(), "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
}

func patchMedia() []string {
	return []string{
		"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml",
	}
}

func anyMedia() []string { return []string{"*/*"} }

// answers are responses with one model; the last of all is the refusal of strangers.
func answers(model string, codes ...string) []response {
	var out []response
	for _, code := range codes {
		r := response{code: code, description: "OK", model: model, text: model == ""}
		switch code {
		case "201":
			r.description = "Created"
		case "202":
			r.description = "Accepted"
		}
		out = append(out, r)
	}
	return append(out, response{code: "401", description: "Unauthorized"})
}

// fixed returns the operation of a path that is no resource.
func fixed(p, id, tag, description, model string, media []string) path {
	op := operation{
		method: "get", id: id, tag: tag, description: description, responses: answers(model, "200"), produces: media,
	}
	if model != "" {
		op.consumes = media
	}
	return path{name: p, operations: []operation{op}}
}

// surface makes the paths of one group and version.
type surface struct {
	gv     gvks.GroupVersion
	prefix string // /apis/apps/v1
	tag    string // apps_v1
	id     string // AppsV1
	models *models
	paths  []path
}

func (s *surface) add(name string, ops ...operation) {
	p := path{name: s.prefix + name}
	for _, op := range ops {
		if op.id == "" {
			continue
		}
		op.tag = s.tag
		p.operations = append(p.operations, op)
	}
	if len(p.operations) == 0 {
		return
	}
	p.share(s.pathParameters(name))
	s.paths = append(s.paths, p)
}

// pathParameters are the namespace and the path; the name depends on what is below.
func (s *surface) pathParameters(name string) []parameter {
	var out []parameter
	if strings.Contains(name, "{namespace}") {
		out = append(out, namespaceParameter())
	}
	if strings.Contains(name, "{path}") {
		out = append(out, parameter{name: "path", in: "path", typ: "string", description: "path to the resource", required: true})
	}
	return out
}

// share moves what all operations take to the path, with more.
func (p *path) share(more []parameter) {
	p.shared = more
	for _, candidate := range p.operations[0].parameters {
		if !slices.ContainsFunc(p.operations, func(op operation) bool { return !slices.Contains(op.parameters, candidate) }) {
			p.shared = append(p.shared, candidate)
		}
	}
	for i := range p.operations {
		op := &p.operations[i]
		op.parameters = slices.DeleteFunc(slices.Clone(op.parameters), func(q parameter) bool { return slices.Contains(p.shared, q) })
		sortParameters(op.parameters)
	}
	sortParameters(p.shared)
}

// resource adds the paths of a kind and of its subresources.
func (s *surface) resource(k *resource.Kind) {
	verbs := k.ServedVerbs()
	collection, all, id := "/"+k.Resource, "", k.Kind
	if k.Scope == resource.Namespaced {
		collection, all, id = "/namespaces/{namespace}/"+k.Resource, "/"+k.Resource, "Namespaced"+k.Kind
	}
	object := collection + "/{name}"
	b := operations{s: s, kind: k, verbs: verbs, id: id, model: s.models.kind(k), gvk: k.GroupVersionKind}
	_, builtin := typed(k)
	b.custom = !builtin
	if all != "" {
		s.add(all, b.list("list", k.Kind+"ForAllNamespaces"))
	}
	s.add(collection, b.list("list", id), b.create(), b.deleteCollection())
	s.add(object, b.named(b.get()), b.named(b.update()), b.named(b.delete()), b.named(b.patch()))
	if slices.Contains(verbs, "watch") && !b.custom {
		if all != "" {
			s.add("/watch"+all, b.list("watchlist", k.Kind+"ListForAllNamespaces"))
		}
		s.add("/watch"+collection, b.list("watchlist", id+"List"))
		s.add("/watch"+object, b.named(b.list("watch", id)))
	}
	for _, sub := range k.ServedSubresources() {
		s.subresource(b, object, sub)
		if k.Group == "" && k.Resource == "pods" && sub.Name == "binding" { // reachable by its old path too
			old := operations{s: s, kind: k, verbs: sub.Verbs, id: "NamespacedBinding", model: s.models.named(sub.Kind), gvk: sub.Kind, of: "Binding"}
			s.add("/namespaces/{namespace}/bindings", old.create())
		}
	}
}

func (s *surface) subresource(b operations, object string, sub resource.Subresource) {
	b.sub, b.verbs, b.gvk, b.id = sub.Name, sub.Verbs, sub.Kind, b.id+strings.ToUpper(sub.Name[:1])+sub.Name[1:]
	place := object + "/" + sub.Name
	if strings.HasSuffix(sub.Kind.Kind, "Options") {
		s.add(place, b.connect("")...)
		if slices.Contains(sub.Verbs, "update") {
			s.add(place+"/{path}", b.connect("WithPath")...)
		}
		return
	}
	if sub.Kind != b.kind.GroupVersionKind {
		b.model = s.models.named(sub.Kind)
	}
	if sub.Name == "log" {
		get := b.get()
		get.parameters = append(get.parameters, s.models.connection("PodLogOptions")...)
		get.produces, get.responses = append([]string{"text/plain"}, objectMedia()...), answers("", "200")
		s.add(place, b.named(get))
		return
	}
	s.add(place, b.named(b.get()), b.named(b.update()), b.named(b.create()), b.named(b.delete()), b.named(b.patch()))
}

// operations makes the operations of one kind, or of one subresource if sub is set.
type operations struct {
	s     *surface
	kind  *resource.Kind
	verbs []string
	id    string
	model string
	gvk   gvks.GroupVersionKind // of bodies
	sub   string
	of    string // what descriptions name; the kind unless set
	// custom kinds have no protobuf and no strategic merge patch.
	custom bool
}

func (b operations) make(verb, method, action, idVerb string) operation {
	if !slices.Contains(b.verbs, verb) {
		return operation{}
	}
	gvk := b.gvk
	op := operation{
		method: method, id: idVerb + b.s.id + b.id, action: action, gvk: &gvk, consumes: anyMedia(), produces: objectMedia(),
		parameters: []parameter{prettyParameter()},
	}
	if b.custom {
		op.consumes, op.produces = textMedia(), textMedia()
	}
	return op
}

// specified tells what an operation is about: "the specified Pod", "status of the specified Pod".
func (b operations) specified() string {
	if b.sub != "" {
		return b.sub + " of the specified " + b.kind.Kind
	}
	return "the specified " + b.kind.Kind
}

func (b operations) subject() string {
	subject := b.of
	if subject == "" {
		subject = b.kind.Kind
	}
	switch {
	case strings.HasSuffix(subject, "s") && !strings.HasSuffix(subject, "ss"): // Endpoints
	case strings.ContainsRune("AEIOU", rune(subject[0])):
		subject = "an " + subject
	default:
		subject = "a " + subject
	}
	if b.sub != "" {
		return b.sub + " of " + subject
	}
	return subject
}

func (b operations) named(op operation) operation {
	if op.id != "" {
		op.parameters = append(op.parameters, parameter{
			name: "name", in: "path", typ: "string", required: true, description: "name of the " + b.gvk.Kind,
		})
	}
	return op
}

func (b operations) list(action, id string) operation {
	b.id = id
	idVerb, verb := "list", "list"
	if action != "list" {
		idVerb, verb = "watch", "watch"
	}
	op := b.make(verb, "get", action, idVerb)
	if op.id == "" {
		return op
	}
	if !b.custom {
		op.produces = watchMedia()
	}
	op.parameters = append(op.parameters, b.s.models.query(metav1.ListOptions{})...)
	model := b.s.models.named(watchEventKind())
	switch action {
	case "list":
		op.description, model = "list or watch objects of kind "+b.kind.Kind, b.s.models.list(b.kind)
		if !slices.Contains(b.verbs, "watch") {
			op.description = "list objects of kind " + b.kind.Kind
		}
	case "watchlist":
		op.description = "watch individual changes to a list of " + b.kind.Kind + ". deprecated: use the 'watch' parameter with a list operation instead."
	default:
		op.description = "watch changes to an object of kind " + b.kind.Kind + ". deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
	}
	op.responses = answers(model, "200")
	return op
}

func (b operations) create() operation {
	op := b.make("create", "post", "post", "create")
	op.description = "create " + b.subject()
	op.body, op.bodyRequired = b.model, true
	op.responses = answers(b.model, "200", "201", "202")
	op.parameters = append(op.parameters, b.s.models.query(metav1.CreateOptions{})...)
	return op
}

func (b operations) get() operation {
	op := b.make("get", "get", "get", "read")
	op.description = "read " + b.specified()
	op.responses = answers(b.model, "200")
	return op
}

func (b operations) update() operation {
	op := b.make("update", "put", "put", "replace")
	op.description = "replace " + b.specified()
	op.body, op.bodyRequired = b.model, true
	op.responses = answers(b.model, "200", "201")
	op.parameters = append(op.parameters, b.s.models.query(metav1.UpdateOptions{})...)
	return op
}

func (b operations) patch() operation {
	op := b.make("patch", "patch", "patch", "patch")
	op.description = "partially update " + b.specified()
	op.body, op.bodyRequired = b.s.models.meta(metav1.Patch{}), true
	op.consumes = patchMedia()
	if b.custom {
		op.consumes = slices.DeleteFunc(op.consumes, func(m string) bool { return m == "application/strategic-merge-patch+json" })
	}
	op.responses = answers(b.model, "200", "201")
	op.parameters = append(op.parameters, b.s.models.query(metav1.PatchOptions{})...)
	return op
}

func (b operations) delete() operation {
	op := b.make("delete", "delete", "delete", "delete")
	op.description = "delete " + b.subject()
	op.body = b.s.models.named(deleteOptionsKind())
	model := b.s.models.named(statusKind())
	if returnsDeleted(b.kind) {
		model = b.model
	}
	op.responses = answers(model, "200", "202")
	op.parameters = append(op.parameters, b.s.models.query(metav1.DeleteOptions{})...)
	return op
}

// returnsDeleted is true for the kinds of which a deletion always answers with the object.
func returnsDeleted(k *resource.Kind) bool {
	switch k.Group {
	case "":
		return slices.Contains([]string{
			"persistentvolumeclaims", "persistentvolumes", "pods", "podtemplates", "resourcequotas", "serviceaccounts", "services",
		}, k.Resource)
	case "storage.k8s.io":
		return k.Resource != "csistoragecapacities"
	}
	return k.Group == "resource.k8s.io"
}

func (b operations) deleteCollection() operation {
	op := b.make("deletecollection", "delete", "deletecollection", "delete")
	if op.id == "" {
		return op
	}
	op.id = "delete" + b.s.id + "Collection" + b.id
	op.description = "delete collection of " + b.kind.Kind
	op.body = b.s.models.named(deleteOptionsKind())
	op.responses = answers(b.s.models.named(statusKind()), "200")
	for _, p := range slices.Concat(b.s.models.query(metav1.ListOptions{}), b.s.models.query(metav1.DeleteOptions{})) {
		if p.name != "watch" && p.name != "allowWatchBookmarks" {
			op.parameters = append(op.parameters, p)
		}
	}
	return op
}

// connect makes the operations of streams and proxies.
func (b operations) connect(suffix string) []operation {
	methods := []string{"get", "post"}
	if slices.Contains(b.verbs, "update") {
		methods = []string{"get", "put", "post", "delete", "options", "head", "patch"}
	}
	var out []operation
	for _, m := range methods {
		gvk := b.gvk
		op := operation{
			method: m, id: "connect" + b.s.id + strings.ToUpper(m[:1]) + m[1:] + b.id + suffix, action: "connect", gvk: &gvk,
			description: "connect " + strings.ToUpper(m) + " requests to " + b.sub + " of " + b.kind.Kind,
			consumes:    anyMedia(), produces: anyMedia(), responses: answers("", "200"), parameters: slices.Clone(b.s.models.connection(b.gvk.Kind)),
		}
		out = append(out, b.named(op))
	}
	return out
}
