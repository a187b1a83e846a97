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

// withoutUser is Kubernetes' sentence for impersonation headers without a user.
func withoutUser(groups []string, as *call.Identity) string {
	extra := as.Extra
	if len(extra) == 0 {
		extra = nil
	}
	return fmt.Sprintf("requested &user.DefaultInfo{Name:%q, UID:%q, Groups:%#v, Extra:%#v} without impersonating a user name", as.Name, as.UID, groups, extra)
}

func gvrOf(i *requestInfo) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: i.group, Version: i.version, Resource: i.resource}
}
