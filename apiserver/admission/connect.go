// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Options are the parameters of a connection in the shape of an object, which they are for webhooks and policies. Their metadata
// is empty and not shown.
type Options struct {
	metav1.ObjectMeta
	options runtime.Object
}

// NewOptions wraps the parameters of a connection, such as PodExecOptions.
func NewOptions(o runtime.Object) *Options { return &Options{options: o} }

// GetObjectKind implements runtime.Object.
func (o *Options) GetObjectKind() schema.ObjectKind { return o.options.GetObjectKind() }

// DeepCopyObject implements runtime.Object.
func (o *Options) DeepCopyObject() runtime.Object {
	return &Options{ObjectMeta: *o.DeepCopy(), options: o.options.DeepCopyObject()}
}

// MarshalJSON shows the options alone.
func (o *Options) MarshalJSON() ([]byte, error) { return json.Marshal(o.options) }

// UnmarshalJSON takes what a webhook or policy made of the options. Connections do not heed it.
func (o *Options) UnmarshalJSON([]byte) error { return nil }
