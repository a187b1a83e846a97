// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strconv"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CountOrPercent checks a number that may be given as a percentage.
func CountOrPercent(v *intstr.IntOrString, at *field.Path) (problems field.ErrorList) {
	if v.Type == intstr.Int {
		return apivalidation.ValidateNonnegativeField(int64(v.IntVal), at)
	}
	for _, m := range validation.IsValidPercent(v.StrVal) {
		problems = append(problems, field.Invalid(at, v, m))
	}
	return problems
}

// AtMostAll refuses percentages above 100.
func AtMostAll(v *intstr.IntOrString, at *field.Path) field.ErrorList {
	if percent, ok := Percent(v); ok && percent > 100 {
		return field.ErrorList{field.Invalid(at, v, "must not be greater than 100%")}
	}
	return nil
}

// Percent is the number before the sign of a well-formed percentage.
func Percent(v *intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n, err == nil
}
