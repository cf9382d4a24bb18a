package hooks

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	fedrouting "github.com/matrix-org/dendrite/federationapi/routing"
	"github.com/matrix-org/dendrite/setup/config"
)

// maxKeyObject bounds a server's signed key object, in bytes. Dendrite's own, with one key, has 300.
const maxKeyObject = 64 << 10

// keys is delivery.Keys over Dendrite's signing keys and the keys of others that Dendrite has stored. It fetches new ones itself:
// Dendrite would go to any address for them, and servers are named here by whoever asks.
type keys struct {
	config *config.FederationAPI
	ring   *gomatrixserverlib.KeyRing // Dendrite's store of keys, and its notaries
	client federation.Doer
	stolen []string // ids of own keys with which others may sign
	now    func() time.Time
	log    *slog.Logger
}

var _ delivery.Keys = (*keys)(nil)

// Sign implements delivery.Keys.
func (k *keys) Sign(server string, m mimiport.Signed) (keyID string, err error) {
	id, err := k.identity(server)
	if err != nil {
		return "", err
	}
	return string(id.KeyID), mimiport.Sign(m, id.PrivateKey)
}

func (k *keys) identity(server string) (*fclient.SigningIdentity, error) {
	return k.config.Matrix.SigningIdentityFor(spec.ServerName(server))
}

// Verify implements delivery.Keys.
func (k *keys) Verify(ctx context.Context, server, keyID string, m mimiport.Signed) error {
	key, err := k.current(ctx, server, keyID)
	if err != nil {
		return err
	}
	return mimiport.Verify(m, key)
}

// current is a key that its server signs with today.
func (k *keys) current(ctx context.Context, server, keyID string) (ed25519.PublicKey, error) {
	if k.isLocal(server) {
		return k.ownCurrent(server, keyID)
	}
	now := spec.AsTimestamp(k.now())
	return k.lookUp(ctx, request(server, keyID), func(key gomatrixserverlib.PublicKeyLookupResult) bool {
		return key.ExpiredTS == gomatrixserverlib.PublicKeyNotExpired && key.WasValidAt(now, gomatrixserverlib.StrictValiditySignatureCheck)
	})
}

// VerifySince implements delivery.Keys.
func (k *keys) VerifySince(ctx context.Context, server, keyID string, m mimiport.Signed, since time.Time) error {
	key, err := k.lookUp(ctx, request(server, keyID), func(key gomatrixserverlib.PublicKeyLookupResult) bool {
		return key.ExpiredTS == gomatrixserverlib.PublicKeyNotExpired || key.ExpiredTS.Time().After(since)
	})
	if err != nil {
		return err
	}
	return mimiport.Verify(m, key)
}

// VerifyOwn implements delivery.Keys.
func (k *keys) VerifyOwn(server, keyID string, m mimiport.Signed) error {
	key, err := k.ownEver(server, keyID)
	if err == nil && slices.Contains(k.stolen, keyID) {
		err = mimiport.Errorf("look up key", mimiport.KindBadSignature, "the key %q of %s was stolen", keyID, server)
	}
	if err != nil {
		return err
	}
	return mimiport.Verify(m, key)
}

// VerifyArchived implements delivery.Keys. The archived object counts only when the server itself cannot be asked: whoever
// wants to forge a server's past can make a key object in its name, signed by itself.
func (k *keys) VerifyArchived(ctx context.Context, server, keyID string, keyObject []byte, m mimiport.Signed) error {
	key, err := k.ever(ctx, server, keyID)
	if mimiport.KindOf(err) == mimiport.KindPeer {
		k.log.WarnContext(ctx, "a server cannot be asked for an old key: taking the archived one",
			"server", server, "key_id", keyID, "error", err)
		key, err = archived(server, keyID, keyObject)
	}
	if err != nil {
		return err
	}
	return mimiport.Verify(m, key)
}

