// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
)

func BenchmarkCreate(b *testing.B) {
	tr := local(start(b))
	var n atomic.Int64
	payload := strings.Repeat("x", 1024)
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m := configMap(fmt.Sprintf("m-%d", n.Add(1)), map[string]string{"k": payload})
			if _, err := tr.Do(b.Context(), &call.Request{Verb: "create", Kind: core.ConfigMaps.Kind, Namespace: "default", Object: m}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkGetOverHTTP(b *testing.B) {
	s := start(b)
	create(b, local(s), "a", nil)
	h := s.Handler()
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/default/configmaps/a", nil))
		if w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
}

func BenchmarkList1000(b *testing.B) {
	s := start(b)
	tr := local(s)
	for i := range 1000 {
		create(b, tr, fmt.Sprintf("m-%d", i), nil)
	}
	h := s.Handler()
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/default/configmaps", nil))
		if w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
}
