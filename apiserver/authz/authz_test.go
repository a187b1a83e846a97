// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"context"
	"strings"
	"sync"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/rbac"
	"knarr.dev/api/resource"
)

// objects is a small store: by kind, in the order of addition.
type objects map[*resource.Kind][]resource.Object

func (s objects) add(kind *resource.Kind, list ...resource.Object) {
	s[kind] = append(s[kind], list...)
}

func (s objects) Get(_ context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error) {
	for _, o := range s[kind] {
		if o.GetNamespace() == namespace && o.GetName() == name {
			return o, nil
		}
	}
	return nil, apierrors.NewNotFound(kind.GroupResource(), name)
}

func (s objects) List(_ context.Context, kind *resource.Kind, namespace string, each func(resource.Object) bool) error {
	for _, o := range s[kind] {
		if (namespace == "" || o.GetNamespace() == namespace) && !each(o) {
			break
		}
	}
	return nil
}

// Do is for one caller at a time; locked is for several.
func (s objects) Do(ctx context.Context, r *call.Request) (*call.Result, error) {
	if r.Verb == "get" {
		o, err := s.Get(ctx, r.Kind, r.Namespace, r.Name)
		return &call.Result{Object: o}, err
	}
	for i, o := range s[r.Kind] {
		if o.GetNamespace() != r.Namespace || o.GetName() != r.Name {
			continue
		}
		switch r.Verb {
		case "create":
			return nil, apierrors.NewAlreadyExists(r.Kind.GroupResource(), r.Name)
		case "update":
			s[r.Kind][i] = r.Object
		case "delete":
			s[r.Kind] = append(s[r.Kind][:i:i], s[r.Kind][i+1:]...)
		}
		return &call.Result{Object: r.Object}, nil
	}
	if r.Verb != "create" {
		return nil, apierrors.NewNotFound(r.Kind.GroupResource(), r.Name)
	}
	s.add(r.Kind, r.Object)
	return &call.Result{Object: r.Object, Created: true}, nil
}

type locked struct {
	mu sync.Mutex
	objects
}

func (l *locked) Do(ctx context.Context, r *call.Request) (*call.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.objects.Do(ctx, r)
}

func bootstrapped(t testing.TB) objects {
	t.Helper()
	p, err := Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	s := objects{}
	if err := Ensure(t.Context(), &locked{objects: s}, p); err != nil {
		t.Fatal(err)
	}
	return s
}

