// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package table

import (
	_ "embed"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/resource"
)

// descriptions has a line for each column of a built-in kind whose description does not stand with the kind: the group and resource, the
// name of the column and the text, with tabs between them. The texts are those of Kubernetes' Tables. Names in braces are documented
// elsewhere.
//
//go:embed descriptions.txt
var descriptions string

// described is the header of a column with its description.
func described(kind *resource.Kind, d metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	if kind == nil || kind.Custom != nil {
		return d
	}
	line := kind.Group + "/" + kind.Resource + "\t" + d.Name + "\t"
	at := 0
	if !strings.HasPrefix(descriptions, line) {
		if at = strings.Index(descriptions, "\n"+line) + 1; at == 0 {
			return d
		}
	}
	text, _, _ := strings.Cut(descriptions[at+len(line):], "\n")
	switch text {
	case "{created}":
		text = metaDoc("creationTimestamp")
	case "{name}":
		text = metaDoc("name")
	}
	d.Description = strings.ReplaceAll(text, `\n`, "\n")
	return d
}
