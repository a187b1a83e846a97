// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/admissionregistration"
	"knarr.dev/apiserver/measure"
)

// counted are the counters of a set that begin with a prefix, with their labels' values in order.
func counted(t *testing.T, set *measure.Set, prefix string) (out []string) {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(set)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if !strings.HasPrefix(f.GetName(), prefix) || m.Counter == nil || m.Counter.GetValue() == 0 {
				continue
			}
			text := strings.TrimPrefix(f.GetName(), prefix)
			for _, l := range m.Label {
				text += " " + l.GetValue()
			}
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

func TestWebhookFigures(t *testing.T) {
	server := hooks(t)
	for _, c := range []struct {
		path   string
		ignore bool
		want   []string
	}{
		{"/allow", false, []string{"request_total 200 allow.example.com CREATE false validating"}},
		{"/deny", false, []string{
			"rejection_count no_error deny.example.com CREATE 418 validating", "request_total 418 deny.example.com CREATE true validating",
		}},
		{"/stranger", false, []string{
			"rejection_count calling_webhook_error stranger.example.com CREATE 503 validating", "request_total 503 stranger.example.com CREATE true validating",
		}},
		{"/stranger", true, []string{"fail_open_count stranger.example.com validating", "request_total 503 stranger.example.com CREATE false validating"}},
	} {
		w := webhookAt(server, c.path)
		if c.ignore {
			w.FailurePolicy = pointer(admissionv1.Ignore)
		}
		store, set := world(), &measure.Set{}
		store.add(admissionregistration.ValidatingWebhookConfigurations.Kind, &admissionv1.ValidatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "w", UID: "1"}, Webhooks: []admissionv1.ValidatingWebhook{w},
		})
		r := configMap()
		r.Spent = &Spent{}
		_ = admit(t, Steps(store, nil, Config{Now: clock, Figures: set}), r)
		if got := counted(t, set, "apiserver_admission_webhook_"); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.path, got, c.want)
		}
		if r.Spent.Webhooks.Load() == 0 {
			t.Errorf("%s: no time was spent", c.path)
		}
	}
}
