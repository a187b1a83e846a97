// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"

	"knarr.dev/api/admissionregistration"
	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/webhook"
)

// hook is one webhook, ready to be called.
type hook struct {
	spec          admissionv1.ValidatingWebhook
	configuration string
	again         bool // wants to see what others make of what it has seen
	match         *matcher
	conditions    *conditions
	target        webhook.Target
	problem       error
}

// configured are the webhooks of one configuration.
type configured []*hook

func (d *dynamic) newHook(configuration string, w admissionv1.ValidatingWebhook, again bool) *hook {
	h := &hook{spec: w, configuration: configuration, again: again, target: webhook.Target{CABundle: w.ClientConfig.CABundle}}
	if u := w.ClientConfig.URL; u != nil {
		h.target.URL = *u
	}
	if s := w.ClientConfig.Service; s != nil {
		h.target.Service = &webhook.Service{Namespace: s.Namespace, Name: s.Name, Port: 443}
		if s.Port != nil {
			h.target.Service.Port = *s.Port
		}
		if s.Path != nil {
			h.target.Service.Path = *s.Path
		}
	}
	rules := make([]admissionv1.NamedRuleWithOperations, len(w.Rules))
	for i := range w.Rules {
		rules[i].RuleWithOperations = w.Rules[i]
	}
	h.match, h.problem = newMatcher(d.reader, &admissionv1.MatchResources{
		NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, ResourceRules: rules, MatchPolicy: w.MatchPolicy,
	})
	if h.problem == nil {
		h.conditions, h.problem = d.webhookConditions(w.MatchConditions)
	}
	return h
}

// mutatingWebhooks calls the servers that change objects, one after the other.
func (d *dynamic) mutatingWebhooks() Step {
	var known remembered[configured]
	build := func(o resource.Object) configured {
		c := admissionregistration.MutatingWebhookConfigurations.Cast(o)
		var out configured
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			again := w.ReinvocationPolicy != nil && *w.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy
			out = append(out, d.newHook(c.Name, admissionregistration.Common(w), again))
		}
		return out
	}
	return Step{Name: "MutatingAdmissionWebhook", Mutate: func(ctx context.Context, r *Request) error {
		all, err := known.all(ctx, d.reader, admissionregistration.MutatingWebhookConfigurations.Kind, build)
		if err != nil || len(all) == 0 || exempt(r) {
			return err
		}
		index := 0
		for _, c := range all {
			for _, h := range c {
				if err := d.mutateBy(ctx, r, h, &index); err != nil {
					return err
				}
			}
		}
		return nil
	}}
}

// mutateBy calls one mutating webhook, if it is about the request.
func (d *dynamic) mutateBy(ctx context.Context, r *Request, h *hook, index *int) error {
	if !r.due(h, h.again) {
		return nil
	}
	form, err := d.concerned(ctx, r, h)
	if err != nil || form == nil {
		return err
	}
	round := fmt.Sprintf("round_%d_index_%d", r.round, *index)
	*index++
	began := time.Now()
	changed, err := d.callMutating(ctx, r, h, form, round)
	took := time.Since(began)
	r.waited(took)
	err = d.figures.called(r, h, typeMutating, took, err)
	r.annotateHook("mutation", round, h, changed && err == nil)
	if err = h.tolerate(err, func() { r.Annotate("failed-open.mutation.webhook.admission.k8s.io/"+round, h.spec.Name) }); err != nil {
		return err
	}
	if changed {
		r.changed = true
	}
	r.called(h, h.again)
	return nil
}

// annotateHook notes in the audit log what a mutating webhook did.
func (r *Request) annotateHook(kind, round string, h *hook, mutated bool) {
	raw, err := json.Marshal(struct {
		Configuration string `json:"configuration"`
		Webhook       string `json:"webhook"`
		Mutated       bool   `json:"mutated"`
	}{h.configuration, h.spec.Name, mutated})
	if err == nil {
		r.Annotate(kind+".webhook.admission.k8s.io/"+round, string(raw))
	}
}

func (d *dynamic) callMutating(ctx context.Context, r *Request, h *hook, form *resource.Kind, round string) (bool, error) {
	response, err := d.call(ctx, d.mutating, r, h, form)
	if err != nil {
		return false, err
	}
	r.heed(h, response)
	if !response.Allowed {
		return false, denial(h, response)
	}
	if len(response.Patch) == 0 {
		return false, nil
	}
	if *response.PatchType != reviewv1.PatchTypeJSONPatch {
		return false, &callError{h.spec.Name, fmt.Errorf("unsupported patch type %q", *response.PatchType)}
	}
	patch, err := jsonpatch.DecodePatch(response.Patch)
	if err != nil {
		return false, &callError{h.spec.Name, fmt.Errorf("received undecodable patch in webhook response: %w", err)}
	}
	if len(patch) == 0 {
		return false, nil
	}
	if r.Object == nil {
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", h.spec.Name))
	}
	before := r.state()
	if err := r.patchObject(d.reader, form, patch); err != nil {
		var status *apierrors.StatusError
		if errors.As(err, &status) {
			return false, err
		}
		return false, apierrors.NewInternalError(err)
	}
	changed := before != r.state()
	if changed {
		r.annotatePatch(h, response.Patch, round)
	}
	return changed, nil
}

