// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"knarr.dev/api/certificates"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/authz"
)

// certificateRequests notes who asked for a certificate.
func certificateRequests() Step {
	kind := certificates.CertificateSigningRequests
	return Step{Name: "CertificateRequests", Mutate: func(_ context.Context, r *Request) error {
		if creates(r, kind.Kind) {
			requestedBy(kind.Cast(r.Object), r)
		}
		return nil
	}}
}

// certificateApproval lets only those approve who have the verb approve for the signer.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization.
func certificateApproval(authorizer authz.Authorizer) Step {
	kind := certificates.CertificateSigningRequests
	return Step{Name: "CertificateApproval", Validate: func(ctx context.Context, r *Request) error {
		if r.Kind != kind.Kind || r.Verb != "update" || r.Subresource != "approval" {
			return nil
		}
		return maySign(ctx, authorizer, r, "approve", kind.Cast(r.Old))
	}}
}

// certificateSigning lets only those sign who have the verb sign for the signer.
func certificateSigning(authorizer authz.Authorizer) Step {
	kind := certificates.CertificateSigningRequests
	return Step{Name: "CertificateSigning", Validate: func(ctx context.Context, r *Request) error {
		if r.Kind != kind.Kind || r.Verb != "update" || r.Subresource != "status" {
			return nil
		}
		obj, old := kind.Cast(r.Object), kind.Cast(r.Old)
		if bytes.Equal(obj.Status.Certificate, old.Status.Certificate) && equality.Semantic.DeepEqual(obj.Status.Conditions, old.Status.Conditions) {
			return nil
		}
		return maySign(ctx, authorizer, r, "sign", old)
	}}
}

// certificateSubject refuses certificates of the superuser.
func certificateSubject() Step {
	kind := certificates.CertificateSigningRequests
	return Step{Name: "CertificateSubjectRestriction", Validate: func(_ context.Context, r *Request) error {
		if !creates(r, kind.Kind) {
			return nil
		}
		return refuseSuperuser(r, kind.Cast(r.Object))
	}}
}

// requestedBy writes who asks into the request; whatever the client wrote there is lost.
func requestedBy(q *certificatesv1.CertificateSigningRequest, r *Request) {
	q.Spec.Username, q.Spec.UID, q.Spec.Groups, q.Spec.Extra = r.User.Name, r.User.UID, slices.Clone(r.User.Groups), nil
	for key, values := range r.User.Extra {
		if q.Spec.Extra == nil {
			q.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		q.Spec.Extra[key] = slices.Clone(values)
	}
}

func refuseSuperuser(r *Request, q *certificatesv1.CertificateSigningRequest) error {
	if q.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	request, err := certificates.Parse(q.Spec.Request)
	if err != nil {
		return forbidden(r, "could not parse the request: "+err.Error())
	}
	if slices.Contains(request.Subject.Organization, authn.GroupMasters) {
		return forbidden(r, fmt.Sprintf("use of %s signer with %s group is not allowed", certificatesv1.KubeAPIServerClientSignerName, authn.GroupMasters))
	}
	return nil
}

// maySign asks for a verb on the signer itself, or on all signers of its domain.
func maySign(ctx context.Context, authorizer authz.Authorizer, r *Request, verb string, q *certificatesv1.CertificateSigningRequest) error {
	domain, _, _ := strings.Cut(q.Spec.SignerName, "/")
	for _, name := range []string{q.Spec.SignerName, domain + "/*"} {
		allowed, _, err := authorizer.Authorize(ctx, &authz.Attributes{
			User: r.User, Verb: verb, Group: certificatesv1.GroupName, Version: "*", Resource: "signers", Name: name,
		})
		if allowed {
			return nil
		}
		if err != nil {
			return forbidden(r, err.Error())
		}
	}
	return forbidden(r, fmt.Sprintf("user not permitted to %s requests with signerName %q", verb, q.Spec.SignerName))
}
