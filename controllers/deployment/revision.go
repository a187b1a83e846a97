// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/rand"
)

// versions are the ReplicaSets of a deployment: the one of the present template, if there is one, and the others, oldest first.
type versions struct {
	current *appsv1.ReplicaSet
	old     []*appsv1.ReplicaSet
}

func (v versions) all() []*appsv1.ReplicaSet {
	if v.current == nil {
		return v.old
	}
	return append(slices.Clone(v.old), v.current)
}

func sort(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) versions {
	sorted := slices.Clone(sets)
	slices.SortStableFunc(sorted, func(a, b *appsv1.ReplicaSet) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	var v versions
	for _, s := range sorted {
		if v.current == nil && sameTemplate(&s.Spec.Template, &d.Spec.Template) {
			v.current = s
		} else {
			v.old = append(v.old, s)
		}
	}
	return v
}

// sameTemplate compares templates without the label that tells versions apart.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	delete(x.Labels, hashLabel)
	delete(y.Labels, hashLabel)
	return equality.Semantic.DeepEqual(x, y)
}

// Hash is the name of a template: short, and of letters that spell nothing.
func Hash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	if err := json.NewEncoder(h).Encode(t); err != nil {
		panic(err) // a decoded template always encodes
	}
	if collisions != nil {
		fmt.Fprint(h, *collisions)
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

func with(labels map[string]string, key, value string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	out[key] = value
	return out
}

func revisionOf(s *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(s.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func maxRevision(sets []*appsv1.ReplicaSet) (highest int64) {
	for _, s := range sets {
		highest = max(highest, revisionOf(s))
	}
	return highest
}

// annotate copies the deployment's annotations to a ReplicaSet and gives it a revision, remembering those it had.
func annotate(d *appsv1.Deployment, s *appsv1.ReplicaSet, revision string) {
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		switch k {
		case corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation, "deprecated.deployment.rollback.to":
		default:
			s.Annotations[k] = v
		}
	}
	wanted, _ := strconv.ParseInt(revision, 10, 64)
	if had := s.Annotations[revisionAnnotation]; revisionOf(s) < wanted {
		if had != "" {
			history := append(strings.FieldsFunc(s.Annotations[historyAnnotation], func(r rune) bool { return r == ',' }), had)
			for len(strings.Join(history, ",")) > 2000 {
				history = history[1:]
			}
			s.Annotations[historyAnnotation] = strings.Join(history, ",")
		}
		s.Annotations[revisionAnnotation] = revision
	}
	setSizes(d, s)
}

// setSizes notes what the deployment wanted when the set was sized, which tells a change of size from a change of template.
func setSizes(d *appsv1.Deployment, s *appsv1.ReplicaSet) {
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	surge, _ := limits(d)
	s.Annotations[desiredAnnotation] = fmt.Sprint(*d.Spec.Replicas)
	s.Annotations[maxAnnotation] = fmt.Sprint(*d.Spec.Replicas + surge)
}

// resized tells whether the deployment's size changed since its live sets were sized.
func resized(d *appsv1.Deployment, v versions) bool {
	for _, s := range v.all() {
		desired, known := s.Annotations[desiredAnnotation]
		if *s.Spec.Replicas > 0 && known && desired != fmt.Sprint(*d.Spec.Replicas) {
			return true
		}
	}
	return false
}
