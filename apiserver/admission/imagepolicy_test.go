// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"

	"knarr.dev/api/core"
)

// judge answers reviews by their first image, and writes down what it is asked.
func judge(t *testing.T) (file string, asked *[]string) {
	t.Helper()
	asked = &[]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review imagepolicyv1alpha1.ImageReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		text := review.APIVersion + " " + review.Kind + " " + review.Spec.Namespace + fmt.Sprint(review.Spec.Annotations)
		for _, c := range review.Spec.Containers {
			text += " " + c.Image
		}
		*asked = append(*asked, text)
		status := imagepolicyv1alpha1.ImageReviewStatus{}
		switch review.Spec.Containers[0].Image {
		case "good":
			status = imagepolicyv1alpha1.ImageReviewStatus{Allowed: true, AuditAnnotations: map[string]string{"k": "v"}}
		case "bad":
			status.Reason = "it is bad"
		case "broken":
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		review.Status = status
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	file = filepath.Join(t.TempDir(), "kubeconfig")
	config := "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: '" + server.URL + "'}}], contexts: [{name: c, context: {cluster: c}}], current-context: c}"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, asked
}

// TestImagePolicy has the questions and texts that were seen of kube-apiserver v1.36.
func TestImagePolicy(t *testing.T) {
	file, asked := judge(t)
	now, annotations := clock(), map[string]string{}
	step := func(more string) Step {
		p, err := parseImagePolicy([]byte("{imagePolicy: {kubeConfigFile: '" + file + "', retryBackoff: 1" + more + "}}"))
		if err != nil {
			t.Fatal(err)
		}
		return imagePolicy(p, func() time.Time { return now })
	}
	strict, open := step(", allowTTL: 10, denyTTL: 5"), step(", defaultAllow: true")
	try := func(s Step, image, subresource string) string {
		p := pod("p", nil, nil)
		p.Annotations = map[string]string{"a": "b", "x.image-policy.k8s.io/y": "z"}
		p.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "init"}}
		r := create(core.Pods.Kind, p)
		if r.Subresource = subresource; subresource != "" {
			r.Verb = "update"
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: image}}}
		}
		r.Annotate = func(key, value string) { annotations[key] = value }
		*asked = nil
		clear(annotations)
		return text(s.Validate(t.Context(), r))
	}
	const question = "imagepolicy.k8s.io/v1alpha1 ImageReview nmap[x.image-policy.k8s.io/y:z] "
	for _, c := range []struct {
		step                     Step
		image, subresource, want string
		asked                    string
		annotations              string
	}{
		{strict, "good", "", "", question + "good init", "k=v"},
		{strict, "good", "", "", "", "k=v"},
		{strict, "good", "ephemeralcontainers", "", question + "good", "k=v"},
		{strict, "bad", "status", "", "", ""},
		{strict, "bad", "", `pods "p" is forbidden: image policy webhook backend denied one or more images: it is bad`, question + "bad init", ""},
		{strict, "empty", "", `pods "p" is forbidden: one or more images rejected by webhook backend`, question + "empty init", ""},
		{strict, "broken", "", `pods "p" is forbidden: an error on the server ("") has prevented the request from succeeding`, strings.Repeat(question+"broken init|", 4) + question + "broken init", ""},
		{open, "broken", "", "", strings.Repeat(question+"broken init|", 4) + question + "broken init", "failed-open=true"},
		{imagePolicy(nil, clock), "good", "", `pods "p" is forbidden: ImagePolicyWebhook is not configured`, "", ""},
	} {
		got, told := try(c.step, c.image, c.subresource), ""
		for _, key := range slices.Sorted(maps.Keys(annotations)) {
			told += strings.TrimPrefix(key, imagePolicyAudit) + "=" + annotations[key]
		}
		if got != c.want || strings.Join(*asked, "|") != c.asked || told != c.annotations {
			t.Errorf("%s %s: %q, asked %q, annotated %q", c.image, c.subresource, got, *asked, told)
		}
	}
	now = now.Add(6 * time.Second)
	if try(strict, "good", ""); len(*asked) != 0 {
		t.Error("a good answer is forgotten too soon")
	}
	if try(strict, "bad", ""); len(*asked) != 1 {
		t.Error("a bad answer is not forgotten")
	}
	for _, bad := range []string{"allowTTL: 5000", "denyTTL: -5", "retryBackoff: 300001"} {
		if _, err := parseImagePolicy([]byte("{imagePolicy: {kubeConfigFile: '" + file + "', " + bad + "}}")); !strings.HasPrefix(text(err), "valid value is between ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := parseImagePolicy([]byte("{imagePolicy: {allowTTL: 5}}")); err == nil {
		t.Error("a policy without a webhook passes")
	}
}
