// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
)

var errShort = errors.New("the stored data was shorter than the required size")

// identity stores plain values.
type identity struct{}

func (identity) encrypt(_ context.Context, plain, _ []byte) ([]byte, error) { return plain, nil }

func (identity) decrypt(_ context.Context, payload, _ []byte) ([]byte, bool, error) {
	return payload, false, nil
}

// gcm is AES-GCM with a random nonce of 12 bytes in front; the record's key is authenticated too.
type gcm struct{ aead cipher.AEAD }

func newGCM(secret []byte) (provider, error) {
	aead, err := newAEAD(secret)
	return gcm{aead}, err
}

func newAEAD(secret []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (g gcm) encrypt(_ context.Context, plain, about []byte) ([]byte, error) {
	return seal(g.aead, nil, plain, about), nil
}

func (g gcm) decrypt(_ context.Context, payload, about []byte) ([]byte, bool, error) {
	plain, err := open(g.aead, payload, about)
	return plain, false, err
}

// seal appends nonce and ciphertext to dst.
func seal(aead cipher.AEAD, dst, plain, about []byte) []byte {
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce) // never fails
	dst = append(dst, nonce...)
	return aead.Seal(dst, nonce, plain, about)
}

func open(aead cipher.AEAD, payload, about []byte) ([]byte, error) {
	n := aead.NonceSize()
	if len(payload) < n {
		return nil, errShort
	}
	return aead.Open(nil, payload[:n], payload[n:], about)
}

// cbc is AES-CBC with a random first block and PKCS #7 padding. It does not authenticate.
type cbc struct{ block cipher.Block }

func newCBC(secret []byte) (provider, error) {
	block, err := aes.NewCipher(secret)
	return cbc{block}, err
}

func (c cbc) encrypt(_ context.Context, plain, _ []byte) ([]byte, error) {
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	out := make([]byte, aes.BlockSize+len(plain)+pad)
	rand.Read(out[:aes.BlockSize]) // never fails
	body := out[aes.BlockSize:]
	copy(body, plain)
	for i := len(plain); i < len(body); i++ {
		body[i] = byte(pad)
	}
	cipher.NewCBCEncrypter(c.block, out[:aes.BlockSize]).CryptBlocks(body, body)
	return out, nil
}

var errPadding = errors.New("invalid PKCS7 padding")

func (c cbc) decrypt(_ context.Context, payload, _ []byte) ([]byte, bool, error) {
	if len(payload) < 2*aes.BlockSize {
		return nil, false, errShort
	}
	if len(payload)%aes.BlockSize != 0 {
		return nil, false, errors.New("the stored data is not a multiple of the block size")
	}
	plain := make([]byte, len(payload)-aes.BlockSize)
	cipher.NewCBCDecrypter(c.block, payload[:aes.BlockSize]).CryptBlocks(plain, payload[aes.BlockSize:])
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > aes.BlockSize {
		return nil, false, errPadding
	}
	for _, b := range plain[len(plain)-pad:] {
		if int(b) != pad {
			return nil, false, errPadding
		}
	}
	return plain[:len(plain)-pad], false, nil
}