func user(name string, groups ...string) *call.Identity {
	return &call.Identity{Name: name, Groups: append(groups, "system:authenticated")}
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func rule(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{
		Verbs: strings.Split(verbs, ","), APIGroups: strings.Split(groups, ","), Resources: strings.Split(resources, ","), ResourceNames: names,
	}
}

func bind(namespace, name, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	kind := "Role"
	if cut, ok := strings.CutPrefix(role, "cluster:"); ok {
		kind, role = "ClusterRole", cut
	}
	return &rbacv1.RoleBinding{
		ObjectMeta: meta(namespace, name), Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
	}
}

func TestAuthorize(t *testing.T) {
	s := bootstrapped(t)
	s.add(rbac.Roles.Kind,
		&rbacv1.Role{ObjectMeta: meta("n", "r"), Rules: []rbacv1.PolicyRule{rule("get,list,create", "", "pods"), rule("get", "apps", "*/scale")}},
		&rbacv1.Role{ObjectMeta: meta("n", "named"), Rules: []rbacv1.PolicyRule{rule("get,list", "", "configmaps", "one")}})
	jane := rbacv1.Subject{Kind: "User", Name: "jane"}
	s.add(rbac.RoleBindings.Kind, bind("n", "b", "r", jane), bind("n", "b1", "named", jane), bind("n", "b2", "absent", jane),
		bind("n", "b3", "r", rbacv1.Subject{Kind: "ServiceAccount", Name: "robot"}))
	a := New(s)
	for _, test := range []struct {
		name    string
		a       Attributes
		allowed bool
		text    string // reason, or refusal
	}{
		{"superuser", Attributes{User: user("root", "system:masters"), Verb: "x", Resource: "anything"}, true, ""},
		{"role", Attributes{User: user("jane"), Verb: "list", Resource: "pods", Namespace: "n"}, true, `RBAC: allowed by RoleBinding "b/n" of Role "r" to User "jane"`},
		{"service account", Attributes{User: user("system:serviceaccount:n:robot"), Verb: "get", Group: "apps", Resource: "deployments", Subresource: "scale", Namespace: "n"},
			true, `RBAC: allowed by RoleBinding "b3/n" of Role "r" to ServiceAccount "robot/n"`},
		{"other namespace", Attributes{User: user("system:serviceaccount:m:robot"), Verb: "list", Resource: "pods", Namespace: "n"}, false,
			`pods is forbidden: User "system:serviceaccount:m:robot" cannot list resource "pods" in API group "" in the namespace "n"`},
		{"verb", Attributes{User: user("jane"), Verb: "delete", Resource: "pods", Namespace: "n", Name: "p"}, false,
			`pods "p" is forbidden: User "jane" cannot delete resource "pods" in API group "" in the namespace "n": RBAC: role.rbac.authorization.k8s.io "absent" not found`},
		{"subresource", Attributes{User: user("bob"), Verb: "get", Group: "apps", Resource: "deployments", Subresource: "scale", Namespace: "n", Name: "d"}, false,
			`deployments.apps "d" is forbidden: User "bob" cannot get resource "deployments/scale" in API group "apps" in the namespace "n"`},
		{"named", Attributes{User: user("jane"), Verb: "get", Resource: "configmaps", Namespace: "n", Name: "one"}, true, `RBAC: allowed by RoleBinding "b1/n" of Role "named" to User "jane"`},
		{"cluster scope", Attributes{User: user("bob"), Verb: "list", Resource: "nodes"}, false,
			`nodes is forbidden: User "bob" cannot list resource "nodes" in API group "" at the cluster scope`},
		{"path", Attributes{User: user("bob"), Verb: "get", Path: "/apis/apps/v1"}, true,
			`RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated"`},
		{"path refused", Attributes{User: user("bob"), Verb: "get", Path: "/metrics"}, false, `forbidden: User "bob" cannot get path "/metrics"`},
		{"scheduler", Attributes{User: user("system:kube-scheduler"), Verb: "create", Resource: "pods", Subresource: "binding", Namespace: "n"}, true,
			`RBAC: allowed by ClusterRoleBinding "system:kube-scheduler" of ClusterRole "system:kube-scheduler" to User "system:kube-scheduler"`},
		{"loop", Attributes{User: user("system:serviceaccount:kube-system:replicaset-controller"), Verb: "create", Resource: "pods", Namespace: "n"}, true,
			`RBAC: allowed by ClusterRoleBinding "system:controller:replicaset-controller" of ClusterRole "system:controller:replicaset-controller" to ServiceAccount "replicaset-controller/kube-system"`},
	} {
		allowed, reason, err := a.Authorize(t.Context(), &test.a)
		if err != nil || allowed != test.allowed {
			t.Errorf("%s: allowed %v (%s), error %v", test.name, allowed, reason, err)
			continue
		}
		text := reason
		if !allowed {
			text = Forbidden(&test.a, reason).Error()
		}
		if text != test.text {
			t.Errorf("%s:\n got %s\nwant %s", test.name, text, test.text)
		}
	}
}

func TestCheckGrant(t *testing.T) {
	s := bootstrapped(t)
	s.add(rbac.Roles.Kind,
		&rbacv1.Role{ObjectMeta: meta("n", "r"), Rules: []rbacv1.PolicyRule{rule("get,list", "", "pods")}},
		&rbacv1.Role{ObjectMeta: meta("n", "ok"), Rules: []rbacv1.PolicyRule{rule("get", "", "pods")}},
		&rbacv1.Role{ObjectMeta: meta("n", "binder"), Rules: []rbacv1.PolicyRule{rule("bind", "rbac.authorization.k8s.io", "clusterroles", "view")}})
	s.add(rbac.RoleBindings.Kind, bind("n", "b", "r", rbacv1.Subject{Kind: "User", Name: "jane"}), bind("n", "b1", "binder", rbacv1.Subject{Kind: "User", Name: "jane"}))
	role := func(name string, rules ...rbacv1.PolicyRule) resource.Object {
		return &rbacv1.Role{ObjectMeta: meta("n", name), Rules: rules}
	}
	const lead = ` is forbidden: user "jane" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:`
	for _, test := range []struct {
		name string
		kind *resource.Kind
		obj  resource.Object
		want string
	}{
		{"within", rbac.Roles.Kind, role("ok", rule("get", "", "pods")), ""},
		{"more", rbac.Roles.Kind, role("more", rule("get,delete", "", "pods,secrets")), `roles.rbac.authorization.k8s.io "more"` + lead +
			"\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}"},
		{"bind within", rbac.RoleBindings.Kind, bind("n", "b2", "ok"), ""},
		{"bind by the verb", rbac.RoleBindings.Kind, bind("n", "b2", "cluster:view"), ""},
		{"bind more", rbac.RoleBindings.Kind, bind("n", "b3", "cluster:cluster-admin"), `rolebindings.rbac.authorization.k8s.io "b3"` + lead +
			"\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"},
		{"bind an absent role", rbac.RoleBindings.Kind, bind("n", "b4", "absent"), `rolebindings.rbac.authorization.k8s.io "absent" not found`},
	} {
		err := NewRBAC(s).CheckGrant(t.Context(), New(s), user("jane"), test.kind, test.obj, nil)
		if got := text(err); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
	}
	if err := NewRBAC(s).CheckGrant(t.Context(), New(s), user("root", "system:masters"), rbac.RoleBindings.Kind, bind("n", "x", "absent"), nil); err != nil {
		t.Error(err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestEnsure(t *testing.T) {
	s := bootstrapped(t)
	if a, b := len(s[rbac.ClusterRoles.Kind]), len(s[rbac.ClusterRoleBindings.Kind]); a != 69 || b != 50 {
		t.Errorf("%d cluster roles, %d bindings", a, b)
	}
	find := func(name string) *rbacv1.ClusterRole {
		o, err := s.Get(t.Context(), rbac.ClusterRoles.Kind, "", name)
		if err != nil {
			t.Fatal(err)
		}
		return rbac.ClusterRoles.Cast(o)
	}
	find("system:discovery").Rules = nil
	find("system:node").Rules = nil
	find("system:node").Annotations[AutoUpdate] = "false"
	find("cluster-admin").Rules = append(find("cluster-admin").Rules, rule("get", "", "pods"))
	p, err := Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	p.Extend("replicaset-controller", []rbacv1.PolicyRule{rule("get,list", "", "pods,secrets")})
	p.Extend("new-controller", []rbacv1.PolicyRule{rule("get", "", "pods")})
	if err := Ensure(t.Context(), &locked{objects: s}, p); err != nil {
		t.Fatal(err)
	}
	for name, rules := range map[string]int{"system:discovery": 11, "system:node": 0, "cluster-admin": 3, "knarr:new-controller": 1} {
		if got := len(find(name).Rules); got != rules {
			t.Errorf("%s has %d rules, want %d", name, got, rules)
		}
	}
	robot := user("system:serviceaccount:kube-system:replicaset-controller")
	if ok, _, _ := New(s).Authorize(t.Context(), &Attributes{User: robot, Verb: "get", Resource: "secrets", Namespace: "x"}); !ok {
		t.Error("an extended role lacks its rule")
	}
}

func BenchmarkAuthorize(b *testing.B) {
	a := New(bootstrapped(b))
	attributes := &Attributes{User: user("system:serviceaccount:kube-system:replicaset-controller", "system:serviceaccounts"), Verb: "create", Resource: "pods", Namespace: "n"}
	b.ReportAllocs()
	for b.Loop() {
		if ok, _, _ := a.Authorize(b.Context(), attributes); !ok {
			b.Fatal("refused")
		}
	}
}

func BenchmarkBootstrap(b *testing.B) {
	for b.Loop() {
		if _, err := Bootstrap(); err != nil {
			b.Fatal(err)
		}
	}
}
