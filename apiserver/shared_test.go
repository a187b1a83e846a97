// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"knarr.dev/api"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/admission"
	"knarr.dev/apiserver/authn"
	"knarr.dev/store/pebble"
)

// startShared starts servers on one store.
func startShared(t *testing.T, n int) (all []observer) {
	t.Helper()
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	for range n {
		s, err := apiserver.New(apiserver.Config{
			Store: st, Shared: true, Kinds: api.Kinds(), Log: slog.New(slog.DiscardHandler), Authenticators: []authn.Authenticator{admin{}},
			NodePorts: [2]int{30000, 30019},
			Steps: func(r admission.Reader, w admission.Writer) []admission.Step {
				return admission.Steps(r, w, admission.Config{})
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
		all = append(all, observer{handler: s.Handler()})
	}
	return all
}

// TestSharedNodePorts lets servers on one store take all node ports that there are, at once: each goes to one Service.
func TestSharedNodePorts(t *testing.T) {
	servers := startShared(t, 2)
	const path = "/api/v1/namespaces/default/services"
	service := func(name string, port int) map[string]any {
		p := map[string]any{"port": 80}
		if port > 0 {
			p["nodePort"] = port
		}
		return map[string]any{"metadata": map[string]any{"name": name}, "spec": map[string]any{"type": "NodePort", "ports": []any{p}}}
	}
	portOf := func(r reply) int {
		return int(r.body["spec"].(map[string]any)["ports"].([]any)[0].(map[string]any)["nodePort"].(float64))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	had := map[int]string{}
	make20 := func(prefix string, want int) {
		made := 0
		var refusals []any
		for i := range 11 {
			for n, s := range servers {
				name := fmt.Sprintf("%s-%d-%d", prefix, n, i)
				wg.Go(func() {
					r := s.send(t, "POST", path, service(name, 0))
					mu.Lock()
					defer mu.Unlock()
					if r.code == http.StatusCreated {
						made++
						if other := had[portOf(r)]; other != "" {
							t.Errorf("%s and %s got port %d", name, other, portOf(r))
						}
						had[portOf(r)] = name
					} else {
						refusals = append(refusals, r.body["message"])
					}
				})
			}
		}
		wg.Wait()
		if made != want {
			t.Errorf("%s: %d Services were made, want %d; refused: %v", prefix, made, want, refusals)
		}
	}
	make20("a", 20)
	if r := servers[1].send(t, "POST", path, service("asked", 30003)); r.code != http.StatusUnprocessableEntity {
		t.Errorf("a port that is taken: %d %v", r.code, r.body["message"])
	}
	maker := servers[had[30003][2]-'0'] // whose cache knows it surely
	if r := maker.send(t, "DELETE", path+"/"+had[30003], nil); r.code != http.StatusOK {
		t.Fatal(r.body)
	}
	asked := servers[0].send(t, "POST", path, service("asked", 30003))
	if asked.code != http.StatusCreated {
		t.Fatalf("a port that was freed: %d %v", asked.code, asked.body["message"])
	}
	spec := asked.body["spec"].(map[string]any)
	spec["type"] = "ClusterIP"
	delete(spec["ports"].([]any)[0].(map[string]any), "nodePort")
	if r := servers[0].send(t, "PUT", path+"/asked", asked.body); r.code != http.StatusOK {
		t.Fatal(r.body["message"])
	}
	if r := servers[1].send(t, "POST", path, service("again", 30003)); r.code != http.StatusCreated {
		t.Errorf("a port that was given up: %d %v", r.code, r.body["message"])
	}
}

// TestNodePortBelongsToOneService: whatever the protocol, as in Kubernetes.
func TestNodePortBelongsToOneService(t *testing.T) {
	o := observer{handler: startAdmitting(t).Handler()}
	const path = "/api/v1/namespaces/default/services"
	port := func(name, protocol string) map[string]any {
		return map[string]any{"name": name, "port": 80, "nodePort": 30009, "protocol": protocol}
	}
	service := func(name string, ports ...any) map[string]any {
		return map[string]any{"metadata": map[string]any{"name": name}, "spec": map[string]any{"type": "NodePort", "ports": ports}}
	}
	if r := o.send(t, "POST", path, service("both", port("a", "UDP"), port("b", "TCP"))); r.code != http.StatusCreated {
		t.Fatal(r.body)
	}
	r := o.send(t, "POST", path, service("other", port("c", "SCTP")))
	if want := `Service "other" is invalid: spec.ports[0].nodePort: Invalid value: 30009: provided port is already allocated`; r.body["message"] != want {
		t.Error(r.body["message"])
	}
}
