// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"knarr.dev/store"
)

// call is one operation of a concurrent history, and outcome what came of it. Writes are conditional on revisions that the caller
// saw, as those of API servers.
type call struct {
	read bool
	op   store.Op
}

type outcome struct {
	conflict bool
	value    string // of a read, or that a conflict was with
	modified int64  // 0 is absent
}

// register is one key, as a sequential history leaves it.
type register struct {
	value    string
	modified int64
	newest   int64 // revision of the last write
}

// registers is the model that a history must be linearizable to: each key is a register with compare-and-set.
func registers() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, o := range history {
				key := o.Input.(call).op.Key
				byKey[key] = append(byKey[key], o)
			}
			var all [][]porcupine.Operation
			for _, h := range byKey {
				all = append(all, h)
			}
			return all
		},
		Init: func() any { return register{} },
		Step: func(state, input, output any) (bool, any) {
			r, in, out := state.(register), input.(call), output.(outcome)
			holds := in.op.Expect == store.Any || in.op.Expect == r.modified
			switch {
			case in.read:
				return out.modified == r.modified && out.value == r.value, r
			case out.conflict:
				return !holds && out.modified == r.modified && out.value == r.value, r
			case !holds:
				return false, r
			case in.op.Value == nil && r.modified == 0: // nothing to delete
				return out.modified == 0, r
			case out.modified <= r.newest:
				return false, r
			case in.op.Value == nil:
				return true, register{newest: out.modified}
			}
			return true, register{string(in.op.Value), out.modified, out.modified}
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
	}
}

// testLinearizable lets clients read and write a few keys at once, and asks whether some order of these operations explains all answers.
func testLinearizable(t *testing.T, s store.Store, _ *Clock) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	const clients, each = 8, 60
	var mu sync.Mutex
	var history []porcupine.Operation
	var all sync.WaitGroup
	begin := time.Now()
	for id := range clients {
		random := rand.New(rand.NewPCG(seed, uint64(id)))
		all.Go(func() {
			seen := map[string]int64{}
			for i := range each {
				c := draw(random, seen, fmt.Sprintf("%d.%d", id, i))
				called := time.Since(begin)
				out, err := perform(t, s, c)
				returned := time.Since(begin)
				if err != nil {
					t.Error(err)
					return
				}
				seen[c.op.Key] = out.modified
				mu.Lock()
				history = append(history, porcupine.Operation{
					ClientId: id, Input: c, Call: called.Nanoseconds(), Output: out, Return: returned.Nanoseconds(),
				})
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if result := porcupine.CheckOperationsTimeout(registers(), history, time.Minute); result != porcupine.Ok {
		t.Errorf("the history is not linearizable: %v", result)
	}
}

func draw(r *rand.Rand, seen map[string]int64, value string) call {
	c := call{op: store.Op{Key: fmt.Sprintf("/register/%d", r.IntN(4))}}
	switch n := r.IntN(10); {
	case n < 4:
		c.read = true
	case n < 6:
		c.op.Expect = store.Any
	default:
		c.op.Expect = seen[c.op.Key]
	}
	if !c.read && r.IntN(4) > 0 {
		c.op.Value = []byte(value)
	}
	return c
}

func perform(t *testing.T, s store.Store, c call) (outcome, error) {
	if c.read {
		p, err := s.Read(t.Context(), store.Query{Key: c.op.Key})
		if err != nil || len(p.Records) == 0 {
			return outcome{}, err
		}
		return outcome{value: string(p.Records[0].Value), modified: p.Records[0].Modified}, nil
	}
	rec, err := s.Write(t.Context(), c.op)
	if errors.Is(err, store.ErrConflict) {
		if rec.Value == nil {
			rec.Modified = 0
		}
		return outcome{conflict: true, value: string(rec.Value), modified: rec.Modified}, nil
	}
	return outcome{modified: rec.Modified}, err
}
