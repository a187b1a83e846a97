// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// flag reads a parameter that is true unless it is absent, "0" or "false", as everywhere in the API.
func flag(q url.Values, name string) bool {
	values, b := q[name], false
	_ = runtime.Convert_Slice_string_To_bool(&values, &b, nil) // it has no errors
	return b
}

// logOptions reads and checks the parameters of pods/log.
func logOptions(q url.Values, pod string) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{
		Container: q.Get("container"), Follow: flag(q, "follow"), Previous: flag(q, "previous"), Timestamps: flag(q, "timestamps"),
		InsecureSkipTLSVerifyBackend: flag(q, "insecureSkipTLSVerifyBackend"),
	}
	for name, into := range map[string]**int64{"sinceSeconds": &o.SinceSeconds, "tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		values := q[name]
		if err := runtime.Convert_Slice_string_To_Pointer_int64(&values, into, nil); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if values := q["sinceTime"]; len(values) > 0 && values[0] != "" {
		if err := metav1.Convert_Slice_string_To_Pointer_v1_Time(&values, &o.SinceTime, nil); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if q.Has("stream") {
		stream := q.Get("stream")
		o.Stream = &stream
	}
	if problems := logProblems(o); len(problems) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, pod, problems)
	}
	return o, nil
}

func logProblems(o *corev1.PodLogOptions) field.ErrorList {
	var problems field.ErrorList
	invalid := func(name string, value int64, text string) {
		problems = append(problems, field.Invalid(field.NewPath(name), value, text))
	}
	forbid := func(name, text string) {
		problems = append(problems, field.Forbidden(field.NewPath(name), text))
	}
	if o.TailLines != nil && *o.TailLines < 0 {
		invalid("tailLines", *o.TailLines, "must be greater than or equal to 0")
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		invalid("limitBytes", *o.LimitBytes, "must be greater than 0")
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		forbid("", "at most one of `sinceTime` or `sinceSeconds` may be specified")
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		invalid("sinceSeconds", *o.SinceSeconds, "must be greater than 0")
	}
	if o.Stream != nil { // an alpha feature, which is off
		forbid("stream", "may not be specified")
	}
	return problems
}

// logQuery is what a node agent is asked.
func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if on {
			q.Set(name, "true")
		}
	}
	for name, n := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.UTC().Format(time.RFC3339))
	}
	return q
}

// commandQuery turns the parameters of exec and attach into those of a node agent.
func commandQuery(q url.Values, verb string) url.Values {
	out := url.Values{}
	for name, theirs := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
		if flag(q, name) {
			out.Set(theirs, "1")
		}
	}
	if commands := q["command"]; verb == "exec" && len(commands) > 0 {
		out["command"] = commands
	}
	return out
}

// portQuery turns the parameters of portforward into those of a node agent.
func portQuery(q url.Values) (url.Values, error) {
	texts, ports := q["ports"], []int32(nil)
	if err := metav1.Convert_Slice_string_To_Slice_int32(&texts, &ports, nil); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	out := url.Values{}
	if len(ports) > 0 {
		names := make([]string, len(ports))
		for i, port := range ports {
			names[i] = strconv.Itoa(int(port))
		}
		out.Set("port", strings.Join(names, ","))
	}
	return out, nil
}
