package hooks

import (
	"context"
	"crypto/ed25519"
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
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	fedrouting "github.com/matrix-org/dendrite/federationapi/routing"
	"github.com/matrix-org/dendrite/setup/config"
)

// keyLife is the longest time after its fetch for which a key counts as current (Matrix specification, server-server
// API, "Publishing keys").
const keyLife = 7 * 24 * time.Hour

// keys is delivery.Keys. It uses Dendrite's signing keys. It fetches and stores the keys of other servers itself:
// Dendrite would connect to any address for them, and does not tell whether a key comes from its server.
type keys struct {
	config *config.FederationAPI
	ring   *gomatrixserverlib.KeyRing // Dendrite's notaries
	store  storage.KeyObjects
	client federation.Doer
	stolen []string // ids of own keys that others may have
	now    func() time.Time
	log    *slog.Logger
	silent *silences
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

// Known implements proof.Keys. If several objects hold a key, the last fetched one counts.
func (k *keys) Known(ctx context.Context, server string) (map[string]proof.Key, error) {
	if k.isLocal(server) {
		return nil, nil // the configuration has this server's own keys
	}
	stored, err := k.store.KeyObjects(ctx, server)
	if err != nil {
		return nil, err
	}
	known := make(map[string]proof.Key)
	for _, o := range stored {
		published, err := proof.KeyObject(server, o.Object)
		if err != nil {
			k.log.WarnContext(ctx, "a stored key object is not valid", "server", server, "key_id", o.KeyID, "error", err)
		}
		end := o.FetchedAt.Add(keyLife)
		for id, key := range published {
			if _, ok := known[id]; ok {
				continue
			}
			if key.Until.After(end) {
				key.Until = end
			}
			known[id] = key
		}
	}
	return known, nil
}

// Live implements proof.Keys. It stores what it fetches.
func (k *keys) Live(ctx context.Context, server string, ids []string) (map[string]proof.Key, error) {
	if k.isLocal(server) {
		return k.own(server, ids)
	}
	object, err := k.fetch(ctx, server)
	if mimiport.KindOf(err) == mimiport.KindPeer {
		if found := k.askNotaries(ctx, server, ids); len(found) > 0 {
			return found, nil
		}
	}
	if err != nil {
		return nil, err
	}
	published, err := proof.KeyObject(server, object)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if _, ok := published[id]; !ok {
			continue
		}
		kept := &storage.KeyObject{Server: server, KeyID: id, Object: object, FetchedAt: k.now()}
		if err := k.store.KeepKeyObject(ctx, kept); err != nil {
			return nil, err
		}
	}
	return published, nil
}

// VerifyOwn implements delivery.Keys.
func (k *keys) VerifyOwn(server, keyID string, m mimiport.Signed) error {
	own, err := k.own(server, []string{keyID})
	if err == nil && slices.Contains(k.stolen, keyID) {
		err = mimiport.Errorf("look up key", mimiport.KindBadSignature, "the key %q of %s was stolen", keyID, server)
	}
	if err != nil {
		return err
	}
	return mimiport.Verify(m, own[keyID].Public)
}

// own returns this server's keys from the configuration. Dendrite's key ring is of no use here: it gives the present
// key for every id. A key that the configuration lacks was never a key of this server.
func (k *keys) own(server string, ids []string) (map[string]proof.Key, error) {
	current, err := k.identity(server)
	if err != nil {
		return nil, err
	}
	all := make(map[string]proof.Key)
	object, err := k.ownObject(server)
	if err != nil {
		k.log.Warn("this server publishes no keys", "server", server, "error", err)
	}
	for _, old := range k.config.Matrix.OldVerifyKeys {
		if len(old.PublicKey) == ed25519.PublicKeySize {
			public := ed25519.PublicKey(old.PublicKey)
			all[string(old.KeyID)] = proof.Key{Public: public, Until: old.ExpiredAt.Time(), Object: object}
		}
	}
	public := current.PrivateKey.Public().(ed25519.PublicKey)
	all[string(current.KeyID)] = proof.Key{Public: public, Until: k.now().Add(keyLife), Object: object}
	for _, id := range ids {
		if _, ok := all[id]; !ok {
			return nil, unknownKey(server, id)
		}
	}
	return all, nil
}

