// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"net"
	"regexp"
	"strconv"

	resourcev1 "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"knarr.dev/api/core"
)

// Bounds of the status of allocated devices.
const (
	allocationConfigMax = 2 * resourcev1.DeviceConfigMaxSize // of the claim and of its classes
	conditionsMax       = 8
	dataMax             = 10 * 1024
	ipsMax              = 16
	interfaceNameMax    = 256
	hardwareAddressMax  = 128
)

// ValidateStatus checks the status of a claim.
func ValidateStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	s, at := &c.Status, field.NewPath("status")
	problems := checked(s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, func(r *resourcev1.ResourceClaimConsumerReference) string { return string(r.UID) },
		func(r *resourcev1.ResourceClaimConsumerReference, at *field.Path) field.ErrorList {
			return core.Needed(at, "resource", r.Resource, "name", r.Name, "uid", string(r.UID))
		}, at.Child("reservedFor"))
	problems = append(problems, validateDeviceStatuses(s, at.Child("devices"))...)
	if s.Allocation != nil {
		problems = append(problems, validateAllocation(s.Allocation, namesOf(old.Spec.Devices.Requests), at.Child("allocation"))...)
	}
	if s.Allocation == nil && len(s.ReservedFor) > 0 {
		problems = append(problems, field.Forbidden(at.Child("reservedFor"), "may not be specified when `allocated` is not set"))
	}
	if old.Status.Allocation != nil && s.Allocation != nil {
		problems = append(problems, immutableShown(s.Allocation, old.Status.Allocation, at.Child("allocation"))...)
	}
	return problems
}

func validateAllocation(a *resourcev1.AllocationResult, names requestNames, at *field.Path) field.ErrorList {
	d := at.Child("devices")
	problems := checked(a.Devices.Results, resourcev1.AllocationResultsMaxSize, nil, func(r *resourcev1.DeviceRequestAllocationResult, at *field.Path) field.ErrorList {
		problems := names.validateReference(r.Request, at.Child("request"))
		problems = append(problems, core.DriverName(r.Driver, at.Child("driver"))...)
		problems = append(problems, poolName(r.Pool, at.Child("pool"))...)
		problems = append(problems, core.Label(r.Device, at.Child("device"))...)
		problems = append(problems, bindingConditions(r.BindingConditions, r.BindingFailureConditions, at)...)
		if r.ShareID != nil {
			problems = append(problems, shareID(string(*r.ShareID), at.Child("shareID"))...)
		}
		return problems
	}, d.Child("results"))
	problems = append(problems, checked(a.Devices.Config, allocationConfigMax, nil, func(c *resourcev1.DeviceAllocationConfiguration, at *field.Path) field.ErrorList {
		var problems field.ErrorList
		switch c.Source {
		case resourcev1.AllocationConfigSourceClass, resourcev1.AllocationConfigSourceClaim:
		case "":
			problems = append(problems, field.Required(at.Child("source"), ""))
		default:
			problems = append(problems, field.NotSupported(at.Child("source"), c.Source,
				[]resourcev1.AllocationConfigSource{resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass}))
		}
		problems = append(problems, names.validateReferences(c.Requests, at.Child("requests"))...)
		return append(problems, validateConfiguration(&c.DeviceConfiguration, at)...)
	}, d.Child("config"))...)
	if a.NodeSelector != nil {
		problems = append(problems, core.ValidateNodeSelector(a.NodeSelector, at.Child("nodeSelector"))...)
	}
	return problems
}

// shareID checks a UUID in its usual form.
func shareID(id string, at *field.Path) field.ErrorList {
	switch len(id) {
	case 36, 36 + 9, 36 + 2, 32:
	default:
		return field.ErrorList{field.Invalid(at, id, "error validating uid: invalid UUID length: "+strconv.Itoa(len(id)))}
	}
	if regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(id) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, id, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
}

// allocatedDevice names a device of an allocation. The names of its fields are those that people are shown.
type allocatedDevice struct{ Driver, Pool, Device, ShareID string }

func validateDeviceStatuses(s *resourcev1.ResourceClaimStatus, at *field.Path) (problems field.ErrorList) {
	allocated := sets.New[allocatedDevice]()
	if s.Allocation != nil {
		for _, r := range s.Allocation.Devices.Results {
			d := allocatedDevice{Driver: r.Driver, Pool: r.Pool, Device: r.Device}
			if r.ShareID != nil {
				d.ShareID = string(*r.ShareID)
			}
			allocated.Insert(d)
		}
	}
	seen := sets.New[allocatedDevice]()
	for i := range s.Devices {
		d, at := &s.Devices[i], at.Index(i)
		id := allocatedDevice{Driver: d.Driver, Pool: d.Pool, Device: d.Device}
		problems = append(problems, core.DriverName(d.Driver, at.Child("driver"))...)
		problems = append(problems, poolName(d.Pool, at.Child("pool"))...)
		problems = append(problems, core.Label(d.Device, at.Child("device"))...)
		if d.ShareID != nil {
			id.ShareID = *d.ShareID
			problems = append(problems, shareID(*d.ShareID, at.Child("shareID"))...)
		}
		if !allocated.Has(id) {
			problems = append(problems, field.Invalid(at, id, "must be an allocated device in the claim"))
		}
		if len(d.Conditions) > conditionsMax {
			problems = append(problems, field.TooMany(at.Child("conditions"), len(d.Conditions), conditionsMax))
		}
		problems = append(problems, metavalidation.ValidateConditions(d.Conditions, at.Child("conditions"))...)
		if d.Data != nil {
			problems = append(problems, rawObject(*d.Data, dataMax, false, at.Child("data"))...)
		}
		if d.NetworkData != nil {
			problems = append(problems, validateNetwork(d.NetworkData, at.Child("networkData"))...)
		}
		if seen.Has(id) {
			problems = append(problems, field.Duplicate(at, id))
		}
		seen.Insert(id)
	}
	return problems
}

func validateNetwork(n *resourcev1.NetworkDeviceData, at *field.Path) (problems field.ErrorList) {
	if len(n.InterfaceName) > interfaceNameMax {
		problems = append(problems, field.TooLong(at.Child("interfaceName"), "", interfaceNameMax))
	}
	if len(n.HardwareAddress) > hardwareAddressMax {
		problems = append(problems, field.TooLong(at.Child("hardwareAddress"), "", hardwareAddressMax))
	}
	return append(problems, checked(n.IPs, ipsMax, func(ip *string) string { return *ip }, func(text *string, at *field.Path) field.ErrorList {
		return interfaceAddress(*text, at)
	}, at.Child("ips"))...)
}

// interfaceAddress checks an address with the length of its network.
func interfaceAddress(text string, at *field.Path) field.ErrorList {
	bad := func(why string) field.ErrorList { return field.ErrorList{field.Invalid(at, text, why)} }
	ip, network, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return bad("must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)")
	}
	if canonical := (&net.IPNet{IP: ip, Mask: network.Mask}).String(); canonical != text {
		return bad(fmt.Sprintf("must be in canonical form (%q)", canonical))
	}
	return nil
}
