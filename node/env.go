// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/node/pod"
	"knarr.dev/node/volume"
)

// environment is an ordered set of variables.
type environment struct {
	names  []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

// variables builds the environment of a container: service links, envFrom, env, later ones over earlier ones.
func variables(ctx context.Context, source volume.Source, p *corev1.Pod, c *corev1.Container, services []*corev1.Service, allocatable corev1.ResourceList) (*environment, error) {
	links := map[string]string{}
	for _, s := range services {
		if s.Namespace == p.Namespace && (p.Spec.EnableServiceLinks == nil || *p.Spec.EnableServiceLinks) ||
			s.Namespace == "default" && s.Name == "kubernetes" {
			link(s, links)
		}
	}
	e := &environment{values: map[string]string{}}
	for _, from := range c.EnvFrom {
		if err := envFrom(ctx, source, p, from, e); err != nil {
			return nil, err
		}
	}
	for _, variable := range c.Env {
		value, ok, err := variableValue(ctx, source, p, c, variable, func(name string) (string, bool) {
			if v, ok := e.values[name]; ok {
				return v, true
			}
			v, ok := links[name]
			return v, ok
		}, allocatable)
		if err != nil {
			return nil, err
		}
		if ok {
			e.set(variable.Name, value)
		}
	}
	for name, value := range links {
		if _, ok := e.values[name]; !ok {
			e.set(name, value)
		}
	}
	return e, nil
}

// link adds the variables that name a service.
func link(s *corev1.Service, into map[string]string) {
	if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
		return
	}
	prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	into[prefix+"_SERVICE_HOST"] = s.Spec.ClusterIP
	into[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, port := range s.Spec.Ports {
		number := strconv.Itoa(int(port.Port))
		if port.Name != "" {
			into[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(port.Name, "-", "_"))] = number
		}
		protocol := string(port.Protocol)
		if protocol == "" {
			protocol = "TCP"
		}
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(s.Spec.ClusterIP, number)
		if i == 0 {
			into[prefix+"_PORT"] = url
		}
		own := fmt.Sprintf("%s_PORT_%s_%s", prefix, number, protocol)
		into[own] = url
		into[own+"_PROTO"] = strings.ToLower(protocol)
		into[own+"_PORT"] = number
		into[own+"_ADDR"] = s.Spec.ClusterIP
	}
}

func envFrom(ctx context.Context, source volume.Source, p *corev1.Pod, from corev1.EnvFromSource, e *environment) error {
	data := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		object, err := source.ConfigMap(ctx, p.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return missing(err, "configmap", from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		}
		data = object.Data
	case from.SecretRef != nil:
		object, err := source.Secret(ctx, p.Namespace, from.SecretRef.Name)
		if err != nil {
			return missing(err, "secret", from.SecretRef.Name, from.SecretRef.Optional)
		}
		for key, value := range object.Data {
			data[key] = string(value)
		}
	}
	keys := make([]string, 0, len(data))
	for key := range data {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		e.set(from.Prefix+key, data[key])
	}
	return nil
}

// missing turns the absence of an object into nil if it is optional.
func missing(err error, noun, name string, optional *bool) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("%s %q not found", noun, name)
}

func variableValue(ctx context.Context, source volume.Source, p *corev1.Pod, c *corev1.Container, v corev1.EnvVar,
	lookup func(string) (string, bool), allocatable corev1.ResourceList) (value string, ok bool, err error) {
	from := v.ValueFrom
	switch {
	case from == nil:
		return pod.Expand(v.Value, lookup), true, nil
	case from.FieldRef != nil:
		value, err = pod.Field(p, from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		if name := from.ResourceFieldRef.ContainerName; name != "" {
			spec, found := pod.Find(p, name)
			if !found {
				return "", false, fmt.Errorf("container %s not found", name)
			}
			c = spec.Container
		}
		value, err = pod.Resource(c, from.ResourceFieldRef, allocatable)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		object, err := source.ConfigMap(ctx, p.Namespace, ref.Name)
		if err != nil {
			return "", false, missing(err, "configmap", ref.Name, ref.Optional)
		}
		value, ok = object.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, p.Namespace, ref.Name)
		}
		return value, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		object, err := source.Secret(ctx, p.Namespace, ref.Name)
		if err != nil {
			return "", false, missing(err, "secret", ref.Name, ref.Optional)
		}
		raw, ok := object.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, p.Namespace, ref.Name)
		}
		return string(raw), ok, nil
	}
	return "", false, errors.New("this source of a variable is not supported by the node")
}