func (r *Request) annotatePatch(h *hook, patch []byte, round string) {
	raw, err := json.Marshal(struct {
		Configuration string          `json:"configuration"`
		Webhook       string          `json:"webhook"`
		Patch         json.RawMessage `json:"patch,omitempty"`
		PatchType     string          `json:"patchType,omitempty"`
	}{h.configuration, h.spec.Name, patch, "JSONPatch"})
	if err == nil {
		r.Annotate("patch.webhook.admission.k8s.io/"+round, string(raw))
	}
}

// patchObject makes a JSON patch of the object in a form.
func (r *Request) patchObject(reader Reader, form *resource.Kind, patch jsonpatch.Patch) error {
	shown, gvk, err := r.shown(form, r.Object)
	if err != nil {
		return err
	}
	before, err := codec.EncodeJSON(gvk, shown)
	if err != nil {
		return err
	}
	after, err := patch.Apply(before)
	if err != nil {
		return err
	}
	return r.replaceBy(reader, form, gvk, shown, after)
}

// replaceBy takes the JSON of what became of the object.
func (r *Request) replaceBy(reader Reader, form *resource.Kind, gvk schema.GroupVersionKind, shown resource.Object, after []byte) error {
	if _, custom := shown.(*unstructured.Unstructured); !custom {
		is, err := codec.PeekKind(codec.JSON, after)
		if err != nil {
			return err
		}
		if is.Kind == "" {
			is.Kind = gvk.Kind
		}
		if is.Version == "" {
			is.Group, is.Version = gvk.Group, gvk.Version
		}
		if is != gvk {
			return r.replaceByOther(reader, gvk, is, after)
		}
	}
	made := blank(shown)
	if _, err := codec.Decode(codec.JSON, after, made); err != nil {
		return err
	}
	return r.replace(form, made)
}

// replaceByOther takes the JSON of an object of another kind than the request's. Kubernetes can make use of it only if it is
// another version of the same kind.
func (r *Request) replaceByOther(reader Reader, gvk, is schema.GroupVersionKind, after []byte) error {
	var kind *resource.Kind
	if schemas, ok := reader.(Schema); ok {
		kind = schemas.KindOf(is)
	}
	if kind == nil || kind.Custom != nil {
		return fmt.Errorf("no kind %q is registered for version %q in scheme \"pkg/runtime/scheme.go:111\"", is.Kind, is.GroupVersion())
	}
	made := kind.New()
	if _, err := codec.Decode(codec.JSON, after, made); err != nil {
		return err
	}
	if is.GroupKind() == gvk.GroupKind() && !r.foreign() {
		return r.replace(kind, made)
	}
	group, _, _ := strings.Cut(gvk.Group, ".")
	if group == "" || group == "events" {
		group = "core"
	}
	return plain(fmt.Sprintf("converting (%s.%s) to (%s.%s): unknown conversion", is.Version, is.Kind, group, gvk.Kind))
}

// validatingWebhooks asks the servers that judge objects, all at once.
func (d *dynamic) validatingWebhooks() Step {
	var known remembered[configured]
	build := func(o resource.Object) configured {
		c := admissionregistration.ValidatingWebhookConfigurations.Cast(o)
		var out configured
		for i := range c.Webhooks {
			out = append(out, d.newHook(c.Name, c.Webhooks[i], false))
		}
		return out
	}
	return Step{Name: "ValidatingAdmissionWebhook", Validate: func(ctx context.Context, r *Request) error {
		all, err := known.all(ctx, d.reader, admissionregistration.ValidatingWebhookConfigurations.Kind, build)
		if err != nil || len(all) == 0 || exempt(r) {
			return err
		}
		var calls []*validation
		for _, c := range all {
			for _, h := range c {
				form, err := d.concerned(ctx, r, h)
				if err != nil {
					return err
				}
				if form != nil {
					calls = append(calls, &validation{hook: h, form: form})
				}
			}
		}
		return d.validateBy(ctx, r, calls)
	}}
}

// validation is one call of a validating webhook.
type validation struct {
	hook     *hook
	form     *resource.Kind
	response *reviewv1.AdmissionResponse
	err      error
	took     time.Duration
}

