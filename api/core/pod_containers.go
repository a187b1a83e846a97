// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// restartRulesMax bounds the rules and the exit codes of one container.
const (
	restartRulesMax     = 20
	restartExitCodesMax = 255
)

// podContext is what the rules of containers need to know of their pod.
type podContext struct {
	spec    *corev1.PodSpec
	volumes volumeSet
	claims  sets.Set[string]
	names   sets.Set[string] // of the containers so far
	pod     bool             // not a template
}

func (p *podContext) containers(at *field.Path) field.ErrorList {
	var problems field.ErrorList
	if len(p.spec.Containers) == 0 {
		problems = append(problems, field.Required(at, ""))
	}
	for i := range p.spec.Containers {
		c, at := &p.spec.Containers[i], nth(at, i)
		problems = append(problems, p.common(c, at)...)
		problems = append(problems, p.nameOnce(c.Name, at)...)
		problems = append(problems, validateLifecycle(c.Lifecycle, p.grace(), under(at, "lifecycle"))...)
		problems = append(problems, validateProbes(c, p.grace(), at)...)
		problems = append(problems, validateRestartPolicy(c, false, at)...)
	}
	return problems
}

// grace is the pod's grace period in seconds.
func (p *podContext) grace() int64 {
	if g := p.spec.TerminationGracePeriodSeconds; g != nil {
		return *g
	}
	return 0
}

func (p *podContext) nameOnce(name string, at *field.Path) field.ErrorList {
	if p.names.Has(name) {
		return field.ErrorList{field.Duplicate(at.Child("name"), name)}
	}
	if name != "" {
		p.names.Insert(name)
	}
	return nil
}

func (p *podContext) initContainers(at *field.Path) field.ErrorList {
	var problems field.ErrorList
	for i := range p.spec.InitContainers {
		c, at := &p.spec.InitContainers[i], nth(at, i)
		problems = append(problems, p.common(c, at)...)
		problems = append(problems, p.nameOnce(c.Name, at)...)
		if sidecar(c) {
			problems = append(problems, validateLifecycle(c.Lifecycle, p.grace(), under(at, "lifecycle"))...)
			problems = append(problems, validateProbes(c, p.grace(), at)...)
		} else {
			without := func(name string, set bool) {
				if set {
					problems = append(problems, field.Forbidden(at.Child(name), "may not be set for init containers without restartPolicy=Always"))
				}
			}
			without("lifecycle", c.Lifecycle != nil)
			without("livenessProbe", c.LivenessProbe != nil)
			without("readinessProbe", c.ReadinessProbe != nil)
			without("startupProbe", c.StartupProbe != nil)
		}
		problems = append(problems, validateRestartPolicy(c, true, at)...)
	}
	return problems
}

func (p *podContext) ephemeralContainers(at *field.Path) field.ErrorList {
	var problems field.ErrorList
	targets := sets.New[string]()
	for _, list := range [][]corev1.Container{p.spec.Containers, p.spec.InitContainers} {
		for i := range list {
			targets.Insert(list[i].Name)
		}
	}
	for i := range p.spec.EphemeralContainers {
		e, at := &p.spec.EphemeralContainers[i], nth(at, i)
		c := corev1.Container(e.EphemeralContainerCommon)
		problems = append(problems, p.common(&c, at)...)
		problems = append(problems, p.nameOnce(c.Name, at)...)
		if e.TargetContainerName != "" && !targets.Has(e.TargetContainerName) {
			problems = append(problems, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		without := func(name string, set bool) {
			if set {
				problems = append(problems, field.Forbidden(at.Child(name), "cannot be set for an Ephemeral Container"))
			}
		}
		without("ports", c.Ports != nil)
		without("resources", c.Resources.Limits != nil || c.Resources.Requests != nil || c.Resources.Claims != nil)
		without("livenessProbe", c.LivenessProbe != nil)
		without("readinessProbe", c.ReadinessProbe != nil)
		without("startupProbe", c.StartupProbe != nil)
		without("lifecycle", c.Lifecycle != nil)
		without("restartPolicy", c.RestartPolicy != nil)
		without("restartPolicyRules", c.RestartPolicyRules != nil)
		without("resizePolicy", c.ResizePolicy != nil)
		for j, m := range c.VolumeMounts {
			if m.SubPath != "" {
				problems = append(problems, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), "cannot be set for an Ephemeral Container"))
			}
			if m.SubPathExpr != "" {
				problems = append(problems, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), "cannot be set for an Ephemeral Container"))
			}
		}
	}
	return problems
}

