// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// What kube-apiserver v1.36 was seen to make of the answers of aggregated servers.
func TestOddAnswers(t *testing.T) {
	for _, test := range []struct {
		name, upgrade, location string
		code, want              int
		text                    string
	}{
		{"plain", "", "", 200, 0, ""},
		{"an error", "", "", 500, 0, ""},
		{"elsewhere", "", "/x", 302, 502, "the backend attempted to redirect this request, which is not permitted"},
		{"not modified", "", "", 304, 0, ""},
		{"upgraded", "foo", "", 101, 0, ""},
		{"not upgraded", "foo", "", 200, 503, "invalid upgrade response: status code 200\n"},
		{"upgrade refused", "foo", "", 403, 0, ""},
	} {
		q := httptest.NewRequest(http.MethodGet, "/", nil)
		answer := &http.Response{StatusCode: test.code, Header: http.Header{"Access-Control-Allow-Origin": {"*"}, "X-Custom": {"v"}}}
		for name, value := range map[string]string{"Upgrade": test.upgrade} {
			if value != "" {
				q.Header.Set(name, value)
			}
		}
		if test.location != "" {
			answer.Header.Set("Location", test.location)
		}
		err := check(q, answer)
		odd, _ := err.(*oddAnswer) //nolint:errorlint // check wraps nothing
		switch {
		case test.want == 0:
			if err != nil || len(answer.Header) != 1 {
				t.Errorf("%s: %v, %v", test.name, err, answer.Header)
			}
		case odd == nil || odd.code != test.want || odd.text != test.text:
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