func (k *keys) ownObject(server string) ([]byte, error) {
	answer := fedrouting.LocalKeys(k.config, spec.ServerName(server))
	object, ok := answer.JSON.(*gomatrixserverlib.ServerKeys)
	if !ok {
		return nil, fmt.Errorf("this server publishes no keys as %s", server)
	}
	return object.Raw, nil
}

// KeyObject implements delivery.Keys. For another server it returns the stored object, if there is one.
func (k *keys) KeyObject(ctx context.Context, server, keyID string) ([]byte, error) {
	for _, find := range []func() (map[string]proof.Key, error){
		func() (map[string]proof.Key, error) { return k.Known(ctx, server) },
		func() (map[string]proof.Key, error) { return k.Live(ctx, server, []string{keyID}) },
	} {
		found, err := find()
		if err != nil {
			return nil, err
		}
		if key := found[keyID]; key.Object != nil {
			return key.Object, nil
		}
	}
	return nil, unknownKey(server, keyID)
}

func (k *keys) isLocal(server string) bool {
	return k.config.Matrix.IsLocalServerName(spec.ServerName(server))
}

// askNotaries asks the configured notaries, one after the other, for keys of a server that this one cannot reach.
func (k *keys) askNotaries(ctx context.Context, server string, ids []string) map[string]proof.Key {
	for _, f := range k.ring.KeyFetchers {
		notary, ok := f.(*gomatrixserverlib.PerspectiveKeyFetcher)
		if !ok {
			continue
		}
		wanted := make(map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp)
		of := gomatrixserverlib.PublicKeyLookupRequest{ServerName: spec.ServerName(server)}
		for _, id := range ids {
			of.KeyID = gomatrixserverlib.KeyID(id)
			wanted[of] = 0
		}
		answer, err := notary.FetchKeys(ctx, wanted)
		if err != nil {
			k.log.WarnContext(ctx, "a notary gives no keys", "server", notary.PerspectiveServerName, "error", err)
		}
		found := make(map[string]proof.Key)
		for of, key := range answer {
			if string(of.ServerName) != server || len(key.Key) != ed25519.PublicKeySize {
				continue
			}
			until := key.ValidUntilTS
			if key.ExpiredTS != gomatrixserverlib.PublicKeyNotExpired {
				until = key.ExpiredTS
			}
			found[string(of.KeyID)] = proof.Key{Public: ed25519.PublicKey(key.Key), Until: until.Time()}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// fetch asks a server for its key object, and verifies it. The error is KindPeer if the server does not answer, or
// answers with anything else. Then fetch does not ask again until silence is over, or until the server sends a request.
// The error is KindForbidden or KindBadMessage if this server does not send requests to such a name.
func (k *keys) fetch(ctx context.Context, server string) ([]byte, error) {
	if k.silent.isSilent(server) {
		const why = "%s could not be asked less than %v ago"
		return nil, mimiport.Errorf("fetch keys", mimiport.KindPeer, why, server, silence)
	}
	object, err := k.request(ctx, server)
	if err == nil {
		_, err = proof.KeyObject(server, object)
	}
	switch kind := mimiport.KindOf(err); {
	case err == nil:
		return object, nil
	case kind == mimiport.KindForbidden || kind == mimiport.KindBadMessage:
		return nil, err
	case ctx.Err() == nil:
		k.silent.fell(server)
	}
	return nil, mimiport.Errorf("fetch keys", mimiport.KindPeer, "%w", mimiport.Heard(err))
}

func (k *keys) request(ctx context.Context, server string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "matrix://"+server+"/_matrix/key/v2/server", nil)
	if err != nil {
		return nil, err
	}
	answer, err := k.client.DoHTTPRequest(ctx, r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close() // nolint: errcheck
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", server, answer.StatusCode)
	}
	return io.ReadAll(io.LimitReader(answer.Body, proof.MaxKeyObject+1))
}

func unknownKey(server, keyID string) error {
	return mimiport.Errorf("look up key", mimiport.KindBadSignature, "%s has no key %q", server, mimiport.Clip(keyID))
}
