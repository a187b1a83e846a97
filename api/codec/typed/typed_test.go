// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package typed

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kjson "sigs.k8s.io/json"
)

// odd has what a struct of the API may have.
type odd struct {
	metav1.TypeMeta `json:",inline"`
	Plain           string
	Skipped         string                     `json:"-"`
	Zero            metav1.Time                `json:"zero,omitempty,omitzero"`
	Micro           *metav1.MicroTime          `json:"micro"`
	Wait            metav1.Duration            `json:"wait"`
	List            []string                   `json:"list"`
	Some            []*int32                   `json:"some,omitempty"`
	Bytes           []byte                     `json:"bytes"`
	Byte            byte                       `json:"byte"`
	Map             map[string]string          `json:"map"`
	Data            map[string][]byte          `json:"data,omitempty"`
	Amounts         corev1.ResourceList        `json:"amounts,omitempty"`
	Deep            map[string]map[string]bool `json:"deep,omitempty"`
	Port            intstr.IntOrString         `json:"port"`
	Fields          *metav1.FieldsV1           `json:"fields,omitempty"`
	Self            *odd                       `json:"self,omitempty"`
	Selves          []odd                      `json:"selves,omitempty"`
	Ratio           float64                    `json:"ratio"`
	Any             any                        `json:"any"`
	Number          int64                      `json:"number,omitempty"`
	Flag            *bool                      `json:"flag,omitempty"`
	Limit           resource.Quantity          `json:"limit"`
}

func objects() []any {
	yes, three := true, int32(3)
	micro := metav1.NewMicroTime(time.Unix(3, 4000))
	text := "a\"b\\c/<>&\u2028\u2029\x00\x1f\x7f\b\f\n\r\t é 世 \U0001F600 \xff\xc3"
	o := &odd{
		TypeMeta: metav1.TypeMeta{Kind: "K", APIVersion: "v1"}, Plain: text, Skipped: "x", Micro: &micro, Wait: metav1.Duration{Duration: time.Second},
		List: []string{}, Some: []*int32{nil, &three}, Bytes: []byte{}, Map: map[string]string{"b": text, "a": "", text: "k"},
		Data:    map[string][]byte{"z": nil, "y": []byte("abc"), "x": {}},
		Amounts: corev1.ResourceList{"memory": resource.MustParse("1Gi"), "cpu": resource.MustParse("100m")},
		Deep:    map[string]map[string]bool{"a": nil, "b": {}, "c": {"d": true}}, Port: intstr.FromString("<http>"),
		Fields: metav1.NewFieldsV1(`{"f:a": {"k:{\"x\":\"<\"}":{}}}`), Ratio: 1e-7, Any: map[string]any{"x": 1}, Number: -5, Flag: &yes,
		Limit: *resource.NewQuantity(5, resource.DecimalSI),
	}
	o.Self, o.Selves = &odd{Zero: metav1.Unix(1, 0), Port: intstr.FromInt32(-7)}, []odd{{}, {Plain: "x"}}
	return []any{
		o, &odd{}, &corev1.Pod{}, &metav1.Status{}, &metav1.FieldsV1{}, metav1.NewFieldsV1(`{"f:a":{"f:b":{}}}`), &text, text, nil, (*odd)(nil),
		&[]odd{{}}, &map[string]*odd{"x": nil}, &map[string]metav1.Time{"x": {}}, &map[string]struct{ P pointed }{"x": {}}, &struct{ P pointed }{}, &map[int]string{1: "x"},
		&struct {
			A string `json:"a,string"`
		}{"x"}, &metav1.ListMeta{}, &intstr.IntOrString{Type: 7},
	}
}

// pointed has a form of its own only if it has an address.
type pointed struct{ N int }

// MarshalJSON implements json.Marshaler.
func (*pointed) MarshalJSON() ([]byte, error) { return []byte(`"pointed"`), nil }

func TestAppendIsJSONMarshal(t *testing.T) {
	var types Types
	for _, o := range objects() {
		want, wantErr := json.Marshal(o)
		got, err := types.Append([]byte("x"), o)
		if (err != nil) != (wantErr != nil) {
			t.Errorf("%T: error %v, the library's %v", o, err, wantErr)
		}
		if err == nil && string(got) != "x"+string(want) {
			t.Errorf("%T:\n%s\nthe library's\n%s", o, got, want)
		}
	}
}

