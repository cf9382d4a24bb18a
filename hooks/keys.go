package hooks

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
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

// keys is delivery.Keys over Dendrite's signing keys and key ring.
type keys struct {
	config *config.FederationAPI
	ring   gomatrixserverlib.KeyFetcher // Dendrite's cache, notaries and direct requests
	client federation.Doer
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
	cached, err := k.lookUp(ctx, server, keyID)
	if err != nil {
		return nil, err
	}
	now := spec.AsTimestamp(k.now())
	if cached != nil && cached.ExpiredTS == gomatrixserverlib.PublicKeyNotExpired &&
		cached.WasValidAt(now, gomatrixserverlib.StrictValiditySignatureCheck) {
		return ed25519.PublicKey(cached.Key), nil
	}
	// The ring does not tell a server without this key from one that cannot be asked.
	object, err := k.fetchObject(ctx, server)
	if err != nil {
		return nil, err
	}
	if key, ok := object.VerifyKeys[gomatrixserverlib.KeyID(keyID)]; ok {
		return ed25519.PublicKey(key.Key), nil
	}
	return nil, unknownKey(server, keyID)
}

// VerifyArchived implements delivery.Keys. The archived object counts only when the server itself cannot be asked: whoever
// wants to forge a server's past can make a key object in its name, signed by itself.
func (k *keys) VerifyArchived(ctx context.Context, server, keyID string, keyObject []byte, m mimiport.Signed) error {
	key, err := k.ever(ctx, server, keyID)
	if mimiport.KindOf(err) == mimiport.KindPeer {
		k.log.WarnContext(ctx, "a server cannot be asked for an old key: taking the archived one", "server", server, "key_id", keyID, "err", err)
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
	cached, err := k.lookUp(ctx, server, keyID)
	if err != nil {
		return nil, err
	}
	if cached != nil {
		return ed25519.PublicKey(cached.Key), nil
	}
	object, err := k.fetchObject(ctx, server)
	if err != nil {
		return nil, err
	}
	if key, ok := publishedKey(object, keyID); ok {
		return key, nil
	}
	return nil, unknownKey(server, keyID)
}

// KeyObject implements delivery.Keys.
func (k *keys) KeyObject(ctx context.Context, server, keyID string) ([]byte, error) {
	object, err := k.object(ctx, server)
	if err != nil {
		return nil, err
	}
	if _, ok := publishedKey(object, keyID); !ok {
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

// lookUp asks Dendrite's key ring, which ignores contexts, for a key of any age. It returns nil where there is none to be had.
func (k *keys) lookUp(ctx context.Context, server, keyID string) (*gomatrixserverlib.PublicKeyLookupResult, error) {
	type outcome struct {
		key *gomatrixserverlib.PublicKeyLookupResult
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		req := gomatrixserverlib.PublicKeyLookupRequest{ServerName: spec.ServerName(server), KeyID: gomatrixserverlib.KeyID(keyID)}
		found, err := k.ring.FetchKeys(ctx, map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp{req: spec.AsTimestamp(k.now())})
		if key, ok := found[req]; ok && len(key.Key) == ed25519.PublicKeySize {
			done <- outcome{&key, err}
			return
		}
		done <- outcome{nil, err}
	}()
	select {
	case o := <-done:
		return o.key, o.err
	case <-ctx.Done():
		return nil, mimiport.Errorf("look up key", mimiport.KindPeer, "keys of %s: %w", server, ctx.Err())
	}
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
		return nil, mimiport.Errorf(op, mimiport.KindPeer, "%w", err)
	}
	defer answer.Body.Close() // nolint: errcheck
	if answer.StatusCode != http.StatusOK {
		return nil, mimiport.Errorf(op, mimiport.KindPeer, "%s answers %s", server, answer.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxKeyObject+1))
	if err != nil {
		return nil, mimiport.Errorf(op, mimiport.KindPeer, "%s: %w", server, err)
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
	if key, ok := publishedKey(object, keyID); ok {
		return key, nil
	}
	return nil, unknownKey(server, keyID)
}

// publishedKey finds a current or old key in a checked object.
func publishedKey(object *gomatrixserverlib.ServerKeys, keyID string) (ed25519.PublicKey, bool) {
	id := gomatrixserverlib.KeyID(keyID)
	key, ok := object.VerifyKeys[id]
	if !ok {
		key = object.OldVerifyKeys[id].VerifyKey
	}
	return ed25519.PublicKey(key.Key), len(key.Key) == ed25519.PublicKeySize
}

func unknownKey(server, keyID string) error {
	return mimiport.Errorf("look up key", mimiport.KindBadSignature, "%s has no key %q", server, keyID)
}
