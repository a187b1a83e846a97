// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode"

	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/codec"
	"knarr.dev/api/core"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
)

// served is the kind as which the request names the resource.
func (r *Request) served() *resource.Kind {
	if r.Served != nil {
		return r.Served
	}
	return r.Kind
}

// forms are the kinds as which the resource is served, that of the request first and, if exact, alone.
func (r *Request) forms(exact bool) []*resource.Kind {
	out := []*resource.Kind{r.served()}
	if exact || r.Forms == nil {
		return out
	}
	for _, k := range r.Forms() {
		if k != out[0] {
			out = append(out, k)
		}
	}
	return out
}

// operation is the verb as webhooks and policies name it.
func (r *Request) operation() admissionv1.OperationType {
	return admissionv1.OperationType(strings.ToUpper(r.Verb))
}

// labelled tells whether the body is an object with labels, rather than options of a connection.
func (r *Request) labelled() bool { return r.Verb != "connect" }

// foreign tells whether the body is of another kind than the resource, as for a binding.
func (r *Request) foreign() bool {
	return !r.Body.Empty() && r.Body != r.served().GroupVersionKind
}

// scaled tells whether the request sees the objects as their scale.
func (r *Request) scaled() bool {
	if r.Subresource != "scale" || r.served().Scale == nil {
		return false
	}
	_, is := r.Object.(*autoscalingv1.Scale)
	return !is
}

// shown is an object of the request in a form, with the kind that it has there.
func (r *Request) shown(form *resource.Kind, o resource.Object) (resource.Object, schema.GroupVersionKind, error) {
	gvk := form.GroupVersionKind
	if r.foreign() {
		gvk = r.Body
	}
	if o == nil || r.foreign() && !r.scaled() {
		return o, gvk, nil
	}
	switch {
	case form.Custom != nil && form != r.Kind:
		var err error
		if o, err = form.Custom.Convert(o); err != nil {
			return nil, gvk, err
		}
	case form.Custom == nil && form.Stored != nil:
		var err error
		if o, err = form.Stored.FromHub(o); err != nil {
			return nil, gvk, err
		}
	}
	if r.scaled() {
		return form.Scale.Get(o), gvk, nil
	}
	return o, gvk, nil
}

// replace takes what a webhook or policy made of the object in a form.
func (r *Request) replace(form *resource.Kind, o resource.Object) error {
	switch {
	case r.scaled():
		scale, ok := o.(*autoscalingv1.Scale)
		if !ok {
			return fmt.Errorf("scale became a %T", o)
		}
		form.Scale.Set(r.Object, scale.Spec.Replicas)
		return nil
	case r.Verb == "connect":
		return nil
	case r.foreign():
		r.Object = o
		return nil
	}
	if form.Default != nil {
		form.Default(o)
	}
	switch {
	case form.Custom != nil && form != r.Kind:
		var err error
		if o, err = r.Kind.Custom.Convert(o); err != nil {
			return err
		}
	case form.Custom == nil && form.Stored != nil:
		var err error
		if o, err = form.Stored.ToHub(o); err != nil {
			return err
		}
	}
	r.Object = o
	return nil
}

// blank is an empty object like o, for decoding into.
func blank(o resource.Object) resource.Object {
	return reflect.New(reflect.TypeOf(o).Elem()).Interface().(resource.Object)
}

// admissionRequest is the request as webhooks and policies see it, without objects.
func (r *Request) admissionRequest(form *resource.Kind, uid types.UID) *reviewv1.AdmissionRequest {
	gvk, asked := form.GroupVersionKind, r.served().GroupVersionKind
	if r.foreign() {
		gvk, asked = r.Body, r.Body
	}
	dry := r.DryRun
	out := &reviewv1.AdmissionRequest{
		UID: uid, Kind: metav1.GroupVersionKind(gvk), Resource: metav1.GroupVersionResource(form.GroupVersionResource()), SubResource: r.Subresource,
		RequestResource: (*metav1.GroupVersionResource)(pointer(r.served().GroupVersionResource())), RequestSubResource: r.Subresource,
		RequestKind: (*metav1.GroupVersionKind)(&asked), Name: r.Name, Namespace: r.Namespace, Operation: reviewv1.Operation(r.operation()),
		UserInfo: r.User.UserInfo(),
		DryRun:   &dry,
	}
	if r.Kind == core.Namespaces.Kind {
		out.Namespace = r.Name
	}
	if r.Call != nil && r.Call.Verb == "deletecollection" {
		out.Name = "" // nobody asked for this one
	}
	if raw := r.options(); raw != nil {
		out.Options = runtime.RawExtension{Raw: raw}
	}
	return out
}

func pointer[T any](v T) *T { return &v }

// options are the options of the request, as JSON.
func (r *Request) options() []byte {
	if r.Call == nil || r.Verb == "connect" {
		return nil
	}
	var dry []string
	if r.DryRun {
		dry = []string{metav1.DryRunAll}
	}
	manager := r.Call.FieldManager
	if r.Call.ManagerImplied {
		manager = ""
	}
	var o any
	kind := "CreateOptions"
	switch {
	case r.Verb == "delete":
		kind = "DeleteOptions"
		options := metav1.DeleteOptions{}
		if r.Call.Delete != nil {
			options = *r.Call.Delete
		}
		options.DryRun = dry
		if options.Preconditions == nil && r.Old != nil && deletedInSteps(r.Kind) {
			options.Preconditions = &metav1.Preconditions{UID: pointer(r.Old.GetUID())}
		}
		if grace := r.Kind.Grace; grace != nil && r.Old != nil {
			options.GracePeriodSeconds = pointer(grace(r.Old, options.GracePeriodSeconds))
		}
		o = &options
	case r.Verb == "create":
		o = &metav1.CreateOptions{DryRun: dry, FieldManager: manager, FieldValidation: r.Call.FieldValidation}
	default:
		kind = "UpdateOptions"
		o = &metav1.UpdateOptions{DryRun: dry, FieldManager: manager, FieldValidation: r.Call.FieldValidation}
	}
	raw, err := codec.EncodeJSON(schema.GroupVersionKind{Group: "meta.k8s.io", Version: "v1", Kind: kind}, o)
	if err != nil {
		return nil
	}
	return raw
}

