// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// shown is a value as Kubernetes shows it in some messages: JSON with the names of Go fields, all of them, as its
// internal types have them.
type shown struct{ value any }

// Shown is a value for error messages that Kubernetes shows with the names of Go fields.
func Shown(value any) any { return shown{value} }

// MarshalJSON implements json.Marshaler.
func (s shown) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	err := show(&b, reflect.ValueOf(s.value))
	return b.Bytes(), err
}

func show(b *bytes.Buffer, v reflect.Value) error {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		if strings.HasPrefix(v.Type().PkgPath(), "k8s.io/api/") {
			return showFields(b, fieldsOf(v))
		}
	case reflect.Slice:
		if !v.IsNil() && v.Type().Elem().Kind() != reflect.Uint8 {
			b.WriteByte('[')
			for i := range v.Len() {
				if i > 0 {
					b.WriteByte(',')
				}
				if err := show(b, v.Index(i)); err != nil {
					return err
				}
			}
			b.WriteByte(']')
			return nil
		}
	}
	value := v.Interface()
	if v.CanAddr() {
		value = v.Addr().Interface() // for marshalers with pointer receivers
	}
	text, err := json.Marshal(value)
	b.Write(text)
	return err
}

type namedField struct {
	name  string
	value reflect.Value
}

func showFields(b *bytes.Buffer, fields []namedField) error {
	b.WriteByte('{')
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + f.name + `":`)
		if err := show(b, f.value); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

// fieldsOf lists the fields of a struct in the order of the internal type, embedded ones in their place.
func fieldsOf(v reflect.Value) []namedField {
	if s, ok := v.Interface().(corev1.PodSpec); ok {
		return podSpecFields(&s)
	}
	var all []namedField
	for i := range v.NumField() {
		if t := v.Type().Field(i); t.Anonymous && t.Type == reflect.TypeFor[metav1.ObjectMeta]() {
			all = append(all, metaFields(v.Field(i).Interface())...)
		} else if t.Anonymous {
			all = append(all, fieldsOf(v.Field(i))...)
		} else {
			all = append(all, namedField{t.Name, v.Field(i)})
		}
	}
	if _, ok := v.Interface().(corev1.VolumeSource); ok {
		move(all, "Quobyte", "RBD")
	}
	if _, ok := v.Interface().(corev1.PersistentVolumeSource); ok {
		for _, m := range [][2]string{{"Quobyte", "RBD"}, {"FlexVolume", "ISCSI"}} {
			move(all, m[0], m[1])
		}
	}
	return all
}

// metaFields are those that metadata has in JSON, which it shows among the fields of its object.
func metaFields(meta any) (all []namedField) {
	text, err := json.Marshal(meta)
	if err != nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	_, _ = d.Token() // {
	for d.More() {
		name, _ := d.Token()
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return all
		}
		all = append(all, namedField{fmt.Sprint(name), reflect.ValueOf(value)})
	}
	return all
}

// move puts a field behind another one that is before it.
func move(all []namedField, name, behind string) {
	from := slices.IndexFunc(all, func(f namedField) bool { return f.name == name })
	to := slices.IndexFunc(all, func(f namedField) bool { return f.name == behind })
	f := all[from]
	copy(all[to+2:from+1], all[to+1:from])
	all[to+1] = f
}

// podSpecFields has the settings of the host's namespaces in the security context, as the internal type does.
func podSpecFields(s *corev1.PodSpec) []namedField {
	v := reflect.ValueOf(s).Elem()
	names := []string{
		"Volumes", "InitContainers", "Containers", "EphemeralContainers", "RestartPolicy", "TerminationGracePeriodSeconds",
		"ActiveDeadlineSeconds", "DNSPolicy", "NodeSelector", "ServiceAccountName", "AutomountServiceAccountToken", "NodeName",
		"SecurityContext", "ImagePullSecrets", "Hostname", "Subdomain", "SetHostnameAsFQDN", "Affinity", "SchedulerName", "Tolerations",
		"HostAliases", "PriorityClassName", "Priority", "PreemptionPolicy", "DNSConfig", "ReadinessGates", "RuntimeClassName", "Overhead",
		"EnableServiceLinks", "TopologySpreadConstraints", "OS", "SchedulingGates", "ResourceClaims", "Resources", "HostnameOverride",
		"SchedulingGroup",
	}
	var all []namedField
	for _, name := range names {
		f := namedField{name, v.FieldByName(name)}
		if name == "SecurityContext" && s.SecurityContext != nil {
			f.value = reflect.ValueOf(shown{securityShown{v, s.SecurityContext}})
		}
		all = append(all, f)
	}
	return all
}

// securityShown is a pod's security context with the settings of the host's namespaces.
type securityShown struct {
	spec    reflect.Value
	context *corev1.PodSecurityContext
}

// MarshalJSON implements json.Marshaler.
func (s securityShown) MarshalJSON() ([]byte, error) {
	var all []namedField
	for _, name := range []string{"HostNetwork", "HostPID", "HostIPC", "ShareProcessNamespace", "HostUsers"} {
		all = append(all, namedField{name, s.spec.FieldByName(name)})
	}
	own := fieldsOf(reflect.ValueOf(s.context).Elem())
	for _, name := range []string{"SELinuxOptions", "WindowsOptions", "RunAsUser", "RunAsGroup", "RunAsNonRoot", "SupplementalGroups", "SupplementalGroupsPolicy", "FSGroup", "FSGroupChangePolicy", "Sysctls"} {
		i := slices.IndexFunc(own, func(f namedField) bool { return f.name == name })
		all = append(all, own[i])
		own = slices.Delete(own, i, i+1)
	}
	var b bytes.Buffer
	err := showFields(&b, append(all, own...))
	return b.Bytes(), err
}
