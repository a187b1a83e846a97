// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package audit records who did what, as an audit policy asks for it, in log files or at a webhook.
//
// An Auditor makes a Record for each request that its policy wants to know of, and hands finished events to its sinks. A Record
// follows one request; nil is a valid one that records nothing, so a server without audit pays for nothing. See
// https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"knarr.dev/api/call"
)

// Sink takes events. They are shared: it must not change them. It logs what goes wrong itself.
type Sink interface {
	// Write returns an error if events are lost.
	Write(events ...*auditv1.Event) error
}

// Strict makes requests fail whose arrival a sink cannot take down.
type Strict struct{ Sink }

// ErrNotStored says that the arrival of a request was not taken down by a sink that is strict: it must not be served.
var ErrNotStored = errors.New("failed to store audit event")

// Auditor records requests.
type Auditor struct {
	policy *Policy
	sinks  []Sink
	now    func() time.Time
	events prometheus.Counter
	levels *prometheus.CounterVec
	// rejected counts requests that were refused because their arrival was not taken down.
	rejected prometheus.Counter
}

// New returns an auditor; now is time.Now if nil. Its metrics are named as Kubernetes names them; metrics may be nil.
func New(policy *Policy, sinks []Sink, now func() time.Time, metrics *prometheus.Registry) *Auditor {
	if now == nil {
		now = time.Now
	}
	a := &Auditor{
		policy: policy, sinks: sinks, now: now,
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apiserver_audit_event_total", Help: "Counter of audit events generated and sent to the audit backend.",
		}),
		levels: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_audit_level_total", Help: "Counter of policy levels for audit events (1 per request).",
		}, []string{"level"}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apiserver_audit_requests_rejected_total", Help: "Counter of apiserver requests rejected due to an error in audit logging backend.",
		}),
	}
	if metrics != nil {
		metrics.MustRegister(a.events, a.levels, a.rejected)
	}
	return a
}

// Origin says where a request comes from.
type Origin struct {
	ID, URI, UserAgent string
	SourceIPs          []string
	Received           time.Time
}

// Begin returns the record of a request, or nil if the policy does not want it.
func (a *Auditor) Begin(r *Request, o Origin) *Record {
	v := a.policy.decide(r)
	a.levels.WithLabelValues(string(v.level)).Inc()
	if v.level == auditv1.LevelNone {
		return nil
	}
	rec := &Record{auditor: a, verdict: v, event: auditv1.Event{
		TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: auditv1.SchemeGroupVersion.String()},
		Level:    v.level, AuditID: types.UID(o.ID), RequestURI: o.URI, Verb: r.Verb, SourceIPs: o.SourceIPs, UserAgent: cut(o.UserAgent),
		RequestReceivedTimestamp: metav1.NewMicroTime(o.Received),
	}}
	if r.User != nil {
		rec.event.User = r.User.UserInfo()
	}
	if r.Path == "" {
		rec.event.ObjectRef = &auditv1.ObjectReference{
			Resource: r.Resource, Subresource: r.Subresource, Namespace: r.Namespace, Name: r.Name, APIGroup: r.Group, APIVersion: r.Version,
		}
	}
	return rec
}

// maxUserAgent bounds what clients say about themselves.
const maxUserAgent = 1024

func cut(agent string) string {
	if len(agent) <= maxUserAgent {
		return agent
	}
	return agent[:maxUserAgent] + "...TRUNCATED"
}

// Record gathers what is to be said about one request. Its methods may be called on nil.
type Record struct {
	auditor *Auditor
	verdict verdict

	mu    sync.Mutex
	event auditv1.Event
}

type recordKey struct{}

// With returns a context that carries r.
func With(ctx context.Context, r *Record) context.Context {
	if r == nil {
		return ctx
	}
	return context.WithValue(ctx, recordKey{}, r)
}

// Of returns the record of a request, or nil.
func Of(ctx context.Context) *Record {
	r, _ := ctx.Value(recordKey{}).(*Record)
	return r
}

// Annotate adds an annotation to the record of a request, if there is one.
func Annotate(ctx context.Context, key, value string) { Of(ctx).Annotate(key, value) }

// Annotate adds an annotation; the first value of a key stays.
func (r *Record) Annotate(key, value string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.event.Annotations[key]; ok {
		return
	}
	if r.event.Annotations == nil {
		r.event.Annotations = map[string]string{}
	}
	r.event.Annotations[key] = value
}

// Decided says what authorization came to.
func (r *Record) Decided(allowed bool, reason string) {
	if r == nil {
		return
	}
	decision := "forbid"
	if allowed {
		decision = "allow"
	}
	r.Annotate("authorization.k8s.io/decision", decision)
	r.Annotate("authorization.k8s.io/reason", reason)
}

