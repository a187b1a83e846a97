// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/node/cgroup"
	"knarr.dev/node/pod"
)

// Labels and annotations of sandboxes and containers; other tools of the container runtime know them.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"

	annotationHash         = "io.kubernetes.container.hash"
	annotationRestartCount = "io.kubernetes.container.restartCount"
	annotationMessagePath  = "io.kubernetes.container.terminationMessagePath"
	annotationMessageKind  = "io.kubernetes.container.terminationMessagePolicy"
	annotationGrace        = "io.kubernetes.pod.terminationGracePeriod"
)

// sandboxConfig is the runtime's description of a pod.
func (a *Agent) sandboxConfig(p *corev1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	hostname, _, err := a.hostnames(p)
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: string(p.UID), Attempt: attempt},
		Hostname: hostname, LogDirectory: a.logDir(p), DnsConfig: a.dns(p),
		Labels:      map[string]string{},
		Annotations: map[string]string{"kubernetes.io/config.source": "api"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    cgroup.Path(cgroup.QOS(p), p.UID),
			SecurityContext: sandboxSecurity(p),
			Sysctls:         map[string]string{},
		},
	}
	for key, value := range p.Labels {
		config.Labels[key] = value
	}
	config.Labels[labelPodName], config.Labels[labelPodNamespace], config.Labels[labelPodUID] = p.Name, p.Namespace, string(p.UID)
	for key, value := range p.Annotations {
		if key != corev1.LastAppliedConfigAnnotation {
			config.Annotations[key] = value
		}
	}
	if s := p.Spec.SecurityContext; s != nil {
		for _, sysctl := range s.Sysctls {
			config.Linux.Sysctls[sysctl.Name] = sysctl.Value
		}
	}
	if !p.Spec.HostNetwork {
		config.PortMappings = portMappings(p)
	}
	return config, nil
}

func portMappings(p *corev1.Pod) []*runtimeapi.PortMapping {
	var mappings []*runtimeapi.PortMapping
	for _, s := range pod.Containers(p) {
		for _, port := range s.Ports {
			if port.HostPort == 0 {
				continue
			}
			protocol := runtimeapi.Protocol_TCP
			switch port.Protocol {
			case corev1.ProtocolUDP:
				protocol = runtimeapi.Protocol_UDP
			case corev1.ProtocolSCTP:
				protocol = runtimeapi.Protocol_SCTP
			}
			mappings = append(mappings, &runtimeapi.PortMapping{
				Protocol: protocol, ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIp: port.HostIP,
			})
		}
	}
	return mappings
}

// hostnames returns the host name inside the pod and the pod's name in DNS, which is empty without subdomain.
func (a *Agent) hostnames(p *corev1.Pod) (hostname, fqdn string, err error) {
	if o := p.Spec.HostnameOverride; o != nil && !p.Spec.HostNetwork {
		return *o, "", nil
	}
	hostname = p.Spec.Hostname
	if hostname == "" {
		hostname = p.Name
	}
	if len(hostname) > 63 {
		hostname = strings.TrimRight(hostname[:63], "-.")
	}
	if p.Spec.Subdomain != "" {
		fqdn = fmt.Sprintf("%s.%s.%s.svc.%s", hostname, p.Spec.Subdomain, p.Namespace, a.config.ClusterDomain)
	}
	if p.Spec.HostNetwork {
		own, err := os.Hostname()
		return own, "", err
	}
	if set := p.Spec.SetHostnameAsFQDN; set != nil && *set && fqdn != "" {
		if len(fqdn) > 64 {
			return "", "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", fqdn, len(fqdn))
		}
		return fqdn, fqdn, nil
	}
	return hostname, fqdn, nil
}

// hosts is the content of /etc/hosts in the pod.
func (a *Agent) hosts(p *corev1.Pod, ips []string) ([]byte, error) {
	var b strings.Builder
	if p.Spec.HostNetwork {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil {
			return nil, err
		}
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(own)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		hostname, fqdn, err := a.hostnames(p)
		if err != nil {
			return nil, err
		}
		for _, ip := range ips {
			if fqdn != "" {
				short, _, _ := strings.Cut(hostname, ".")
				fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, fqdn, short)
				continue
			}
			fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
		}
	}
	if len(p.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range p.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return []byte(b.String()), nil
}

// Limits of resolv.conf that C libraries know.
const (
	maxNameservers = 3
	maxSearches    = 32
)

// dns is the content of /etc/resolv.conf in the pod.
func (a *Agent) dns(p *corev1.Pod) *runtimeapi.DNSConfig {
	config := &runtimeapi.DNSConfig{}
	policy := p.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && p.Spec.HostNetwork || a.config.ClusterDNS == "" && policy != corev1.DNSNone {
		policy = corev1.DNSDefault
	}
	own := readResolv(a.config.ResolvConf)
	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		config = own
	default:
		domain := a.config.ClusterDomain
		config.Servers = []string{a.config.ClusterDNS}
		config.Searches = append([]string{p.Namespace + ".svc." + domain, "svc." + domain, domain}, own.Searches...)
		config.Options = []string{"ndots:5"}
	}
	if extra := p.Spec.DNSConfig; extra != nil {
		config.Servers = append(config.Servers, extra.Nameservers...)
		config.Searches = append(config.Searches, extra.Searches...)
		for _, o := range extra.Options {
			config.Options = slices.DeleteFunc(config.Options, func(old string) bool {
				name, _, _ := strings.Cut(old, ":")
				return name == o.Name
			})
			option := o.Name
			if o.Value != nil && *o.Value != "" {
				option += ":" + *o.Value
			}
			config.Options = append(config.Options, option)
		}
	}
	config.Servers, config.Searches = unique(config.Servers, maxNameservers), unique(config.Searches, maxSearches)
	return config
}

func unique(list []string, limit int) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) && len(out) < limit {
			out = append(out, s)
		}
	}
	return out
}

// readResolv reads the node's resolv.conf; a missing one is empty.
func readResolv(path string) *runtimeapi.DNSConfig {
	if path == "" {
		path = "/etc/resolv.conf"
	}
	config := &runtimeapi.DNSConfig{}
	raw, err := os.ReadFile(path)
	if err != nil {
		return config
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			config.Servers = append(config.Servers, fields[1])
		case "search":
			config.Searches = fields[1:]
		case "options":
			config.Options = fields[1:]
		}
	}
	return config
}

// logDir is where the logs of a pod are.
func (a *Agent) logDir(p *corev1.Pod) string {
	return filepath.Join(a.config.LogDir, fmt.Sprintf("%s_%s_%s", p.Namespace, p.Name, p.UID))
}

// logPath is the log of a container, below the pod's log directory.
func logPath(name string, attempt int32) string {
	return filepath.Join(name, fmt.Sprintf("%d.log", attempt))
}