// ever is a key that its server signs with today or has signed with.
func (k *keys) ever(ctx context.Context, server, keyID string) (ed25519.PublicKey, error) {
	if k.isLocal(server) {
		return k.ownEver(server, keyID)
	}
	return k.lookUp(ctx, request(server, keyID), func(gomatrixserverlib.PublicKeyLookupResult) bool { return true })
}

// KeyObject implements delivery.Keys.
func (k *keys) KeyObject(ctx context.Context, server, keyID string) ([]byte, error) {
	object, err := k.object(ctx, server)
	if err != nil {
		return nil, err
	}
	if _, ok := published(object)[request(server, keyID)]; !ok {
		return nil, unknownKey(server, keyID)
	}
	return object.Raw, nil
}

func (k *keys) object(ctx context.Context, server string) (*gomatrixserverlib.ServerKeys, error) {
	if !k.isLocal(server) {
		return k.fetchObject(ctx, server)
	}
	answer := fedrouting.LocalKeys(k.config, spec.ServerName(server))
	object, ok := answer.JSON.(*gomatrixserverlib.ServerKeys)
	if !ok {
		return nil, fmt.Errorf("this server publishes no keys as %s", server)
	}
	return object, nil
}

func (k *keys) isLocal(server string) bool {
	return k.config.Matrix.IsLocalServerName(spec.ServerName(server))
}

// ownCurrent never asks Dendrite's key ring: it knows our key under every key id.
func (k *keys) ownCurrent(server, keyID string) (ed25519.PublicKey, error) {
	id, err := k.identity(server)
	if err != nil {
		return nil, err
	}
	if string(id.KeyID) != keyID {
		return nil, unknownKey(server, keyID)
	}
	return id.PrivateKey.Public().(ed25519.PublicKey), nil
}

func (k *keys) ownEver(server, keyID string) (ed25519.PublicKey, error) {
	for _, old := range k.config.Matrix.OldVerifyKeys {
		if string(old.KeyID) == keyID && len(old.PublicKey) == ed25519.PublicKeySize {
			return ed25519.PublicKey(old.PublicKey), nil
		}
	}
	return k.ownCurrent(server, keyID)
}

// lookUp finds a usable key of another server: stored, at the server, or at a notary when the server cannot be asked. It returns
// KindBadSignature where the server has no such key, KindPeer where that cannot be known.
func (k *keys) lookUp(
	ctx context.Context, r gomatrixserverlib.PublicKeyLookupRequest, usable func(gomatrixserverlib.PublicKeyLookupResult) bool,
) (ed25519.PublicKey, error) {
	stored, err := k.ring.KeyDatabase.FetchKeys(ctx, wanted(r))
	if err != nil {
		return nil, err
	}
	if key, ok := stored[r]; ok && usable(key) {
		return ed25519.PublicKey(key.Key), nil
	}
	found, err := k.fetch(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := k.ring.KeyDatabase.StoreKeys(ctx, found); err != nil {
		return nil, err
	}
	if key, ok := found[r]; ok && usable(key) {
		return ed25519.PublicKey(key.Key), nil
	}
	return nil, unknownKey(string(r.ServerName), string(r.KeyID))
}

// lookedUp is how Dendrite passes keys around.
type lookedUp = map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult

func (k *keys) fetch(ctx context.Context, r gomatrixserverlib.PublicKeyLookupRequest) (lookedUp, error) {
	object, err := k.fetchObject(ctx, string(r.ServerName))
	if err == nil {
		return published(object), nil
	}
	if mimiport.KindOf(err) == mimiport.KindPeer {
		for _, notary := range k.notaries() {
			if found, notaryErr := notary.FetchKeys(ctx, wanted(r)); notaryErr == nil && len(found) > 0 {
				return found, nil
			}
		}
	}
	return nil, err
}

func (k *keys) notaries() (ns []*gomatrixserverlib.PerspectiveKeyFetcher) {
	for _, f := range k.ring.KeyFetchers {
		if n, ok := f.(*gomatrixserverlib.PerspectiveKeyFetcher); ok {
			ns = append(ns, n)
		}
	}
	return ns
}

func request(server, keyID string) gomatrixserverlib.PublicKeyLookupRequest {
	return gomatrixserverlib.PublicKeyLookupRequest{ServerName: spec.ServerName(server), KeyID: gomatrixserverlib.KeyID(keyID)}
}

// wanted is a request for a key of any age. It is made anew for each fetcher, since some delete from it.
func wanted(r gomatrixserverlib.PublicKeyLookupRequest) map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp {
	return map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp{r: 0}
}

// fetchObject asks a server for its key object and checks it. A server that cannot be asked is KindPeer, an answer that does not hold KindBadSignature.
func (k *keys) fetchObject(ctx context.Context, server string) (*gomatrixserverlib.ServerKeys, error) {
	const op = "fetch keys"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "matrix://"+server+"/_matrix/key/v2/server", nil)
	if err != nil {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "%w", err)
	}
	answer, err := k.client.DoHTTPRequest(ctx, r)
	if err != nil {
		return nil, mimiport.Errorf(op, mimiport.KindPeer, "%w", mimiport.Heard(err))
	}
	defer answer.Body.Close() // nolint: errcheck
	if answer.StatusCode != http.StatusOK {
		return nil, mimiport.Errorf(op, mimiport.KindPeer, "%s answers %d", server, answer.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxKeyObject+1))
	if err != nil {
		return nil, mimiport.Errorf(op, mimiport.KindPeer, "%s: %w", server, mimiport.Heard(err))
	}
	return checkObject(server, raw, k.now())
}

