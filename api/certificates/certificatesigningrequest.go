// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// CertificateSigningRequests ask a signer for a certificate.
var CertificateSigningRequests = resource.WithList(resource.Define(resource.Definition[certificatesv1.CertificateSigningRequest]{
	Group: "certificates.k8s.io", Version: "v1", Kind: "CertificateSigningRequest", Resource: "certificatesigningrequests",
	ShortNames:  []string{"csr"},
	Scope:       resource.Cluster,
	StoragePath: "certificatesigningrequests",
	PrepareCreate: func(r *certificatesv1.CertificateSigningRequest) {
		r.Status = certificatesv1.CertificateSigningRequestStatus{}
	},
	PrepareUpdate: func(r, old *certificatesv1.CertificateSigningRequest) {
		r.Spec, r.Status = old.Spec, old.Status
	},
	Validate: validateRequest,
	Columns: []resource.Column[certificatesv1.CertificateSigningRequest]{
		{Name: "Age", Value: func(r *certificatesv1.CertificateSigningRequest, now time.Time) any {
			if r.CreationTimestamp.IsZero() {
				return "<unknown>"
			}
			return duration.HumanDuration(now.Sub(r.CreationTimestamp.Time))
		}},
		{Name: "SignerName", Value: func(r *certificatesv1.CertificateSigningRequest, _ time.Time) any { return r.Spec.SignerName }},
		{Name: "Requestor", Value: func(r *certificatesv1.CertificateSigningRequest, _ time.Time) any { return r.Spec.Username }},
		{Name: "RequestedDuration", Value: func(r *certificatesv1.CertificateSigningRequest, _ time.Time) any {
			if r.Spec.ExpirationSeconds == nil {
				return "<none>"
			}
			return duration.HumanDuration(time.Duration(*r.Spec.ExpirationSeconds) * time.Second)
		}},
		{Name: "Condition", Value: func(r *certificatesv1.CertificateSigningRequest, _ time.Time) any { return condition(r) }},
	},
	Fields: func(r *certificatesv1.CertificateSigningRequest) fields.Set {
		return fields.Set{"spec.signerName": r.Spec.SignerName}
	},
	FieldNames: []string{"spec.signerName"},
	Subresources: resource.Subresources[certificatesv1.CertificateSigningRequest]{
		Status: &resource.Status[certificatesv1.CertificateSigningRequest]{Prepare: prepareStatus, Validate: validateStatus},
		Others: []resource.Subresource{{
			Name: "approval", Kind: certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"),
			Verbs: []string{"get", "patch", "update"},
		}},
	},
}), func() runtime.Object { return new(certificatesv1.CertificateSigningRequestList) })

// Condition returns a request's condition of a type, or nil.
func Condition(r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == kind {
			return &r.Status.Conditions[i]
		}
	}
	return nil
}

// condition is the state of a request in a word or two.
func condition(r *certificatesv1.CertificateSigningRequest) string {
	state := "Pending"
	switch {
	case Condition(r, certificatesv1.CertificateDenied) != nil:
		state = "Denied"
	case Condition(r, certificatesv1.CertificateApproved) != nil:
		state = "Approved"
	}
	if Condition(r, certificatesv1.CertificateFailed) != nil {
		state += ",Failed"
	}
	if len(r.Status.Certificate) > 0 {
		state += ",Issued"
	}
	return state
}

