package deliverytest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"maps"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
)

// keyID is the id of a server's nth key: ed25519:1 for its first.
func keyID(n int) string { return fmt.Sprintf("ed25519:%d", n) }

// signingKey is a server's nth key.
func signingKey(server string, n int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "%s %d", server, n))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Key is the key with which a server signs now. Every server publishes its keys, also a server that is not a Delivery
// Service.
func (w *World) Key(server string) ed25519.PrivateKey { return signingKey(server, w.keyCount(server)) }

// KeyID is the id of Key.
func (w *World) KeyID(server string) string { return keyID(w.keyCount(server)) }

// keyCount returns the number of keys that a server has had. The last one is current.
func (w *World) keyCount(server string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.retired[server]) + 1
}

// Rotate gives a server another key.
func (w *World) Rotate(server string) {
	now := w.Now(server)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retired[server] = append(w.retired[server], now)
}

// forEver is the end of validity of a key that is not rotated away.
var forEver = time.Unix(1<<33, 0)

// keys signs for one server, and knows the keys that it has fetched from others.
type keys struct {
	w      *World
	server string
}

func (k keys) Sign(server string, m mimiport.Signed) (string, error) {
	if server != k.server {
		return "", fmt.Errorf("deliverytest: %s does not sign for %s", k.server, server)
	}
	n := k.w.keyCount(server)
	return keyID(n), mimiport.Sign(m, signingKey(server, n))
}

// Live implements proof.Keys. A server knows every key that it has fetched once.
func (k keys) Live(_ context.Context, server string, _ []string) (map[string]proof.Key, error) {
	if k.w.Verified != nil {
		k.w.Verified()
	}
	if k.w.Silent[server] {
		return nil, mimiport.Errorf("fetch keys", mimiport.KindPeer, "%s cannot be asked", server)
	}
	found, err := proof.KeyObject(server, k.w.keyObject(server))
	if err != nil {
		return nil, err
	}
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	pair := [2]string{k.server, server}
	if k.w.known[pair] == nil {
		k.w.known[pair] = make(map[string]proof.Key)
	}
	maps.Copy(k.w.known[pair], found)
	return found, nil
}

// Known implements proof.Keys.
func (k keys) Known(_ context.Context, server string) (map[string]proof.Key, error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return maps.Clone(k.w.known[[2]string{k.server, server}]), nil
}

// ForgetKeys makes a server forget the keys that it has fetched from another.
func (w *World) ForgetKeys(server, other string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.known, [2]string{server, other})
}

// VerifyOwn implements delivery.Keys.
func (k keys) VerifyOwn(server, id string, m mimiport.Signed) error {
	if server != k.server {
		return fmt.Errorf("deliverytest: %s is not a name of %s", server, k.server)
	}
	_, err := proof.Verify(context.Background(), k, server, id, m, time.Time{}, proof.Live)
	return err
}

func (k keys) KeyObject(_ context.Context, server, _ string) ([]byte, error) {
	return k.w.keyObject(server), nil
}

// keyObject returns a server's key object with its present and former keys.
func (w *World) keyObject(server string) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	var old []prooftest.Pair
	for i, until := range w.retired[server] {
		old = append(old, prooftest.Pair{ID: keyID(i + 1), Key: signingKey(server, i+1), Until: until})
	}
	n := len(old) + 1
	return prooftest.KeyObject(server, prooftest.Pair{ID: keyID(n), Key: signingKey(server, n), Until: forEver}, old...)
}

// Verify checks that a server has signed m with a key that it has now.
func (w *World) Verify(server, id string, m mimiport.Signed) error {
	if id != w.KeyID(server) {
		return mimiport.Errorf("verify", mimiport.KindBadSignature, "%s is not the key of %s", id, server)
	}
	return mimiport.Verify(m, w.Key(server).Public().(ed25519.PublicKey))
}
