// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"cmp"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Size is how many replicas a set should have.
type Size struct {
	Set      *appsv1.ReplicaSet
	Replicas int32
}

// limits are how many pods there may be too many, and too few.
func limits(d *appsv1.Deployment) (surge, unavailable int32) {
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || *d.Spec.Replicas == 0 || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	r := d.Spec.Strategy.RollingUpdate
	up, _ := intstr.GetScaledValueFromIntOrPercent(r.MaxSurge, int(*d.Spec.Replicas), true)
	down, _ := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, int(*d.Spec.Replicas), false)
	if up == 0 && down == 0 {
		down = 1 // otherwise nothing could ever move
	}
	return int32(up), min(int32(down), *d.Spec.Replicas)
}

func total(sets []*appsv1.ReplicaSet) (n int32) {
	for _, s := range sets {
		n += *s.Spec.Replicas
	}
	return n
}

func available(sets []*appsv1.ReplicaSet) (n int32) {
	for _, s := range sets {
		n += s.Status.AvailableReplicas
	}
	return n
}

// NewSize is how large the set of the present template may be now; current is nil if there is none yet.
func NewSize(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) int32 {
	have := int32(0)
	if current != nil {
		have = *current.Spec.Replicas
	}
	surge, _ := limits(d)
	room := *d.Spec.Replicas + surge - total(old) - have
	if room <= 0 {
		return have
	}
	return have + min(room, *d.Spec.Replicas-have)
}

// Roll is one step of a rolling update: first the new set grows as far as surge allows, then the old ones shrink as far as
// availability allows, those pods first that are not available anyway.
func Roll(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) []Size {
	if *current.Spec.Replicas > *d.Spec.Replicas {
		return []Size{{current, *d.Spec.Replicas}}
	}
	if n := NewSize(d, current, old); n != *current.Spec.Replicas {
		return []Size{{current, n}}
	}
	if total(old) == 0 {
		return nil
	}
	_, unavailable := limits(d)
	least := *d.Spec.Replicas - unavailable
	notYet := *current.Spec.Replicas - current.Status.AvailableReplicas
	room := total(old) + *current.Spec.Replicas - least - notYet
	if room <= 0 {
		return nil
	}
	sizes := map[*appsv1.ReplicaSet]int32{}
	spare := room // for pods that are not available
	for _, s := range old {
		sizes[s] = *s.Spec.Replicas
		if dead := min(*s.Spec.Replicas-s.Status.AvailableReplicas, spare); dead > 0 {
			sizes[s] -= dead
			spare -= dead
		}
	}
	spare = available(old) + current.Status.AvailableReplicas - least // for those that are
	for _, s := range old {
		if n := min(sizes[s], spare); n > 0 {
			sizes[s] -= n
			spare -= n
		}
	}
	var out []Size
	for _, s := range old {
		if sizes[s] != *s.Spec.Replicas {
			out = append(out, Size{s, sizes[s]})
		}
	}
	return out
}

// Resize answers a change of spec.replicas: one live set takes it all; during a rolling update each gets its share.
func Resize(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) []Size {
	var live []*appsv1.ReplicaSet
	for _, s := range sets {
		if *s.Spec.Replicas > 0 {
			live = append(live, s)
		}
	}
	current := sort(d, sets).current
	switch {
	case len(live) == 0 && len(sets) > 0:
		if current == nil {
			current = sets[len(sets)-1]
		}
		return []Size{{current, *d.Spec.Replicas}}
	case len(live) == 1:
		return []Size{{live[0], *d.Spec.Replicas}}
	}
	if current != nil && current.Status.AvailableReplicas == *d.Spec.Replicas && *current.Spec.Replicas == *d.Spec.Replicas {
		var out []Size
		for _, s := range live {
			if s != current {
				out = append(out, Size{s, 0})
			}
		}
		return out
	}
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return nil
	}
	return shares(d, live)
}

// shares divides the room that a new size gives, or takes, among the live sets by their part of the size before.
func shares(d *appsv1.Deployment, live []*appsv1.ReplicaSet) []Size {
	surge, _ := limits(d)
	allowed := int32(0)
	if *d.Spec.Replicas > 0 {
		allowed = *d.Spec.Replicas + surge
	}
	room := allowed - total(live)
	sorted := slices.Clone(live)
	slices.SortStableFunc(sorted, func(a, b *appsv1.ReplicaSet) int {
		byAge := b.CreationTimestamp.Compare(a.CreationTimestamp.Time) // the newest first when growing
		if room < 0 {
			byAge = -byAge
		}
		return cmp.Or(-cmp.Compare(*a.Spec.Replicas, *b.Spec.Replicas), byAge)
	})
	out := make([]Size, len(sorted))
	added := int32(0)
	for i, s := range sorted {
		out[i] = Size{s, *s.Spec.Replicas}
		before, err := strconv.ParseInt(s.Annotations[maxAnnotation], 10, 32)
		if err != nil || before == 0 {
			before = int64(max(1, *d.Spec.Replicas))
		}
		share := int32((float64(*s.Spec.Replicas)*float64(allowed))/float64(before)+0.5) - *s.Spec.Replicas
		if room > 0 {
			share = max(0, min(share, room-added))
		} else {
			share = min(0, max(share, room-added))
		}
		out[i].Replicas += share
		added += share
	}
	if len(out) > 0 { // what rounding left goes to the first
		out[0].Replicas = max(0, out[0].Replicas+room-added)
	}
	return out
}

// Forgotten are the old sets beyond the history limit that nothing uses.
func Forgotten(d *appsv1.Deployment, old []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	if d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	var idle []*appsv1.ReplicaSet
	for _, s := range old {
		if s.DeletionTimestamp == nil {
			idle = append(idle, s)
		}
	}
	excess := len(idle) - int(*d.Spec.RevisionHistoryLimit)
	if excess <= 0 {
		return nil
	}
	slices.SortStableFunc(idle, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	return slices.DeleteFunc(idle[:excess], func(s *appsv1.ReplicaSet) bool {
		return s.Status.Replicas != 0 || *s.Spec.Replicas != 0 || s.Generation > s.Status.ObservedGeneration
	})
}