// common checks what containers of all kinds have.
func (p *podContext) common(c *corev1.Container, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	if c.Name == "" {
		problems = append(problems, field.Required(at.Child("name"), ""))
	} else {
		problems = append(problems, dnsLabel(c.Name, under(at, "name"))...)
	}
	switch {
	case c.Image == "":
		problems = append(problems, field.Required(at.Child("image"), ""))
	case p.pod && strings.TrimSpace(c.Image) != c.Image:
		problems = append(problems, field.Invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	problems = append(problems, oneOf(under(at, "terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
	problems = append(problems, validatePorts(c.Ports, under(at, "ports"))...)
	problems = append(problems, validateEnv(c.Env, p.volumes, under(at, "env"))...)
	problems = append(problems, validateEnvFrom(c.EnvFrom, under(at, "envFrom"))...)
	problems = append(problems, validateMounts(c.VolumeMounts, c.VolumeDevices, p.volumes, privileged, under(at, "volumeMounts"))...)
	problems = append(problems, validateDevices(c.VolumeDevices, c.VolumeMounts, p.volumes, under(at, "volumeDevices"))...)
	problems = append(problems, validatePullPolicy(c.ImagePullPolicy, under(at, "imagePullPolicy"))...)
	problems = append(problems, validateResources(&c.Resources, validateContainerResourceName, under(at, "resources"))...)
	problems = append(problems, validateClaimNames(c.Resources.Claims, p.claims, under(at, "resources", "claims"))...)
	problems = append(problems, validateResizePolicy(c, p.spec.RestartPolicy, under(at, "resizePolicy"))...)
	return append(problems, validateSecurityContext(c.SecurityContext, p.spec, under(at, "securityContext"))...)
}

func validatePullPolicy(policy corev1.PullPolicy, at *field.Path) field.ErrorList {
	return oneOf(at, policy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func validatePorts(ports []corev1.ContainerPort, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	var names sets.Set[string]
	if len(ports) > 1 {
		names = sets.New[string]()
	}
	for i, p := range ports {
		at := nth(at, i)
		if p.Name != "" {
			if messages := portNameProblems(p.Name); len(messages) > 0 {
				for _, m := range messages {
					problems = append(problems, field.Invalid(at.Child("name"), p.Name, m))
				}
			} else if names.Has(p.Name) {
				problems = append(problems, field.Duplicate(at.Child("name"), p.Name))
			} else if names != nil {
				names.Insert(p.Name)
			}
		}
		if p.ContainerPort == 0 {
			problems = append(problems, field.Required(at.Child("containerPort"), ""))
		} else {
			problems = append(problems, portNumber(p.ContainerPort, under(at, "containerPort"))...)
		}
		if p.HostPort != 0 {
			problems = append(problems, portNumber(p.HostPort, under(at, "hostPort"))...)
		}
		problems = append(problems, oneOf(under(at, "protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	}
	return problems
}

// portNameProblems finds what is wrong with the name of a port.
func portNameProblems(name string) []string {
	if len(name) <= 15 && name != "" && name[0] >= 'a' && resource.IsLabel(name) && !strings.Contains(name, "--") {
		return nil
	}
	return validation.IsValidPortName(name)
}

func portNumber(port int32, at *field.Path) (problems field.ErrorList) {
	for _, m := range validation.IsValidPortNum(int(port)) {
		problems = append(problems, field.Invalid(at, port, m))
	}
	return problems
}

// validateHostPorts refuses host ports that two containers want, and others than the container's on the host's network.
func validateHostPorts(s *corev1.PodSpec, at *field.Path) (problems field.ErrorList) {
	taken := sets.New[string]()
	for i := range s.Containers {
		for j, p := range s.Containers[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			at := nth(under(at, "containers"), i).Child("ports").Index(j).Child("hostPort")
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken.Has(key) {
				problems = append(problems, field.Duplicate(at, key))
			}
			taken.Insert(key)
		}
	}
	if !s.HostNetwork {
		return problems
	}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"containers", s.Containers}, {"initContainers", s.InitContainers}} {
		for i := range list.containers {
			for j, p := range list.containers[i].Ports {
				if p.HostPort != 0 && p.HostPort != p.ContainerPort { // templates may leave it out
					problems = append(problems, field.Invalid(at.Child(list.name).Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort,
						"must match `containerPort` when `hostNetwork` is true"))
				}
			}
		}
	}
	return problems
}

func validateRestartPolicy(c *corev1.Container, init bool, at *field.Path) (problems field.ErrorList) {
	switch policy := c.RestartPolicy; {
	case policy != nil:
		problems = append(problems, allowed(under(at, "restartPolicy"), *policy,
			corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	case len(c.RestartPolicyRules) > 0:
		problems = append(problems, field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
		if init {
			return problems
		}
	}
	at = under(at, "restartPolicyRules")
	if len(c.RestartPolicyRules) > restartRulesMax {
		problems = append(problems, field.TooMany(at, len(c.RestartPolicyRules), restartRulesMax))
	}
	for i, rule := range c.RestartPolicyRules {
		at := nth(at, i)
		problems = append(problems, allowed(under(at, "action"), rule.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if rule.ExitCodes == nil {
			problems = append(problems, field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		problems = append(problems, allowed(under(at, "exitCodes", "operator"), rule.ExitCodes.Operator,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(rule.ExitCodes.Values); n > restartExitCodesMax {
			problems = append(problems, field.TooMany(at.Child("exitCodes", "values"), n, restartExitCodesMax))
		}
	}
	return problems
}

func validateLifecycle(l *corev1.Lifecycle, grace int64, at *field.Path) (problems field.ErrorList) {
	if l == nil {
		return nil
	}
	for _, h := range []struct {
		name    string
		handler *corev1.LifecycleHandler
	}{{"postStart", l.PostStart}, {"preStop", l.PreStop}} {
		if h.handler != nil {
			problems = append(problems, validateHandler(handlerOf(h.handler), grace, under(at, h.name))...)
		}
	}
	return problems
}

// handler is a hook's or a probe's action: one of them.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func handlerOf(h *corev1.LifecycleHandler) handler {
	return handler{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}
}

func validateHandler(h handler, grace int64, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	n := 0
	one := func(name string, set bool, check func(at *field.Path) field.ErrorList) {
		switch {
		case !set:
			return
		case n > 0:
			problems = append(problems, field.Forbidden(at.Child(name), "may not specify more than 1 handler type"))
		default:
			problems = append(problems, check(under(at, name))...)
		}
		n++
	}
	one("exec", h.exec != nil, func(at *field.Path) field.ErrorList {
		if len(h.exec.Command) == 0 {
			return field.ErrorList{field.Required(at.Child("command"), "")}
		}
		return nil
	})
	one("httpGet", h.http != nil, func(at *field.Path) field.ErrorList { return validateHTTPGet(h.http, at) })
	one("tcpSocket", h.tcp != nil, func(at *field.Path) field.ErrorList { return portOrName(h.tcp.Port, under(at, "port")) })
	one("grpc", h.grpc != nil, func(at *field.Path) field.ErrorList { return portNumber(h.grpc.Port, under(at, "port")) })
	one("sleep", h.sleep != nil, func(at *field.Path) field.ErrorList {
		if s := h.sleep.Seconds; s < 0 || s > grace {
			return field.ErrorList{field.Invalid(at, s, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", grace))}
		}
		return nil
	})
	if n == 0 {
		problems = append(problems, field.Required(at, "must specify a handler type"))
	}
	return problems
}

func validateHTTPGet(h *corev1.HTTPGetAction, at *field.Path) field.ErrorList {
	problems := needed(at, "path", h.Path)
	problems = append(problems, portOrName(h.Port, under(at, "port"))...)
	problems = append(problems, allowed(under(at, "scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, header := range h.HTTPHeaders {
		for _, m := range validation.IsHTTPHeaderName(header.Name) {
			problems = append(problems, field.Invalid(at.Child("httpHeaders"), header.Name, m))
		}
	}
	return problems
}

func portOrName(port intstr.IntOrString, at *field.Path) (problems field.ErrorList) {
	if port.Type == intstr.Int {
		for _, m := range validation.IsValidPortNum(port.IntValue()) {
			problems = append(problems, field.Invalid(at, port.IntVal, m))
		}
		return problems
	}
	for _, m := range portNameProblems(port.StrVal) {
		problems = append(problems, field.Invalid(at, port.StrVal, m))
	}
	return problems
}

func validateProbes(c *corev1.Container, grace int64, at *field.Path) field.ErrorList {
	problems := validateProbe(c.LivenessProbe, grace, under(at, "livenessProbe"))
	once := func(p *corev1.Probe, name string) {
		if p != nil && p.SuccessThreshold != 1 {
			problems = append(problems, field.Invalid(at.Child(name, "successThreshold"), p.SuccessThreshold, "must be 1"))
		}
	}
	once(c.LivenessProbe, "livenessProbe")
	problems = append(problems, validateProbe(c.ReadinessProbe, grace, under(at, "readinessProbe"))...)
	if p := c.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		problems = append(problems, field.Invalid(at.Child("readinessProbe", "terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds,
			"must not be set for readinessProbes"))
	}
	problems = append(problems, validateProbe(c.StartupProbe, grace, under(at, "startupProbe"))...)
	once(c.StartupProbe, "startupProbe")
	return problems
}

func validateProbe(p *corev1.Probe, grace int64, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	problems := validateHandler(handler{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, grace, at)
	for _, f := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold},
	} {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(f.value), under(at, f.name))...)
	}
	if p.TerminationGracePeriodSeconds != nil && *p.TerminationGracePeriodSeconds <= 0 {
		problems = append(problems, field.Invalid(at.Child("terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must be greater than 0"))
	}
	return problems
}
