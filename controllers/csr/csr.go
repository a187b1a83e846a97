// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package csr decides certificate signing requests of nodes, signs what was approved, and removes old requests.
//
// Approving follows Kubernetes for client certificates of nodes: whoever may create certificatesigningrequests/nodeclient or
// /selfnodeclient gets one. It also approves what Kubernetes leaves to others, but a node needs here: a serving certificate
// for the addresses that its Node object has, and a client certificate for its service proxy. Which names a certificate may
// have is decided by pure functions in recognize.go. The three loops are NewApproving, NewSigning and NewCleaning.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/.
package csr

import (
	"context"
	"crypto"
	"fmt"
	"net"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/authorization"
	"knarr.dev/api/call"
	"knarr.dev/api/certificates"
	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// Signer holds the keys of the authorities; *pki.Set is one.
type Signer interface {
	// SignClient makes a client certificate, in PEM.
	SignClient(public crypto.PublicKey, commonName string, orgs []string, lifetime time.Duration) ([]byte, error)
	// SignServing makes a serving certificate of a node.
	SignServing(public crypto.PublicKey, node string, names []string, ips []net.IP, lifetime time.Duration) ([]byte, error)
}

// How long requests are kept, by what has become of them.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

// requestRules let a loop see and decide requests.
func requestRules(rules ...rbacv1.PolicyRule) []rbacv1.PolicyRule {
	return append([]rbacv1.PolicyRule{
		{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests"}, Verbs: []string{"get", "list", "watch"}},
	}, rules...)
}

// ApprovingNeeds are the rules of the approving loop's role.
func ApprovingNeeds() []rbacv1.PolicyRule {
	return requestRules(
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/approval"}, Verbs: []string{"update"}},
		rbacv1.PolicyRule{
			APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, Verbs: []string{"approve"},
			ResourceNames: []string{certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientSignerName},
		},
		rbacv1.PolicyRule{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}},
	)
}

// SigningNeeds are the rules of the signing loop's role.
func SigningNeeds() []rbacv1.PolicyRule {
	return requestRules(
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/status"}, Verbs: []string{"update"}},
		rbacv1.PolicyRule{
			APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, Verbs: []string{"sign"},
			ResourceNames: []string{certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientSignerName},
		},
	)
}

// CleaningNeeds are the rules of the cleaning loop's role.
func CleaningNeeds() []rbacv1.PolicyRule {
	return requestRules(rbacv1.PolicyRule{
		APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests"}, Verbs: []string{"delete"},
	})
}

type requests struct {
	client.Resource[certificatesv1.CertificateSigningRequest]
}

func newRequests(c *client.Client) requests {
	return requests{client.Of(c, certificates.CertificateSigningRequests)}
}

// get returns the request of a key, or nil.
func (r requests) get(ctx context.Context, key client.Key) (*certificatesv1.CertificateSigningRequest, error) {
	view, err := r.View(ctx, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	return view.Get(key), nil
}

func decided(q *certificatesv1.CertificateSigningRequest) bool {
	return certificates.Condition(q, certificatesv1.CertificateApproved) != nil || certificates.Condition(q, certificatesv1.CertificateDenied) != nil
}

// NewApproving returns the loop that approves what nodes need.
func NewApproving(c *client.Client) controller.Controller {
	a := approver{requests: newRequests(c), client: c, nodes: client.Of(c, core.Nodes)}
	return controller.Controller{
		Name: "csrapproving", For: certificates.CertificateSigningRequests.Kind, Needs: ApprovingNeeds(), Reconcile: a.reconcile,
	}
}

type approver struct {
	requests
	client *client.Client
	nodes  client.Resource[corev1.Node]
}

// unknownNode is how soon a request of a node that is not there yet is looked at again.
const unknownNode = 2 * time.Second

func (a approver) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	q, err := a.get(ctx, key)
	if err != nil || q == nil || decided(q) {
		return 0, err
	}
	request, err := certificates.Parse(q.Spec.Request)
	if err != nil {
		return 0, nil // the API server does not let these in
	}
	switch q.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if nodeClient(q, request) != nil {
			return 0, nil
		}
		if q.Spec.Username == request.Subject.CommonName {
			return 0, a.review(ctx, q, "selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
		}
		return 0, a.review(ctx, q, "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")
	case certificatesv1.KubeletServingSignerName:
		return a.serving(ctx, q)
	case certificatesv1.KubeAPIServerClientSignerName:
		if proxyClient(q, request) == nil {
			return 0, a.approve(ctx, q, "Auto approving the client certificate of a node's service proxy.")
		}
	}
	return 0, nil
}

// review approves if the requestor may create the subresource.
func (a approver) review(ctx context.Context, q *certificatesv1.CertificateSigningRequest, subresource, message string) error {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range q.Spec.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	answer, err := client.Of(a.client, authorization.SubjectAccessReviews).Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: q.Spec.Username, UID: q.Spec.UID, Groups: q.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Verb: "create", Subresource: subresource, Version: "*",
			},
		},
	})
	if err != nil || answer == nil || !answer.Status.Allowed {
		return err
	}
	return a.approve(ctx, q, message)
}

