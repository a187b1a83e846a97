// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
)

func TestDangling(t *testing.T) {
	schema := &flowcontrolv1.FlowSchema{Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "here"},
	}}
	known := map[string]bool{}
	setDangling(schema, known)
	first := *conditionOf(schema)
	if first.Status != flowcontrolv1.ConditionTrue || first.Reason != "NotFound" {
		t.Errorf("without a level: %+v", first)
	}
	setDangling(schema, known)
	known["here"] = true
	setDangling(schema, known)
	if c := conditionOf(schema); c.Status != flowcontrolv1.ConditionFalse || c.Message != `This FlowSchema references the PriorityLevelConfiguration object named "here" and it exists` {
		t.Errorf("with a level: %+v", c)
	}
	if n := len(schema.Status.Conditions); n != 1 {
		t.Errorf("%d conditions, want 1", n)
	}
	if n := len(schema.ManagedFields); n != 1 {
		t.Fatalf("%d managers, want 1", n)
	}
	if _, err := json.Marshal(schema.ManagedFields[0]); err != nil {
		t.Error(err)
	}
}
