// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/codec"
	"knarr.dev/apiserver"
)

const (
	mapsPath = "/api/v1/namespaces/default/configmaps"
	mapPath  = mapsPath + "/a"
)

// malformed is one request that no server may carry out.
type malformed struct {
	name, method, path, media, body string
	headers                         map[string]string
}

// malformedBodies are bodies that are no ConfigMap, in each media type.
func malformedBodies(t *testing.T) []malformed {
	proto, err := codec.EncodeProto(corev1.SchemeGroupVersion.WithKind("ConfigMap"), configMap("a", map[string]string{"k": "v"}))
	if err != nil {
		t.Fatal(err)
	}
	deep := strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	texts := map[string]string{
		"empty": "", "truncated": `{"kind":"ConfigMap","metadata":{"name":"a"`, "array": "[]", "number": "1", "string": `"x"`,
		"bad kind": `{"kind":7}`, "other kind": `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}`,
		"metadata is a number": `{"metadata":1}`, "name is a number": `{"metadata":{"name":1}}`, "labels are a list": `{"metadata":{"name":"a","labels":[]}}`,
		"data is a list": `{"metadata":{"name":"a"},"data":[]}`, "value is an object": `{"metadata":{"name":"a"},"data":{"k":{}}}`,
		"bad time": `{"metadata":{"name":"a","creationTimestamp":"x"}}`, "bad base64": `{"metadata":{"name":"a"},"binaryData":{"k":"!!"}}`,
		"deep": `{"metadata":{"name":"a"},"data":` + deep + `}`, "huge": `{"metadata":{"name":"a"},"data":{"k":"` + strings.Repeat("x", 4<<20) + `"}}`,
		"bad name": `{"metadata":{"name":"a\u0000b"}}`, "NUL": "{\x00}", "two": `{"metadata":{"name":"a"}} x`,
	}
	var all []malformed
	for name, text := range texts {
		all = append(all, malformed{name: "json " + name, media: codec.JSON, body: text})
	}
	for name, text := range map[string]string{
		"tab": "\tx: 1", "open": "a: [", "alias": "a: &a [*a]", "bomb": bomb, "scalar": "x", "bad UTF-8": "metadata: {name: \xff\xfe}", "two keys": "? {a: b}\n: c",
	} {
		all = append(all, malformed{name: "yaml " + name, media: codec.YAML, body: text})
	}
	for i := range len(proto) {
		if i%7 == 0 && i < len(proto)-24 { // the end has only what may be absent
			all = append(all, malformed{name: fmt.Sprintf("proto truncated at %d", i), media: codec.Proto, body: string(proto[:i])})
		}
	}
	all = append(all,
		malformed{name: "proto without magic", media: codec.Proto, body: string(proto[4:])},
		malformed{name: "proto length", media: codec.Proto, body: "k8s\x00\x0a\xff\xff\xff\xff\x0f"},
		malformed{name: "unknown media", media: "application/cbor", body: "{}"},
		malformed{name: "bad media", media: ";;", body: "{}"},
	)
	return all
}

