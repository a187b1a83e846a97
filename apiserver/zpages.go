// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/munnerz/goautoneg"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/codec"
)

// Version is the Kubernetes version whose API is served, as /version tells it.
func Version() version.Info {
	return version.Info{
		Major: "1", Minor: "36", EmulationMajor: "1", EmulationMinor: "36", MinCompatibilityMajor: "1", MinCompatibilityMinor: "35",
		GitVersion: "v1.36.3+knarr", GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// binaryVersion is the version without its build: 1.36.3.
func binaryVersion() string {
	v, _, _ := strings.Cut(strings.TrimPrefix(Version().GitVersion, "v"), "+")
	return v
}

// page is /statusz or /flagz: text for people, an object of group config.k8s.io for those that ask for one.
type page struct {
	name, kind string
	// text is what people read after the warning; object is the object in a version.
	text   func() string
	object func(about pageAbout) any
}

// pageAbout begins the object of a page.
type pageAbout struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
}

// statuszObject is config.k8s.io Statusz.
type statuszObject struct {
	pageAbout        `json:",inline"`
	StartTime        metav1.Time `json:"startTime"`
	UptimeSeconds    int64       `json:"uptimeSeconds"`
	GoVersion        string      `json:"goVersion"`
	BinaryVersion    string      `json:"binaryVersion"`
	EmulationVersion string      `json:"emulationVersion"`
	Paths            []string    `json:"paths"`
}

// flagzObject is config.k8s.io Flagz.
type flagzObject struct {
	pageAbout `json:",inline"`
	Flags     map[string]string `json:"flags"`
}

func (s *Server) statusz() page {
	paths := []string{"/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"}
	v := Version()
	emulated := v.EmulationMajor + "." + v.EmulationMinor
	up := time.Since(s.began)
	return page{
		name: "statusz", kind: "Statusz",
		text: func() string {
			return fmt.Sprintf("Started: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\nEmulation version: %s\nPaths: %s\n",
				s.began.UTC().Format(time.UnixDate), int(up.Hours()), int(up.Minutes())%60, int(up.Seconds())%60, v.GoVersion, binaryVersion(), emulated,
				strings.Join(paths, " "))
		},
		object: func(about pageAbout) any {
			return &statuszObject{
				pageAbout: about, StartTime: metav1.NewTime(s.began.Truncate(time.Second)), UptimeSeconds: int64(up.Seconds()), GoVersion: v.GoVersion,
				BinaryVersion: binaryVersion(), EmulationVersion: emulated, Paths: paths,
			}
		},
	}
}

func (s *Server) flagz() page {
	flags := s.cfg.Flags
	if flags == nil {
		flags = map[string]string{}
	}
	return page{
		name: "flagz", kind: "Flagz",
		text: func() string {
			var out strings.Builder
			for _, name := range slices.Sorted(maps.Keys(flags)) {
				fmt.Fprintf(&out, "%s:%s\n", name, flags[name])
			}
			return out.String()
		},
		object: func(about pageAbout) any { return &flagzObject{pageAbout: about, Flags: flags} },
	}
}

const pageWarning = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only."

// serve answers in the first form of the Accept header that the page has.
func (p page) serve(w http.ResponseWriter, r *http.Request) {
	for _, a := range goautoneg.ParseAccept(acceptOf(r)) {
		media := a.Type + "/" + a.SubType
		v := a.Params["v"]
		switch {
		case media == "text/plain" || media == "text/*" || media == "*/*":
			p.serveText(w)
			return
		case media != codec.JSON && media != codec.YAML || a.Params["g"] != "config.k8s.io" || a.Params["as"] != p.kind:
			continue
		case v == "v1alpha1":
			addWarnings(w, []string{"This version of the " + p.name + " endpoint is deprecated. Please use a newer version."})
			fallthrough
		case v == "v1beta1":
			p.serveObject(w, r, media, v)
			return
		}
	}
	if acceptOf(r) == "" {
		p.serveText(w)
		return
	}
	writeError(w, r, onlyMedia("application/json, application/yaml, text/plain"))
}

func (p page) serveText(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "\napiserver %s\n%s\n%s", p.name, pageWarning, p.gap())
	fmt.Fprint(w, p.text())
}

// gap is what Kubernetes has between the warning and the content.
func (p page) gap() string {
	if p.name == "statusz" {
		return "\n"
	}
	return ""
}

func (p page) serveObject(w http.ResponseWriter, r *http.Request, media, v string) {
	about := pageAbout{metav1.TypeMeta{Kind: p.kind, APIVersion: "config.k8s.io/" + v}, metav1.ObjectMeta{Name: "apiserver"}}
	b, err := json.MarshalIndent(p.object(about), "", "  ")
	if err == nil && media == codec.YAML {
		b, err = yaml.JSONToYAML(b)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeBytes(w, r, media+";g=config.k8s.io;v="+v+";as="+p.kind, http.StatusOK, append(b, '\n'))
}
