// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package simulated

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/node/pod"
)

// Annotations say how a pod behaves on a simulated node. They may be changed while it runs. Durations are those of Go
// ("1m30s"). Run and ExitCode concern all regular containers; for one container, init containers too, use
// ContainerRun or ContainerExitCode followed by its name.
const (
	// Create, Start, Ready and Stop replace the Delays of the configuration. Ready may be "false": never, for now.
	Create = "simulated.knarr.dev/create"
	Start  = "simulated.knarr.dev/start"
	Ready  = "simulated.knarr.dev/ready"
	Stop   = "simulated.knarr.dev/stop"
	// Run is how long containers run before they end by themselves. Without it regular containers run until they
	// are stopped, and init containers end at once.
	Run          = "simulated.knarr.dev/run"
	ContainerRun = "run.simulated.knarr.dev/"
	// ExitCode is what containers end with by themselves; 0 without it. What is stopped ends with 143, or 137 if it took too
	// long.
	ExitCode          = "simulated.knarr.dev/exit-code"
	ContainerExitCode = "exit-code.simulated.knarr.dev/"
	// Down on a Node, if "true", makes it fall silent.
	Down = "simulated.knarr.dev/down"
)

func isDown(n *corev1.Node) bool { return n.Annotations[Down] == "true" }

// settings are how one pod behaves.
type settings struct {
	Delays
	unready bool
	pod     *corev1.Pod
}

// settingsOf reads a pod's annotations; the error names every bad one.
func settingsOf(p *corev1.Pod, delays Delays) (settings, error) {
	s := settings{Delays: delays, pod: p}
	var problems []error
	for _, d := range []struct {
		key string
		to  *time.Duration
	}{{Create, &s.Create}, {Start, &s.Start}, {Ready, &s.Ready}, {Stop, &s.Stop}} {
		text, ok := p.Annotations[d.key]
		switch {
		case !ok:
		case d.key == Ready && text == "false":
			s.unready = true
		case d.key == Ready && text == "true":
			s.Ready = 0
		default:
			v, err := duration(d.key, text)
			problems = append(problems, err)
			*d.to = v
		}
	}
	for _, c := range pod.Containers(p) {
		_, _, err := s.ends(c)
		problems = append(problems, err)
	}
	return s, errors.Join(problems...)
}

func duration(key, text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("annotation %s: %q is not a duration such as 5s", key, text)
	}
	return d, nil
}

// ends returns after which time a container ends by itself and with which code; a negative time is never.
func (s settings) ends(c pod.Spec) (after time.Duration, code int32, err error) {
	after = -1
	if c.Role == pod.Init {
		after = 0
	}
	look := func(all, one string) (key, value string, ok bool) {
		if value, ok = s.pod.Annotations[one+c.Name]; ok {
			return one + c.Name, value, true
		}
		if c.Role != pod.Regular {
			return "", "", false
		}
		value, ok = s.pod.Annotations[all]
		return all, value, ok
	}
	if key, text, ok := look(Run, ContainerRun); ok {
		if after, err = duration(key, text); err != nil {
			return -1, 0, err
		}
	}
	if key, text, ok := look(ExitCode, ContainerExitCode); ok {
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil {
			return -1, 0, fmt.Errorf("annotation %s: %q is not a number between 0 and 255", key, text)
		}
		code, after = int32(n), max(after, 0)
	}
	return after, code, nil
}
