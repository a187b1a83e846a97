// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/codec"
	"knarr.dev/apiserver/table"
	"knarr.dev/apiserver/watchcache"
)

func tableKind(version string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "meta.k8s.io", Version: version, Kind: "Table"}
}

// writeTable answers with a Table.
func (s *Server) writeTable(w http.ResponseWriter, r *http.Request, reg *registry, form accepted, code int, a *answer) error {
	include, err := table.ParseInclude(form.include)
	if err != nil {
		return err
	}
	if form.media == codec.Proto {
		form.media = codec.JSON // tables have no protobuf form
	}
	o := table.Options{Version: form.version, Include: include, Now: time.Now()}
	var b []byte
	scale, isScale := a.object.(*autoscalingv1.Scale)
	switch {
	case a.list != nil:
		rows := make([]table.Row, len(a.list.entries))
		for i, e := range a.list.entries {
			rows[i] = table.Row{Object: e.Object, JSON: e.JSON}
		}
		b, err = table.Append(nil, reg.kind, rows, a.list.meta, o)
	case isScale:
		t, err := table.Scale(scale, o)
		if err != nil {
			return err
		}
		writeObject(w, r, form, code, tableKind(form.version), t)
		return nil
	case a.entry != nil:
		b, err = table.Append(nil, reg.kind, []table.Row{{Object: a.entry.Object, JSON: a.entry.JSON}}, table.ObjectMeta(a.entry.Object), o)
	default:
		return notAcceptable(representations)
	}
	if err != nil {
		return err
	}
	writeJSON(w, r, form, code, b)
	return nil
}

// appendTable appends the Table of one watch event.
func (s *Server) appendTable(dst []byte, reg *registry, form accepted, e *watchcache.Entry, columns bool) ([]byte, error) {
	include, err := table.ParseInclude(form.include)
	if err != nil {
		return dst, err
	}
	return table.Append(dst, reg.kind, []table.Row{{Object: e.Object, JSON: e.JSON}}, table.ObjectMeta(e.Object),
		table.Options{Version: form.version, Include: include, NoHeaders: !columns, Now: time.Now()})
}
