// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/util/uuid"
	kmsapi "k8s.io/kms/apis/v2"
)

// kms encrypts with keys that are derived from a seed, which a key service (KMS v2) keeps the key of.
//
// See https://github.com/kubernetes/enhancements/tree/master/keps/sig-auth/3299-kms-v2-improvements. A seed is made at the first write and
// whenever the service has another key; the service is asked for its state at most once a minute.
type kms struct {
	name, endpoint string
	timeout        time.Duration
	log            *slog.Logger
	conn           *grpc.ClientConn
	client         kmsapi.KeyManagementServiceClient
	now            func() time.Time
	figures        *figures

	mu      sync.Mutex
	keyID   string    // of the service, as of asked
	asked   time.Time // when the service was asked last
	writing *seed
	known   map[[sha256.Size]byte][]byte // seeds and keys, by the hash of how they are stored
}

// seed is what writes use.
type seed struct {
	secret []byte
	object encrypted // without data
}

const (
	// askEvery is how often the service is asked which key it has.
	askEvery = time.Minute
	// seedSize is that of seeds, derived keys and the information that goes into them.
	seedSize = 32
	// maxKnown bounds the seeds that are remembered; there is one for each start and each key of the service.
	maxKnown = 1000
)

func newKMS(name, endpoint string, timeout time.Duration, log *slog.Logger) (*kms, error) {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &kms{
		name: name, endpoint: endpoint, timeout: timeout, log: log, conn: conn, client: kmsapi.NewKeyManagementServiceClient(conn),
		now: time.Now, known: map[[sha256.Size]byte][]byte{},
	}, nil
}

// close ends the connections at once.
func (r *rules) close() {
	for _, k := range r.kms {
		_ = k.conn.Close()
	}
}

// retire ends the connections when requests that use them are over.
func (r *rules) retire() {
	if len(r.kms) > 0 {
		time.AfterFunc(time.Minute, r.close)
	}
}

func (k *kms) encrypt(ctx context.Context, plain, about []byte) ([]byte, error) {
	s, err := k.present(ctx)
	if err != nil {
		return nil, fmt.Errorf("key service %s: %w", k.name, err)
	}
	info := make([]byte, seedSize)
	rand.Read(info) // never fails
	object := s.object
	if object.data, err = sealDerived(s.secret, info, plain, about); err != nil {
		return nil, err
	}
	return object.marshal(), nil
}

func (k *kms) decrypt(ctx context.Context, payload, about []byte) ([]byte, bool, error) {
	var object encrypted
	if err := object.unmarshal(payload); err != nil {
		return nil, false, err
	}
	secret, err := k.secret(ctx, &object)
	if err != nil {
		return nil, false, fmt.Errorf("key service %s: %w", k.name, err)
	}
	var plain []byte
	switch object.sourceType {
	case keySource:
		aead, err := newAEAD(secret)
		if err != nil {
			return nil, false, err
		}
		plain, err = open(aead, object.data, about)
		if err != nil {
			return nil, false, err
		}
	case seedSource:
		if plain, err = openDerived(secret, object.data, about); err != nil {
			return nil, false, err
		}
	default:
		return nil, false, fmt.Errorf("unknown encryptedDEKSourceType %d", object.sourceType)
	}
	return plain, object.sourceType != seedSource || k.isOther(ctx, object.keyID), nil
}

// isOther says whether the service has another key by now.
func (k *kms) isOther(ctx context.Context, keyID string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.ask(ctx); err != nil {
		return false // nobody could write it again
	}
	return keyID != k.keyID
}

