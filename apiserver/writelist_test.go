// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/codec"
	"knarr.dev/api/core"
	"knarr.dev/apiserver/watchcache"
)

// A list that is written in chunks has the bytes and the length of one that is made as a whole.
func TestWriteListInChunks(t *testing.T) {
	s, reg := new(Server), &registry{kind: core.ConfigMaps.Kind}
	for _, sizes := range [][]int{nil, {0}, {10, 20}, {chunkSize / 2, 10, 2 * chunkSize, 0, chunkSize - 200, 100, 100}, make([]int, 3000)} {
		l := &listAnswer{meta: metav1.ListMeta{ResourceVersion: "7"}}
		var items [][]byte
		for i, size := range sizes {
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}, Data: map[string]string{"k": strings.Repeat("x", size)}}
			e := watchcache.NewEntry(core.ConfigMaps.Kind, m.Name, m, 1)
			raw, err := e.Proto()
			if err != nil {
				t.Fatal(err)
			}
			l.entries, items = append(l.entries, e), append(items, raw)
		}
		inJSON, err := listJSON(reg, l)
		if err != nil {
			t.Fatal(err)
		}
		inProto, err := codec.ProtoList(core.ConfigMaps.GroupVersion().WithKind("ConfigMapList"), &l.meta, items)
		if err != nil {
			t.Fatal(err)
		}
		for media, want := range map[string][]byte{codec.JSON: append(inJSON, '\n'), codec.Proto: inProto} {
			for _, encoding := range []string{"", "gzip"} {
				r, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
				r.Header.Set("Accept-Encoding", encoding)
				if err := s.writeList(w, r, reg, accepted{media: media}, l); err != nil {
					t.Fatal(err)
				}
				got := w.Body.Bytes()
				if w.Header().Get("Content-Encoding") == "gzip" {
					z, err := gzip.NewReader(w.Body)
					if err != nil {
						t.Fatal(err)
					}
					if got, err = io.ReadAll(z); err != nil {
						t.Fatal(err)
					}
				} else if length := w.Header().Get("Content-Length"); length != strconv.Itoa(len(want)) {
					t.Errorf("%s of %d: length %s, want %d", media, len(sizes), length, len(want))
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%s %q of %d: %d bytes, want %d", media, encoding, len(sizes), len(got), len(want))
				}
			}
		}
	}
}
