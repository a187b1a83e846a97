// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/rbac"
	"knarr.dev/api/resource"
)

// bootstrapLines has one object a line. It is JSON, not YAML, because it is read at every start.
//
//go:embed bootstrap.jsonl
var bootstrapLines []byte

// AutoUpdate is the annotation that lets the server bring a bootstrap role or binding up to date at start; "false" forbids it.
const AutoUpdate = "rbac.authorization.kubernetes.io/autoupdate"

// Policy is a set of roles and bindings.
type Policy struct {
	ClusterRoles        []*rbacv1.ClusterRole
	ClusterRoleBindings []*rbacv1.ClusterRoleBinding
	Roles               []*rbacv1.Role
	RoleBindings        []*rbacv1.RoleBinding
}

// Bootstrap returns the roles and bindings that every Kubernetes v1.36 cluster has, by name and content as a fresh API server
// shows them. The caller owns them.
func Bootstrap() (*Policy, error) {
	p := &Policy{}
	number := 0
	for line := range bytes.Lines(bootstrapLines) {
		number++
		if err := p.add(line); err != nil {
			return nil, fmt.Errorf("bootstrap.jsonl:%d: %w", number, err)
		}
	}
	return p, nil
}

func (p *Policy) add(line []byte) error {
	rest, ok := bytes.CutPrefix(line, []byte(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"`))
	if !ok {
		return errors.New("it does not begin with apiVersion and kind")
	}
	kind, _, _ := bytes.Cut(rest, []byte{'"'})
	switch string(kind) {
	case "ClusterRole":
		return read(line, &p.ClusterRoles, func(o *rbacv1.ClusterRole) { o.TypeMeta = metav1.TypeMeta{} })
	case "ClusterRoleBinding":
		return read(line, &p.ClusterRoleBindings, func(o *rbacv1.ClusterRoleBinding) { o.TypeMeta = metav1.TypeMeta{} })
	case "Role":
		return read(line, &p.Roles, func(o *rbacv1.Role) { o.TypeMeta = metav1.TypeMeta{} })
	case "RoleBinding":
		return read(line, &p.RoleBindings, func(o *rbacv1.RoleBinding) { o.TypeMeta = metav1.TypeMeta{} })
	}
	return fmt.Errorf("unexpected kind %q", kind)
}

// read refuses unknown fields: the file is ours.
func read[T any](line []byte, list *[]*T, bare func(*T)) error {
	o := new(T)
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(o); err != nil {
		return err
	}
	bare(o)
	*list = append(*list, o)
	return nil
}

// nodeRules are the rules of system:node, which the node authorizer applies whatever has become of the role.
func nodeRules() []rbacv1.PolicyRule {
	for line := range bytes.Lines(bootstrapLines) {
		if !bytes.Contains(line, []byte(`"kind":"ClusterRole","metadata":{"name":"system:node",`)) {
			continue
		}
		p := &Policy{}
		if err := p.add(line); err != nil {
			panic(err) // the embedded file is broken; the test reads it too
		}
		return p.ClusterRoles[0].Rules
	}
	panic("bootstrap.jsonl has no system:node")
}

// Extend gives one of the program's own loops, kube-system's service account of that name, rules that Kubernetes' role for it lacks: in
// a ClusterRole knarr:ACCOUNT of their own, so that Kubernetes' roles stay as they are.
func (p *Policy) Extend(account string, rules []rbacv1.PolicyRule) {
	held := []rbacv1.PolicyRule(nil)
	if at := p.role("system:controller:" + account); at >= 0 {
		held = p.ClusterRoles[at].Rules
	}
	name := "knarr:" + account
	at := p.role(name)
	if at >= 0 {
		held = append(slices.Clone(held), p.ClusterRoles[at].Rules...)
	}
	missing := Uncovered(held, rules)
	if len(missing) == 0 {
		return
	}
	if at >= 0 {
		p.ClusterRoles[at].Rules = append(p.ClusterRoles[at].Rules, missing...)
		return
	}
	p.ClusterRoles = append(p.ClusterRoles, &rbacv1.ClusterRole{ObjectMeta: bootstrapMeta(name), Rules: missing})
	p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{
		ObjectMeta: bootstrapMeta(name),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: account}},
	})
}

func (p *Policy) role(name string) int {
	return slices.IndexFunc(p.ClusterRoles, func(r *rbacv1.ClusterRole) bool { return r.Name == name })
}

func bootstrapMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{"app.kubernetes.io/part-of": "knarr"},
		Annotations: map[string]string{AutoUpdate: "true"},
	}
}

// Doer carries out requests: a call.Transport, as the server itself or an administrator.
type Doer interface {
	Do(ctx context.Context, r *call.Request) (*call.Result, error)
}

// ensureAtOnce bounds how many objects Ensure looks after at the same time; the store makes their writes one batch.
const ensureAtOnce = 64

