// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package accounttoken

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// Labels of Secrets, and the ConfigMap that says since when their use is recorded.
const (
	lastUsed     = "kubernetes.io/legacy-token-last-used"
	invalidSince = "kubernetes.io/legacy-token-invalid-since"
	trackingName = "kube-apiserver-legacy-service-account-token-tracking"
)

// unusedFor is how long nobody may use a token before it becomes invalid, and how long after that before it goes.
const unusedFor = 365 * 24 * time.Hour

// lookEvery is how often the ages are looked at.
const lookEvery = 24 * time.Hour

// CleanerNeeds are the rules of the cleaner's role.
func CleanerNeeds() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{trackingName}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"delete", "patch"}},
	}
}

// NewCleaner returns the loop that removes Secrets with tokens that were made automatically and are not used: they become invalid
// first, so that there is time to object. reader sees Secrets, service accounts and pods; c changes them.
func NewCleaner(c, reader *client.Client) controller.Controller {
	l := cleaner{
		secrets: client.Of(c, core.Secrets), maps: client.Of(c, core.ConfigMaps),
		seen: client.Of(reader, core.Secrets), accounts: client.Of(reader, core.ServiceAccounts), pods: client.Of(reader, core.Pods),
	}
	return controller.Controller{Name: "legacy-serviceaccount-token-cleaner", Needs: CleanerNeeds(), Run: func(ctx context.Context) error {
		ticker := time.NewTicker(lookEvery)
		defer ticker.Stop()
		for {
			if err := l.look(ctx, time.Now()); err != nil && ctx.Err() != nil {
				return nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
	}}
}

type cleaner struct {
	secrets, seen client.Resource[corev1.Secret]
	maps          client.Resource[corev1.ConfigMap]
	accounts      client.Resource[corev1.ServiceAccount]
	pods          client.Resource[corev1.Pod]
}

func (l cleaner) look(ctx context.Context, now time.Time) error {
	tracking, err := l.maps.Get(ctx, client.Key{Namespace: metav1.NamespaceSystem, Name: trackingName})
	if err != nil {
		return err
	}
	since, err := time.Parse(time.DateOnly, tracking.Data["since"])
	if err != nil {
		return fmt.Errorf("since when tokens are tracked: %w", err)
	}
	if now.Sub(since) < unusedFor {
		return nil // nothing can be old enough
	}
	secrets, err := l.seen.View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	accounts, err := l.accounts.View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	pods, err := l.pods.View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	mounted := map[client.Key]bool{}
	for p := range pods.All("") {
		for i := range p.Spec.Volumes {
			if s := p.Spec.Volumes[i].Secret; s != nil {
				mounted[client.Key{Namespace: p.Namespace, Name: s.SecretName}] = true
			}
		}
	}
	for s := range secrets.All("") {
		account := accounts.Get(client.Key{Namespace: s.Namespace, Name: accountOf(s)})
		if accountOf(s) == "" || account == nil || mounted[client.KeyOf(s)] {
			continue
		}
		if err := l.clean(ctx, s, age(s, account, since, now), now); err != nil {
			return err
		}
	}
	return nil
}

// verdict is what becomes of a Secret.
type verdict int

const (
	keep verdict = iota
	invalidate
	remove
)

// age decides about a Secret that no pod mounts: those that a service account lists were made automatically.
func age(s *corev1.Secret, account *corev1.ServiceAccount, tracked, now time.Time) verdict {
	listed := false
	for _, ref := range account.Secrets {
		listed = listed || ref.Name == s.Name
	}
	if !listed || now.Sub(s.CreationTimestamp.Time) < unusedFor {
		return keep
	}
	used := tracked
	if day, err := time.Parse(time.DateOnly, s.Labels[lastUsed]); err == nil && day.After(used) {
		used = day
	}
	if now.Sub(used) < unusedFor {
		return keep
	}
	since, err := time.Parse(time.DateOnly, s.Labels[invalidSince])
	switch {
	case err != nil:
		return invalidate
	case now.Sub(since) >= unusedFor:
		return remove
	}
	return keep
}

func (l cleaner) clean(ctx context.Context, s *corev1.Secret, v verdict, now time.Time) error {
	var err error
	switch v {
	case invalidate:
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"labels":{%q:%q}}}`, s.UID, invalidSince, now.UTC().Format(time.DateOnly))
		_, err = l.secrets.Patch(ctx, client.KeyOf(s), types.MergePatchType, patch, "")
	case remove:
		err = l.secrets.Delete(ctx, client.KeyOf(s), &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{
			UID: &s.UID, ResourceVersion: &s.ResourceVersion,
		}})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// Tracking is the ConfigMap that says since when the use of tokens is recorded.
func Tracking(now time.Time) resource.Object {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: trackingName},
		Data:       map[string]string{"since": now.UTC().Format(time.DateOnly)},
	}
}
