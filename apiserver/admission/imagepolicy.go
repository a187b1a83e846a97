// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/core"
	"knarr.dev/apiserver/callout"
)

// ImagePolicy asks a webhook whether images may run.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#imagepolicywebhook.
type ImagePolicy struct {
	Client *callout.Client
	// AllowTTL and DenyTTL are how long an answer counts for the same question.
	AllowTTL, DenyTTL time.Duration
	// DefaultAllow lets pods pass while the webhook does not answer.
	DefaultAllow bool
}

const (
	imagePolicyKey     = ".image-policy.k8s.io/"                   // what annotations have that the webhook is shown
	imagePolicyAudit   = "imagepolicywebhook.image-policy.k8s.io/" // before the keys of audit annotations
	imagePolicyTimeout = 30 * time.Second
	maxImageReviews    = 1024
)

// parseImagePolicy reads the plug-in's configuration. Times to live are in seconds, the pause between tries in milliseconds.
func parseImagePolicy(raw []byte) (*ImagePolicy, error) {
	var c struct {
		ImagePolicy struct {
			KubeConfigFile string `json:"kubeConfigFile"`
			AllowTTL       int64  `json:"allowTTL"`
			DenyTTL        int64  `json:"denyTTL"`
			RetryBackoff   int64  `json:"retryBackoff"`
			DefaultAllow   bool   `json:"defaultAllow"`
		} `json:"imagePolicy"`
	}
	if err := yaml.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	p := &c.ImagePolicy
	var problems []error
	within := func(value int64, unit, preset, least, most time.Duration) time.Duration {
		d := time.Duration(value) * unit
		switch {
		case value == 0:
			return preset
		case value < int64(least/unit) || value > int64(most/unit):
			problems = append(problems, fmt.Errorf("valid value is between %v and %v, got %v", least, most, d))
		}
		return d
	}
	out := &ImagePolicy{
		AllowTTL:     within(p.AllowTTL, time.Second, 5*time.Minute, time.Second, 30*time.Minute),
		DenyTTL:      within(p.DenyTTL, time.Second, 30*time.Second, time.Second, 30*time.Minute),
		DefaultAllow: p.DefaultAllow,
	}
	backoff := within(p.RetryBackoff, time.Millisecond, 500*time.Millisecond, time.Millisecond, 5*time.Minute)
	if p.KubeConfigFile == "" {
		problems = append(problems, errors.New("imagePolicy.kubeConfigFile: Required value"))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	var err error
	out.Client, err = callout.New(callout.Config{File: p.KubeConfigFile, Timeout: imagePolicyTimeout, Backoff: backoff})
	return out, err
}

// imageReviews are the answers of late.
type imageReviews struct {
	policy *ImagePolicy
	now    func() time.Time

	mu      sync.Mutex
	answers map[[sha256.Size]byte]imageAnswer
}

type imageAnswer struct {
	status imagepolicyv1alpha1.ImageReviewStatus
	until  time.Time
}

// imagePolicy refuses pods with images that the webhook does not want. Without a policy it refuses all.
func imagePolicy(policy *ImagePolicy, now func() time.Time) Step {
	reviews := &imageReviews{policy: policy, now: now, answers: map[[sha256.Size]byte]imageAnswer{}}
	return Step{Name: "ImagePolicyWebhook", Validate: func(ctx context.Context, r *Request) error {
		if r.Kind != core.Pods.Kind || r.Verb != "create" && r.Verb != "update" || r.Subresource != "" && r.Subresource != "ephemeralcontainers" {
			return nil
		}
		if policy == nil {
			return forbidden(r, "ImagePolicyWebhook is not configured")
		}
		status, err := reviews.ask(ctx, imageReview(core.Pods.Cast(r.Object), r))
		if err != nil {
			if !policy.DefaultAllow {
				return forbidden(r, imagePolicyProblem(err))
			}
			r.Annotate(imagePolicyAudit+"failed-open", "true")
			return nil
		}
		for key, value := range status.AuditAnnotations {
			r.Annotate(imagePolicyAudit+key, value)
		}
		switch {
		case status.Allowed:
			return nil
		case status.Reason != "":
			return forbidden(r, "image policy webhook backend denied one or more images: "+status.Reason)
		}
		return forbidden(r, "one or more images rejected by webhook backend")
	}}
}

// imageReview is what the webhook is asked: of new ephemeral containers they alone, otherwise all containers.
func imageReview(p *corev1.Pod, r *Request) *imagepolicyv1alpha1.ImageReview {
	review := &imagepolicyv1alpha1.ImageReview{
		TypeMeta: metav1.TypeMeta{APIVersion: imagepolicyv1alpha1.SchemeGroupVersion.String(), Kind: "ImageReview"},
	}
	add := func(image string) {
		review.Spec.Containers = append(review.Spec.Containers, imagepolicyv1alpha1.ImageReviewContainerSpec{Image: image})
	}
	if r.Subresource == "" {
		for i := range p.Spec.Containers {
			add(p.Spec.Containers[i].Image)
		}
		for i := range p.Spec.InitContainers {
			add(p.Spec.InitContainers[i].Image)
		}
	}
	for i := range p.Spec.EphemeralContainers {
		add(p.Spec.EphemeralContainers[i].Image)
	}
	for key, value := range p.Annotations {
		if strings.Contains(key, imagePolicyKey) {
			if review.Spec.Annotations == nil {
				review.Spec.Annotations = map[string]string{}
			}
			review.Spec.Annotations[key] = value
		}
	}
	review.Spec.Namespace = r.Namespace
	return review
}

// ask returns an answer that still counts, or asks.
func (v *imageReviews) ask(ctx context.Context, review *imagepolicyv1alpha1.ImageReview) (*imagepolicyv1alpha1.ImageReviewStatus, error) {
	question, err := json.Marshal(&review.Spec)
	if err != nil {
		return nil, err
	}
	key, now := sha256.Sum256(question), v.now()
	v.mu.Lock()
	known, ok := v.answers[key]
	v.mu.Unlock()
	if ok && now.Before(known.until) {
		return &known.status, nil
	}
	var answer imagepolicyv1alpha1.ImageReview
	if err := v.policy.Client.Post(ctx, review, &answer); err != nil {
		return nil, err
	}
	ttl := v.policy.DenyTTL
	if answer.Status.Allowed {
		ttl = v.policy.AllowTTL
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.answers) >= maxImageReviews {
		maps.DeleteFunc(v.answers, func(_ [sha256.Size]byte, a imageAnswer) bool { return !now.Before(a.until) })
	}
	if len(v.answers) < maxImageReviews {
		v.answers[key] = imageAnswer{answer.Status, now.Add(ttl)}
	}
	return &answer.Status, nil
}

// imagePolicyProblem words why there is no answer.
func imagePolicyProblem(err error) string {
	var status *callout.StatusError
	if errors.As(err, &status) && status.Code >= http.StatusInternalServerError {
		return fmt.Sprintf("an error on the server (%q) has prevented the request from succeeding", status.Body)
	}
	return err.Error()
}
