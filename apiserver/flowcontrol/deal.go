// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

// Numbers of the hash FNV-1a, of 64 bits.
const (
	fnvOffset uint64 = 14695981039346656037
	fnvPrime  uint64 = 1099511628211
)

// extend goes on with a hash.
func extend(hash uint64, s string) uint64 {
	for i := range len(s) {
		hash = (hash ^ uint64(s[i])) * fnvPrime
	}
	return hash
}

// mix spreads what differs in the last letters of names over all bits.
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// maxHand bounds hands: the falling factorial of queues and hand size is below 2^60, so that no hand is larger than 19.
const maxHand = 32

// deal gives a flow its hand: distinct queues out of n, by shuffle sharding. It returns how many, at most n.
//
// See KEP-1040, "Assignment to a Queue".
func deal(hash uint64, n, size int, hand *[maxHand]int32) int {
	size = min(size, n, maxHand)
	var sorted [maxHand]int32
	for i := range size {
		left := uint64(n - i)
		card := int32(hash % left)
		hash /= left
		// card counts only those that are not dealt yet; sorted are those that are, in order.
		j := 0
		for j < i && sorted[j] <= card {
			card++
			j++
		}
		copy(sorted[j+1:i+1], sorted[j:i])
		sorted[j], hand[i] = card, card
	}
	return size
}
