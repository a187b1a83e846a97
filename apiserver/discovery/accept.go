// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"mime"
	"sort"
	"strconv"
	"strings"

	"knarr.dev/api/codec"
)

// form is what a client wants an answer as.
type form struct {
	media      string
	aggregated bool
}

type clause struct {
	media  string
	params map[string]string
	q      float64
}

// routable says whether an Accept header names any of the media types, whatever its parameters say.
func routable(header string) bool {
	if strings.TrimSpace(header) == "" {
		return true
	}
	for part := range strings.SplitSeq(header, ",") {
		switch media, _, _ := strings.Cut(part, ";"); strings.TrimSpace(media) {
		case "*/*", codec.JSON, codec.YAML, codec.Proto:
			return true
		}
	}
	return false
}

// choose takes the first form of an Accept header that there is. Only /api and /apis have an aggregated form.
func choose(header string, canAggregate bool) (form, bool) {
	if strings.TrimSpace(header) == "" {
		return form{media: codec.JSON}, true
	}
	var clauses []clause
	for part := range strings.SplitSeq(header, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			media, _, _ = strings.Cut(part, ";")
			media = strings.TrimSpace(media)
		}
		c := clause{media: media, params: params, q: 1}
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
			c.q = q
		}
		clauses = append(clauses, c)
	}
	sort.SliceStable(clauses, func(i, j int) bool { return clauses[i].q > clauses[j].q })
	for _, c := range clauses {
		var f form
		switch c.media {
		case "*/*", "application/*", codec.JSON:
			f.media = codec.JSON
		case codec.YAML, codec.Proto:
			f.media = c.media
		default:
			continue
		}
		if s, ok := c.params["stream"]; ok && (s != "watch" || f.media == codec.YAML) {
			continue
		}
		if as := c.params["as"]; as != "" || c.params["g"] != "" || c.params["v"] != "" {
			if !canAggregate || f.media == codec.YAML || as != "APIGroupDiscoveryList" ||
				c.params["g"] != "apidiscovery.k8s.io" || c.params["v"] != "v2" {
				continue
			}
			f.aggregated = true
		}
		return f, true
	}
	return form{}, false
}