func malformedPatches() []malformed {
	bodies := map[string][]string{
		"application/json-patch+json": {"", "{}", "[", "[1]", `[{"op":"odd","path":"/a"}]`, `[{"op":"add","path":"x","value":1}]`, `[{"op":"remove","path":"/data/none"}]`,
			`[{"op":"add","path":"/data","value":1}]`, `[{"op":"test","path":"/data/k","value":"no"}]`, `[{"op":"replace","path":"/kind","value":"Pod"}]`,
			"[" + strings.TrimSuffix(strings.Repeat(`{"op":"add","path":"/data/x","value":"y"},`, 10001), ",") + "]", `[{"op":"add","path":"/metadata/uid","value":"x"}]`},
		"application/merge-patch+json": {"", "[]", "1", "{", `{"data":1}`, `{"data":{"k":1}}`, `{"metadata":{"name":"b"}}`, `{"metadata":null}`, `{"kind":"Pod"}`, `{"metadata":{"resourceVersion":"1"}}`},
		"application/strategic-merge-patch+json": {"", "[]", "{", `{"$patch":"delete"}`, `{"data":1}`, `{"metadata":{"finalizers":{"a":1}}}`, `{"metadata":{"labels":{"a b":"c"}}}`,
			`{"metadata":{"resourceVersion":"1"}}`},
		"application/apply-patch+yaml": {"", "[]", "a: [", "{}", "kind: ConfigMap", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, managedFields: [{manager: x}]}"},
		"text/plain": {"{}"}, "": {"{}"}, "application/json": {"{}"},
	}
	var all []malformed
	for media, texts := range bodies {
		for i, text := range texts {
			all = append(all, malformed{name: fmt.Sprintf("%s %d", media, i), method: http.MethodPatch, path: mapPath + "?fieldManager=m", media: media, body: text})
		}
	}
	return all
}

func malformedRequests() []malformed {
	var all []malformed
	for _, query := range []string{
		"limit=x", "limit=99999999999999999999", "continue=x", "resourceVersion=x", "resourceVersionMatch=Odd", "labelSelector=a+b", "labelSelector=a+in+(",
		"fieldSelector=x", "fieldSelector=spec.x%3D1", "sendInitialEvents=true", "timeoutSeconds=x", "labelSelector=" + strings.Repeat("a", 300),
	} {
		if !strings.HasPrefix(query, "resourceVersion=x") { // which Kubernetes takes for a fault of its own in a watch
			all = append(all, malformed{name: "watch " + query, method: http.MethodGet, path: mapsPath + "?watch=1&timeoutSeconds=1&" + query + "&limit=x"})
		}
		all = append(all, malformed{name: query, method: http.MethodGet, path: mapsPath + "?" + query})
	}
	for _, query := range []string{"dryRun=x", "fieldValidation=Odd", "fieldManager=%00", "fieldManager=" + strings.Repeat("x", 200)} {
		all = append(all, malformed{name: query, method: http.MethodPost, path: mapsPath + "?" + query, body: `{"metadata":{"name":"b"}}`})
	}
	for _, body := range []string{"{", "[]", `{"kind":"Pod"}`, `{"gracePeriodSeconds":"x"}`, `{"propagationPolicy":"Odd"}`, `{"preconditions":{"uid":"x"}}`, `{"dryRun":["x"]}`} {
		all = append(all, malformed{name: "delete " + body, method: http.MethodDelete, path: mapPath, body: body})
	}
	for _, path := range []string{"/api/v1/nope", "/api/v1/namespaces/default/configmaps/a/nope", "/apis/apps/v9/x", "/api/v1/namespaces/default/configmaps/..", "/api/v1//configmaps", "/nope"} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, "ODD"} {
			all = append(all, malformed{name: method + " " + path, method: method, path: path})
		}
	}
	return append(all,
		malformed{name: "accept", method: http.MethodGet, path: mapPath, headers: map[string]string{"Accept": "text/html"}},
		malformed{name: "impersonated group alone", method: http.MethodGet, path: mapPath, headers: map[string]string{"Impersonate-Group": "x"}},
	)
}

