// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package typed

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type protobuf interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

func messages() []protobuf {
	return []protobuf{
		&corev1.Pod{}, &corev1.Node{}, &corev1.Service{}, &corev1.ConfigMap{}, &corev1.Secret{}, &corev1.Event{}, &corev1.PersistentVolume{},
		&corev1.PersistentVolumeClaim{}, &corev1.ResourceQuota{}, &corev1.LimitRange{}, &corev1.ServiceAccount{}, &corev1.Namespace{}, &corev1.Endpoints{}, //nolint:staticcheck // still served
		&appsv1.Deployment{}, &appsv1.StatefulSet{}, &appsv1.ControllerRevision{}, &batchv1.CronJob{}, &coordinationv1.Lease{}, &rbacv1.ClusterRole{},
		&admissionv1.ValidatingWebhookConfiguration{}, &admissionv1.ValidatingAdmissionPolicy{}, &autoscalingv2.HorizontalPodAutoscaler{},
		&certificatesv1.CertificateSigningRequest{}, &discoveryv1.EndpointSlice{}, &eventsv1.Event{}, &flowcontrolv1.PriorityLevelConfiguration{},
		&flowcontrolv1.FlowSchema{}, &networkingv1.Ingress{}, &networkingv1.NetworkPolicy{}, &policyv1.PodDisruptionBudget{}, &resourcev1.ResourceClaim{},
		&resourcev1.ResourceSlice{}, &storagev1.CSINode{}, &storagev1.StorageClass{}, &authenticationv1.TokenReview{},
		&apiextensionsv1.CustomResourceDefinition{}, &metav1.DeleteOptions{}, &metav1.Status{},
	}
}

// fill sets v to something random.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	switch p := v.Addr().Interface().(type) {
	case *metav1.Time:
		*p = metav1.Unix(r.Int64N(1<<32), 0)
		return
	case *metav1.MicroTime:
		*p = metav1.NewMicroTime(time.UnixMicro(r.Int64N(1 << 50)))
		return
	case *resource.Quantity:
		*p = resource.MustParse(fmt.Sprint(r.IntN(1000), []string{"", "m", "Mi", "k"}[r.IntN(4)]))
		return
	case *intstr.IntOrString:
		*p = []intstr.IntOrString{intstr.FromString("http"), intstr.FromInt32(-7)}[r.IntN(2)]
		return
	case *metav1.FieldsV1:
		*p = *metav1.NewFieldsV1(`{"f:a":{}}`)
		return
	case *runtime.RawExtension:
		p.Raw = []byte(`{"a":1}`)
		return
	case *metav1.TypeMeta:
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int32, reflect.Int64:
		v.SetInt([]int64{0, 1, 80, -1, 1 << 30}[r.IntN(5)])
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.String:
		v.SetString([]string{"", "a", "Always", "kubernetes.io/hostname", fmt.Sprint("unique-", r.Uint64()), string(make([]byte, 100))}[r.IntN(6)])
	case reflect.Pointer:
		if depth > 0 && r.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(r, v.Elem(), depth-1)
		}
	case reflect.Slice:
		for range r.IntN(4) {
			if depth > 0 {
				one := reflect.New(v.Type().Elem()).Elem()
				fill(r, one, depth-1)
				v.Set(reflect.Append(v, one))
			}
		}
	case reflect.Uint8:
		v.SetUint(r.Uint64N(256))
	case reflect.Map:
		for range r.IntN(3) {
			if depth > 0 {
				if v.IsNil() {
					v.Set(reflect.MakeMap(v.Type()))
				}
				key, one := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				fill(r, key, depth-1)
				fill(r, one, depth-1)
				if one.Kind() == reflect.Slice && one.Len() == 0 { // which is not written, and then left to the library
					one.Set(reflect.MakeSlice(one.Type(), 1, 1))
				}
				v.SetMapIndex(key, one)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && v.Type().Field(i).Tag.Get("protobuf") != "-" {
				fill(r, v.Field(i), depth-1)
			}
		}
	}
}

func TestDecodeProtoIsUnmarshal(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var types Types
	for _, m := range messages() {
		typ := reflect.TypeOf(m).Elem()
		decoded := 0
		for i := range 60 {
			in := reflect.New(typ)
			fill(r, in.Elem(), 3+i%9)
			data, err := in.Interface().(protobuf).Marshal()
			if err != nil {
				t.Fatalf("%s: %v", typ, err)
			}
			if checkProto(t, &types, data, typ) {
				decoded++
			}
			for range 20 { // and what is wrong with it
				if len(data) > 0 {
					bad := append([]byte{}, data...)
					switch at := r.IntN(len(bad)); r.IntN(3) {
					case 0:
						bad[at] = byte(r.IntN(256))
					case 1:
						bad = bad[:at]
					default:
						bad = append(bad[:at:at], bad[r.IntN(len(bad)):]...)
					}
					checkProto(t, &types, bad, typ)
				}
			}
		}
		switch m.(type) {
		case *apiextensionsv1.CustomResourceDefinition, *authenticationv1.TokenReview, *certificatesv1.CertificateSigningRequest: // some are odd
			continue
		}
		if decoded < 60 {
			t.Errorf("%s: %d of 60 were decoded", typ, decoded)
		}
	}
	full := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	if types.DecodeProto(nil, full) || types.DecodeProto(nil, corev1.Pod{}) || types.DecodeProto(nil, nil) {
		t.Error("decoded into what is no pointer to a zero value")
	}
}

// checkProto decodes data both ways.
func checkProto(t *testing.T, types *Types, data []byte, typ reflect.Type) bool {
	t.Helper()
	got, want := reflect.New(typ), reflect.New(typ)
	input := bytes.Clone(data)
	decoded := types.DecodeProto(input, got.Interface())
	clear(input) // which others may write to
	if !decoded {
		if !got.Elem().IsZero() {
			t.Errorf("%s: something of the object is left", typ)
		}
		return false
	}
	if err := want.Interface().(protobuf).Unmarshal(data); err != nil {
		t.Errorf("%s %x: was decoded, but the library says %v", typ, data, err)
		return true
	}
	remember(got)
	remember(want)
	if !reflect.DeepEqual(got.Interface(), want.Interface()) {
		t.Errorf("%s %x:\n%+v\nthe library's\n%+v", typ, data, got, want)
	}
	return true
}

func FuzzDecodeProto(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 4 {
		var pod corev1.Pod
		fill(r, reflect.ValueOf(&pod).Elem(), 8)
		data, err := pod.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	var types Types
	f.Fuzz(func(t *testing.T, data []byte) { checkProto(t, &types, data, reflect.TypeFor[corev1.Pod]()) })
}

func BenchmarkProto(b *testing.B) {
	var pod corev1.Pod
	fill(rand.New(rand.NewPCG(3, 2)), reflect.ValueOf(&pod).Elem(), 7)
	data, err := pod.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("decode", func(b *testing.B) {
		var types Types
		b.ReportAllocs()
		for b.Loop() {
			if !types.DecodeProto(data, &corev1.Pod{}) {
				b.Fatal("not decoded")
			}
		}
	})
	b.Run("unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if (&corev1.Pod{}).Unmarshal(data) != nil {
				b.Fatal("not decoded")
			}
		}
	})
}
