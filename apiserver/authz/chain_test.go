// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// oracle is a webhook: user "denied" is denied, "friend" allowed, with "broken" it fails; it has no opinion of others.
func oracle(t *testing.T) (kubeconfig string, asked *atomic.Int32, last *atomic.Value) {
	t.Helper()
	asked, last = &atomic.Int32{}, &atomic.Value{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		asked.Add(1)
		last.Store(review)
		switch review.Spec.User {
		case "denied":
			review.Status = authorizationv1.SubjectAccessReviewStatus{Denied: true, Reason: "no way"}
		case "friend":
			review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "a friend"}
		case "broken":
			http.Error(w, "broken", http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(&review)
	}))
	t.Cleanup(server.Close)
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {}}], contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}", server.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig, asked, last
}

func configured(kubeconfig, more string) string {
	return `
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: oracle
  webhook:
    timeout: 3s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: ` + kubeconfig + `}
` + more + `
- {type: RBAC, name: rbac}
`
}

func TestConfiguration(t *testing.T) {
	kubeconfig, asked, last := oracle(t)
	built, err := ParseConfiguration([]byte(configured(kubeconfig, `
    failurePolicy: NoOpinion
    matchConditions:
    - expression: "!('system:masters' in request.groups)"
    - expression: "!has(request.resourceAttributes) || request.resourceAttributes.namespace != 'kube-system'"
`)), bootstrapped(t))
	if err != nil {
		t.Fatal(err)
	}
	a := Chain(built.Members...)
	for _, test := range []struct {
		name     string
		a        Attributes
		decision Decision
		reason   string
		asks     int32
	}{
		{"allowed", Attributes{User: user("friend"), Verb: "delete", Resource: "nodes"}, Allow, "a friend", 1},
		{"remembered", Attributes{User: user("friend"), Verb: "delete", Resource: "nodes"}, Allow, "a friend", 0},
		{"denied though RBAC allows", Attributes{User: user("denied"), Verb: "get", Path: "/apis"}, Deny, "no way", 1},
		{"no opinion, RBAC allows", Attributes{User: user("jane"), Verb: "get", Path: "/apis"}, Allow,
			`RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated"`, 1},
		{"condition is false", Attributes{User: user("friend"), Verb: "get", Resource: "pods", Namespace: "kube-system"}, NoOpinion, "", 0},
		{"failure is no opinion", Attributes{User: user("broken"), Verb: "get", Path: "/apis"}, Allow,
			`RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated"`, 1},
		{"superuser", Attributes{User: user("denied", "system:masters"), Verb: "x", Resource: "y"}, Allow, "", 0},
	} {
		before := asked.Load()
		decision, reason, _ := Decide(t.Context(), a, &test.a)
		if decision != test.decision || reason != test.reason || asked.Load()-before != test.asks {
			t.Errorf("%s: %v, %q after %d questions", test.name, decision, reason, asked.Load()-before)
		}
	}
	selector, err := labels.Parse("a in (b,c),!d")
	if err != nil {
		t.Fatal(err)
	}
	Decide(t.Context(), a, &Attributes{User: user("jane"), Verb: "list", Resource: "pods", Namespace: "n", Fields: fields.ParseSelectorOrDie("spec.nodeName=x"), Labels: selector}) //nolint:errcheck // the question counts
	sent := last.Load().(authorizationv1.SubjectAccessReview).Spec.ResourceAttributes
	if sent.FieldSelector.Requirements[0].Key != "spec.nodeName" || sent.LabelSelector.Requirements[0].Operator != "In" || sent.LabelSelector.Requirements[1].Operator != "DoesNotExist" {
		t.Errorf("selectors %+v %+v", sent.FieldSelector, sent.LabelSelector)
	}
}

func TestFailurePolicyDeny(t *testing.T) {
	kubeconfig, _, _ := oracle(t)
	built, err := ParseConfiguration([]byte(configured(kubeconfig, "    failurePolicy: Deny\n    matchConditions: [{expression: \"request.resourceAttributes.namespace == 'x'\"}]")), bootstrapped(t))
	if err != nil {
		t.Fatal(err)
	}
	// The condition fails for a path, which has no resourceAttributes.
	decision, _, err := Decide(t.Context(), Chain(built.Members...), &Attributes{User: user("jane"), Verb: "get", Path: "/apis"})
	if decision != Deny || err == nil {
		t.Errorf("%v, %v", decision, err)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	kubeconfig, _, _ := oracle(t)
	const policy = "    failurePolicy: Deny\n"
	for _, bad := range []string{
		"kind: AuthorizationConfiguration", "{apiVersion: apiserver.config.k8s.io/v1, kind: AuthorizationConfiguration}",
		configured(kubeconfig, ""), configured(kubeconfig, policy+"    matchConditions: [{expression: 'request.nope'}]"),
		configured(kubeconfig, policy+"    matchConditions: [{expression: 'request.user'}]"), configured(kubeconfig, policy+"    nope: 1"),
		configured("/nonexistent", policy), strings.Replace(configured(kubeconfig, policy), "3s", "31s", 1),
		configured(kubeconfig, policy) + "- {type: RBAC, name: again}\n", configured(kubeconfig, policy) + "- {type: Node, name: rbac}\n",
		configured(kubeconfig, policy) + "- {type: Strange, name: s}\n",
	} {
		if _, err := ParseConfiguration([]byte(bad), objects{}); err == nil {
			t.Errorf("accepted\n%s", bad)
		}
	}
	if ttl(0, nil, time.Minute) != time.Minute || ttl(time.Second, nil, time.Minute) != time.Second || ttl(time.Second, new(bool), time.Minute) != 0 {
		t.Error("times to live")
	}
}
