// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package simulated

import (
	"errors"
	"net/netip"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

var errNoAddress = errors.New("no address is free for the pod")

// addresses gives the addresses of one node's range to pods, round and round, so that one is not used again soon.
type addresses struct {
	prefix netip.Prefix

	mu   sync.Mutex
	last netip.Addr
	used map[netip.Addr]types.UID
	of   map[types.UID]netip.Addr
}

func newAddresses(prefix netip.Prefix) *addresses {
	first := prefix.Masked().Addr().Next() // the gateway's
	return &addresses{prefix: prefix.Masked(), last: first, used: map[netip.Addr]types.UID{}, of: map[types.UID]netip.Addr{}}
}

// give returns the address of a pod: the one it has, or the next free one.
func (a *addresses) give(uid types.UID) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ip, ok := a.of[uid]; ok {
		return ip.String(), nil
	}
	for ip, around := a.last.Next(), false; ; ip = ip.Next() {
		if !a.prefix.Contains(ip) || !a.prefix.Contains(ip.Next()) { // the last one is the broadcast address
			if around {
				return "", errNoAddress
			}
			ip, around = a.prefix.Addr().Next(), true // and on to the one after the gateway
			continue
		}
		if _, taken := a.used[ip]; !taken {
			a.used[ip], a.of[uid], a.last = uid, ip, ip
			return ip.String(), nil
		}
	}
}

// take notes that a pod has an address, unless another has it.
func (a *addresses) take(text string, uid types.UID) {
	ip, err := netip.ParseAddr(text)
	if err != nil || !a.prefix.Contains(ip) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, has := a.of[uid]
	if _, taken := a.used[ip]; !taken && !has {
		a.used[ip], a.of[uid] = uid, ip
	}
}

// free takes back what a pod has.
func (a *addresses) free(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.used, a.of[uid])
	delete(a.of, uid)
}
