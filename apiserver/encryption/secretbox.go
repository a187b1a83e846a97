// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"math/bits"
)

// secretbox is XSalsa20 and Poly1305 as NaCl's crypto_secretbox joins them (https://nacl.cr.yp.to/secretbox.html), with a random nonce of
// 24 bytes in front.
type secretbox struct{ key [32]byte }

const (
	boxNonce = 24
	boxTag   = 16
)

func newSecretbox(secret []byte) (provider, error) {
	s := secretbox{}
	copy(s.key[:], secret)
	return s, nil
}

func (s secretbox) encrypt(_ context.Context, plain, _ []byte) ([]byte, error) {
	out := make([]byte, boxNonce+boxTag+len(plain))
	rand.Read(out[:boxNonce]) // never fails
	stream := newStream(&s.key, out[:boxNonce])
	mac := stream.macKey()
	body := out[boxNonce+boxTag:]
	stream.xor(body, plain)
	tag := poly1305(body, &mac)
	copy(out[boxNonce:], tag[:])
	return out, nil
}

func (s secretbox) decrypt(_ context.Context, payload, _ []byte) ([]byte, bool, error) {
	if len(payload) < boxNonce+boxTag {
		return nil, false, errShort
	}
	stream := newStream(&s.key, payload[:boxNonce])
	mac := stream.macKey()
	body := payload[boxNonce+boxTag:]
	tag := poly1305(body, &mac)
	if subtle.ConstantTimeCompare(tag[:], payload[boxNonce:boxNonce+boxTag]) != 1 {
		return nil, false, errors.New("the secret box does not open with this key")
	}
	plain := make([]byte, len(body))
	stream.xor(plain, body)
	return plain, false, nil
}

// stream is the key stream of XSalsa20.
type stream struct {
	state [16]uint32
	block [64]byte
	at    int // of block
}

// sigma is "expand 32-byte k".
func sigma(x *[16]uint32) { x[0], x[5], x[10], x[15] = 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 }

// newStream derives a key from the first 16 bytes of the nonce (HSalsa20) and starts Salsa20 with the last 8.
func newStream(key *[32]byte, nonce []byte) *stream {
	var x [16]uint32
	sigma(&x)
	setKey(&x, key[:])
	for i := range 4 {
		x[6+i] = binary.LittleEndian.Uint32(nonce[4*i:])
	}
	rounds(&x)
	var derived [32]byte
	for i, w := range []uint32{x[0], x[5], x[10], x[15], x[6], x[7], x[8], x[9]} {
		binary.LittleEndian.PutUint32(derived[4*i:], w)
	}
	s := &stream{at: 64}
	sigma(&s.state)
	setKey(&s.state, derived[:])
	s.state[6], s.state[7] = binary.LittleEndian.Uint32(nonce[16:]), binary.LittleEndian.Uint32(nonce[20:])
	return s
}

func setKey(x *[16]uint32, key []byte) {
	for i := range 4 {
		x[1+i] = binary.LittleEndian.Uint32(key[4*i:])
		x[11+i] = binary.LittleEndian.Uint32(key[16+4*i:])
	}
}

// macKey takes the first 32 bytes of the stream.
func (s *stream) macKey() (key [32]byte) {
	s.xor(key[:], key[:])
	return key
}

func (s *stream) xor(dst, src []byte) {
	for len(src) > 0 {
		if s.at == len(s.block) {
			s.next()
		}
		n := subtle.XORBytes(dst, src, s.block[s.at:])
		s.at += n
		dst, src = dst[n:], src[n:]
	}
}

// next makes the next block; the counter is in words 8 and 9.
func (s *stream) next() {
	x := s.state
	rounds(&x)
	for i := range x {
		binary.LittleEndian.PutUint32(s.block[4*i:], x[i]+s.state[i])
	}
	s.at = 0
	if s.state[8]++; s.state[8] == 0 {
		s.state[9]++
	}
}

// rounds are the 20 rounds of Salsa20.
func rounds(x *[16]uint32) {
	quarter := func(a, b, c, d int) {
		x[b] ^= bits.RotateLeft32(x[a]+x[d], 7)
		x[c] ^= bits.RotateLeft32(x[b]+x[a], 9)
		x[d] ^= bits.RotateLeft32(x[c]+x[b], 13)
		x[a] ^= bits.RotateLeft32(x[d]+x[c], 18)
	}
	for range 10 {
		quarter(0, 4, 8, 12)
		quarter(5, 9, 13, 1)
		quarter(10, 14, 2, 6)
		quarter(15, 3, 7, 11)
		quarter(0, 1, 2, 3)
		quarter(5, 6, 7, 4)
		quarter(10, 11, 8, 9)
		quarter(15, 12, 13, 14)
	}
}

// poly1305 is the authenticator of RFC 8439, section 2.5, in limbs of 26 bits.
func poly1305(message []byte, key *[32]byte) (tag [16]byte) {
	const mask = 1<<26 - 1
	word := func(b []byte, i int) uint64 { return uint64(binary.LittleEndian.Uint32(b[i:])) }
	k := key[:]
	r := [5]uint64{
		word(k, 0) & 0x3ffffff, word(k, 3) >> 2 & 0x3ffff03, word(k, 6) >> 4 & 0x3ffc0ff, word(k, 9) >> 6 & 0x3f03fff, word(k, 12) >> 8 & 0x00fffff,
	}
	var h [5]uint64
	for len(message) > 0 {
		var block [17]byte
		n := copy(block[:16], message)
		block[n] = 1
		message = message[n:]
		b := block[:]
		h[0] += word(b, 0) & mask
		h[1] += word(b, 3) >> 2 & mask
		h[2] += word(b, 6) >> 4 & mask
		h[3] += word(b, 9) >> 6 & mask
		h[4] += word(b, 12)>>8 | uint64(block[16])<<24
		var d [5]uint64
		for i := range 5 {
			for j := range 5 {
				if i >= j {
					d[i] += h[j] * r[i-j]
				} else {
					d[i] += h[j] * r[5+i-j] * 5
				}
			}
		}
		var carry uint64
		for i := range 5 {
			d[i] += carry
			carry, h[i] = d[i]>>26, d[i]&mask
		}
		h[0] += carry * 5
		h[1] += h[0] >> 26
		h[0] &= mask
	}
	return finish(h, key)
}

// finish reduces the sum modulo 2^130-5 and adds the second half of the key.
func finish(h [5]uint64, key *[32]byte) (tag [16]byte) {
	const mask = 1<<26 - 1
	for range 2 {
		var carry uint64
		for i := range 5 {
			h[i] += carry
			carry, h[i] = h[i]>>26, h[i]&mask
		}
		h[0] += carry * 5
	}
	h[1] += h[0] >> 26
	h[0] &= mask
	var g [5]uint64 // h + 5 - 2^130
	carry := uint64(5)
	for i := range 5 {
		g[i] = h[i] + carry
		carry, g[i] = g[i]>>26, g[i]&mask
	}
	choose := -carry // all ones if h is not less than the modulus
	for i := range 5 {
		h[i] = h[i]&^choose | g[i]&choose
	}
	low := h[0] | h[1]<<26 | h[2]<<52
	high := h[2]>>12 | h[3]<<14 | h[4]<<40
	low, c := bits.Add64(low, binary.LittleEndian.Uint64(key[16:]), 0)
	high, _ = bits.Add64(high, binary.LittleEndian.Uint64(key[24:]), c)
	binary.LittleEndian.PutUint64(tag[:], low)
	binary.LittleEndian.PutUint64(tag[8:], high)
	return tag
}
