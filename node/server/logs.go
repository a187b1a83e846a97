// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func sortNewest(list []*runtimeapi.Container) {
	slices.SortFunc(list, func(a, b *runtimeapi.Container) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
}

// logs sends the log of a container.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	options, err := logOptions(r.URL.Query())
	if err != nil {
		fail(w, &problem{http.StatusUnprocessableEntity, err.Error()})
		return
	}
	container, path, err := s.logFile(r, options.Previous)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	out := &flushed{w: w, control: http.NewResponseController(w), now: options.Follow}
	if options.Follow {
		w.WriteHeader(http.StatusOK)
		if out.control.Flush() != nil {
			return
		}
	}
	reader := newLogReader(path, options, time.Now(), out)
	err = reader.send(r.Context(), func(ctx context.Context) bool {
		answer, err := s.config.CRI.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: container})
		return err == nil && answer.Status.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING
	})
	if err != nil && r.Context().Err() == nil {
		if !out.wrote && !options.Follow {
			fail(w, err)
			return
		}
		s.config.Log.Debug("cannot send log", "path", path, "error", err)
	}
}

// flushed sends what is written at once.
type flushed struct {
	w          http.ResponseWriter
	control    *http.ResponseController
	now, wrote bool
}

// Write implements io.Writer.
func (f *flushed) Write(b []byte) (int, error) {
	f.wrote = true
	n, err := f.w.Write(b)
	if err == nil && f.now {
		err = f.control.Flush()
	}
	return n, err
}

// logFile finds the log that a request asks for.
func (s *Server) logFile(r *http.Request, previous bool) (container, path string, err error) {
	p, err := s.find(r)
	if err != nil {
		return "", "", err
	}
	name := r.PathValue("container")
	list, err := s.containers(r.Context(), p, name)
	if err != nil {
		return "", "", err
	}
	if previous {
		if len(list) > 0 && list[0].State != runtimeapi.ContainerState_CONTAINER_EXITED || waits(p, name) == "" {
			list = list[min(1, len(list)):]
		}
		list = slices.DeleteFunc(list, func(c *runtimeapi.Container) bool { return c.State != runtimeapi.ContainerState_CONTAINER_EXITED })
		if len(list) == 0 {
			return "", "", &problem{http.StatusBadRequest, fmt.Sprintf("previous terminated container %q in pod %q not found", name, p.Name)}
		}
	}
	list = slices.DeleteFunc(list, func(c *runtimeapi.Container) bool { return c.State == runtimeapi.ContainerState_CONTAINER_CREATED })
	if len(list) == 0 {
		reason := waits(p, name)
		switch reason {
		case "":
			reason = "ContainerCreating"
		case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
			return "", "", &problem{http.StatusBadRequest, fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, p.Name, pullProblem(reason))}
		}
		return "", "", &problem{http.StatusBadRequest, fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, p.Name, reason)}
	}
	status, err := s.config.CRI.ContainerStatus(r.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: list[0].Id})
	if err != nil {
		return "", "", fmt.Errorf("ask for container: %w", err)
	}
	return list[0].Id, status.Status.GetLogPath(), nil
}

func pullProblem(reason string) string {
	if reason == "ErrImageNeverPull" {
		return "image can't be pulled"
	}
	return "trying and failing to pull image"
}

// waits is the reason why a container does not run, or empty.
func waits(p *corev1.Pod, name string) string {
	for _, statuses := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, cs := range statuses {
			if cs.Name == name && cs.State.Waiting != nil {
				return cs.State.Waiting.Reason
			}
		}
	}
	return ""
}

// logOptions reads the parameters of a request for logs.
func logOptions(q url.Values) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{}
	for name, into := range map[string]*bool{"follow": &o.Follow, "previous": &o.Previous, "timestamps": &o.Timestamps} {
		if v := q.Get(name); v != "" {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			*into = b
		}
	}
	for names, into := range map[string]**int64{"tailLines,tail": &o.TailLines, "sinceSeconds": &o.SinceSeconds, "limitBytes": &o.LimitBytes} {
		for _, name := range strings.Split(names, ",") {
			if v := q.Get(name); v != "" && v != "all" {
				n, err := strconv.ParseInt(v, 10, 64)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				*into = &n
			}
		}
	}
	if v := q.Get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return nil, fmt.Errorf("sinceTime: %w", err)
		}
		o.SinceTime = &metav1.Time{Time: t}
	}
	if v := q.Get("stream"); v != "" {
		o.Stream = &v
	}
	return o, nil
}