// ask needs mu. It asks the service for its key, unless it did so lately.
func (k *kms) ask(ctx context.Context) error {
	now := k.now()
	if k.keyID != "" && now.Sub(k.asked) < askEvery {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	began := k.now()
	status, err := k.client.Status(ctx, &kmsapi.StatusRequest{})
	k.figures.called(k, "Status", began, err)
	switch {
	case err != nil:
		return fmt.Errorf("status: %w", err)
	case status.Healthz != "ok":
		return fmt.Errorf("status: got unexpected healthz status: %s", status.Healthz)
	case status.Version != "v2" && status.Version != "v2beta1":
		return fmt.Errorf("status: it speaks version %q, not v2", status.Version)
	case status.KeyId == "" || len(status.KeyId) > maxKeyID:
		return errors.New("status: the key ID is empty or longer than 1 kB")
	}
	k.keyID, k.asked = status.KeyId, now
	return nil
}

// Limits of what the service may return.
const (
	maxKeyID      = 1 << 10
	maxSource     = 1 << 10
	maxAnnotation = 32 << 10
)

// present is the seed for writes.
func (k *kms) present(ctx context.Context) (*seed, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.ask(ctx); err != nil {
		if k.writing == nil {
			return nil, err
		}
		k.log.Warn("the key service does not answer; the last seed stays in use", "name", k.name, "err", err)
		k.asked = k.now()
		return k.writing, nil
	}
	if k.writing != nil && k.writing.object.keyID == k.keyID {
		return k.writing, nil
	}
	secret := make([]byte, seedSize)
	rand.Read(secret) // never fails
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	began := k.now()
	answer, err := k.client.Encrypt(ctx, &kmsapi.EncryptRequest{Uid: string(uuid.NewUUID()), Plaintext: secret})
	k.figures.called(k, "Encrypt", began, err)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	size := 0
	for name, value := range answer.Annotations {
		size += len(name) + len(value)
	}
	switch {
	case len(answer.Ciphertext) == 0 || len(answer.Ciphertext) > maxSource:
		return nil, errors.New("encrypt: the ciphertext is empty or longer than 1 kB")
	case answer.KeyId == "" || len(answer.KeyId) > maxKeyID:
		return nil, errors.New("encrypt: the key ID is empty or longer than 1 kB")
	case size > maxAnnotation:
		return nil, errors.New("encrypt: the annotations are longer than 32 kB")
	}
	k.writing = &seed{secret: secret, object: encrypted{
		keyID: answer.KeyId, source: answer.Ciphertext, annotations: answer.Annotations, sourceType: seedSource,
	}}
	k.keyID = answer.KeyId
	k.remember(&k.writing.object, secret)
	return k.writing, nil
}

// secret returns the seed or key that an object was encrypted with.
func (k *kms) secret(ctx context.Context, o *encrypted) ([]byte, error) {
	k.mu.Lock()
	known := k.known[o.sum()]
	k.mu.Unlock()
	if known != nil {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	began := k.now()
	answer, err := k.client.Decrypt(ctx, &kmsapi.DecryptRequest{
		Uid: string(uuid.NewUUID()), KeyId: o.keyID, Ciphertext: o.source, Annotations: o.annotations,
	})
	k.figures.called(k, "Decrypt", began, err)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.remember(o, answer.Plaintext)
	return answer.Plaintext, nil
}

// remember needs mu.
func (k *kms) remember(o *encrypted, secret []byte) {
	if len(k.known) >= maxKnown {
		clear(k.known)
	}
	k.known[o.sum()] = secret
	k.figures.remembers(k, len(k.known))
}

// sealDerived encrypts with a key that is derived from the seed and information of its own, which goes in front.
func sealDerived(secret, info, plain, about []byte) ([]byte, error) {
	key, err := hkdf.Expand(sha256.New, secret, string(info), seedSize)
	if err != nil {
		return nil, err
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return seal(aead, append(make([]byte, 0, len(info)+len(plain)+32), info...), plain, about), nil
}

func openDerived(secret, data, about []byte) ([]byte, error) {
	if len(data) < seedSize {
		return nil, errShort
	}
	key, err := hkdf.Expand(sha256.New, secret, string(data[:seedSize]), seedSize)
	if err != nil {
		return nil, err
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return open(aead, data[seedSize:], about)
}
