package redirects

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// keyLife is how long a key object is valid, as Dendrite has it by default.
const keyLife = 7 * 24 * time.Hour

// keys is delivery.Keys. It publishes the homeserver's keys, and asks no server for others: whoever follows a group
// checks the signatures. So a lineage with a step that the table does not have is never taken.
type keys struct {
	home     *Home
	identity fclient.SigningIdentity
	now      func() time.Time
}

var _ delivery.Keys = (*keys)(nil)

// object is the homeserver's signed key object (Matrix specification, server-server API, "Publishing keys").
func (k *keys) object() (json.RawMessage, error) {
	public := spec.Base64Bytes(k.identity.PrivateKey.Public().(ed25519.PublicKey))
	text, err := json.Marshal(gomatrixserverlib.ServerKeyFields{
		ServerName:    k.identity.ServerName,
		VerifyKeys:    map[gomatrixserverlib.KeyID]gomatrixserverlib.VerifyKey{k.identity.KeyID: {Key: public}},
		ValidUntilTS:  spec.AsTimestamp(k.now().Add(keyLife)),
		OldVerifyKeys: k.home.OldKeys,
	})
	if err != nil {
		return nil, err
	}
	return gomatrixserverlib.SignJSON(string(k.identity.ServerName), k.identity.KeyID, k.identity.PrivateKey, text)
}

// Known implements proof.Keys.
func (k *keys) Known(context.Context, string) (map[string]proof.Key, error) { return nil, nil }

// Live implements proof.Keys.
func (k *keys) Live(_ context.Context, server string, _ []string) (map[string]proof.Key, error) {
	if server != k.home.Server {
		return nil, mimiport.Errorf("fetch keys", mimiport.KindPeer, "a static server asks no other for keys")
	}
	object, err := k.object()
	if err != nil {
		return nil, err
	}
	return proof.KeyObject(server, object)
}

// Sign implements delivery.Keys.
func (k *keys) Sign(string, mimiport.Signed) (string, error) { return "", errStatic }

// VerifyOwn implements delivery.Keys.
func (k *keys) VerifyOwn(server, keyID string, m mimiport.Signed) error {
	own, err := k.Live(context.Background(), server, nil)
	if err != nil {
		return err
	}
	key, ok := own[keyID]
	if !ok {
		return mimiport.Errorf("look up key", mimiport.KindBadSignature, "%s has no key %q", server, mimiport.Clip(keyID))
	}
	return mimiport.Verify(m, key.Public)
}

// KeyObject implements delivery.Keys.
func (k *keys) KeyObject(_ context.Context, server, _ string) ([]byte, error) {
	found, err := k.Live(context.Background(), server, nil)
	if err != nil {
		return nil, err
	}
	return found[string(k.identity.KeyID)].Object, nil
}

// maxKeys is the most keys of other servers in memory. Each takes some hundred bytes.
const maxKeys = 16384

type (
	lookup  = gomatrixserverlib.PublicKeyLookupRequest
	outcome = gomatrixserverlib.PublicKeyLookupResult
)

// keyCache is the database of a gomatrixserverlib.KeyRing, in memory.
type keyCache struct {
	keys *lru.Cache[lookup, outcome]
}

var _ gomatrixserverlib.KeyDatabase = keyCache{}

// newRing makes a ring that fetches the keys of other servers with web.
func newRing(
	web *fclient.Client, isLocal func(spec.ServerName) bool, own ed25519.PrivateKey,
) *gomatrixserverlib.KeyRing {
	cache, _ := lru.New[lookup, outcome](maxKeys) // it fails only for a size of 0 or less
	return &gomatrixserverlib.KeyRing{
		KeyDatabase: keyCache{cache},
		KeyFetchers: []gomatrixserverlib.KeyFetcher{&gomatrixserverlib.DirectKeyFetcher{
			Client: web, IsLocalServerName: isLocal, LocalPublicKey: spec.Base64Bytes(own.Public().(ed25519.PublicKey)),
		}},
	}
}

// FetcherName implements gomatrixserverlib.KeyFetcher.
func (keyCache) FetcherName() string { return "memory" }

// FetchKeys implements gomatrixserverlib.KeyFetcher.
func (c keyCache) FetchKeys(_ context.Context, wanted map[lookup]spec.Timestamp) (map[lookup]outcome, error) {
	found := make(map[lookup]outcome)
	for of := range wanted {
		if key, ok := c.keys.Get(of); ok {
			found[of] = key
		}
	}
	return found, nil
}

// StoreKeys implements gomatrixserverlib.KeyDatabase.
func (c keyCache) StoreKeys(_ context.Context, found map[lookup]outcome) error {
	for of, key := range found {
		c.keys.Add(of, key)
	}
	return nil
}
