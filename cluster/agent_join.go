// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/authz"
	"knarr.dev/pki"
)

// Where a machine that joins finds what it needs to know. The first is for everybody, as in kubeadm's clusters.
const (
	clusterInfo = "cluster-info" // in kube-public
	agentInfo   = "knarr-agent"  // in kube-system
)

// joinPolicy lets machines with a token read about the cluster and ask for a node's certificates, and nodes for new ones.
func joinPolicy(policy *authz.Policy) {
	group := func(name string) rbacv1.Subject {
		return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
	}
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: "knarr:" + name, Annotations: map[string]string{authz.AutoUpdate: "true"}}
	}
	for _, b := range []struct{ name, role, group string }{
		{"node-bootstrapper", "system:node-bootstrapper", joinGroup},
		{"node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", joinGroup},
		{"node-autoapprove-certificate-rotation", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"},
	} {
		policy.ClusterRoleBindings = append(policy.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{
			ObjectMeta: meta("", b.name), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: b.role},
			Subjects: []rbacv1.Subject{group(b.group)},
		})
	}
	anybody := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "system:anonymous"}
	for _, r := range []struct {
		namespace, object string
		subjects          []rbacv1.Subject
	}{
		{metav1.NamespacePublic, clusterInfo, []rbacv1.Subject{anybody, group(joinGroup), group("system:nodes")}},
		{metav1.NamespaceSystem, agentInfo, []rbacv1.Subject{group(joinGroup), group("system:nodes")}},
	} {
		policy.Roles = append(policy.Roles, &rbacv1.Role{ObjectMeta: meta(r.namespace, r.object), Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{r.object}, Verbs: []string{"get"}},
		}})
		policy.RoleBindings = append(policy.RoleBindings, &rbacv1.RoleBinding{
			ObjectMeta: meta(r.namespace, r.object), Subjects: r.subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "knarr:" + r.object},
		})
	}
}

// joinable says that machines can join this cluster.
func (c *Cluster) joinable() bool { return c.config.Role != RoleAPIServer && !c.config.NoSockets }

// joinObjects are what machines that join read.
func (c *Cluster) joinObjects() ([]apiserver.Bootstrap, error) {
	ca := c.pki.Certificate(pki.ServerCA)
	info := clientcmdapi.NewConfig()
	info.Clusters[""] = &clientcmdapi.Cluster{Server: c.URL(), CertificateAuthorityData: ca}
	kubeconfig, err := clientcmd.Write(*info)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", clusterInfo, err)
	}
	return []apiserver.Bootstrap{
		configMap(metav1.NamespacePublic, clusterInfo, map[string]string{"kubeconfig": string(kubeconfig)}),
		configMap(metav1.NamespaceSystem, agentInfo, agentSettings{
			ClientCA: string(c.pki.Certificate(pki.ClientCA)), PodCIDR: c.config.PodCIDR, NodeCIDR: c.config.NodeCIDR,
			ServiceCIDR: c.serviceRange().String(), ClusterDNS: c.config.ClusterDNS, ClusterDomain: c.config.ClusterDomain,
		}.data()),
	}, nil
}

// configMap is a ConfigMap that has at least data at each start.
func configMap(namespace, name string, data map[string]string) apiserver.Bootstrap {
	return apiserver.Bootstrap{
		Kind:   core.ConfigMaps.Kind,
		Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: data},
		Reconcile: func(existing resource.Object) bool {
			m := core.ConfigMaps.Cast(existing)
			before := maps.Clone(m.Data)
			if m.Data == nil {
				m.Data = map[string]string{}
			}
			maps.Copy(m.Data, data)
			return !maps.Equal(before, m.Data)
		},
	}
}

// agentSettings are what the agent of a node needs to know of its cluster.
type agentSettings struct {
	// ClientCA vouches for the API server when it calls the agent, in PEM.
	ClientCA      string `json:"clientCA"`
	PodCIDR       string `json:"podCIDR"`
	NodeCIDR      string `json:"nodeCIDR"`
	ServiceCIDR   string `json:"serviceCIDR"`
	ClusterDNS    string `json:"clusterDNS"`
	ClusterDomain string `json:"clusterDomain"`
}

func (s agentSettings) data() map[string]string {
	return map[string]string{
		"client-ca.crt": s.ClientCA, "podCIDR": s.PodCIDR, "nodeCIDR": s.NodeCIDR, "serviceCIDR": s.ServiceCIDR,
		"clusterDNS": s.ClusterDNS, "clusterDomain": s.ClusterDomain,
	}
}

// readSettings is the reverse of data; it checks what must be there.
func readSettings(data map[string]string) (agentSettings, error) {
	s := agentSettings{
		ClientCA: data["client-ca.crt"], PodCIDR: data["podCIDR"], NodeCIDR: data["nodeCIDR"], ServiceCIDR: data["serviceCIDR"],
		ClusterDNS: data["clusterDNS"], ClusterDomain: data["clusterDomain"],
	}
	for _, p := range []string{s.PodCIDR, s.NodeCIDR, s.ServiceCIDR} {
		if _, err := netip.ParsePrefix(p); err != nil {
			return s, fmt.Errorf("settings of the cluster: %w", err)
		}
	}
	if s.ClientCA == "" {
		return s, fmt.Errorf("settings of the cluster: no client CA")
	}
	return s, nil
}
