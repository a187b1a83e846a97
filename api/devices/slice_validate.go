// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

func validateSlice(s *resourcev1.ResourceSlice) field.ErrorList { return validateSliceChange(s, nil) }

// validateSliceChange checks a slice; old is nil for a new one.
func validateSliceChange(s, old *resourcev1.ResourceSlice) field.ErrorList {
	p, at := &s.Spec, field.NewPath("spec")
	problems := core.DriverName(p.Driver, at.Child("driver"))
	problems = append(problems, validatePool(&p.Pool, at.Child("pool"))...)
	if old != nil {
		problems = append(problems, core.Immutable(p.Pool.Name, old.Spec.Pool.Name, at.Child("pool", "name"))...)
		problems = append(problems, core.Immutable(p.Driver, old.Spec.Driver, at.Child("driver"))...)
		problems = append(problems, core.Immutable(p.NodeName, old.Spec.NodeName, at.Child("nodeName"))...)
	}
	problems = append(problems, validatePlace(p, at)...)
	if p.Devices != nil && p.SharedCounters != nil {
		problems = append(problems, field.Invalid(at, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	limit := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(p.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 }) {
		limit = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	each := p.PerDeviceNodeSelection != nil && *p.PerDeviceNodeSelection
	problems = append(problems, checked(p.Devices, limit, func(d *resourcev1.Device) string { return d.Name },
		func(d *resourcev1.Device, at *field.Path) field.ErrorList { return validateDevice(d, each, at) }, at.Child("devices"))...)
	return append(problems, checked(p.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, func(c *resourcev1.CounterSet) string { return c.Name },
		func(c *resourcev1.CounterSet, at *field.Path) field.ErrorList {
			return validateCounters(c.Name, c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, at.Child("name"), at)
		}, at.Child("sharedCounters"))...)
}

func validatePool(p *resourcev1.ResourcePool, at *field.Path) field.ErrorList {
	problems := poolName(p.Name, at.Child("name"))
	if p.ResourceSliceCount <= 0 {
		problems = append(problems, field.Invalid(at.Child("resourceSliceCount"), p.ResourceSliceCount, "must be greater than zero"))
	}
	if p.Generation < 0 {
		problems = append(problems, field.Invalid(at.Child("generation"), p.Generation, "must be greater than or equal to zero"))
	}
	return problems
}

// onlyTrue refuses false, which is said by leaving the field out.
func onlyTrue(b *bool, at *field.Path) (set bool, problems field.ErrorList) {
	if b == nil {
		return false, nil
	}
	if !*b {
		problems = field.ErrorList{field.Invalid(at, *b, "must be either unset or set to true")}
	}
	return *b, problems
}

// validatePlace checks that exactly one field says where the devices of a slice are.
func validatePlace(p *resourcev1.ResourceSliceSpec, at *field.Path) (problems field.ErrorList) {
	var set []string
	if p.NodeName != nil {
		if *p.NodeName == "" {
			problems = append(problems, field.Invalid(at.Child("nodeName"), "", "must be either unset or set to a non-empty string"))
		} else {
			set = append(set, "`nodeName`")
			problems = append(problems, core.Subdomain(*p.NodeName, at.Child("nodeName"))...)
		}
	}
	if p.NodeSelector != nil {
		set = append(set, "`nodeSelector`")
		terms := at.Child("nodeSelector")
		problems = append(problems, core.ValidateNodeSelector(p.NodeSelector, terms)...)
		if len(p.NodeSelector.NodeSelectorTerms) != 1 { // consumers merge it with others
			problems = append(problems, field.Invalid(terms.Child("nodeSelectorTerms"), core.Shown(p.NodeSelector.NodeSelectorTerms), "must have exactly one node selector term"))
		}
	}
	for _, f := range []struct {
		name  string
		value *bool
	}{{"allNodes", p.AllNodes}, {"perDeviceNodeSelection", p.PerDeviceNodeSelection}} {
		isSet, bad := onlyTrue(f.value, at.Child(f.name))
		problems = append(problems, bad...)
		if isSet {
			set = append(set, "`"+f.name+"`")
		}
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch len(set) {
	case 0:
		problems = append(problems, field.Required(at, one))
	case 1:
	default:
		problems = append(problems, field.Invalid(at, "{"+strings.Join(set, ", ")+"}", one+", but multiple fields are set"))
	}
	return problems
}

func validateDevice(d *resourcev1.Device, each bool, at *field.Path) field.ErrorList {
	problems := core.Label(d.Name, at.Child("name"))
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		problems = append(problems, field.Invalid(at, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
		problems = append(problems, qualifiedName(string(name), at.Child("attributes"))...)
		problems = append(problems, validateAttribute(d.Attributes[name], at.Child("attributes").Key(string(name)))...)
	}
	shared := d.AllowMultipleAllocations != nil && *d.AllowMultipleAllocations
	for _, name := range slices.Sorted(maps.Keys(d.Capacity)) {
		problems = append(problems, qualifiedName(string(name), at.Child("capacity"))...)
		problems = append(problems, validateCapacity(d.Capacity[name], shared, at.Child("capacity").Key(string(name)))...)
	}
	problems = append(problems, checked(d.Taints, resourcev1.DeviceTaintsMaxLength, nil, validateTaint, at.Child("taints"))...)
	problems = append(problems, checked(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice,
		func(c *resourcev1.DeviceCounterConsumption) string { return c.CounterSet },
		func(c *resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
			return validateCounters(c.CounterSet, c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at.Child("counterSet"), at)
		}, at.Child("consumesCounters"))...)
	problems = append(problems, validateDevicePlace(d, each, at)...)
	return append(problems, bindingConditions(d.BindingConditions, d.BindingFailureConditions, at)...)
}

// validateDevicePlace checks where a device is, if its slice leaves that to the devices.
func validateDevicePlace(d *resourcev1.Device, each bool, at *field.Path) (problems field.ErrorList) {
	if !each {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			problems = append(problems, field.Invalid(at, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
		}
		return problems
	}
	var set []string
	if d.NodeName != nil {
		if *d.NodeName == "" {
			problems = append(problems, field.Invalid(at.Child("nodeName"), "", "must not be empty"))
		} else {
			set = append(set, "`nodeName`")
			problems = append(problems, core.Subdomain(*d.NodeName, at.Child("nodeName"))...)
		}
	}
	if d.NodeSelector != nil {
		set = append(set, "`nodeSelector`")
		problems = append(problems, core.ValidateNodeSelector(d.NodeSelector, at.Child("nodeSelector"))...)
	}
	isSet, bad := onlyTrue(d.AllNodes, at.Child("allNodes"))
	problems = append(problems, bad...)
	if isSet {
		set = append(set, "`allNodes`")
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch len(set) {
	case 0:
		problems = append(problems, field.Required(at, one))
	case 1:
	default:
		problems = append(problems, field.Invalid(at, "{"+strings.Join(set, ", ")+"}", one))
	}
	return problems
}

// semanticVersion is the form of https://semver.org, version 2.0.0.
const semanticVersion = `^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`

func validateAttribute(a resourcev1.DeviceAttribute, at *field.Path) (problems field.ErrorList) {
	n := 0
	if a.BoolValue != nil {
		n++
	}
	if a.IntValue != nil {
		n++
	}
	if a.StringValue != nil {
		n++
		if len(*a.StringValue) > resourcev1.DeviceAttributeMaxValueLength {
			problems = append(problems, field.TooLong(at.Child("string"), "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	if a.VersionValue != nil {
		n++
		if !regexp.MustCompile(semanticVersion).MatchString(*a.VersionValue) {
			problems = append(problems, field.Invalid(at.Child("version"), *a.VersionValue, "must be a string compatible with semver.org spec 2.0.0"))
		}
		if len(*a.VersionValue) > resourcev1.DeviceAttributeMaxValueLength {
			problems = append(problems, field.TooLong(at.Child("version"), "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	switch n {
	case 0:
		problems = append(problems, field.Invalid(at, "", "exactly one value must be specified"))
	case 1:
	default:
		problems = append(problems, field.Invalid(at, core.Shown(a), "exactly one value must be specified"))
	}
	return problems
}

func validateTaint(t *resourcev1.DeviceTaint, at *field.Path) field.ErrorList {
	problems := metavalidation.ValidateLabelName(t.Key, at.Child("key"))
	for _, m := range validation.IsValidLabelValue(t.Value) {
		problems = append(problems, field.Invalid(at.Child("value"), t.Value, m))
	}
	switch {
	case t.Effect == "":
		problems = append(problems, field.Required(at.Child("effect"), ""))
	case !slices.Contains(effects(), t.Effect):
		problems = append(problems, field.NotSupported(at.Child("effect"), t.Effect, effects()))
	}
	return problems
}

func validateCounters(set string, counters map[string]resourcev1.Counter, limit int, name, at *field.Path) (problems field.ErrorList) {
	if set == "" {
		problems = append(problems, field.Required(name, ""))
	} else {
		problems = append(problems, core.Label(set, name)...)
	}
	at = at.Child("counters")
	switch {
	case len(counters) == 0:
		return append(problems, field.Required(at, ""))
	case len(counters) > limit:
		return append(problems, field.TooMany(at, len(counters), limit))
	}
	for _, counter := range slices.Sorted(maps.Keys(counters)) {
		problems = append(problems, core.Label(counter, at)...)
	}
	return problems
}

// validValuesMax bounds the amounts that a policy lists.
const validValuesMax = 10

func validateCapacity(c resourcev1.DeviceCapacity, shared bool, at *field.Path) field.ErrorList {
	p := c.RequestPolicy
	if p == nil {
		return nil
	}
	at = at.Child("requestPolicy")
	switch {
	case !shared:
		return field.ErrorList{field.Forbidden(at, "allowMultipleAllocations must be true")}
	case p.ValidRange != nil && len(p.ValidValues) > 0:
		return field.ErrorList{field.Forbidden(at, "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time")}
	case p.ValidRange != nil:
		if p.Default == nil {
			return field.ErrorList{field.Required(at.Child("default"), "required when validRange is defined")}
		}
		return validateRange(p.ValidRange, *p.Default, c.Value, at.Child("validRange"))
	case len(p.ValidValues) > 0:
		if p.Default == nil {
			return field.ErrorList{field.Required(at.Child("default"), "required when validValues is defined")}
		}
		return validateValues(p.ValidValues, *p.Default, c.Value, at.Child("validValues"))
	}
	return nil
}

func validateValues(values []apiresource.Quantity, usual, most apiresource.Quantity, at *field.Path) (problems field.ErrorList) {
	found := false
	if len(values) > validValuesMax {
		problems = append(problems, field.TooMany(at, len(values), validValuesMax))
	} else {
		seen := sets.New[string]()
		for i, v := range values {
			at := at.Index(i)
			if v.Cmp(most) > 0 {
				problems = append(problems, field.Invalid(at, v.String(), "option is larger than capacity value: "+most.String()))
			}
			if i > 0 && v.Cmp(values[i-1]) < 0 {
				problems = append(problems, field.Invalid(at, v.String(), "values must be sorted in ascending order"))
			}
			if seen.Has(v.String()) {
				problems = append(problems, field.Duplicate(at, v.String()))
			}
			seen.Insert(v.String())
			found = found || v.Cmp(usual) == 0
		}
	}
	if !found {
		problems = append(problems, field.Invalid(at, usual.String(), "default value is not valid according to the requestPolicy"))
	}
	return problems
}

func validateRange(r *resourcev1.CapacityRequestPolicyRange, usual, most apiresource.Quantity, at *field.Path) (problems field.ErrorList) {
	if r.Min == nil {
		return field.ErrorList{field.Required(at.Child("min"), "required when validRange is defined")}
	}
	bad := func(name string, value *apiresource.Quantity, format string, args ...any) {
		problems = append(problems, field.Invalid(at.Child(name), value.String(), fmt.Sprintf(format, args...)))
	}
	if r.Min.Cmp(most) > 0 {
		bad("min", r.Min, "min is larger than capacity value: %s", most.String())
	}
	if usual.Cmp(*r.Min) < 0 {
		bad("min", &usual, "default is less than min: %s", r.Min.String())
	}
	if r.Max != nil {
		if r.Min.Cmp(*r.Max) > 0 {
			bad("max", r.Min, "min is larger than max: %s", r.Max.String())
		}
		if r.Max.Cmp(most) > 0 {
			bad("max", r.Max, "max is larger than capacity value: %s", most.String())
		}
		if usual.Cmp(*r.Max) > 0 {
			bad("max", &usual, "default is more than max: %s", r.Max.String())
		}
	}
	if r.Step == nil {
		return problems
	}
	if r.Step.Sign() <= 0 { // which crashes Kubernetes' check
		bad("step", r.Step, "must be greater than zero")
		return problems
	}
	next := r.Min.DeepCopy()
	next.Add(*r.Step)
	if next.Cmp(most) > 0 {
		bad("step", r.Step, "one step %s is larger than capacity value: %s", next.String(), most.String())
	}
	for _, v := range []*apiresource.Quantity{r.Max, &usual} {
		if v != nil && (v.Value()-r.Min.Value())%r.Step.Value() != 0 {
			bad("step", v, "value is not a multiple of a given step (%s) from (%s)", r.Step.String(), r.Min.String())
		}
	}
	return problems
}
