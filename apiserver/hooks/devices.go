// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/ext"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"

	"knarr.dev/api/core"
	"knarr.dev/api/devices"
	"knarr.dev/apiserver/admission"
)

// Devices returns the hooks that check what rules of the objects alone cannot: the expressions of selectors, for which
// compilers are large and made at the first use, and whether a namespace may have admin access to devices.
func Devices(store Store) []Hook {
	d := deviceRules{store: store, env: sync.OnceValues(deviceEnvironment)}
	check := func(rules func(context.Context, *admission.Request) (field.ErrorList, error)) func(context.Context, *admission.Request) error {
		return func(ctx context.Context, r *admission.Request) error {
			problems, err := rules(ctx, r)
			if err != nil || len(problems) == 0 {
				return err
			}
			return apierrors.NewInvalid(r.Kind.GroupVersionKind.GroupKind(), r.Object.GetName(), problems)
		}
	}
	return []Hook{
		{Kind: devices.DeviceClasses.Kind, BeforeCreate: check(d.class), BeforeUpdate: check(d.class)},
		{Kind: devices.ResourceClaims.Kind, BeforeCreate: check(d.claim)},
		{Kind: devices.ResourceClaims.Kind, Subresource: "status", BeforeUpdate: check(d.status)},
		{Kind: devices.ResourceClaimTemplates.Kind, BeforeCreate: check(d.template), BeforeUpdate: check(d.templateChange)},
	}
}

type deviceRules struct {
	store Store
	env   func() (*cel.Env, error)
}

// class compiles the expressions of a class.
func (d deviceRules) class(_ context.Context, r *admission.Request) (field.ErrorList, error) {
	class := devices.DeviceClasses.Cast(r.Object)
	if len(class.Spec.Selectors) == 0 {
		return nil, nil
	}
	return d.compiled(func(compile devices.Compile) field.ErrorList { return devices.ValidateClass(class, compile) })
}

func (d deviceRules) claim(ctx context.Context, r *admission.Request) (field.ErrorList, error) {
	c := devices.ResourceClaims.Cast(r.Object)
	return d.spec(ctx, r, &c.Spec, func(compile devices.Compile) field.ErrorList { return devices.ValidateClaim(c, compile) })
}

func (d deviceRules) template(ctx context.Context, r *admission.Request) (field.ErrorList, error) {
	t := devices.ResourceClaimTemplates.Cast(r.Object)
	return d.spec(ctx, r, &t.Spec.Spec, func(compile devices.Compile) field.ErrorList { return devices.ValidateTemplate(t, compile) })
}

// templateChange compiles the expressions that somebody would have instead.
func (d deviceRules) templateChange(_ context.Context, r *admission.Request) (field.ErrorList, error) {
	t, old := devices.ResourceClaimTemplates.Cast(r.Object), devices.ResourceClaimTemplates.Cast(r.Old)
	if !devices.HasSelectors(&t.Spec.Spec) || equality.Semantic.DeepEqual(t.Spec, old.Spec) {
		return nil, nil
	}
	return d.compiled(func(compile devices.Compile) field.ErrorList { return devices.ValidateTemplateChange(t, old, compile) })
}

// spec checks the claim of a new object. Who asks for too much is told everything that is wrong.
func (d deviceRules) spec(ctx context.Context, r *admission.Request, s *resourcev1.ResourceClaimSpec, all func(devices.Compile) field.ErrorList) (problems field.ErrorList, err error) {
	problems = devices.AdminRequests(s)
	if len(problems) > 0 {
		allowed, err := d.mayAdminister(ctx, r.Namespace)
		if err != nil {
			return nil, err
		}
		if allowed {
			problems = nil
		}
	}
	if !devices.HasSelectors(s) {
		if len(problems) > 0 {
			problems = append(problems, all(nil)...)
		}
		return problems, nil
	}
	rest, err := d.compiled(all)
	return append(problems, rest...), err
}

// status checks an allocation.
func (d deviceRules) status(ctx context.Context, r *admission.Request) (field.ErrorList, error) {
	c, old := devices.ResourceClaims.Cast(r.Object), devices.ResourceClaims.Cast(r.Old)
	problems := devices.AdminResults(&c.Status)
	if len(problems) == 0 {
		return nil, nil
	}
	if allowed, err := d.mayAdminister(ctx, r.Namespace); err != nil || allowed {
		return nil, err
	}
	return append(problems, devices.ValidateStatus(c, old)...), nil
}