func TestDecodeIsUnmarshalStrict(t *testing.T) {
	var types Types
	for _, tt := range []struct {
		json string
		fast bool
	}{
		{`{}`, true},
		{` { "kind" : "K" , "apiVersion":"v1", "Plain":"\u0041\ud83d\ude00\"\\\/\b\f\n\r\t世" } `, true},
		{`{"zero":null,"micro":null,"list":null,"bytes":null,"map":null,"self":null,"number":null,"flag":null,"Plain":null,"amounts":null}`, true},
		{`{"zero":"2020-01-02T03:04:05+02:00","micro":"2020-01-02T03:04:05.123456Z","wait":"3s"}`, true},
		{`{"list":[],"some":[1,null,-0],"bytes":"AQI=","map":{"a":"b","c":null},"data":{"x":"","y":null},"amounts":{"cpu":"1","memory":0.5}}`, true},
		{`{"port":80,"fields":{"f:a": {}},"self":{"self":{"number":9223372036854775807}},"selves":[{},{"Plain":"x"}],"flag":false,"limit":"1Ki"}`, true},
		{`{"Deep":{}}`, false}, {`{"deep":{"a":{"b":true}}}`, true}, {`{"deep":{"a":{},"a":{}}}`, false}, {`{"map":{"a":"b","a":"c"}}`, false},
		{`{"number":9223372036854775808}`, false}, {`{"number":1.0}`, false}, {`{"number":"1"}`, false}, {`{"number":01}`, false}, {`{"number":1e2}`, false},
		{`{"some":[2147483648]}`, false}, {`{"Plain":"a","Plain":"b"}`, false}, {`{"plain":"a"}`, false}, {`{"Plain":1}`, false},
		{`{"Plain":"` + "\xff" + `"}`, false}, {`{"Plain":"` + "\n" + `"}`, false}, {`{"Plain":"\ud800"}`, false}, {`{"Plain":"\ud800\u0041"}`, false}, {`{"Plain":"\x"}`, false},
		{`{"ratio":1}`, false}, {`{"any":{"x":1}}`, false}, {`{"byte":1}`, false}, {`{"limit":"x"}`, false}, {`{"limit":null}`, false}, {`{"zero":"x"}`, false},
		{`{}x`, false}, {`{`, false}, {`{"Plain"`, false}, {`{"Plain":"a",}`, false}, {`{"list":["a",]}`, false}, {`{"list":["a"`, false}, {`[]`, false}, {``, false}, {`null`, true},
		{`{"fields":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `}`, false},
		{strings.Repeat(`{"self":`, 500) + "null" + strings.Repeat("}", 500), false},
		{`{"fields":[01]}`, false}, {`{"fields":[1.5e+3,-2,true,false,null,"x\u00e9",{"a":[]}]}`, true}, {`{"bytes":"*"}`, false}, {`{"flag":1}`, false},
	} {
		check(t, &types, []byte(tt.json), &odd{}, &odd{}, tt.fast)
	}
	if types.Decode([]byte(`{}`), &odd{Plain: "x"}) || types.Decode([]byte(`{}`), odd{}) || types.Decode([]byte(`{}`), nil) {
		t.Error("decoded into what is no pointer to a zero value")
	}
}

// check decodes data both ways, into got and want.
func check(t *testing.T, types *Types, data []byte, got, want any, fast bool) {
	t.Helper()
	input := bytes.Clone(data)
	ok := types.Decode(input, got)
	clear(input) // which others may write to
	if ok != fast {
		t.Errorf("%.200s: decoded %v, want %v", data, ok, fast)
	}
	if !ok {
		if !reflect.ValueOf(got).Elem().IsZero() {
			t.Errorf("%.200s: something of the object is left", data)
		}
		return
	}
	strict, err := kjson.UnmarshalStrict(data, want)
	if err != nil || len(strict) > 0 {
		t.Errorf("%.200s: was decoded, but the library says %v %v", data, err, strict)
	}
	remember(reflect.ValueOf(got))
	remember(reflect.ValueOf(want))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%.200s:\n%+v\nthe library's\n%+v", data, got, want)
	}
}

// remember has the quantities in v know their text, as some of those that are decoded here do.
func remember(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			remember(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			remember(v.Index(i))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			one := reflect.New(v.Type().Elem()).Elem()
			one.Set(v.MapIndex(key))
			remember(one)
			v.SetMapIndex(key, one)
		}
	case reflect.Struct:
		if q, ok := v.Addr().Interface().(*resource.Quantity); ok {
			_ = q.String()
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				remember(v.Field(i))
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"kind":"Pod","metadata":{"name":"a","labels":{"a":"b"},"managedFields":[{"fieldsV1":{"f:a":{}}}]},"spec":{"containers":[{"ports":[{"containerPort":80}]}]}}`))
	f.Add([]byte(`{"metadata":{"creationTimestamp":"2020-01-02T03:04:05Z"},"spec":{"containers":[{"resources":{"limits":{"cpu":"1"}},"livenessProbe":{"httpGet":{"port":"x"}}}]}}`))
	var types Types
	f.Fuzz(func(t *testing.T, data []byte) {
		check(t, &types, data, &corev1.Pod{}, &corev1.Pod{}, types.Decode(data, &corev1.Pod{}))
	})
}

func BenchmarkPod(b *testing.B) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "b", Labels: map[string]string{"app": "x", "tier": "y"}, CreationTimestamp: metav1.Now()}}
	for range 4 {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{
			Name: "c", Image: "example.com/image:1", Command: []string{"a", "b"}, Env: []corev1.EnvVar{{Name: "A", Value: "b"}},
			Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("1")}}, ImagePullPolicy: "Always",
		})
	}
	var types Types
	data, err := types.Append(nil, pod)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 2*len(data))
		for b.Loop() {
			_, _ = types.Append(buf, pod)
		}
	})
	b.Run("marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = json.Marshal(pod)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !types.Decode(data, &corev1.Pod{}) {
				b.Fatal("not decoded")
			}
		}
	})
	b.Run("unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = kjson.UnmarshalStrict(data, &corev1.Pod{})
		}
	})
}