// Impersonated says as whom the user acts, and within which constraint, if any ("impersonate:user-info").
func (r *Record) Impersonated(user *call.Identity, constraint string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	info := user.UserInfo()
	r.event.ImpersonatedUser = &info
	if constraint != "" {
		r.event.AuthenticationMetadata = &auditv1.AuthenticationMetadata{ImpersonationConstraint: constraint}
	}
}

// WantsRequest says whether the body of the request is recorded.
func (r *Record) WantsRequest() bool {
	return r != nil && (r.event.Level == auditv1.LevelRequest || r.event.Level == auditv1.LevelRequestResponse)
}

// WantsResponse says whether the body of the answer is recorded.
func (r *Record) WantsResponse() bool {
	return r != nil && r.event.Level == auditv1.LevelRequestResponse
}

// Request records the body of the request, JSON, if it is wanted. about is the object's metadata, or nil.
func (r *Record) Request(body []byte, about metav1.Object) {
	if !r.WantsRequest() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.event.RequestObject = r.object(body)
	if ref := r.event.ObjectRef; ref != nil && about != nil {
		if ref.Name == "" {
			ref.Name = about.GetName()
		}
		if ref.Namespace == "" {
			ref.Namespace = about.GetNamespace()
		}
		if ref.UID == "" {
			ref.UID = about.GetUID()
		}
		if ref.ResourceVersion == "" {
			ref.ResourceVersion = about.GetResourceVersion()
		}
	}
}

// Named says what a created object is called, if the request did not.
func (r *Record) Named(name string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if ref := r.event.ObjectRef; ref != nil && ref.Name == "" {
		ref.Name = name
	}
}

// Response records the body of the answer, JSON, if it is wanted.
func (r *Record) Response(body []byte) {
	if !r.WantsResponse() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.event.ResponseObject = r.object(body)
}

// object needs mu.
func (r *Record) object(body []byte) *runtime.Unknown {
	if r.verdict.omitManagedFields {
		body = withoutManagedFields(body)
	}
	return &runtime.Unknown{Raw: body, ContentType: runtime.ContentTypeJSON}
}

// withoutManagedFields takes metadata.managedFields away from an object or the items of a list.
func withoutManagedFields(body []byte) []byte {
	var o map[string]json.RawMessage
	if json.Unmarshal(body, &o) != nil {
		return body
	}
	if items, ok := o["items"]; ok {
		var list []json.RawMessage
		if json.Unmarshal(items, &list) == nil {
			for i := range list {
				list[i] = withoutManagedFields(list[i])
			}
			if b, err := json.Marshal(list); err == nil {
				o["items"] = b
			}
		}
	} else {
		var meta map[string]json.RawMessage
		if json.Unmarshal(o["metadata"], &meta) != nil || meta["managedFields"] == nil {
			return body
		}
		delete(meta, "managedFields")
		if b, err := json.Marshal(meta); err == nil {
			o["metadata"] = b
		}
	}
	b, err := json.Marshal(o)
	if err != nil {
		return body
	}
	return b
}

// Status records the Status that the answer is.
func (r *Record) Status(s *metav1.Status) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	copied := *s
	copied.TypeMeta = metav1.TypeMeta{}
	r.event.ResponseStatus = &copied
}

// Received says that the request has come in. It returns ErrNotStored if the request must not be served.
func (r *Record) Received() error { return r.emit(auditv1.StageRequestReceived, 0) }

// Started says that the header of an answer without end was sent.
func (r *Record) Started(code int) { _ = r.emit(auditv1.StageResponseStarted, code) }

// Complete says that the answer was sent.
func (r *Record) Complete(code int) { _ = r.emit(auditv1.StageResponseComplete, code) }

// Panicked says that serving the request failed badly.
func (r *Record) Panicked() { _ = r.emit(auditv1.StagePanic, http.StatusInternalServerError) }

func (r *Record) emit(stage auditv1.Stage, code int) error {
	if r == nil || slices.Contains(r.verdict.omitStages, stage) {
		return nil
	}
	r.mu.Lock()
	e := r.event
	e.Annotations = maps.Clone(e.Annotations)
	if e.ObjectRef != nil {
		ref := *e.ObjectRef
		e.ObjectRef = &ref
	}
	r.mu.Unlock()
	e.Stage, e.StageTimestamp = stage, metav1.NewMicroTime(r.auditor.now())
	if code != 0 {
		status := metav1.Status{}
		if e.ResponseStatus != nil {
			status = *e.ResponseStatus
		}
		status.Code = int32(code)
		e.ResponseStatus = &status
	}
	r.auditor.events.Inc()
	var lost error
	for _, s := range r.auditor.sinks {
		err := s.Write(&e)
		if _, strict := s.(Strict); strict && err != nil && stage == auditv1.StageRequestReceived {
			lost = ErrNotStored
		}
	}
	if lost != nil {
		r.auditor.rejected.Inc()
	}
	return lost
}