// mayAdminister tells whether claims of a namespace may have devices that others use.
func (d deviceRules) mayAdminister(ctx context.Context, namespace string) (bool, error) {
	o, err := d.store.Get(ctx, core.Namespaces.Kind, "", namespace)
	if err != nil {
		return false, err
	}
	return o.GetLabels()[resourcev1.DRAAdminNamespaceLabelKey] == "true", nil
}

func (d deviceRules) compiled(all func(devices.Compile) field.ErrorList) (field.ErrorList, error) {
	env, err := d.env()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return all(func(expression string, at *field.Path) *field.Error { return compileSelector(env, expression, at) }), nil
}

// deviceEnvironment is where selectors are compiled: they see one device, see resourcev1.CELDeviceSelector.
func deviceEnvironment() (*cel.Env, error) {
	named := func(fields ...*apiservercel.DeclField) map[string]*apiservercel.DeclField {
		out := map[string]*apiservercel.DeclField{}
		for _, f := range fields {
			out[f.Name] = f
		}
		return out
	}
	ofDomains := func(values *apiservercel.DeclType) *apiservercel.DeclType {
		inner := apiservercel.NewMapType(apiservercel.StringType, values, resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)
		return apiservercel.NewMapType(apiservercel.StringType, inner, resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)
	}
	quantity := apiservercel.QuantityDeclType
	device := apiservercel.NewObjectType("kubernetes.DRADevice", named(
		apiservercel.NewDeclField("driver", apiservercel.StringType, true, nil, nil),
		apiservercel.NewDeclField("attributes", ofDomains(apiservercel.AnyType), true, nil, nil),
		apiservercel.NewDeclField("capacity", ofDomains(quantity), true, nil, nil),
		apiservercel.NewDeclField("allowMultipleAllocations", apiservercel.BoolType, true, nil, nil),
	))
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0), DeclTypes: []*apiservercel.DeclType{device},
		EnvOptions: []cel.EnvOption{
			cel.Variable("device", device.CelType()), library.SemverLib(), ext.Bindings(ext.BindingsVersion(0)),
		},
	})
	if err != nil {
		return nil, err
	}
	return set.NewExpressionsEnv(), nil
}

// compileSelector checks that an expression tells yes or no about a device, and that it cannot cost too much.
func compileSelector(env *cel.Env, expression string, at *field.Path) *field.Error {
	ast, issues := env.Compile(expression)
	if issues != nil {
		return field.Invalid(at, expression, "compilation failed: "+issues.String())
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.AnyType) && !t.IsExactType(cel.DynType) {
		return field.Invalid(at, expression, "must evaluate to bool or the unknown type, not "+t.String())
	}
	cost, err := env.EstimateCost(ast, &library.CostEstimator{SizeEstimator: deviceSizes{}})
	if err != nil {
		return field.Invalid(at, expression, "unexpected compilation error: "+err.Error())
	}
	if cost.Max > resourcev1.CELSelectorExpressionMaxCost {
		return field.Forbidden(at, "too complex, exceeds cost limit")
	}
	return nil
}

// deviceSizes tells how large the parts of a device can be.
type deviceSizes struct{}

// EstimateSize implements checker.CostEstimator.
func (deviceSizes) EstimateSize(element checker.AstNode) *checker.SizeEstimate {
	path := element.Path()
	if len(path) == 0 || path[0] != "device" {
		return nil
	}
	sizes := []uint64{}
	if len(path) > 1 {
		switch path[1] {
		case "driver":
			sizes = []uint64{resourcev1.DriverNameMaxLength}
		case "attributes", "capacity":
			sizes = []uint64{resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice}
			if len(path) > 2 { // the names of domains, or the maps of what they define
				sizes = append(sizes, resourcev1.DeviceMaxDomainLength)
				if path[2] == "@values" {
					sizes[1] = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice
				}
			}
			if len(path) > 3 {
				sizes = append(sizes, resourcev1.DeviceAttributeMaxValueLength)
			}
		}
	}
	if len(sizes) == 0 {
		return nil
	}
	return &checker.SizeEstimate{Min: 0, Max: sizes[min(len(sizes), len(path)-1)-1]}
}

// EstimateCallCost implements checker.CostEstimator.
func (deviceSizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}
