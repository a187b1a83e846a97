// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/munnerz/goautoneg"
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

// What answers come in: objects and lists, and beside them watches.
const (
	representations = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
	streams         = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
)

// offer is what forms there are of an answer.
type offer struct {
	// custom objects have protobuf forms of their metadata alone, and no handlers by media type.
	custom bool
	// proto says that objects have a protobuf form, noTable that they have no Table.
	proto, noTable bool
}

// medias lists the media types of answers in the order in which the server prefers them.
func (o offer) medias() []string {
	if !o.proto && !o.custom {
		return []string{codec.JSON, codec.YAML}
	}
	return []string{codec.JSON, codec.YAML, codec.Proto}
}

// has says whether there is the form.
func (o offer) has(a *accepted) bool {
	return !(o.noTable && a.as == "Table") && !(o.custom && a.media == codec.Proto && a.as == "")
}

// routable says whether an Accept header names any of the media types, whatever its parameters say.
func (o offer) routable(header string) bool {
	if header == "" || o.custom {
		return true
	}
	for part := range strings.SplitSeq(header, ",") {
		media, _, _ := strings.Cut(part, ";")
		if media = strings.Trim(media, " "); media == "*/*" || slices.Contains(o.medias(), media) {
			return true
		}
	}
	return false
}

func acceptOf(r *http.Request) string { return strings.Join(r.Header["Accept"], ",") }

// negotiate chooses the form of the Accept header that the client likes best among those that the server has.
func negotiate(r *http.Request, o offer) (accepted, error) {
	query := queryOf(r)
	base := accepted{pretty: wantsPretty(r)}
	header := acceptOf(r)
	if header == codec.JSON || header == codec.Proto && o.proto { // as nearly all clients say
		base.media, base.include = header, query.Get("includeObject")
		return base, nil
	}
	if !o.routable(header) {
		return base, notAcceptable(strings.Join(o.medias(), ", "))
	}
	if header == "" {
		base.media = codec.JSON
		return base, nil
	}
	return o.best(header, accepted{pretty: base.pretty, include: query.Get("includeObject")})
}

// best is the form that an Accept header likes best, with what base says beside its media type.
func (o offer) best(header string, base accepted) (accepted, error) {
	for _, c := range goautoneg.ParseAccept(header) {
		for _, media := range o.medias() {
			if !covers(&c, media) {
				continue
			}
			a := base
			a.media = media
			if a.parameters(c.Params) && o.has(&a) {
				return a, nil
			}
		}
	}
	return base, onlyMedia(strings.Join(o.medias(), ", "))
}

// Fail answers a request that was to be connected with something else with an error, in the form that the client wants.
func Fail(w http.ResponseWriter, r *http.Request, err error) {
	if header := acceptOf(r); header != "" {
		if _, bad := (offer{proto: true, noTable: true}).best(header, accepted{}); bad != nil {
			err = bad
		}
	}
	writeError(w, r, err)
}

// logRoutable refuses the log of a container to clients that would take nothing of what it may come in.
func logRoutable(r *http.Request) error {
	o := offer{proto: true}
	if header := acceptOf(r); o.routable(header) || o.routable(strings.ReplaceAll(header, "text/plain", codec.JSON)) {
		return nil
	}
	return notAcceptable("text/plain, " + strings.Join(o.medias(), ", "))
}

// wantsPretty says whether a client wants JSON that is indented: if it says so, or if a person is likely to read it.
func wantsPretty(r *http.Request) bool {
	if p := queryOf(r).Get("pretty"); p != "" {
		pretty, _ := strconv.ParseBool(p)
		return pretty
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// covers says whether a clause of an Accept header matches a media type.
func covers(c *goautoneg.Accept, media string) bool {
	kind, sub, _ := strings.Cut(media, "/")
	return c.Type == kind && (c.SubType == sub || c.SubType == "*") || c.Type == "*" && c.SubType == "*"
}

// parameters takes over the parameters of a clause, and says whether the server has such a form.
func (a *accepted) parameters(params map[string]string) bool {
	if s, ok := params["stream"]; ok && s != "watch" || ok && a.media == codec.YAML {
		return false
	}
	if p, ok := params["pretty"]; ok {
		a.pretty = p == "1"
	}
	as, g, v := params["as"], params["g"], params["v"]
	if as == "" && g == "" && v == "" {
		return true
	}
	a.as, a.version = as, v
	if g != metav1.GroupName || v != "v1" && v != "v1beta1" {
		return false
	}
	switch as {
	case "Table":
		return a.media != codec.Proto
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return true
	}
	return false
}

// negotiateWatch is negotiate for a watch, which has JSON and protobuf only.
func negotiateWatch(r *http.Request, o offer) (accepted, error) {
	form, err := negotiate(r, o)
	if err == nil && form.media == codec.YAML {
		return form, onlyMedia(streams)
	}
	return form, err
}

// errorForm is the form of a Status: what the client accepts, but for the representations of objects. It is indented JSON for clients that
// accept none.
func errorForm(r *http.Request) accepted {
	form, err := negotiate(r, offer{proto: true})
	if err == nil && form.as == "" {
		return form
	}
	for _, c := range goautoneg.ParseAccept(acceptOf(r)) {
		for _, media := range (offer{proto: true}).medias() {
			a := accepted{media: media, pretty: wantsPretty(r)}
			if covers(&c, media) && a.parameters(c.Params) && a.as == "" {
				return a
			}
		}
	}
	return accepted{media: codec.JSON, pretty: true}
}

func onlyMedia(have string) error {
	return notAcceptableText("only the following media types are accepted: " + have)
}

func notAcceptableText(text string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable, Message: text,
	}}
}

func notAcceptable(have string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "406: Not Acceptable\n\nAvailable representations: " + have, Details: &metav1.StatusDetails{},
	}}
}

// bodyMedia is the media type of a request's body.
func bodyMedia(r *http.Request) (string, error) {
	header := r.Header.Get("Content-Type")
	switch header {
	case "":
		return codec.JSON, nil
	case codec.JSON, codec.Proto:
		return header, nil
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
