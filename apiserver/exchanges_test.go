// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"knarr.dev/apiserver"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/authz"
	"knarr.dev/apiserver/hooks"
)

// exchange is one line of testdata/exchanges: a request to a server that had those before it, and what Kubernetes v1.36 answered.
type exchange struct {
	Do       string            `json:"do"` // method and path
	Type     string            `json:"type"`
	Body     string            `json:"body"`
	Header   map[string]string `json:"header"`
	Code     int               `json:"code"`
	Warnings []string          `json:"warnings"`
	// Answer is the answer in JSON, without what differs from one run to the next; Text is one that is not JSON.
	Answer any    `json:"answer"`
	Text   string `json:"text"`
}

// TestExchanges sends what was sent to Kubernetes, one file after the other to a server of its own, and compares all of the answers.
func TestExchanges(t *testing.T) {
	files, err := filepath.Glob("testdata/exchanges/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no exchanges: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl"), func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			o := observer{handler: startAdmitting(t, reviewing(t)).Handler()}
			lines := bufio.NewScanner(f)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				var e exchange
				if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
					t.Fatal(err)
				}
				o.exchange(t, &e)
			}
			if err := lines.Err(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// reviewing gives a server the reviews of identities and rights.
func reviewing(t *testing.T) func(*apiserver.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := authn.NewIssuer(authn.IssuerConfig{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *apiserver.Config) {
		c.Hooks = func(objects hooks.Store) []hooks.Hook {
			return hooks.Security(hooks.SecurityDeps{
				Reader: objects, Authorizer: authz.New(objects), Issuer: issuer, Tokens: authn.NewTokens(authn.Config{Issuer: issuer}),
			})
		}
	}
}

func (o observer) exchange(t *testing.T, e *exchange) {
	t.Helper()
	method, path, _ := strings.Cut(e.Do, " ")
	r := httptest.NewRequest(method, path, strings.NewReader(e.Body))
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "replay")
	if e.Type != "" {
		r.Header.Set("Content-Type", e.Type)
	}
	for name, value := range e.Header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	o.handler.ServeHTTP(w, r)
	warnings := warningsOf(t, w)
	got := varying.Replace(w.Body.String())
	if w.Code != e.Code || len(warnings)+len(e.Warnings) > 0 && !reflect.DeepEqual(warnings, e.Warnings) {
		t.Errorf("%s %s\ngot %d, warnings %q: %s\nwant %d, warnings %q", e.Do, e.Body, w.Code, warnings, got, e.Code, e.Warnings)
		return
	}
	if e.Answer == nil {
		if e.Text != "" && got != e.Text {
			t.Errorf("%s %s\ngot %q\nwant %q", e.Do, e.Body, got, e.Text)
		}
		return
	}
	var answer any
	sortOwners(e.Answer)
	if err := json.Unmarshal([]byte(got), &answer); err != nil || !sameJSON(sortOwners(answer), e.Answer) {
		want, _ := json.Marshal(e.Answer)
		t.Errorf("%s %s\ngot  %s\nwant %s", e.Do, e.Body, got, want)
	}
}

// sortOwners gives the managed fields of one object an order: the real one says in which second each was written.
func sortOwners(answer any) any {
	object, _ := answer.(map[string]any)
	meta, _ := object["metadata"].(map[string]any)
	if owners, ok := meta["managedFields"].([]any); ok {
		slices.SortFunc(owners, func(a, b any) int {
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			return bytes.Compare(x, y)
		})
	}
	return answer
}

// variable replaces what differs from one run to the next.
type variable []struct {
	form *regexp.Regexp
	by   string
}

func (v variable) Replace(text string) string {
	for _, r := range v {
		text = r.form.ReplaceAllString(text, r.by)
	}
	return text
}

var varying = variable{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`resourceVersion(\\*)":(\\*)"\d+`), `resourceVersion$1":$2"RV`},
	{regexp.MustCompile(`in object meta: \d+`), "in object meta: RV"},
	{regexp.MustCompile(`"continue":"[^"]+"`), `"continue":"C"`},
	{regexp.MustCompile(`"token":"eyJ[^"]+"`), `"token":"TOKEN"`},
}