func (d *dynamic) validateBy(ctx context.Context, r *Request, calls []*validation) error {
	if len(calls) == 0 {
		return nil
	}
	var wg sync.WaitGroup
	for _, c := range calls {
		wg.Go(func() {
			began := time.Now()
			c.response, c.err = d.call(ctx, d.validating, r, c.hook, c.form)
			c.took = time.Since(began)
		})
	}
	wg.Wait()
	longest, first := time.Duration(0), error(nil)
	for i, c := range calls {
		err := c.err
		if err == nil {
			r.heed(c.hook, c.response)
			switch {
			case len(c.response.Patch) > 0:
				err = &callError{c.hook.spec.Name, errors.New("received invalid webhook response: validating webhook may not return response.patch")}
			case c.response.PatchType != nil:
				err = &callError{c.hook.spec.Name, errors.New("received invalid webhook response: validating webhook may not return response.patchType")}
			case !c.response.Allowed:
				err = denial(c.hook, c.response)
			}
		}
		longest = max(longest, c.took)
		err = d.figures.called(r, c.hook, typeValidating, c.took, err)
		err = c.hook.tolerate(err, func() {
			r.Annotate(fmt.Sprintf("failed-open.validating.webhook.admission.k8s.io/round_0_index_%d", i), c.hook.spec.Name)
		})
		if first == nil {
			first = err
		}
	}
	r.waited(longest)
	return first
}

// concerned returns the form in which a webhook sees the request, or nil if it is not about it.
func (d *dynamic) concerned(ctx context.Context, r *Request, h *hook) (*resource.Kind, error) {
	if h.problem != nil {
		return nil, apierrors.NewInternalError(h.problem)
	}
	form, err := h.match.match(ctx, r)
	if err != nil || form == nil || h.conditions == nil {
		return form, err
	}
	ok, err := h.conditions.hold(ctx, d, r, form, nil)
	switch {
	case err != nil && h.ignores():
		return nil, nil
	case err != nil:
		return nil, forbidden(r, err.Error())
	case !ok:
		return nil, nil
	}
	return form, nil
}

func (h *hook) ignores() bool {
	return h.spec.FailurePolicy != nil && *h.spec.FailurePolicy == admissionv1.Ignore
}

// tolerate drops the error of a call that came to nothing, if the webhook may fail; open is called then.
func (h *hook) tolerate(err error, open func()) error {
	var failed *callError
	if !errors.As(err, &failed) {
		return err
	}
	if h.ignores() {
		open()
		return nil
	}
	return apierrors.NewInternalError(failed)
}

// callError says that a webhook gave no proper answer.
type callError struct {
	name  string
	cause error
}

func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.name, e.cause)
}
func (e *callError) Unwrap() error { return e.cause }

// heed passes on warnings and audit annotations of a webhook.
func (r *Request) heed(h *hook, response *reviewv1.AdmissionResponse) {
	for key, value := range response.AuditAnnotations {
		r.Annotate(h.spec.Name+"/"+key, value)
	}
	for _, w := range response.Warnings {
		if printable(w) {
			r.Warn(w)
		}
	}
}

// printable tells whether a warning can be sent in a header.
func printable(s string) bool {
	for _, c := range s {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return s != ""
}

// denial is the error of a webhook that refuses.
func denial(h *hook, response *reviewv1.AdmissionResponse) error {
	status := metav1.Status{}
	if response.Result != nil {
		status = *response.Result
	}
	text := fmt.Sprintf("admission webhook %q denied the request", h.spec.Name)
	switch {
	case status.Message != "":
		text += ": " + status.Message
	case status.Reason != "":
		text += ": " + string(status.Reason)
	default:
		text += " without explanation"
	}
	status.Message = text
	if status.Status == "" || status.Status == metav1.StatusSuccess {
		status.Status = metav1.StatusFailure
	}
	if status.Code < http.StatusBadRequest {
		status.Code = http.StatusBadRequest
	}
	return denied{&apierrors.StatusError{ErrStatus: status}}
}

// call sends a review to a webhook. Errors are callErrors, or API errors about what was asked for.
func (d *dynamic) call(ctx context.Context, client *webhook.Client, r *Request, h *hook, form *resource.Kind) (*reviewv1.AdmissionResponse, error) {
	if r.DryRun && h.spec.SideEffects != nil && *h.spec.SideEffects != admissionv1.SideEffectClassNone && *h.spec.SideEffects != admissionv1.SideEffectClassNoneOnDryRun {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.spec.Name))
	}
	version := ""
	for _, v := range h.spec.AdmissionReviewVersions {
		if version == "" && (v == "v1" || v == "v1beta1") {
			version = v
		}
	}
	uid := uuid.NewUUID()
	body, err := r.review(form, version, uid)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	timeout := 10 * time.Second
	if s := h.spec.TimeoutSeconds; s != nil {
		timeout = time.Duration(*s) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := client.Post(ctx, &h.target, "timeout="+timeout.String(), body)
	var review *reviewv1.AdmissionReview
	if err == nil {
		review, err = reviewed(answer, version)
	}
	if err != nil {
		return nil, &callError{h.spec.Name, fmt.Errorf("failed to call webhook: %w", err)}
	}
	if err := checkResponse(review, version, uid); err != nil {
		return nil, &callError{h.spec.Name, fmt.Errorf("received invalid webhook response: %w", err)}
	}
	return review.Response, nil
}
