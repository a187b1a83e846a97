// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import "testing"

// TestTimeoutParameter compares with what kube-apiserver v1.36 answers. The limit is looked at before anything else of a request.
func TestTimeoutParameter(t *testing.T) {
	o := observer{handler: start(t).Handler()}
	for _, test := range []struct {
		path    string
		code    int
		message string
	}{
		{"/api/v1/namespaces?timeout=invalid", 400, `invalid timeout specified in the request URL - time: invalid duration "invalid"`},
		{"/api/v1/namespaces?timeout=5", 400, `invalid timeout specified in the request URL - time: missing unit in duration "5"`},
		{"/nope?timeout=a", 400, `invalid timeout specified in the request URL - time: invalid duration "a"`},
		{"/api/v1/namespaces?timeout=", 200, ""},
		{"/api/v1/namespaces?timeout=0s", 200, ""},
		{"/api/v1/namespaces?timeout=-1s", 200, ""},
		{"/api/v1/namespaces?timeout=9999h", 200, ""},
		{"/api/v1/namespaces/default/pods/x/log?timeout=invalid", 404, ""}, // it lasts as long as its user likes,
	} {
		got := o.send(t, "GET", test.path, nil)
		message, _ := got.body["message"].(string)
		if got.code != test.code || test.message != "" && message != test.message {
			t.Errorf("%s: %d %q", test.path, got.code, message)
		}
	}
}
