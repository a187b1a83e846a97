// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	_ "embed"
	"strings"

	"knarr.dev/apiserver/measure"
)

//go:embed features.txt
var featureGates string

// tellFeatures adds which of Kubernetes' features act. None can be switched: the server does what Kubernetes does by default.
func tellFeatures(set *measure.Set) {
	set.Read("kubernetes_feature_enabled", "[BETA] This metric records the data about the stage and enablement of a k8s feature.", []string{"name", "stage"},
		func(tell func(float64, ...string)) {
			for line := range strings.Lines(featureGates) {
				fields := strings.Fields(line)
				if len(fields) != 3 || fields[0] == "#" {
					continue
				}
				value, stage := 0.0, fields[1]
				if fields[2] == "1" {
					value = 1
				}
				if stage == "-" {
					stage = ""
				}
				tell(value, fields[0], stage)
			}
		})
}
