// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"knarr.dev/api/codec"
	"knarr.dev/apiserver/watchcache"
)

// chunkSize is how much of a list is written at once. A list is never in memory as a whole.
const chunkSize = 128 << 10

// writeList answers with a list.
func (s *Server) writeList(w http.ResponseWriter, r *http.Request, reg *registry, form accepted, l *listAnswer) error {
	if form.media != codec.Proto && (form.media != codec.JSON || form.pretty) {
		b, err := listJSON(reg, l)
		if err == nil {
			writeJSON(w, r, form, http.StatusOK, b)
		}
		return err
	}
	gvk := reg.kind.GroupVersion().WithKind(reg.kind.ListKind())
	list := parts{media: form.media}
	var err error
	if form.media == codec.Proto {
		if list.items, err = l.encodings((*watchcache.Entry).Proto); err != nil {
			return err
		}
		list.tail = codec.ProtoListTail
		list.head, list.size, err = codec.ProtoListHead(gvk, &l.meta, list.items)
	} else {
		if list.items, err = l.encodings((*watchcache.Entry).JSON); err != nil {
			return err
		}
		list.head, list.tail, err = listEnds(reg, l)
		list.tail += "\n"
		list.size = len(list.head) + len(list.tail) + max(len(list.items)-1, 0)
		for _, item := range list.items {
			list.size += len(item)
		}
	}
	if err != nil {
		return err
	}
	s.writeParts(w, r, &list)
	return nil
}

func (l *listAnswer) encodings(encode func(*watchcache.Entry) ([]byte, error)) ([][]byte, error) {
	out := make([][]byte, len(l.entries))
	for i, e := range l.entries {
		var err error
		if out[i], err = encode(e); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// parts is a list to be written: a head, items with what stands between them, a tail; size bytes in all.
type parts struct {
	media string
	head  []byte
	items [][]byte
	tail  string
	size  int
}

// before appends what stands before an item.
func (p *parts) before(dst []byte, i int) []byte {
	switch {
	case p.media == codec.Proto:
		return codec.AppendProtoItem(dst, len(p.items[i]))
	case i > 0:
		return append(dst, ',')
	}
	return dst
}

// writeParts writes a list in chunks.
func (s *Server) writeParts(w http.ResponseWriter, r *http.Request, p *parts) {
	w.Header().Set("Content-Type", p.media)
	to, finish := io.Writer(w), func() error { return nil }
	if p.size >= gzipMin && acceptsGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Add("Vary", "Accept-Encoding")
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
		to, finish = z, z.Close
	} else {
		w.Header().Set("Content-Length", strconv.Itoa(p.size))
	}
	w.WriteHeader(http.StatusOK)
	room := new([]byte)
	if p.size >= chunkSize/4 {
		if have, ok := s.chunks.Get().(*[]byte); ok {
			room = have
		} else {
			*room = make([]byte, 0, chunkSize)
		}
	} else {
		*room = make([]byte, 0, p.size)
	}
	chunk := append((*room)[:0], p.head...)
	var err error
	for i, item := range p.items {
		if len(chunk)+len(item)+16 > chunkSize {
			if _, err = to.Write(chunk); err != nil {
				return // the connection may still be busy with the chunk
			}
			chunk = chunk[:0]
		}
		chunk = p.before(chunk, i)
		if len(item) < chunkSize/2 {
			chunk = append(chunk, item...)
			continue
		}
		if _, err = to.Write(chunk); err == nil {
			_, err = to.Write(item)
		}
		if err != nil {
			return
		}
		chunk = chunk[:0]
	}
	if _, err = to.Write(append(chunk, p.tail...)); err == nil && finish() == nil && cap(*room) == chunkSize {
		s.chunks.Put(room)
	}
}

// listEnds are the beginning and the end of a list in JSON, without its items.
func listEnds(reg *registry, l *listAnswer) (head []byte, tail string, err error) {
	meta, err := json.Marshal(&l.meta)
	if err != nil {
		return nil, "", err
	}
	gvk := reg.kind.GroupVersion().WithKind(reg.kind.ListKind())
	if reg.kind.Custom == nil {
		head = codec.WithKind(make([]byte, 0, len(meta)+128), gvk, []byte("{}"))
		head = append(head[:len(head)-1], `,"metadata":`...)
		return append(append(head, meta...), `,"items":[`...), "]}", nil
	}
	// Of custom objects the names are in the order of the alphabet, and the token is always stated.
	meta, err = json.Marshal(struct {
		Continue  string `json:"continue"`
		Remaining *int64 `json:"remainingItemCount,omitempty"`
		Revision  string `json:"resourceVersion,omitempty"`
	}{l.meta.Continue, l.meta.RemainingItemCount, l.meta.ResourceVersion})
	if err != nil {
		return nil, "", err
	}
	head = []byte(`{"apiVersion":` + strconv.Quote(gvk.GroupVersion().String()) + `,"items":[`)
	return head, `],"kind":` + strconv.Quote(gvk.Kind) + `,"metadata":` + string(meta) + "}", nil
}

// listJSON is a list in JSON.
func listJSON(reg *registry, l *listAnswer) ([]byte, error) {
	dst, tail, err := listEnds(reg, l)
	if err != nil {
		return nil, err
	}
	for i, e := range l.entries {
		if i > 0 {
			dst = append(dst, ',')
		}
		b, err := e.JSON()
		if err != nil {
			return nil, err
		}
		dst = append(dst, b...)
	}
	return append(dst, tail...), nil
}