// serving approves a serving certificate for the name and the addresses that the requesting node has.
func (a approver) serving(ctx context.Context, q *certificatesv1.CertificateSigningRequest) (time.Duration, error) {
	request, err := certificates.Parse(q.Spec.Request)
	if err != nil || nodeServing(q, request) != nil {
		return 0, nil
	}
	node, err := a.nodes.Get(ctx, client.Key{Name: nodeOf(q.Spec.Username)})
	switch {
	case apierrors.IsNotFound(err):
		return unknownNode, nil
	case err != nil:
		return 0, err
	case !has(node, request):
		return unknownNode, nil // the node may be about to report the address
	}
	return 0, a.approve(ctx, q, "Auto approving kubelet serving certificate for the addresses of its Node.")
}

func (a approver) approve(ctx context.Context, q *certificatesv1.CertificateSigningRequest, message string) error {
	next := q.DeepCopy()
	next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
	})
	_, err := a.client.Transport().Do(ctx, &call.Request{
		Verb: "update", Kind: certificates.CertificateSigningRequests.Kind, Name: q.Name, Subresource: "approval", Object: next,
	})
	return err
}

// NewSigning returns the loop that signs what was approved.
func NewSigning(c *client.Client, s Signer) controller.Controller {
	r := signing{requests: newRequests(c), signer: s}
	return controller.Controller{
		Name: "csrsigning", For: certificates.CertificateSigningRequests.Kind, Needs: SigningNeeds(), Reconcile: r.reconcile,
	}
}

type signing struct {
	requests
	signer Signer
}

func (s signing) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	q, err := s.get(ctx, key)
	if err != nil || q == nil || len(q.Status.Certificate) > 0 || certificates.Condition(q, certificatesv1.CertificateApproved) == nil ||
		certificates.Condition(q, certificatesv1.CertificateFailed) != nil || s.signer == nil {
		return 0, err
	}
	next := q.DeepCopy()
	certificate, refused, err := s.sign(q)
	switch {
	case err != nil:
		return 0, err
	case refused != nil:
		next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: refused.Error(),
		})
	case certificate == nil:
		return 0, nil // another's signer
	default:
		next.Status.Certificate = certificate
	}
	_, err = s.UpdateStatus(ctx, next)
	return 0, err
}

// sign returns the certificate, or why the signer refuses; neither if the signer is not one of ours.
func (s signing) sign(q *certificatesv1.CertificateSigningRequest) (certificate []byte, refused, err error) {
	request, err := certificates.Parse(q.Spec.Request)
	if err != nil {
		return nil, err, nil
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request is not signed with its key: %w", err), nil
	}
	lifetime := longest
	if q.Spec.ExpirationSeconds != nil {
		lifetime = min(lifetime, time.Duration(*q.Spec.ExpirationSeconds)*time.Second)
	}
	switch q.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if refused = nodeClient(q, request); refused == nil {
			certificate, err = s.signer.SignClient(request.PublicKey, request.Subject.CommonName, request.Subject.Organization, lifetime)
		}
	case certificatesv1.KubeletServingSignerName:
		if refused = nodeServing(q, request); refused == nil {
			certificate, err = s.signer.SignServing(request.PublicKey, nodeOf(request.Subject.CommonName), request.DNSNames, request.IPAddresses, lifetime)
		}
	case certificatesv1.KubeAPIServerClientSignerName:
		if refused = plainClient(q, request); refused == nil {
			certificate, err = s.signer.SignClient(request.PublicKey, request.Subject.CommonName, request.Subject.Organization, lifetime)
		}
	}
	return certificate, refused, err
}

// NewCleaning returns the loop that removes requests that are over.
func NewCleaning(c *client.Client) controller.Controller {
	r := cleaning{requests: newRequests(c), now: time.Now}
	return controller.Controller{
		Name: "csrcleaner", For: certificates.CertificateSigningRequests.Kind, Needs: CleaningNeeds(), Reconcile: r.reconcile,
	}
}

type cleaning struct {
	requests
	now func() time.Time
}

func (c cleaning) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	q, err := c.get(ctx, key)
	if err != nil || q == nil {
		return 0, err
	}
	if left := overAt(q).Sub(c.now()); left > 0 {
		return left, nil
	}
	uid := q.UID
	err = c.Delete(ctx, key, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return 0, err
}

// overAt is when nobody needs a request any more.
func overAt(q *certificatesv1.CertificateSigningRequest) time.Time {
	at := q.CreationTimestamp.Add(keepPending)
	for _, c := range q.Status.Conditions {
		if over := c.LastUpdateTime.Add(keepDecided); over.Before(at) {
			at = over
		}
	}
	return at
}
