// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
)

// kubeletPort is where node agents listen if their node does not say.
const kubeletPort = 10250

func (h *Handler) pod(ctx context.Context, q *call.Request) (*corev1.Pod, error) {
	obj, err := h.cfg.Objects.Get(ctx, core.Pods.Kind, q.Namespace, q.Name)
	if err != nil {
		return nil, err
	}
	return core.Pods.Cast(obj), nil
}

// containerOf chooses the container that a request means: the one it names, or the only one.
func containerOf(p *corev1.Pod, name string) (string, error) {
	containers, inits := names(p.Spec.Containers), names(p.Spec.InitContainers)
	if name != "" {
		ephemeral := slices.ContainsFunc(p.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
		if ephemeral || slices.Contains(containers, name) || slices.Contains(inits, name) {
			return name, nil
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, p.Name))
	}
	if len(containers) == 1 {
		return containers[0], nil
	}
	text := "a container name must be specified for pod " + p.Name
	if len(containers) > 0 {
		text += fmt.Sprintf(", choose one of: %s", append(inits, containers...))
	}
	return "", apierrors.NewBadRequest(text)
}

func names(list []corev1.Container) []string {
	out := make([]string, len(list))
	for i := range list {
		out[i] = list[i].Name
	}
	return out
}

// NodeAddressTypes is the order in which Kubernetes chooses one of a node's addresses.
func NodeAddressTypes() []corev1.NodeAddressType {
	return []corev1.NodeAddressType{corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeInternalIP, corev1.NodeExternalDNS, corev1.NodeExternalIP}
}

// nodeURL is where the agent of a node answers.
func (h *Handler) nodeURL(ctx context.Context, name string) (*url.URL, error) {
	obj, err := h.cfg.Objects.Get(ctx, core.Nodes.Kind, "", name)
	if err != nil {
		return nil, err
	}
	node := core.Nodes.Cast(obj)
	for _, kind := range h.cfg.NodeAddressTypes {
		for _, a := range node.Status.Addresses {
			if a.Type != kind || a.Address == "" {
				continue
			}
			port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
			if port == 0 {
				port = kubeletPort
			}
			return &url.URL{Scheme: "https", Host: net.JoinHostPort(a.Address, strconv.Itoa(port))}, nil
		}
	}
	return nil, fmt.Errorf("no preferred addresses found; known addresses: %v", node.Status.Addresses)
}

// hostURL is where the node of a pod is asked.
func (h *Handler) hostURL(ctx context.Context, p *corev1.Pod) (*url.URL, error) {
	if p.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", p.Name))
	}
	location, err := h.nodeURL(ctx, p.Spec.NodeName)
	if apierrors.IsNotFound(err) { // Kubernetes takes the node's name for a pod's
		return nil, apierrors.NewNotFound(core.Pods.Kind.GroupResource(), p.Spec.NodeName)
	}
	return location, err
}

// command passes exec and attach on to the node.
func (h *Handler) command(w http.ResponseWriter, r *http.Request, q *call.Request) error {
	p, err := h.pod(r.Context(), q)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	container, err := containerOf(p, query.Get("container"))
	if err != nil {
		return err
	}
	location, err := h.hostURL(r.Context(), p)
	if err != nil {
		return err
	}
	location.Path = fmt.Sprintf("/%s/%s/%s/%s", q.Subresource, p.Namespace, p.Name, container)
	location.RawQuery = commandQuery(query, q.Subresource).Encode()
	if toldInStream(r) {
		return h.upgradeCommand(w, r, location)
	}
	return h.mustUpgrade(w, r, location)
}

// portForward passes port-forward on to the node.
func (h *Handler) portForward(w http.ResponseWriter, r *http.Request, q *call.Request) error {
	query, err := portQuery(r.URL.Query())
	if err != nil {
		return err
	}
	p, err := h.pod(r.Context(), q)
	if err != nil {
		return err
	}
	location, err := h.hostURL(r.Context(), p)
	if err != nil {
		return err
	}
	location.Path = fmt.Sprintf("/portForward/%s/%s", p.Namespace, p.Name)
	location.RawQuery = query.Encode()
	return h.mustUpgrade(w, r, location)
}

func (h *Handler) mustUpgrade(w http.ResponseWriter, r *http.Request, location *url.URL) error {
	if !isUpgrade(r) {
		return apierrors.NewBadRequest("Upgrade request required")
	}
	return h.upgrade(w, r, location, h.kubelet)
}

// log sends the log of a container; a pod without a node has none, which is no error.
func (h *Handler) log(w http.ResponseWriter, r *http.Request, q *call.Request) error {
	options, err := logOptions(r.URL.Query(), q.Name)
	if err != nil {
		return err
	}
	p, err := h.pod(r.Context(), q)
	if err != nil {
		return err
	}
	container, err := containerOf(p, options.Container)
	if err != nil {
		return err
	}
	if p.Spec.NodeName == "" {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	location, err := h.hostURL(r.Context(), p)
	if err != nil {
		return err
	}
	location.Path = fmt.Sprintf("/containerLogs/%s/%s/%s", p.Namespace, p.Name, container)
	location.RawQuery = logQuery(options).Encode()
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, location.String(), nil)
	if err != nil {
		return err
	}
	transport := h.kubelet
	if options.InsecureSkipTLSVerifyBackend {
		transport = h.blind
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return &url.Error{Op: "Get", URL: location.String(), Err: err}
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return logError(answer, q.Name)
	}
	media := answer.Header.Get("Content-Type")
	if media == "" {
		media = "text/plain"
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(http.StatusOK)
	if err := copyText(w, answer.Body, options.Follow); err != nil {
		h.cfg.Log.Debug("log ended early", "pod", q.Name, "namespace", q.Namespace, "err", err)
		panic(http.ErrAbortHandler) // the client must not take a part for the whole
	}
	return nil
}

// logError turns a node's text into a Status.
func logError(answer *http.Response, pod string) error {
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxError))
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	text := strings.TrimSuffix(string(raw), "\n")
	switch answer.StatusCode {
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(errors.New(text))
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(text)
	}
	return apierrors.NewGenericServerResponse(answer.StatusCode, "", schema.GroupResource{Resource: "pods/log"}, pod, text, 0, false)
}

// copyText copies what comes, as it comes: with flush, nothing waits for more.
func copyText(w http.ResponseWriter, from io.Reader, flush bool) error {
	control := http.NewResponseController(w)
	if flush {
		if err := control.Flush(); err != nil {
			return err
		}
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			if flush {
				if err := control.Flush(); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
