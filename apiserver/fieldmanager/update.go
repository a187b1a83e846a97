// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/resource"
)

// maxUpdaters is how many managers an object has by updates before the library merges the oldest.
const maxUpdaters = 10

// updater records updates as the library does, some fifty times faster: it compares the Go objects in place, and edits
// the encoded sets of fields where they changed.
type updater struct {
	plan        *plan
	apiVersion  string
	subresource string
	room        *describers
	sets        *sets
	traces      traces
}

// update does what Manager.Update promises, or nothing and returns false: then it is a case for the library.
func (u *updater) update(live, obj resource.Object, manager string, now time.Time) bool {
	entries, ok := u.entries(live, obj)
	if !ok || !u.simple(entries) {
		return false
	}
	if len(entries) == 0 && live.GetUID() != "" {
		obj.SetManagedFields(nil) // forgotten on purpose: tracked again from the first apply on
		return true
	}
	if reflect.TypeOf(live) != reflect.TypeOf(obj) {
		return false
	}
	if len(entries) == 0 && reflect.ValueOf(live).Elem().IsZero() {
		return u.create(obj, manager, now)
	}
	var d diff
	_, changes := d.compare(u.plan, reflect.ValueOf(live), reflect.ValueOf(obj))
	if d.gaveUp {
		return false
	}
	if len(changes) == 0 {
		obj.SetManagedFields(slices.Clone(entries))
		return true
	}
	after, ok := u.edited(entries, changes, manager, metav1.NewTime(now.UTC().Truncate(time.Second)))
	if ok {
		obj.SetManagedFields(after)
	}
	return ok
}

// fresh is update of an empty object.
func (u *updater) fresh(obj resource.Object, manager string, now time.Time) bool {
	asked := obj.GetManagedFields()
	if u.subresource == "" && len(asked) > 0 && (len(asked) > 1 || !reflect.DeepEqual(asked[0], metav1.ManagedFieldsEntry{})) {
		return false
	}
	t := reflect.TypeOf(obj)
	return u.plan.shape != nil && t.Kind() == reflect.Pointer && t.Elem() == u.plan.shape.typ && u.create(obj, manager, now)
}

// create records the fields of a new object.
func (u *updater) create(obj resource.Object, manager string, now time.Time) bool {
	set, ok := u.described(obj)
	switch {
	case !ok:
		return false
	case set == nil:
		obj.SetManagedFields(nil)
	default:
		at := metav1.NewTime(now.UTC().Truncate(time.Second))
		obj.SetManagedFields([]metav1.ManagedFieldsEntry{u.entry(manager, &at, set)})
	}
	return true
}

// described is the set of what obj has and an empty object has not, nil if there is nothing.
func (u *updater) described(obj resource.Object) (set *metav1.FieldsV1, ok bool) {
	t := u.traces.get()
	defer u.traces.put(t)
	traced := t.trace(u.plan, reflect.ValueOf(obj))
	if traced {
		if set = u.traces.of(t.out); set != nil {
			return set, true
		}
	}
	d := u.room.get()
	defer u.room.put(d)
	d.describe(u.plan, reflect.New(reflect.TypeOf(obj).Elem()), reflect.ValueOf(obj))
	if d.gaveUp || len(d.out) == 0 {
		return nil, !d.gaveUp
	}
	set = u.sets.of(d.out)
	if traced {
		u.traces.learn(t.out, set)
	}
	return set, true
}

// entry is a new one.
func (u *updater) entry(manager string, at *metav1.Time, set *metav1.FieldsV1) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{
		Manager: known(manager), Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: u.apiVersion, Subresource: u.subresource,
		Time: at, FieldsType: "FieldsV1", FieldsV1: set,
	}
}

func known(manager string) string {
	if manager == "" {
		return "unknown"
	}
	return manager
}

