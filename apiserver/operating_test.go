// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"knarr.dev/apiserver"
	"knarr.dev/apiserver/admission"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/measure"
	"knarr.dev/store"
)

func ask(h http.Handler, method, path, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// breakable is a store whose reads fail when told to.
type breakable struct {
	store.Store
	broken chan struct{}
}

func (b breakable) Read(ctx context.Context, q store.Query) (store.Page, error) {
	select {
	case <-b.broken:
		return store.Page{}, context.DeadlineExceeded
	default:
		return b.Store.Read(ctx, q)
	}
}

func TestHealth(t *testing.T) {
	broken := make(chan struct{})
	s := startWith(t, func(c *apiserver.Config) { c.Store = breakable{c.Store, broken} })
	for _, path := range []string{"/livez", "/readyz", "/healthz"} {
		want, err := os.ReadFile("testdata" + path + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		if w := ask(s.Handler(), "GET", path+"?verbose", ""); w.Body.String() != string(want) {
			t.Errorf("%s?verbose:\n%s", path, w.Body)
		}
	}
	type row struct {
		path string
		code int
		text string // what the answer is, or with "..." contains
	}
	check := func(rows []row) {
		t.Helper()
		for _, r := range rows {
			w := ask(s.Handler(), "GET", r.path, "")
			part, ok := strings.CutPrefix(r.text, "...")
			if w.Code != r.code || !ok && w.Body.String() != r.text || ok && !strings.Contains(w.Body.String(), part) {
				t.Errorf("%s: %d %q, want %d %q", r.path, w.Code, w.Body, r.code, r.text)
			}
		}
	}
	check([]row{
		{"/livez", 200, "ok"},
		{"/livez?exclude=etcd", 200, "ok"},
		{"/livez?exclude=etcd&verbose", 200, "...[+]etcd excluded: ok\n"},
		{"/livez?verbose&exclude=etcd&exclude=nothere", 200, "...ok\nwarn: some health checks cannot be excluded: no matches for \"nothere\"\nlivez check passed\n"},
		{"/livez/etcd?verbose", 200, "ok"},
		{"/livez/poststarthook/rbac/bootstrap-roles", 200, "ok"},
		{"/readyz/informer-sync", 200, "ok"},
		{"/livez/nothere", 404, "404 page not found\n"},
		{"/livez/ping/", 404, "404 page not found\n"},
		{"/livez/", 404, "404 page not found\n"},
	})
	close(broken)
	check([]row{
		{"/livez/etcd", 500, "internal server error: error getting data from etcd: context deadline exceeded\n"},
		{"/livez", 500, "...[-]etcd failed: reason withheld\n"},
		{"/livez", 500, "...\nlivez check failed\n"},
		{"/livez?exclude=etcd", 200, "ok"},
		{"/readyz?exclude=etcd", 500, "...[-]etcd-readiness failed: reason withheld\n"},
	})
}

func TestPages(t *testing.T) {
	s := startWith(t, func(c *apiserver.Config) { c.Flags = map[string]string{"v": "0", "data-dir": "/d"} })
	const object, old = "application/json;v=v1beta1;g=config.k8s.io;as=", "application/yaml;v=v1alpha1;g=config.k8s.io;as="
	for _, c := range []struct {
		path, accept string
		code         int
		media        string
		parts        []string
	}{
		{"/statusz", "", 200, "text/plain; charset=utf-8", []string{"\napiserver statusz\nWarning: ", "Binary version: 1.36.3\n", "Emulation version: 1.36\n"}},
		{"/statusz", "*/*", 200, "text/plain; charset=utf-8", nil},
		{"/statusz", object + "Statusz", 200, strings.Replace(object, "v=v1beta1;g=config.k8s.io", "g=config.k8s.io;v=v1beta1", 1) + "Statusz",
			[]string{"{\n  \"kind\": \"Statusz\",\n  \"apiVersion\": \"config.k8s.io/v1beta1\",\n  \"metadata\": {\n    \"name\": \"apiserver\"\n  },\n  \"startTime\": \""}},
		{"/flagz", object + "Flagz", 200, "application/json;g=config.k8s.io;v=v1beta1;as=Flagz", []string{"\"flags\": {\n    \"data-dir\": \"/d\",\n    \"v\": \"0\"\n  }\n}\n"}},
		{"/flagz", old + "Flagz", 200, "application/yaml;g=config.k8s.io;v=v1alpha1;as=Flagz", []string{"flags:\n  data-dir: /d\n"}},
		{"/flagz", "text/plain;q=0.5, " + object + "Statusz", 200, "text/plain; charset=utf-8", []string{"debugging purposes only.\ndata-dir:/d\nv:0\n"}},
		{"/flagz", "application/json", 406, "application/json", []string{"only the following media types are accepted: application/json, application/yaml, text/plain"}},
		{"/statusz", "application/json;v=v1;g=config.k8s.io;as=Statusz", 406, "application/json", nil},
		{"/configz", "", 404, "text/plain; charset=utf-8", nil},
	} {
		w := ask(s.Handler(), "GET", c.path, c.accept)
		if w.Code != c.code || w.Header().Get("Content-Type") != c.media {
			t.Errorf("%s as %q: %d %q, want %d %q", c.path, c.accept, w.Code, w.Header().Get("Content-Type"), c.code, c.media)
		}
		for _, part := range c.parts {
			if !strings.Contains(w.Body.String(), part) {
				t.Errorf("%s as %q lacks %q:\n%s", c.path, c.accept, part, w.Body)
			}
		}
		if warned := w.Header().Get("Warning") != ""; warned != strings.Contains(c.accept, "v1alpha1") {
			t.Errorf("%s as %q: warning %q", c.path, c.accept, w.Header().Get("Warning"))
		}
	}
}

// TestMetrics compares the metrics with those of Kubernetes' own API server, recorded as name, type and labels.
func TestMetrics(t *testing.T) {
	registry, figures := prometheus.NewRegistry(), &measure.Set{}
	registry.MustRegister(figures)
	authn.NewFigures(figures)
	s := startWith(t, func(c *apiserver.Config) {
		c.Metrics = registry
		c.Steps = func(r admission.Reader, w admission.Writer) []admission.Step {
			return admission.Steps(r, w, admission.Config{Figures: figures})
		}
	})
	r := httptest.NewRequest(http.MethodPost, "/api/v1/namespaces", strings.NewReader(`{"metadata":{"name":"n"}}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	if s.Handler().ServeHTTP(w, r); w.Code != http.StatusCreated {
		t.Fatal(w.Code, w.Body)
	}
	for _, path := range []string{
		"/api/v1/namespaces/n/configmaps/a", "/api/v1/namespaces", "/api/v1/endpoints", "/livez", "/api/v1/namespaces?watch=1&timeoutSeconds=1",
		"/api/v1/namespaces?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1",
	} {
		ask(s.Handler(), "GET", path, "")
	}
	told := text(s)
	for _, line := range []string{
		`apiserver_requested_deprecated_apis{group="",removed_release="",resource="endpoints",subresource="",version="v1"} 1`,
		`apiserver_watch_list_duration_seconds_count{group="",resource="namespaces",scope="cluster",version="v1"} 1`,
		`apiserver_cache_list_total{group="",index="",resource="namespaces"} `,
		`apiserver_admission_controller_admission_duration_seconds_count{name="NamespaceLifecycle",operation="CREATE",rejected="false",type="admit"} `,
		`apiserver_current_inqueue_requests{request_kind="mutating"} 0`,
		`kubernetes_feature_enabled{name="WatchList",stage="BETA"} 1`,
		`kubernetes_feature_enabled{name="APIServerTracing",stage=""} 1`,
	} {
		if !strings.Contains(told, line) {
			t.Errorf("no %s", line)
		}
	}
	families := familiesOf(told)
	for name, f := range families {
		if f.times > 1 {
			t.Errorf("%s is told %d times", name, f.times)
		}
	}
	recorded, err := os.ReadFile("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	absent := map[string]string{}
	for why, names := range absentMetrics() {
		for _, name := range names {
			absent[name] = why
		}
	}
	for line := range strings.Lines(string(recorded)) {
		fields := strings.Fields(line)
		labels := ""
		if len(fields) == 3 {
			labels = fields[2]
		}
		f := families[fields[0]]
		if f == nil {
			if absent[fields[0]] == "" {
				t.Errorf("no metric %s", strings.TrimSpace(line))
			}
			continue
		}
		if why := absent[fields[0]]; why != "" {
			t.Errorf("%s is there and listed as absent: %s", fields[0], why)
		}
		if f.kind != fields[1] {
			t.Errorf("%s is a %s, want %s", fields[0], f.kind, fields[1])
		}
		if have := strings.Join(f.sorted(), ","); have != labels {
			t.Errorf("%s has labels %s, want %s", fields[0], have, labels)
		}
	}
}

type family struct {
	kind   string
	labels map[string]bool
	times  int
}

func (f *family) sorted() (names []string) {
	for name := range f.labels {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// familiesOf reads the text form of metrics.
func familiesOf(text string) map[string]*family {
	label := regexp.MustCompile(`[{,]([a-z_]+)="`)
	out := map[string]*family{}
	var now *family
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "# TYPE"):
			now = &family{kind: fields[3], labels: map[string]bool{}, times: 1}
			if before := out[fields[2]]; before != nil {
				now.times += before.times
			}
			out[fields[2]] = now
		case !strings.HasPrefix(line, "#"):
			for _, m := range label.FindAllStringSubmatch(line, -1) {
				if m[1] != "le" && m[1] != "quantile" {
					now.labels[m[1]] = true
				}
			}
		}
	}
	return out
}

// absentMetrics are metrics of Kubernetes' API server that the server of the test has not, by the reason.
func absentMetrics() map[string][]string {
	return map[string][]string{
		// Served when the part runs that they are about.
		"with audit":                       {"apiserver_audit_event_total", "apiserver_audit_requests_rejected_total"},
		"with a store that knows its size": {"apiserver_storage_size_bytes"},
		"with control loops": {
			"workqueue_adds_total", "workqueue_depth", "workqueue_longest_running_processor_seconds", "workqueue_queue_duration_seconds",
			"workqueue_retries_total", "workqueue_unfinished_work_seconds", "workqueue_work_duration_seconds",
		},
		"with pods":                   {"pod_security_evaluations_total"},
		"with exemptions of security": {"pod_security_exemptions_total"},
		// Without meaning here.
		"discovery is made of what is known, not asked of peers": {
			"aggregator_discovery_aggregation_count_total", "aggregator_discovery_nopeer_requests_total",
			"aggregator_discovery_peer_aggregated_cache_hits_total", "aggregator_discovery_peer_aggregated_cache_misses_total",
		},
		"the histogram tells it": {"apiserver_admission_step_admission_duration_seconds_summary"},
		"there are not two validations to compare": {
			"apiserver_validation_declarative_validation_mismatch_total", "apiserver_validation_declarative_validation_panic_total",
			"apiserver_validation_duplicate_validation_error_total",
		},
		"tokens are not fetched: nobody waits for another": {"authentication_token_cache_active_fetch_count"},
		"they are about metrics": {
			"cardinality_enforcement_unexpected_categorizations_total", "disabled_metrics_total", "hidden_metrics_total", "registered_metrics_total",
		},
		"components call the server in the process": {
			"apiserver_selfrequest_total", "rest_client_exec_plugin_certificate_rotation_age", "rest_client_exec_plugin_ttl_seconds",
			"rest_client_request_duration_seconds", "rest_client_request_size_bytes", "rest_client_requests_total", "rest_client_response_size_bytes",
			"rest_client_transport_cache_entries", "rest_client_transport_cert_rotation_gc_calls_total", "rest_client_transport_create_calls_total",
		},
		"the store need not be etcd": {
			"etcd_bookmark_total", "etcd_lease_object_counts", "grpc_client_handled_total", "grpc_client_msg_received_total",
			"grpc_client_msg_sent_total", "grpc_client_started_total",
		},
		"a part of the request that is not told apart": {"apiextensions_apiserver_validation_ratcheting_seconds", "apiserver_request_timestamp_comparison_time"},
		"Kubernetes leaves it at 0":                    {"field_validation_request_duration_seconds"},
		"of key services of version 1": {
			"apiserver_envelope_encryption_dek_cache_fill_percent", "apiserver_storage_data_key_generation_duration_seconds",
			"apiserver_storage_data_key_generation_failures_total", "apiserver_storage_envelope_transformation_cache_misses_total",
		},
	}
}

func text(s *apiserver.Server) string { return ask(s.Handler(), "GET", "/metrics", "").Body.String() }
