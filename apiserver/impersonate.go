// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
)

// serviceAccount splits a service account's user name.
func serviceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, ":")
}

func unescapeExtra(key string) string {
	if k, err := url.PathUnescape(key); err == nil {
		return k
	}
	return key
}

func impersonationText(groups []string, as *call.Identity) string {
	var what []string
	for _, g := range groups {
		what = append(what, fmt.Sprintf("{Group  %s    }", g))
	}
	if as.UID != "" {
		what = append(what, as.UID)
	}
	for k, v := range as.Extra {
		what = append(what, fmt.Sprintf("%s=%v", k, v))
	}
	return "[" + strings.Join(what, " ") + "]"
}

func gvrOf(i *requestInfo) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: i.group, Version: i.version, Resource: i.resource}
}
