// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/admission"
)

// admitConnect passes a request for a stream or proxy through admission. Reading a log is no connection there.
func (s *Server) admitConnect(w http.ResponseWriter, r *http.Request, reg *registry, q *call.Request) error {
	if q.Subresource == "log" {
		return nil
	}
	options, kind, err := connectOptions(q, r.URL)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if options == nil {
		return nil
	}
	o := &operation{Request: q, user: scopeOf(r).user, spent: &scopeOf(r).spent, done: true}
	defer o.finish()
	a := reg.admitted(o, "connect", admission.NewOptions(options), nil)
	a.Body = corev1.SchemeGroupVersion.WithKind(kind)
	if err = s.mutate(r.Context(), a); err == nil {
		err = s.validate(r.Context(), a)
	}
	addWarnings(w, o.warnings)
	return err
}

// connectOptions are the parameters of a connection as an object, with the name of its kind; nil if it has none.
func connectOptions(q *call.Request, u *url.URL) (options runtime.Object, kind string, err error) {
	values := u.Query()
	flag := func(name string) (b bool) {
		list := values[name]
		_ = runtime.Convert_Slice_string_To_bool(&list, &b, nil) // it has no errors
		return b
	}
	switch q.Kind.Resource + "/" + q.Subresource {
	case "pods/exec":
		return &corev1.PodExecOptions{
			Stdin: flag("stdin"), Stdout: flag("stdout"), Stderr: flag("stderr"), TTY: flag("tty"), Container: values.Get("container"),
			Command: values["command"],
		}, "PodExecOptions", nil
	case "pods/attach":
		return &corev1.PodAttachOptions{
			Stdin: flag("stdin"), Stdout: flag("stdout"), Stderr: flag("stderr"), TTY: flag("tty"), Container: values.Get("container"),
		}, "PodAttachOptions", nil
	case "pods/portforward":
		o, ports := &corev1.PodPortForwardOptions{}, values["ports"]
		err := metav1.Convert_Slice_string_To_Slice_int32(&ports, &o.Ports, nil)
		return o, "PodPortForwardOptions", err
	case "pods/proxy":
		return &corev1.PodProxyOptions{Path: proxied(u, q.Name)}, "PodProxyOptions", nil
	case "services/proxy":
		return &corev1.ServiceProxyOptions{Path: proxied(u, q.Name)}, "ServiceProxyOptions", nil
	case "nodes/proxy":
		return &corev1.NodeProxyOptions{Path: proxied(u, q.Name)}, "NodeProxyOptions", nil
	}
	return nil, "", nil
}

// proxied is the path behind a proxy.
func proxied(u *url.URL, name string) string {
	_, path, _ := strings.Cut(u.Path, "/"+name+"/proxy")
	return path
}
