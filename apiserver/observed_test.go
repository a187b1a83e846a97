// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"knarr.dev/apiserver"
	"knarr.dev/apiserver/admission"
)

// observed is one line of testdata/observed: the head of a series of requests, or one of them and what Kubernetes v1.36
// answered. Requests are the base object with some fields set; they are dry runs unless they are live. Long standard
// texts stand as {name}, see standardTexts.
type observed struct {
	Path   string         `json:"path"`
	Base   map[string]any `json:"base"`
	Before []struct {
		Path   string         `json:"path"`
		Object map[string]any `json:"object"`
	} `json:"before"`

	Do       string         `json:"do"` // create, update, table, or a subresource to update
	Set      map[string]any `json:"set"`
	Live     bool           `json:"live"`
	Code     int            `json:"code"`
	Causes   []string       `json:"causes"`
	Message  string         `json:"message"`
	Body     map[string]any `json:"body"`
	Warnings []string       `json:"warnings"`
	Cells    []any          `json:"cells"`
}

var standardTexts = strings.NewReplacer(
	"{subdomain}", `a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
	"{label}", `a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`,
	"{name part}", `name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
	"{label value}", `a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`,
	"{identifier}", `a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')`,
)

// TestObserved sends what was sent to Kubernetes and compares the answers.
func TestObserved(t *testing.T) {
	files, err := filepath.Glob("testdata/observed/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no observations: %v", err)
	}
	s := startAdmitting(t)
	o := observer{handler: s.Handler()}
	o.send(t, "POST", "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": "odd"}})
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl"), func(t *testing.T) { o.replay(t, file) })
	}
}

// startAdmitting is start with all steps of admission.
func startAdmitting(t *testing.T, change ...func(*apiserver.Config)) *apiserver.Server {
	t.Helper()
	return startWith(t, func(config *apiserver.Config) {
		config.Steps = func(r admission.Reader, w admission.Writer) []admission.Step {
			return admission.Steps(r, w, admission.Config{})
		}
		for _, c := range change {
			c(config)
		}
	})
}

type observer struct{ handler http.Handler }

type reply struct {
	code     int
	body     map[string]any
	warnings []string
}

func (o observer) send(t *testing.T, method, path string, body any, accept ...string) reply {
	t.Helper()
	var raw []byte
	if body != nil {
		raw, _ = json.Marshal(body)
	}
	r := httptest.NewRequest(method, path, bytes.NewReader(raw))
	r.Header.Set("Content-Type", "application/json")
	r.Header["Accept"] = accept
	w := httptest.NewRecorder()
	o.handler.ServeHTTP(w, r)
	out := reply{code: w.Code}
	if err := json.Unmarshal(w.Body.Bytes(), &out.body); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	out.warnings = warningsOf(t, w)
	return out
}

// warningsOf are the texts of the warnings of an answer.
func warningsOf(t *testing.T, w *httptest.ResponseRecorder) (texts []string) {
	t.Helper()
	for _, h := range w.Header().Values("Warning") {
		text, err := strconv.Unquote(strings.TrimPrefix(h, "299 - "))
		if err != nil {
			t.Fatalf("warning %s: %v", h, err)
		}
		texts = append(texts, text)
	}
	return texts
}

// remove deletes an object at once.
func (o observer) remove(t *testing.T, path string) {
	t.Helper()
	if got := o.send(t, "GET", path, nil); got.code == http.StatusOK {
		delete(got.body["metadata"].(map[string]any), "finalizers")
		o.send(t, "PUT", path, got.body)
		o.send(t, "DELETE", path, nil)
	}
}