// checkObject verifies a key object's own signatures by all keys it publishes, valid after a time.
func checkObject(server string, raw []byte, after time.Time) (*gomatrixserverlib.ServerKeys, error) {
	const op = "check keys"
	if len(raw) > maxKeyObject {
		return nil, mimiport.Errorf(op, mimiport.KindBadSignature, "the key object of %s has more than %d bytes", server, maxKeyObject)
	}
	var object gomatrixserverlib.ServerKeys
	if err := json.Unmarshal(raw, &object); err != nil {
		err = mimiport.Heard(err)
		return nil, mimiport.Errorf(op, mimiport.KindBadSignature, "the key object of %s: %w", server, err)
	}
	if checks, _ := gomatrixserverlib.CheckKeys(spec.ServerName(server), after, object); !checks.AllChecksOK {
		return nil, mimiport.Errorf(op, mimiport.KindBadSignature, "the key object of %s is out of date, of another server or not signed by its keys", server)
	}
	return &object, nil
}

// archived is a key of an object that was valid at some time.
func archived(server, keyID string, raw []byte) (ed25519.PublicKey, error) {
	object, err := checkObject(server, raw, time.Unix(0, 0))
	if err != nil {
		return nil, err
	}
	if key, ok := published(object)[request(server, keyID)]; ok {
		return ed25519.PublicKey(key.Key), nil
	}
	return nil, unknownKey(server, keyID)
}

// published are the current and old keys in a checked object.
func published(object *gomatrixserverlib.ServerKeys) lookedUp {
	all := make(lookedUp)
	add := func(id gomatrixserverlib.KeyID, key gomatrixserverlib.PublicKeyLookupResult) {
		if len(key.Key) == ed25519.PublicKeySize {
			all[gomatrixserverlib.PublicKeyLookupRequest{ServerName: object.ServerName, KeyID: id}] = key
		}
	}
	for id, key := range object.OldVerifyKeys {
		add(id, gomatrixserverlib.PublicKeyLookupResult{VerifyKey: key.VerifyKey, ExpiredTS: key.ExpiredTS})
	}
	for id, key := range object.VerifyKeys {
		add(id, gomatrixserverlib.PublicKeyLookupResult{VerifyKey: key, ValidUntilTS: object.ValidUntilTS})
	}
	return all
}

func unknownKey(server, keyID string) error {
	return mimiport.Errorf("look up key", mimiport.KindBadSignature, "%s has no key %q", server, mimiport.Clip(keyID))
}
