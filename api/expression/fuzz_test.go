// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"testing"
)

// FuzzExpression compiles expressions, and evaluates those that compile.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{
		"object.spec.replicas <= 5", "has(object.metadata) && object.metadata.name.matches('^a+$')", "[1,2,3].map(x, x * 2).sum()",
		"Object{spec: Object.spec{replicas: 3}}", "[JSONPatch{op: 'add', path: '/a', value: {'b': 1}}]", "quantity('1Gi').isGreaterThan(quantity('1Mi'))",
		"params.x in {'a': 1}", "authorizer.group('').resource('pods').check('get').allowed()", "request.userInfo.username == oldObject.x ? dyn(1) : duration('1s')",
		"url('http://[::1]:80/a?b').getHost() + ip('10.0.0.1').family()", "'%s %d'.format(['a', 1])", "optional.of(object.?a[?'b']).orValue(2)",
	} {
		f.Add(s)
	}
	var c Compiler
	names := Names{Object: map[string]any{"metadata": map[string]any{"name": "a"}, "spec": map[string]any{"replicas": int64(3)}}}
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range []Scope{{}, {Params: true, Authorizer: true}, {Mutation: true}} {
			e, err := c.Environment(s)
			if err != nil {
				t.Fatal(err)
			}
			p, err := e.Compile(text)
			if err != nil {
				continue
			}
			budget := Budget(100000)
			_, _, _ = p.Evaluate(t.Context(), names, &budget)
		}
	})
}