// Ensure makes the policy's objects exist and have at least its rules and subjects, as Kubernetes does at each start; see
// https://kubernetes.io/docs/reference/access-authn-authz/rbac/#auto-reconciliation. The namespaces kube-system and
// kube-public must exist. It reports every problem.
func Ensure(ctx context.Context, store Doer, p *Policy) error {
	var work []func() error
	for _, o := range p.ClusterRoles {
		work = append(work, func() error { return ensure(ctx, store, rbac.ClusterRoles, o, reconcileClusterRole) })
	}
	for _, o := range p.ClusterRoleBindings {
		work = append(work, func() error { return ensure(ctx, store, rbac.ClusterRoleBindings, o, reconcileClusterRoleBinding) })
	}
	for _, o := range p.Roles {
		work = append(work, func() error { return ensure(ctx, store, rbac.Roles, o, reconcileRole) })
	}
	for _, o := range p.RoleBindings {
		work = append(work, func() error { return ensure(ctx, store, rbac.RoleBindings, o, reconcileRoleBinding) })
	}
	problems := make([]error, len(work))
	free := make(chan struct{}, ensureAtOnce)
	var wg sync.WaitGroup
	for i, f := range work {
		free <- struct{}{}
		wg.Go(func() {
			problems[i] = f()
			<-free
		})
	}
	wg.Wait()
	return errors.Join(problems...)
}

// outcome is what is to be done about an object that exists.
type outcome int

const (
	keep outcome = iota
	update
	replace // roleRef is immutable
)

func ensure[T any](ctx context.Context, store Doer, kind *resource.Type[T], want *T, reconcile func(have, want *T) (*T, outcome)) error {
	object := kind.Erase(want)
	namespace, name := object.GetNamespace(), object.GetName()
	do := func(verb string, o resource.Object) (resource.Object, error) {
		result, err := store.Do(ctx, &call.Request{Verb: verb, Kind: kind.Kind, Namespace: namespace, Name: name, Object: o})
		if err != nil {
			return nil, err
		}
		return result.Object, nil
	}
	wrap := func(err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("ensure %s %s: %w", kind.Kind.Resource, name, err)
	}
	for range 5 {
		have, err := do("get", nil)
		if apierrors.IsNotFound(err) {
			if _, err = do("create", object.DeepCopyObject().(resource.Object)); apierrors.IsAlreadyExists(err) {
				continue
			}
			return wrap(err)
		}
		if err != nil {
			return wrap(err)
		}
		changed, what := reconcile(kind.Cast(have.DeepCopyObject().(resource.Object)), want)
		switch what {
		case keep:
			return nil
		case update:
			_, err = do("update", kind.Erase(changed))
		case replace:
			if _, err = do("delete", nil); err == nil || apierrors.IsNotFound(err) {
				continue // and create
			}
		}
		if !apierrors.IsConflict(err) {
			return wrap(err)
		}
	}
	return wrap(errors.New("it keeps changing"))
}

func reconcileClusterRole(have, want *rbacv1.ClusterRole) (*rbacv1.ClusterRole, outcome) {
	changed, fixed := reconcileMeta(&have.ObjectMeta, &want.ObjectMeta)
	if fixed {
		return have, keep
	}
	if want.AggregationRule == nil {
		if missing := Uncovered(have.Rules, want.Rules); len(missing) > 0 {
			have.Rules, changed = append(have.Rules, missing...), true
		}
	} else if have.AggregationRule == nil {
		have.AggregationRule, changed = want.AggregationRule.DeepCopy(), true
	}
	return have, when(changed)
}

func reconcileRole(have, want *rbacv1.Role) (*rbacv1.Role, outcome) {
	changed, fixed := reconcileMeta(&have.ObjectMeta, &want.ObjectMeta)
	if fixed {
		return have, keep
	}
	if missing := Uncovered(have.Rules, want.Rules); len(missing) > 0 {
		have.Rules, changed = append(have.Rules, missing...), true
	}
	return have, when(changed)
}

func reconcileClusterRoleBinding(have, want *rbacv1.ClusterRoleBinding) (*rbacv1.ClusterRoleBinding, outcome) {
	changed, fixed := reconcileMeta(&have.ObjectMeta, &want.ObjectMeta)
	switch {
	case fixed:
		return have, keep
	case have.RoleRef != want.RoleRef:
		return want, replace
	}
	return have, when(addSubjects(&have.Subjects, want.Subjects) || changed)
}

func reconcileRoleBinding(have, want *rbacv1.RoleBinding) (*rbacv1.RoleBinding, outcome) {
	changed, fixed := reconcileMeta(&have.ObjectMeta, &want.ObjectMeta)
	switch {
	case fixed:
		return have, keep
	case have.RoleRef != want.RoleRef:
		return want, replace
	}
	return have, when(addSubjects(&have.Subjects, want.Subjects) || changed)
}

func when(changed bool) outcome {
	if changed {
		return update
	}
	return keep
}

// reconcileMeta adds labels and annotations; fixed is that an administrator turned updates off.
func reconcileMeta(have, want *metav1.ObjectMeta) (changed, fixed bool) {
	if have.Annotations[AutoUpdate] == "false" {
		return false, true
	}
	add := func(to *map[string]string, from map[string]string) {
		for k, v := range from {
			if old, ok := (*to)[k]; !ok || old != v {
				if *to == nil {
					*to = map[string]string{}
				}
				(*to)[k], changed = v, true
			}
		}
	}
	add(&have.Labels, want.Labels)
	add(&have.Annotations, want.Annotations)
	return changed, false
}

func addSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) (changed bool) {
	for _, s := range want {
		if !slices.Contains(*have, s) {
			*have, changed = append(*have, s), true
		}
	}
	return changed
}
