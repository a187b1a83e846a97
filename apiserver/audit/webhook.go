// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"knarr.dev/apiserver/callout"
)

// Webhook posts events as an EventList. Put a Batch in front of it.
type Webhook struct {
	// Client reaches the webhook.
	Client *callout.Client
	Log    *slog.Logger
	// Stopping ends when the server stops; then nobody waits long for a webhook that does not answer.
	Stopping context.Context //nolint:containedctx // it is the life of the value
}

// How long one batch is tried, at work and at the end.
const (
	sendWithin = time.Minute
	lastWithin = 2 * time.Second
)

// Write implements Sink.
func (w *Webhook) Write(events ...*auditv1.Event) error {
	list := auditv1.EventList{TypeMeta: metav1.TypeMeta{Kind: "EventList", APIVersion: auditv1.SchemeGroupVersion.String()}}
	for _, e := range events {
		item := *e
		item.TypeMeta = metav1.TypeMeta{}
		list.Items = append(list.Items, item)
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendWithin)
	defer cancel()
	defer context.AfterFunc(w.Stopping, func() { time.AfterFunc(lastWithin, cancel) })()
	if err := w.Client.Post(ctx, &list, nil); err != nil {
		w.Log.Error("send audit events: they are lost", "events", len(events), "err", err)
		return err
	}
	return nil
}