func (o observer) replay(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var head observed
	item, made := "", false
	end := func() {
		if head.Path == "" {
			return
		}
		o.remove(t, item)
		for _, b := range head.Before {
			o.remove(t, b.Path+"/"+nameOf(b.Object))
		}
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l observed
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.Do == "" {
			end()
			head, item, made = l, l.Path+"/"+nameOf(l.Base), false
			for _, b := range head.Before {
				o.send(t, "POST", b.Path, b.Object)
			}
			continue
		}
		if l.Do != "create" && !made {
			made = true
			o.send(t, "POST", head.Path, head.Base)
		}
		o.one(t, &head, &l, item, lines.Text())
	}
	end()
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// one sends a request and compares its answer.
func (o observer) one(t *testing.T, head, l *observed, item, line string) {
	t.Helper()
	if l.Do == "table" {
		got := o.send(t, "GET", item, nil, "application/json;as=Table;v=v1;g=meta.k8s.io")
		rows, _ := got.body["rows"].([]any)
		if len(rows) != 1 || !sameJSON(withoutTimes(rows[0].(map[string]any)["cells"]), any(l.Cells)) {
			t.Errorf("%s: got %v", line, got.body["rows"])
		}
		return
	}
	query := "?dryRun=All"
	if l.Live {
		query = ""
	}
	var got reply
	switch l.Do {
	case "create":
		got = o.send(t, "POST", head.Path+query, set(clone(head.Base), l.Set))
	case "update":
		got = o.send(t, "PUT", item+query, set(o.send(t, "GET", item, nil).body, l.Set))
	default:
		got = o.send(t, "PUT", item+"/"+l.Do+query, set(o.send(t, "GET", item, nil).body, l.Set))
	}
	causes, message := refusal(got.body)
	switch {
	case got.code != l.Code:
		t.Errorf("%s\ngot %d %v %s", line, got.code, causes, message)
	case l.Causes != nil:
		for i := range l.Causes {
			l.Causes[i] = standardTexts.Replace(l.Causes[i])
		}
		if !reflect.DeepEqual(causes, l.Causes) {
			t.Errorf("%s\ngot %q", line, causes)
		}
	case l.Message != "" && message != l.Message:
		t.Errorf("%s\ngot %q", line, message)
	case l.Body != nil && !sameJSON(comparable(got.body), l.Body):
		text, _ := json.Marshal(comparable(got.body))
		t.Errorf("%s\ngot %s", line, text)
	}
	if len(got.warnings)+len(l.Warnings) > 0 && !reflect.DeepEqual(got.warnings, l.Warnings) {
		t.Errorf("%s\ngot warnings %q", line, got.warnings)
	}
}

func nameOf(o map[string]any) string { return o["metadata"].(map[string]any)["name"].(string) }

func clone(o map[string]any) (out map[string]any) {
	raw, _ := json.Marshal(o)
	_ = json.Unmarshal(raw, &out)
	return out
}

// set sets fields by their paths; __del__ removes one.
func set(o map[string]any, fields map[string]any) map[string]any {
	var root any = o
	for path, value := range fields {
		root = setPath(root, strings.Split(path, "/"), value)
	}
	return root.(map[string]any)
}

func setPath(o any, path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	if i, err := strconv.Atoi(path[0]); err == nil {
		list, _ := o.([]any)
		if i < len(list) {
			list[i] = setPath(list[i], path[1:], value)
			return list
		}
		return append(list, setPath(nil, path[1:], value))
	}
	m, _ := o.(map[string]any)
	if m == nil {
		m = map[string]any{}
	}
	if len(path) == 1 && value == "__del__" {
		delete(m, path[0])
	} else {
		m[path[0]] = setPath(m[path[0]], path[1:], value)
	}
	return m
}

// refusal is what a Status says.
func refusal(body map[string]any) (causes []string, message string) {
	if body["kind"] != "Status" {
		return nil, ""
	}
	message, _ = body["message"].(string)
	details, _ := body["details"].(map[string]any)
	list, _ := details["causes"].([]any)
	for _, c := range list {
		c := c.(map[string]any)
		reason, _ := c["reason"].(string)
		causes = append(causes, c["field"].(string)+": "+c["message"].(string)+" ["+strings.TrimPrefix(reason, "FieldValue")+"]")
	}
	return causes, message
}

// comparable leaves out what differs from one server to the next.
func comparable(body map[string]any) map[string]any {
	body = withoutTimes(clone(body)).(map[string]any)
	delete(body, "kind")
	delete(body, "apiVersion")
	if meta, ok := body["metadata"].(map[string]any); ok {
		for _, k := range []string{"creationTimestamp", "resourceVersion", "namespace", "uid", "managedFields"} {
			delete(meta, k)
		}
	}
	return body
}

var (
	timeForm = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)
	ageForm  = regexp.MustCompile(`^\d+[sm]$`)
)

func withoutTimes(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = withoutTimes(v[k])
		}
	case []any:
		for i := range v {
			if s, ok := v[i].(string); ok && (ageForm.MatchString(s) || timeForm.MatchString(s)) {
				v[i] = "AGE"
			} else {
				v[i] = withoutTimes(v[i])
			}
		}
	case string:
		if timeForm.MatchString(v) && !strings.HasPrefix(v, "2024-") {
			return "TIME"
		}
	}
	return v
}

func sameJSON(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}