// Parse returns the PKCS#10 request that a CertificateSigningRequest carries; its signature is not checked.
func Parse(request []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// usages are all that a certificate may be for, sorted.
func usages() []certificatesv1.KeyUsage {
	return []certificatesv1.KeyUsage{
		"any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment",
		"decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel",
		"ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
		"server auth", "signing", "timestamping",
	}
}

// legacySigner was the signer of the beta API; v1 does not take it.
const legacySigner = "kubernetes.io/legacy-unknown"

const minExpiration = 600 // seconds

func validateRequest(r *certificatesv1.CertificateSigningRequest) (problems field.ErrorList) {
	spec := field.NewPath("spec")
	if request, err := Parse(r.Spec.Request); err != nil {
		problems = append(problems, field.Invalid(spec.Child("request"), r.Spec.Request, err.Error()))
	} else if err := request.CheckSignature(); err != nil {
		problems = append(problems, field.Invalid(spec.Child("request"), r.Spec.Request, err.Error()))
	}
	if len(r.Spec.Usages) == 0 {
		problems = append(problems, field.Required(spec.Child("usages"), ""))
	}
	for i, u := range r.Spec.Usages {
		at := spec.Child("usages").Index(i)
		if !slices.Contains(usages(), u) {
			problems = append(problems, field.NotSupported(at, u, usages()))
		}
		if slices.Contains(r.Spec.Usages[:i], u) {
			problems = append(problems, field.Duplicate(at, u))
		}
	}
	problems = append(problems, validateSigner(spec.Child("signerName"), r.Spec.SignerName)...)
	if s := r.Spec.ExpirationSeconds; s != nil && *s < minExpiration {
		problems = append(problems, field.Invalid(spec.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return append(problems, validateConditions(r)...)
}

func validateSigner(at *field.Path, name string) field.ErrorList {
	const form = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
	switch {
	case name == "":
		return field.ErrorList{field.Required(at, "")}
	case name == legacySigner:
		return field.ErrorList{field.Invalid(at, name, "the legacy signerName is not allowed via this API version")}
	case len(name) > 571:
		return field.ErrorList{field.TooLong(at, name, 571)}
	}
	domain, path, found := strings.Cut(name, "/")
	if !found || strings.Contains(path, "/") || len(validation.IsDNS1123Subdomain(domain)) > 0 || !strings.Contains(domain, ".") ||
		len(validation.IsDNS1123Subdomain(path)) > 0 {
		return field.ErrorList{field.Invalid(at, name, form)}
	}
	return nil
}

// lasting are the conditions that are true or absent, and stay.
func lasting() []certificatesv1.RequestConditionType {
	return []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed}
}

func validateConditions(r *certificatesv1.CertificateSigningRequest) (problems field.ErrorList) {
	at := field.NewPath("status", "conditions")
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range r.Status.Conditions {
		if c.Type == "" {
			problems = append(problems, field.Required(at.Index(i).Child("type"), ""))
		}
		if seen[c.Type] {
			problems = append(problems, field.Duplicate(at.Index(i).Child("type"), c.Type))
		}
		seen[c.Type] = true
		if decides(c.Type) && seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied] {
			problems = append(problems, field.Invalid(at, c.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		switch {
		case c.Status == "":
			problems = append(problems, field.Required(at.Index(i).Child("status"), ""))
		case slices.Contains(lasting(), c.Type) && c.Status != corev1.ConditionTrue:
			problems = append(problems, field.NotSupported(at.Index(i).Child("status"), c.Status, []corev1.ConditionStatus{corev1.ConditionTrue}))
		case c.Status != corev1.ConditionTrue && c.Status != corev1.ConditionFalse && c.Status != corev1.ConditionUnknown:
			problems = append(problems, field.NotSupported(at.Index(i).Child("status"), c.Status,
				[]corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}))
		}
	}
	return problems
}

// ValidateChange returns the problems of a change of the status: what was decided stays, and a certificate is issued once.
func ValidateChange(r, old *certificatesv1.CertificateSigningRequest) (problems field.ErrorList) {
	status := field.NewPath("status")
	for _, kind := range lasting() {
		if Condition(old, kind) != nil && Condition(r, kind) == nil {
			problems = append(problems, field.Forbidden(status.Child("conditions"), fmt.Sprintf("updates may not remove a condition of type %q", kind)))
		}
	}
	if len(problems) > 0 {
		return append(validateConditions(r), problems...)
	}
	if len(old.Status.Certificate) > 0 && string(r.Status.Certificate) != string(old.Status.Certificate) {
		problems = append(problems, field.Forbidden(status.Child("certificate"), "updates may not modify a set certificate"))
	}
	if len(old.Status.Certificate) == 0 && len(r.Status.Certificate) > 0 {
		problems = append(problems, validateCertificate(status.Child("certificate"), r.Status.Certificate)...)
	}
	return append(problems, validateConditions(r)...)
}

// validateCertificate wants nothing but certificates in PEM.
func validateCertificate(at *field.Path, data []byte) field.ErrorList {
	for rest := data; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return field.ErrorList{field.Invalid(at, "<certificate data>", "must contain at least one CERTIFICATE PEM block")}
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return field.ErrorList{field.Invalid(at, "<certificate data>", fmt.Sprintf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type))}
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return field.ErrorList{field.Invalid(at, "<certificate data>", err.Error())}
		}
		if len(strings.TrimSpace(string(rest))) == 0 {
			return nil
		}
	}
}

// prepareStatus is for signers: they issue the certificate or say that it failed, but do not decide. What was decided stays as it is
// said to be; validation refuses those who add to it or take from it.
func prepareStatus(r, old *certificatesv1.CertificateSigningRequest) {
	status := r.Status
	for i, c := range status.Conditions {
		if was := Condition(old, c.Type); decides(c.Type) && was != nil {
			status.Conditions[i] = *was
		}
	}
	*r = *old.DeepCopy()
	r.Status = status
	stamp(r, old)
}

// validateStatus returns the problems of a change by a signer.
func validateStatus(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	problems := ValidateChange(r, old)
	for _, kind := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		if Condition(old, kind) == nil && Condition(r, kind) != nil {
			problems = append(problems, field.Forbidden(field.NewPath("status", "conditions"), fmt.Sprintf("updates may not add a condition of type %q", kind)))
		}
	}
	return problems
}

func decides(kind certificatesv1.RequestConditionType) bool {
	return kind == certificatesv1.CertificateApproved || kind == certificatesv1.CertificateDenied
}

// Approve takes from obj what the approval subresource may change in the status of stored: the conditions.
func Approve(obj, stored *certificatesv1.CertificateSigningRequest) {
	old := stored.DeepCopy()
	stored.Status.Conditions = slices.Clone(obj.Status.Conditions)
	stamp(stored, old)
}

// stamp fills in when conditions changed.
func stamp(r, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		before := Condition(old, c.Type)
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		if before != nil && before.Status == c.Status && !before.LastTransitionTime.IsZero() {
			c.LastTransitionTime = before.LastTransitionTime
		}
	}
}
