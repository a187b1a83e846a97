// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"encoding/json"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

// Compile checks the expression of a selector; it returns nil if it is good. Who has no compiler passes nil: then expressions
// are taken as they are.
type Compile func(expression string, at *field.Path) *field.Error

// checked validates each item of a list that is not too long, and then that no key is there twice.
func checked[T any](list []T, limit int, key func(*T) string, check func(*T, *field.Path) field.ErrorList, at *field.Path) (problems field.ErrorList) {
	if len(list) > limit {
		return field.ErrorList{field.TooMany(at, len(list), limit)}
	}
	for i := range list {
		problems = append(problems, check(&list[i], at.Index(i))...)
	}
	if key == nil {
		return problems
	}
	seen := sets.New[string]()
	for i := range list {
		k := key(&list[i])
		if seen.Has(k) {
			problems = append(problems, field.Duplicate(at.Index(i), k))
		}
		seen.Insert(k)
	}
	return problems
}

// qualifiedName checks NAME or DOMAIN/NAME.
func qualifiedName(name string, at *field.Path) (problems field.ErrorList) {
	parts := strings.Split(name, "/")
	switch len(parts) {
	case 1:
		return identifier(parts[0], at)
	case 2:
		if parts[0] == "" {
			problems = append(problems, field.Invalid(at, "", "the domain must not be empty"))
		} else {
			problems = append(problems, domain(parts[0], at)...)
		}
		if parts[1] == "" {
			return append(problems, field.Invalid(at, "", "the name must not be empty"))
		}
		problems = append(problems, identifier(parts[1], at)...)
	}
	return problems
}

func domain(name string, at *field.Path) (problems field.ErrorList) {
	if len(name) > resourcev1.DeviceMaxDomainLength {
		problems = append(problems, field.TooLong(at, "", resourcev1.DeviceMaxDomainLength))
	}
	return append(problems, core.Subdomain(name, at)...)
}

func identifier(name string, at *field.Path) (problems field.ErrorList) {
	if len(name) > resourcev1.DeviceMaxIDLength {
		problems = append(problems, field.TooLong(at, "", resourcev1.DeviceMaxIDLength))
	}
	for _, m := range validation.IsCIdentifier(name) {
		problems = append(problems, field.Invalid(at, name, m))
	}
	return problems
}

// fullName checks DOMAIN/NAME.
func fullName(name string, at *field.Path) field.ErrorList {
	problems := qualifiedName(name, at)
	if !strings.Contains(name, "/") {
		problems = append(problems, field.Invalid(at, name, "a fully qualified name must be a domain and a name separated by a slash"))
	}
	return problems
}

// poolName checks DNS subdomains with slashes between them.
func poolName(name string, at *field.Path) (problems field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	if len(name) > resourcev1.PoolNameMaxLength {
		problems = append(problems, field.TooLong(at, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		problems = append(problems, core.Subdomain(part, at)...)
	}
	return problems
}

func validateSelector(s *resourcev1.DeviceSelector, compile Compile, at *field.Path) field.ErrorList {
	if s.CEL == nil {
		return field.ErrorList{field.Required(at.Child("cel"), "")}
	}
	at = at.Child("cel", "expression")
	if len(s.CEL.Expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(at, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	if compile != nil {
		if problem := compile(s.CEL.Expression, at); problem != nil {
			return field.ErrorList{problem}
		}
	}
	return nil
}

func validateSelectors(list []resourcev1.DeviceSelector, compile Compile, at *field.Path) field.ErrorList {
	return checked(list, resourcev1.DeviceSelectorsMaxSize, nil, func(s *resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
		return validateSelector(s, compile, at)
	}, at)
}

func validateConfiguration(c *resourcev1.DeviceConfiguration, at *field.Path) field.ErrorList {
	at = at.Child("opaque")
	if c.Opaque == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	problems := core.DriverName(c.Opaque.Driver, at.Child("driver"))
	return append(problems, rawObject(c.Opaque.Parameters, resourcev1.OpaqueParametersMaxLength, true, at.Child("parameters"))...)
}

// rawObject checks JSON that is for drivers.
func rawObject(raw runtime.RawExtension, limit int, required bool, at *field.Path) field.ErrorList {
	var object map[string]any
	switch {
	case len(raw.Raw) == 0 || string(raw.Raw) == "null":
		if required {
			return field.ErrorList{field.Required(at, "")}
		}
	case len(raw.Raw) > limit:
		return field.ErrorList{field.TooLong(at, "", limit)}
	case json.Unmarshal(raw.Raw, &object) != nil || object == nil:
		return field.ErrorList{field.Invalid(at, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}

func effects() []resourcev1.DeviceTaintEffect {
	return []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}
}

func validateToleration(t *resourcev1.DeviceToleration, at *field.Path) (problems field.ErrorList) {
	if t.Key != "" {
		problems = append(problems, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			problems = append(problems, field.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		for _, m := range validation.IsValidLabelValue(t.Value) {
			problems = append(problems, field.Invalid(at.Child("value"), t.Value, m))
		}
	default:
		problems = append(problems, field.NotSupported(at.Child("operator"), t.Operator,
			[]resourcev1.DeviceTolerationOperator{resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists}))
	}
	if t.Effect != "" && !slices.Contains(effects(), t.Effect) {
		problems = append(problems, field.NotSupported(at.Child("effect"), t.Effect, effects()))
	}
	return problems
}

// bindingConditions checks what must and what must not come true before a device is bound.
func bindingConditions(conditions, failures []string, at *field.Path) field.ErrorList {
	label := func(name *string, at *field.Path) field.ErrorList { return metavalidation.ValidateLabelName(*name, at) }
	same := func(name *string) string { return *name }
	problems := checked(conditions, resourcev1.BindingConditionsMaxSize, same, label, at.Child("bindingConditions"))
	problems = append(problems, checked(failures, resourcev1.BindingFailureConditionsMaxSize, same, label, at.Child("bindingFailureConditions"))...)
	switch {
	case len(conditions) > 0 && len(failures) == 0:
		problems = append(problems, field.Invalid(at.Child("bindingFailureConditions"), failures, "bindingFailureConditions are required to use bindingConditions"))
	case len(conditions) == 0 && len(failures) > 0:
		problems = append(problems, field.Invalid(at.Child("bindingConditions"), conditions, "bindingConditions are required to use bindingFailureConditions"))
	}
	for i, f := range failures {
		if slices.Contains(conditions, f) {
			problems = append(problems, field.Invalid(at.Child("bindingFailureConditions").Index(i), f, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	return problems
}
