// Package prooftest makes signed key objects and returns keys from them, for tests and test vectors.
package prooftest

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// Pair is a server's signing key, and the time until which the server signs, or signed, with it.
type Pair struct {
	ID    string
	Key   ed25519.PrivateKey
	Until time.Time
}

// KeyObject returns a server's signed key object with its current key and its former keys. It panics on a name that
// cannot be encoded.
func KeyObject(server string, current Pair, old ...Pair) []byte {
	id := gomatrixserverlib.KeyID(current.ID)
	fields := gomatrixserverlib.ServerKeyFields{
		ServerName:    spec.ServerName(server),
		VerifyKeys:    map[gomatrixserverlib.KeyID]gomatrixserverlib.VerifyKey{id: public(current)},
		ValidUntilTS:  spec.AsTimestamp(current.Until),
		OldVerifyKeys: map[gomatrixserverlib.KeyID]gomatrixserverlib.OldVerifyKey{},
	}
	for _, o := range old {
		fields.OldVerifyKeys[gomatrixserverlib.KeyID(o.ID)] = gomatrixserverlib.OldVerifyKey{
			VerifyKey: public(o), ExpiredTS: spec.AsTimestamp(o.Until),
		}
	}
	unsigned, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	object, err := gomatrixserverlib.SignJSON(server, id, current.Key, unsigned)
	if err != nil {
		panic(err)
	}
	return object
}

func public(p Pair) gomatrixserverlib.VerifyKey {
	return gomatrixserverlib.VerifyKey{Key: spec.Base64Bytes(p.Key.Public().(ed25519.PublicKey))}
}

// Keys is proof.Keys over key objects.
type Keys struct {
	Stored    map[string][][]byte // by server: the stored key objects
	Published map[string][]byte   // by server: the key object that it publishes now; a server without one does not answer
	Refused   []string            // servers that Live refuses to ask

	mu    sync.Mutex
	asked []string
}

// Asked lists the servers that were asked for their keys, once for each time.
func (k *Keys) Asked() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.asked)
}

// Known implements proof.Keys.
func (k *Keys) Known(_ context.Context, server string) (map[string]proof.Key, error) {
	all := make(map[string]proof.Key)
	for _, object := range k.Stored[server] {
		keys, err := proof.KeyObject(server, object)
		if err != nil {
			return nil, err
		}
		for id, key := range keys {
			all[id] = key
		}
	}
	return all, nil
}

// Live implements proof.Keys.
func (k *Keys) Live(_ context.Context, server string, _ []string) (map[string]proof.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, server)
	if slices.Contains(k.Refused, server) {
		return nil, mimiport.Errorf("fetch keys", mimiport.KindForbidden, "%s is not asked", server)
	}
	object, ok := k.Published[server]
	if !ok {
		return nil, mimiport.Errorf("fetch keys", mimiport.KindPeer, "%s cannot be asked", server)
	}
	return proof.KeyObject(server, object)
}
