// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

// requestNames are the names of requests with those of their choices.
type requestNames map[string]sets.Set[string]

func namesOf(requests []resourcev1.DeviceRequest) requestNames {
	names := requestNames{}
	for i := range requests {
		choices := sets.New[string]()
		for _, f := range requests[i].FirstAvailable {
			choices.Insert(f.Name)
		}
		names[requests[i].Name] = choices
	}
	return names
}

// has tells whether REQUEST or REQUEST/CHOICE exists.
func (n requestNames) has(reference string) bool {
	name, choice, deeper := strings.Cut(reference, "/")
	choices, ok := n[name]
	return ok && (!deeper || choices.Has(choice))
}

// validateReference checks the name of a request or of one of its choices.
func (n requestNames) validateReference(reference string, at *field.Path) (problems field.ErrorList) {
	if parts := strings.Split(reference, "/"); len(parts) <= 2 {
		for _, part := range parts {
			problems = append(problems, core.Label(part, at)...)
		}
	}
	if !n.has(reference) {
		problems = append(problems, field.Invalid(at, reference, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"))
	}
	return problems
}

func (n requestNames) validateReferences(references []string, at *field.Path) field.ErrorList {
	return checked(references, resourcev1.DeviceRequestsMaxSize, func(r *string) string { return *r },
		func(r *string, at *field.Path) field.ErrorList { return n.validateReference(*r, at) }, at)
}

// ValidateClaim checks a claim that is new.
func ValidateClaim(c *resourcev1.ResourceClaim, compile Compile) field.ErrorList {
	return validateClaimSpec(&c.Spec, compile, field.NewPath("spec"))
}

// ValidateTemplate checks a template that is new.
func ValidateTemplate(t *resourcev1.ResourceClaimTemplate, compile Compile) field.ErrorList {
	at := field.NewPath("spec")
	problems := core.ValidateTemplateMeta(&t.Spec.ObjectMeta, at.Child("metadata"))
	return append(problems, validateClaimSpec(&t.Spec.Spec, compile, at.Child("spec"))...)
}

// ValidateTemplateChange checks an update of a template, of which the spec may not change.
func ValidateTemplateChange(t, old *resourcev1.ResourceClaimTemplate, compile Compile) field.ErrorList {
	return append(ValidateTemplate(t, compile), immutableShown(t.Spec, old.Spec, field.NewPath("spec"))...)
}

func validateClaimSpec(s *resourcev1.ResourceClaimSpec, compile Compile, at *field.Path) field.ErrorList {
	d, at := &s.Devices, at.Child("devices")
	names := namesOf(d.Requests)
	problems := checked(d.Requests, resourcev1.DeviceRequestsMaxSize, func(r *resourcev1.DeviceRequest) string { return r.Name },
		func(r *resourcev1.DeviceRequest, at *field.Path) field.ErrorList {
			return validateRequest(r, compile, at)
		}, at.Child("requests"))
	problems = append(problems, checked(d.Constraints, resourcev1.DeviceConstraintsMaxSize, nil, func(c *resourcev1.DeviceConstraint, at *field.Path) field.ErrorList {
		return names.validateConstraint(c, at)
	}, at.Child("constraints"))...)
	return append(problems, checked(d.Config, resourcev1.DeviceConfigMaxSize, nil, func(c *resourcev1.DeviceClaimConfiguration, at *field.Path) field.ErrorList {
		problems := names.validateReferences(c.Requests, at.Child("requests"))
		return append(problems, validateConfiguration(&c.DeviceConfiguration, at)...)
	}, at.Child("config"))...)
}

func (n requestNames) validateConstraint(c *resourcev1.DeviceConstraint, at *field.Path) field.ErrorList {
	problems := n.validateReferences(c.Requests, at.Child("requests"))
	switch {
	case c.MatchAttribute != nil:
		problems = append(problems, fullName(string(*c.MatchAttribute), at.Child("matchAttribute"))...)
	case c.DistinctAttribute != nil:
		problems = append(problems, fullName(string(*c.DistinctAttribute), at.Child("distinctAttribute"))...)
	default:
		problems = append(problems, field.Required(at, "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set"))
	}
	return problems
}

func validateRequest(r *resourcev1.DeviceRequest, compile Compile, at *field.Path) field.ErrorList {
	problems := core.Label(r.Name, at.Child("name"))
	switch {
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		problems = append(problems, field.Invalid(at, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case r.Exactly != nil:
		e := r.Exactly
		problems = append(problems, validateWanted(wanted{e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations}, compile, at.Child("exactly"))...)
	case len(r.FirstAvailable) > 0:
		problems = append(problems, checked(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, func(f *resourcev1.DeviceSubRequest) string { return f.Name },
			func(f *resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
				problems := core.Label(f.Name, at.Child("name"))
				return append(problems, validateWanted(wanted{f.DeviceClassName, f.Selectors, f.AllocationMode, f.Count, f.Tolerations}, compile, at)...)
			}, at.Child("firstAvailable"))...)
	default:
		problems = append(problems, field.Required(at, "exactly one of `exactly` or `firstAvailable` is required"))
	}
	return problems
}

// wanted is what requests and their choices have in common.
type wanted struct {
	class       string
	selectors   []resourcev1.DeviceSelector
	mode        resourcev1.DeviceAllocationMode
	count       int64
	tolerations []resourcev1.DeviceToleration
}

func validateWanted(w wanted, compile Compile, at *field.Path) (problems field.ErrorList) {
	if w.class == "" {
		problems = append(problems, field.Required(at.Child("deviceClassName"), ""))
	} else {
		problems = append(problems, core.Subdomain(w.class, at.Child("deviceClassName"))...)
	}
	problems = append(problems, validateSelectors(w.selectors, compile, at.Child("selectors"))...)
	switch w.mode {
	case resourcev1.DeviceAllocationModeAll:
		if w.count != 0 {
			problems = append(problems, field.Invalid(at.Child("count"), w.count, "must not be specified when allocationMode is '"+string(w.mode)+"'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if w.count <= 0 {
			problems = append(problems, field.Invalid(at.Child("count"), w.count, "must be greater than zero"))
		}
	default:
		problems = append(problems, field.NotSupported(at.Child("allocationMode"), w.mode,
			[]resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	for i := range w.tolerations {
		problems = append(problems, validateToleration(&w.tolerations[i], at.Child("tolerations").Index(i))...)
	}
	return problems
}

// AdminRequests are the problems of a claim that asks for devices which others use, in a namespace that may not.
func AdminRequests(s *resourcev1.ResourceClaimSpec) (problems field.ErrorList) {
	for i, r := range s.Devices.Requests { // Kubernetes leaves out where in the request it is, and that it may be in a template
		if r.Exactly != nil && r.Exactly.AdminAccess != nil && *r.Exactly.AdminAccess {
			problems = append(problems, noAdmin(field.NewPath("spec", "devices", "requests").Index(i)))
		}
	}
	return problems
}

// AdminResults is AdminRequests for the status of a claim.
func AdminResults(s *resourcev1.ResourceClaimStatus) (problems field.ErrorList) {
	if s.Allocation == nil {
		return nil
	}
	for i, r := range s.Allocation.Devices.Results {
		if r.AdminAccess != nil && *r.AdminAccess {
			problems = append(problems, noAdmin(field.NewPath("status", "allocation", "devices", "results").Index(i)))
		}
	}
	return problems
}

func noAdmin(at *field.Path) *field.Error {
	return field.Forbidden(at.Child("adminAccess"), "admin access to devices requires the `"+resourcev1.DRAAdminNamespaceLabelKey+": true` label on the containing namespace")
}

// HasSelectors tells whether a claim has expressions to compile.
func HasSelectors(s *resourcev1.ResourceClaimSpec) bool {
	return slices.ContainsFunc(s.Devices.Requests, func(r resourcev1.DeviceRequest) bool {
		return r.Exactly != nil && len(r.Exactly.Selectors) > 0 ||
			slices.ContainsFunc(r.FirstAvailable, func(f resourcev1.DeviceSubRequest) bool { return len(f.Selectors) > 0 })
	})
}
