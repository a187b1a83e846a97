// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/store"
)

// Keys keeps what servers on one store share and what is no object of the API; store.Store is one.
type Keys interface {
	Read(ctx context.Context, q store.Query) (store.Page, error)
	Write(ctx context.Context, op store.Op) (store.Record, error)
}

// portsKey holds the node ports that are taken, as kube-apiserver keeps them: a RangeAllocation whose data has a bit for each port.
const portsKey = "/registry/ranges/servicenodeports"

// portAttempts bounds how often one request tries to take ports while other servers take some too.
const portAttempts = 16

// sharedPorts are the node ports that servers on one store have taken.
type sharedPorts struct {
	keys  Keys
	ports [2]int
}

// portBits are the ports that were taken as of a revision of the key.
type portBits struct {
	bits     *big.Int
	revision int64
	foreign  bool // it is about another range
}

func (p *sharedPorts) name() string { return fmt.Sprintf("%d-%d", p.ports[0], p.ports[1]) }

func (p *sharedPorts) has(port int32) bool { return int(port) >= p.ports[0] && int(port) <= p.ports[1] }

func (p *sharedPorts) read(ctx context.Context) (portBits, error) {
	page, err := p.keys.Read(ctx, store.Query{Key: portsKey})
	if err != nil {
		return portBits{}, fmt.Errorf("read the node ports that are taken: %w", err)
	}
	out := portBits{bits: new(big.Int), revision: store.Absent}
	if len(page.Records) == 0 {
		return out, nil
	}
	out.revision = page.Records[0].Modified
	r, err := decodeRange(page.Records[0].Value)
	if err != nil || r.Range != p.name() {
		out.foreign = true // the next repair writes it anew
		return out, nil
	}
	out.bits.SetBytes(r.Data)
	return out, nil
}

// write replaces what was read; false means that somebody else was faster.
func (p *sharedPorts) write(ctx context.Context, was portBits, bits *big.Int) (bool, error) {
	if !was.foreign && was.revision != store.Absent && was.bits.Cmp(bits) == 0 {
		return true, nil
	}
	value, err := encodeRange(&corev1.RangeAllocation{Range: p.name(), Data: bits.Bytes()})
	if err != nil {
		return false, err
	}
	_, err = p.keys.Write(ctx, store.Op{Key: portsKey, Value: value, Expect: was.revision})
	if errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// release frees ports. Those that stay behind because of an error go with a later repair.
func (p *sharedPorts) release(ctx context.Context, ports []int32) {
	ctx = context.WithoutCancel(ctx)
	for range portAttempts {
		was, err := p.read(ctx)
		if err != nil || was.foreign {
			return
		}
		bits := new(big.Int).Set(was.bits)
		for _, port := range ports {
			if p.has(port) {
				bits.SetBit(bits, int(port)-p.ports[0], 0)
			}
		}
		if done, err := p.write(ctx, was, bits); done || err != nil {
			return
		}
	}
}

func decodeRange(value []byte) (*corev1.RangeAllocation, error) {
	raw, ok := bytes.CutPrefix(value, protobufPrefix())
	if !ok {
		return nil, errors.New("not in protobuf")
	}
	var u runtime.Unknown
	if err := u.Unmarshal(raw); err != nil {
		return nil, err
	}
	r := &corev1.RangeAllocation{}
	return r, r.Unmarshal(u.Raw)
}

func encodeRange(r *corev1.RangeAllocation) ([]byte, error) {
	raw, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "RangeAllocation"}, Raw: raw}
	value, err := u.Marshal()
	return append(protobufPrefix(), value...), err
}

func protobufPrefix() []byte { return []byte("k8s\x00") }

// portsOf are the node ports that a Service has.
func portsOf(s *corev1.Service) (out []int32) {
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, p.NodePort)
		}
	}
	if s.Spec.HealthCheckNodePort != 0 {
		out = append(out, s.Spec.HealthCheckNodePort)
	}
	return out
}

// takePorts gives the Service its node ports, such that no other server gives the same away.
func (a *allocation) takePorts(ctx context.Context) error {
	shared, spec := a.s.shared, &a.service.Spec
	asks := hasNodePorts(a.service) || hasHealthPort(a.service) || len(portsOf(a.service)) > 0
	if shared == nil || a.request.DryRun || !asks {
		return a.nodePorts()
	}
	asked, health := make([]int32, len(spec.Ports)), spec.HealthCheckNodePort
	for i := range spec.Ports {
		asked[i] = spec.Ports[i].NodePort
	}
	for range portAttempts {
		was, err := shared.read(ctx)
		if err != nil {
			return err
		}
		a.ports = was.bits
		if err := a.nodePorts(); err != nil {
			return err
		}
		var added []int32
		bits := new(big.Int).Set(was.bits)
		for what := range a.mine {
			if port, ok := what.(nodePort); ok && !a.own[what] && shared.has(int32(port)) {
				added = append(added, int32(port))
				bits.SetBit(bits, int(port)-shared.ports[0], 1)
			}
		}
		if len(added) == 0 {
			return nil
		}
		done, err := shared.write(ctx, was, bits)
		if done {
			a.request.Undo(func() { shared.release(ctx, added) })
		}
		if done || err != nil {
			return err
		}
		a.asked, a.mine = map[port]bool{}, taken{}
		spec.HealthCheckNodePort = health
		for i := range spec.Ports {
			spec.Ports[i].NodePort = asked[i]
		}
	}
	return apierrors.NewInternalError(errors.New("failed to allocate a nodePort: other servers take too many at once"))
}

// repair makes the key say what Services have. A port that no Service has is freed the third time in a row that it is found so:
// it may be on its way to a Service. leaks counts these times.
func (p *sharedPorts) repair(ctx context.Context, objects Store, leaks map[int]int) error {
	was, err := p.read(ctx)
	if err != nil {
		return err
	}
	has := new(big.Int)
	err = objects.List(ctx, core.Services.Kind, "", func(o resource.Object) bool {
		for _, port := range portsOf(core.Services.Cast(o)) {
			if p.has(port) {
				has.SetBit(has, int(port)-p.ports[0], 1)
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	bits := new(big.Int).Or(was.bits, has)
	for i := range was.bits.BitLen() {
		if was.bits.Bit(i) == 0 || has.Bit(i) == 1 {
			delete(leaks, i)
			continue
		}
		if leaks[i]++; leaks[i] >= 3 {
			bits.SetBit(bits, i, 0)
			delete(leaks, i)
		}
	}
	_, err = p.write(ctx, was, bits) // if somebody else was faster, the next time does it
	return err
}