// entries are those to start from: of the object itself if it says the same as live, or nothing.
func (u *updater) entries(live, obj resource.Object) ([]metav1.ManagedFieldsEntry, bool) {
	have, asked := live.GetManagedFields(), obj.GetManagedFields()
	if u.subresource != "" || asked == nil {
		return have, true
	}
	if len(asked) == 0 || len(asked) == 1 && reflect.DeepEqual(asked[0], metav1.ManagedFieldsEntry{}) {
		return nil, true
	}
	if len(asked) != len(have) {
		return nil, false
	}
	for i := range asked {
		if !sameEntry(&asked[i], &have[i]) {
			return nil, false
		}
	}
	return have, true
}

func sameEntry(a, b *metav1.ManagedFieldsEntry) bool {
	if a.Manager != b.Manager || a.Operation != b.Operation || a.APIVersion != b.APIVersion || a.FieldsType != b.FieldsType ||
		a.Subresource != b.Subresource || (a.FieldsV1 == nil) != (b.FieldsV1 == nil) || !a.Time.Equal(b.Time) {
		return false
	}
	return a.FieldsV1 == b.FieldsV1 || a.FieldsV1.Equal(*b.FieldsV1)
}

// simple says that nothing about entries needs a conversion or merging of old managers.
func (u *updater) simple(entries []metav1.ManagedFieldsEntry) bool {
	for i := range entries {
		e := &entries[i]
		if e.APIVersion != u.apiVersion || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil || e.Manager == "" {
			return false
		}
	}
	return updaters(entries) <= maxUpdaters
}

// edited are the entries after changes by manager.
func (u *updater) edited(entries []metav1.ManagedFieldsEntry, changes []change, manager string, now metav1.Time) ([]metav1.ManagedFieldsEntry, bool) {
	out := make([]metav1.ManagedFieldsEntry, 0, len(entries)+1)
	puts, found := anyPut(changes), false
	room := u.room.get()
	defer u.room.put(room)
	for _, e := range entries {
		own := e.Manager == known(manager) && e.Operation == metav1.ManagedFieldsOperationUpdate && e.Subresource == u.subresource
		before := e.FieldsV1.GetRawString()
		if !own && !concerned(before, changes) {
			out = append(out, e)
			continue
		}
		var ok bool
		if room.out, ok = edit(room.out[:0], before, changes, own); !ok {
			return nil, false
		}
		if own {
			found = true
			if puts {
				e.Time = &now
			}
		}
		if len(room.out) == 0 {
			continue
		}
		if string(room.out) != before {
			e.FieldsV1 = u.sets.of(room.out)
		}
		out = append(out, e)
	}
	if !found && puts {
		if updaters(out) >= maxUpdaters {
			return nil, false
		}
		out = append(out, u.entry(manager, &now, metav1.NewFieldsV1(encode(changes))))
	}
	if len(out) == 0 {
		return nil, true
	}
	slices.SortStableFunc(out, orderEntries)
	return out, true
}

// updaters counts the managers by updates.
func updaters(entries []metav1.ManagedFieldsEntry) int {
	n := 0
	for i := range entries {
		if entries[i].Operation == metav1.ManagedFieldsOperationUpdate {
			n++
		}
	}
	return n
}

func anyPut(changes []change) bool {
	for i := range changes {
		if changes[i].mark == put || anyPut(changes[i].below) {
			return true
		}
	}
	return false
}

// orderEntries is the order in which the library leaves entries.
func orderEntries(a, b metav1.ManagedFieldsEntry) int {
	seconds := func(t *metav1.Time) int64 {
		if t == nil {
			return 0
		}
		return t.Unix()
	}
	if c := strings.Compare(string(a.Operation), string(b.Operation)); c != 0 {
		return c
	}
	if x, y := seconds(a.Time), seconds(b.Time); x != y {
		if x < y {
			return -1
		}
		return 1
	}
	if c := strings.Compare(a.Manager, b.Manager); c != 0 {
		return c
	}
	if c := strings.Compare(a.APIVersion, b.APIVersion); c != 0 {
		return c
	}
	return strings.Compare(a.Subresource, b.Subresource)
}