// deletedInSteps names the kinds whose deletion Kubernetes begins with an update, and sees to it that it is of the same object.
func deletedInSteps(k *resource.Kind) bool {
	return k == core.Namespaces.Kind || k == extension.CustomResourceDefinitions.Kind
}

// encoded is an object of the request as JSON; nil if there is none.
func (r *Request) encoded(form *resource.Kind, o resource.Object) ([]byte, error) {
	o, gvk, err := r.shown(form, o)
	if err != nil || o == nil {
		return nil, err
	}
	return codec.EncodeJSON(gvk, o)
}

// state is a fingerprint of the object, to see whether it changed.
func (r *Request) state() string {
	if r.Object == nil {
		return ""
	}
	raw, err := json.Marshal(r.Object)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// review is the document that is sent to a webhook.
func (r *Request) review(form *resource.Kind, version string, uid types.UID) ([]byte, error) {
	q := r.admissionRequest(form, uid)
	var err error
	if q.Object.Raw, err = r.encoded(form, r.Object); err != nil {
		return nil, err
	}
	if r.Verb != "connect" {
		if q.OldObject.Raw, err = r.encoded(form, r.Old); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(&reviewv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{Kind: "AdmissionReview", APIVersion: "admission.k8s.io/" + version}, Request: q,
	})
	return append(raw, '\n'), err
}

// reviewed reads what a webhook answered: JSON or YAML, whatever it calls it.
func reviewed(answer []byte, version string) (*reviewv1.AdmissionReview, error) {
	if !bytes.HasPrefix(bytes.TrimLeftFunc(answer, unicode.IsSpace), []byte("{")) {
		var err error
		if answer, err = yaml.YAMLToJSON(answer); err != nil {
			return nil, err
		}
	}
	var is struct {
		APIVersion string `json:"apiVersion,omitempty"`
		Kind       string `json:"kind,omitempty"`
	}
	if err := json.Unmarshal(answer, &is); err != nil {
		return nil, fmt.Errorf("couldn't get version/kind; json parse error: %w", err)
	}
	want := schema.GroupVersion{Group: reviewv1.GroupName, Version: version}.WithKind("AdmissionReview")
	gv, err := schema.ParseGroupVersion(is.APIVersion)
	if err != nil {
		return nil, err
	}
	gvk := gv.WithKind(cmp.Or(is.Kind, want.Kind))
	if gv.Empty() {
		gvk.Group, gvk.Version = want.Group, want.Version
	}
	known := gvk.Group == want.Group && (gvk.Version == "v1" || gvk.Version == "v1beta1") && gvk.Kind == want.Kind
	switch {
	case gvk == schema.GroupVersionKind{Version: "v1", Kind: "Status"}:
		return nil, fmt.Errorf("converting (v1.Status) to (%s.AdmissionReview): unknown conversion", version)
	case !known:
		return nil, fmt.Errorf("no kind %q is registered for version %q in scheme \"pkg/runtime/scheme.go:111\"", gvk.Kind, gvk.GroupVersion())
	case gvk.Version != version:
		return nil, fmt.Errorf("converting (%s.AdmissionReview) to (%s.AdmissionReview): unknown conversion", gvk.Version, version)
	}
	var review reviewv1.AdmissionReview
	if err := kjson.UnmarshalCaseSensitivePreserveInts(answer, &review); err != nil {
		return nil, err
	}
	review.Kind, review.APIVersion = is.Kind, is.APIVersion
	return &review, nil
}

// checkResponse finds what a response lacks.
func checkResponse(review *reviewv1.AdmissionReview, version string, uid types.UID) error {
	response, is := review.Response, review.GroupVersionKind()
	want := schema.GroupVersion{Group: reviewv1.GroupName, Version: version}.WithKind("AdmissionReview")
	switch {
	case response == nil:
		return errors.New("webhook response was absent")
	case version == "v1beta1":
		if len(response.Patch) > 0 && response.PatchType == nil {
			response.PatchType = pointer(reviewv1.PatchTypeJSONPatch)
		}
		if len(response.Patch) == 0 {
			response.PatchType = nil
		}
		return nil
	case response.UID != uid:
		return fmt.Errorf("expected response.uid=%q, got %q", uid, response.UID)
	case is != want:
		return fmt.Errorf("expected webhook response of %v, got %v", want, is)
	case len(response.Patch) > 0 && response.PatchType == nil:
		return errors.New("webhook returned response.patch but not response.patchType")
	case len(response.Patch) == 0 && response.PatchType != nil:
		return errors.New("webhook returned response.patchType but not response.patch")
	case response.PatchType != nil && *response.PatchType == "":
		return errors.New(`webhook returned invalid response.patchType of ""`)
	}
	return nil
}
