// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"mime"
	"net/http"
	"sort"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/codec"
)

// accepted is the form that a client wants an answer in.
type accepted struct {
	media string // codec.JSON, codec.YAML or codec.Proto
	// as is Table, PartialObjectMetadata or PartialObjectMetadataList, or empty; version is v1 or v1beta1.
	as, version string
	// include is the query parameter includeObject, which Tables heed.
	include string
	pretty  bool
}

const representations = "application/json, application/yaml, application/vnd.kubernetes.protobuf"

type acceptClause struct {
	media  string
	params map[string]string
	q      float64
}

// negotiate chooses the first form of the Accept header that the server has.
func negotiate(r *http.Request, proto bool) (accepted, error) {
	pretty, _ := strconv.ParseBool(r.URL.Query().Get("pretty"))
	if r.URL.Query().Get("pretty") == "" {
		agent := r.UserAgent()
		pretty = strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
	}
	header := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(header) == "" {
		return accepted{media: codec.JSON, pretty: pretty}, nil
	}
	for _, c := range parseAccept(header) {
		a := accepted{pretty: pretty, include: r.URL.Query().Get("includeObject")}
		switch c.media {
		case "*/*", "application/*", codec.JSON:
			a.media = codec.JSON
		case codec.YAML:
			a.media = codec.YAML
		case codec.Proto:
			if !proto {
				continue
			}
			a.media = codec.Proto
		default:
			continue
		}
		if as := c.params["as"]; as != "" {
			if g := c.params["g"]; g != "meta.k8s.io" {
				continue
			}
			a.as, a.version = as, c.params["v"]
			switch {
			case a.version != "v1" && a.version != "v1beta1":
				continue
			case as != "Table" && as != "PartialObjectMetadata" && as != "PartialObjectMetadataList":
				continue
			}
		}
		return a, nil
	}
	have := representations
	if !proto {
		have = "application/json, application/yaml"
	}
	return accepted{}, notAcceptable(have)
}

// negotiateWatch is negotiate for a watch, which has JSON and protobuf only.
func negotiateWatch(r *http.Request, proto bool) (accepted, error) {
	form, err := negotiate(r, proto)
	const streams = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
	if err != nil {
		return form, notAcceptable(representations + ", " + streams)
	}
	if form.media == codec.YAML {
		return form, onlyMedia(streams)
	}
	return form, nil
}

func onlyMedia(have string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "only the following media types are accepted: " + have,
	}}
}

func notAcceptable(have string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "406: Not Acceptable\n\nAvailable representations: " + have, Details: &metav1.StatusDetails{},
	}}
}

func parseAccept(header string) []acceptClause {
	var out []acceptClause
	for _, part := range strings.Split(header, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		c := acceptClause{media: media, params: params, q: 1}
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
			c.q = q
		}
		if c.q > 0 {
			out = append(out, c)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].q > out[j].q })
	return out
}

// bodyMedia is the media type of a request's body.
func bodyMedia(r *http.Request) (string, error) {
	header := r.Header.Get("Content-Type")
	if header == "" {
		return codec.JSON, nil
	}
	media, _, err := mime.ParseMediaType(header)
	if err == nil && (media == codec.JSON || media == codec.YAML || media == codec.Proto) {
		return media, nil
	}
	return "", unsupportedMedia(representations)
}

func unsupportedMedia(have string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: "the body of the request was in an unknown format - accepted media types include: " + have,
	}}
}