// TestMalformedRequests sends what is no proper request: each is refused with a reason, and nothing changes.
func TestMalformedRequests(t *testing.T) {
	s := start(t)
	create(t, local(s), "a", nil)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	before := listed(t, s)
	requests := append(malformedPatches(), malformedRequests()...)
	for _, m := range malformedBodies(t) {
		post, put := m, m
		post.method, post.path = http.MethodPost, mapsPath
		put.method, put.path = http.MethodPut, mapPath
		requests = append(requests, post, put)
	}
	for _, m := range requests {
		r, err := http.NewRequest(m.method, server.URL+m.path, strings.NewReader(m.body))
		if err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		if m.media != "" {
			r.Header.Set("Content-Type", m.media)
		}
		for k, v := range m.headers {
			r.Header.Set(k, v)
		}
		res, err := server.Client().Do(r)
		if err != nil {
			t.Errorf("%s %s: %v", m.method, m.name, err)
			continue
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode < 400 || res.StatusCode > 499 {
			t.Errorf("%s %s: status %d\n%.300s", m.method, m.name, res.StatusCode, body)
		}
		var status metav1.Status
		if res.Header.Get("Content-Type") == codec.JSON && (json.Unmarshal(body, &status) != nil || status.Message == "" || int(status.Code) != res.StatusCode) {
			t.Errorf("%s %s: says %.300s", m.method, m.name, body)
		}
	}
	if after := listed(t, s); after != before {
		t.Errorf("the objects changed from\n%s\nto\n%s", before, after)
	}
}

// listed are all ConfigMaps as a client sees them, without the revision of the list.
func listed(t *testing.T, s *apiserver.Server) string {
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/configmaps", nil))
	var list corev1.ConfigMapList
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
		t.Fatalf("list: %v in %s", err, w.Body)
	}
	b, err := json.Marshal(list.Items)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestBrokenConnections sends what is no HTTP, or not all of it: the server ends the connection, in time.
func TestBrokenConnections(t *testing.T) {
	s := start(t)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	before := listed(t, s)
	head := "POST " + mapsPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for name, text := range map[string]string{
		"garbage":          "\x16\x03\x01\x02\x00garbage\r\n\r\n",
		"header bomb":      head + "X: " + strings.Repeat("y", 2<<20) + "\r\n\r\n",
		"many headers":     head + strings.Repeat("X: y\r\n", 400<<10) + "\r\n",
		"bad length":       head + "Content-Length: x\r\n\r\n{}",
		"two lengths":      head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"negative length":  head + "Content-Length: -1\r\n\r\n{}",
		"bad chunk":        head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
		"body ends early":  head + "Content-Length: 100\r\n\r\n{\"metadata\":{\"name\":\"b\"}}",
		"claims to be big": head + "Content-Length: 99999999999\r\n\r\n{}",
		"space in path":    "GET /api /v1 HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = io.WriteString(c, text)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && (res.StatusCode < 400 || res.StatusCode > 499) {
			t.Errorf("%s: status %d", name, res.StatusCode)
		}
		c.Close()
	}
	if after := listed(t, s); after != before {
		t.Errorf("the objects changed from\n%s\nto\n%s", before, after)
	}
}

// TestSlowBody sends a part of a body and no more: the request ends with its time, and nothing is made.
func TestSlowBody(t *testing.T) {
	s := startWith(t, func(c *apiserver.Config) { c.BodyTimeout = 20 * time.Millisecond })
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	before := listed(t, s)
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST "+mapsPath+" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"metadata\""); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != http.StatusRequestTimeout {
		t.Errorf("answered %v, %v", res, err)
	}
	if after := listed(t, s); after != before {
		t.Errorf("the objects changed from\n%s\nto\n%s", before, after)
	}
}

// TestTooLarge writes more than the store takes; errors are those of etcd and its client.
func TestTooLarge(t *testing.T) {
	s := start(t)
	for _, c := range []struct {
		size int
		want string
	}{
		{1600000, "etcdserver: request is too large"},
		{2200000, `rpc error: code = ResourceExhausted desc = trying to send message larger than max \(22\d{5} vs. 2097152\)`},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/apis/coordination.k8s.io/v1/namespaces/default/leases",
			strings.NewReader(`{"metadata":{"name":"big"},"spec":{"holderIdentity":"`+strings.Repeat("x", c.size)+`"}}`))
		r.Header.Set("Content-Type", "application/json")
		s.Handler().ServeHTTP(w, r)
		var got metav1.Status
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Code != 500 || !regexp.MustCompile("^"+c.want+"$").MatchString(got.Message) {
			t.Errorf("%d bytes: %d %s %v", c.size, got.Code, got.Message, err)
		}
	}
}
