// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The signals of thresholds, see
// https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#eviction-signals.
const (
	signalMemory = "memory.available"
	signalDisk   = "nodefs.available"
	signalInodes = "nodefs.inodesFree"
)

// DefaultEvictionHard is what must be left of a node unless Config says otherwise.
const DefaultEvictionHard = signalMemory + "<100Mi," + signalDisk + "<5%," + signalInodes + "<5%"

// threshold is what must be left of something: an amount, or a part of all there is.
type threshold struct {
	amount uint64
	part   float64
}

// of returns the amount for something of which there is total.
func (t threshold) of(total uint64) uint64 { return t.amount + uint64(t.part*float64(total)) }

// parseThresholds reads what kubelets take as --eviction-hard: SIGNAL<QUANTITY or SIGNAL<PERCENTAGE, separated by commas. A signal that is
// not named has no threshold.
func parseThresholds(s string) (map[string]threshold, error) {
	thresholds := map[string]threshold{}
	for item := range strings.SplitSeq(s, ",") {
		signal, value, ok := strings.Cut(strings.TrimSpace(item), "<")
		_, twice := thresholds[signal]
		switch {
		case !ok:
			return nil, fmt.Errorf("%q is not SIGNAL<VALUE", item)
		case signal != signalMemory && signal != signalDisk && signal != signalInodes:
			return nil, fmt.Errorf("%q: unknown signal, one of %s, %s, %s", signal, signalMemory, signalDisk, signalInodes)
		case twice:
			return nil, fmt.Errorf("%q is given twice", signal)
		}
		if percent, ok := strings.CutSuffix(value, "%"); ok {
			p, err := strconv.ParseFloat(percent, 64)
			if err != nil || !(p >= 0 && p <= 100) {
				return nil, fmt.Errorf("%s: %q is not a percentage from 0%% to 100%%", signal, value)
			}
			thresholds[signal] = threshold{part: p / 100}
			continue
		}
		q, err := resource.ParseQuantity(value)
		if err != nil || q.Sign() < 0 {
			return nil, fmt.Errorf("%s: %q is not a quantity", signal, value)
		}
		thresholds[signal] = threshold{amount: uint64(q.Value())}
	}
	return thresholds, nil
}

// memoryPressure tells whether less memory is available than must be left.
func (a *Agent) memoryPressure() bool {
	total, err := meminfo("MemTotal")
	if err != nil {
		return false
	}
	available, err := meminfo("MemAvailable")
	return err == nil && uint64(available) < a.thresholds[signalMemory].of(uint64(total))
}

// diskPressure tells whether less of the agent's file system is available than must be left.
func (a *Agent) diskPressure() bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(a.config.DataDir, &fs); err != nil {
		return false
	}
	block := uint64(fs.Bsize)
	return fs.Bavail*block < a.thresholds[signalDisk].of(fs.Blocks*block) ||
		fs.Files > 0 && fs.Ffree < a.thresholds[signalInodes].of(fs.Files) // some file systems do not count them
}
