package hooks

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/setup/config"
)

func abort(source string) *mimiport.MigrationAbort {
	return &mimiport.MigrationAbort{MigrationID: mimiport.MigrationID{1}, SourceDomain: source}
}

func signed(t *testing.T, k *keys, server string) (keyID string, m *mimiport.MigrationAbort) {
	t.Helper()
	m = abort(server)
	keyID, err := k.Sign(server, m)
	if err != nil {
		t.Fatal(err)
	}
	return keyID, m
}

func wantKind(t *testing.T, err error, want mimiport.Kind) {
	t.Helper()
	if err == nil || mimiport.KindOf(err) != want {
		t.Errorf("got error %v of kind %d, want kind %d", err, mimiport.KindOf(err), want)
	}
}

func wantNone(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// Profile, section 2: "Our own signatures are checked against our own keys, never through the key ring."
func TestOwnSignatures(t *testing.T) {
	s := start(t, "s.example", newFabric())
	k := s.keys()
	oldID, old := signed(t, k, s.Name)
	wantNone(t, k.Verify(t.Context(), s.Name, oldID, old))
	wantKind(t, k.Verify(t.Context(), s.Name, "ed25519:invented", old), mimiport.KindBadSignature)
	wantKind(t, k.VerifyArchived(t.Context(), s.Name, "ed25519:invented", nil, old), mimiport.KindBadSignature)
	wantKind(t, k.Verify(t.Context(), s.Name, oldID, abort(s.Name)), mimiport.KindBadSignature)

	s.rotate(t)
	wantKind(t, k.Verify(t.Context(), s.Name, oldID, old), mimiport.KindBadSignature)
	wantNone(t, k.VerifyArchived(t.Context(), s.Name, oldID, nil, old))
	newID, fresh := signed(t, k, s.Name)
	wantNone(t, k.Verify(t.Context(), s.Name, newID, fresh))

	wantNone(t, k.VerifyOwn(s.Name, oldID, old))
	wantNone(t, k.VerifyOwn(s.Name, newID, fresh))
	wantKind(t, k.VerifyOwn(s.Name, oldID, fresh), mimiport.KindBadSignature)
	wantKind(t, k.VerifyOwn(s.Name, "ed25519:invented", old), mimiport.KindBadSignature)
	k.stolen = []string{oldID}
	wantKind(t, k.VerifyOwn(s.Name, oldID, old), mimiport.KindBadSignature)
	wantNone(t, k.VerifyOwn(s.Name, newID, fresh))
}

func TestSignAsStranger(t *testing.T) {
	s := start(t, "s.example", newFabric())
	if _, err := s.keys().Sign("t.example", abort("t.example")); err == nil {
		t.Error("signed in the name of another server")
	}
}

// Profile, section 2: "A signature received live is checked with a current verify key of that server (never an old one),
// within its validity."
func TestRemoteSignatures(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	id, m := signed(t, s.keys(), s.Name)
	k := tt.keys()

	net.set(s.Name, nil)
	wantKind(t, k.Verify(t.Context(), s.Name, id, m), mimiport.KindPeer)
	net.set(s.Name, s.handler)
	wantNone(t, k.Verify(t.Context(), s.Name, id, m))
	wantKind(t, k.Verify(t.Context(), s.Name, id, abort(s.Name)), mimiport.KindBadSignature)
	wantKind(t, k.Verify(t.Context(), s.Name, "ed25519:invented", m), mimiport.KindBadSignature)

	net.set(s.Name, nil) // the key is known by now
	wantNone(t, k.Verify(t.Context(), s.Name, id, m))
	week := *k
	week.now = func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }
	wantKind(t, week.Verify(t.Context(), s.Name, id, m), mimiport.KindPeer) // not valid any more, and nobody to ask
}

func TestRemoteRotation(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	oldID, old := signed(t, s.keys(), s.Name)
	s.rotate(t)
	newID, fresh := signed(t, s.keys(), s.Name)
	k := tt.keys()
	wantKind(t, k.Verify(t.Context(), s.Name, oldID, old), mimiport.KindBadSignature)
	wantNone(t, k.VerifyArchived(t.Context(), s.Name, oldID, nil, old))
	wantNone(t, k.VerifySince(t.Context(), s.Name, oldID, old, time.Now().Add(-time.Hour)))
	wantKind(t, k.VerifySince(t.Context(), s.Name, oldID, old, time.Now().Add(time.Hour)), mimiport.KindBadSignature)
	wantNone(t, k.Verify(t.Context(), s.Name, newID, fresh))
}

func TestNotary(t *testing.T) {
	net := newFabric()
	s, n := start(t, "s.example", net), start(t, "n.example", net)
	query := strings.NewReader(`{"server_keys": {"s.example": {"ed25519:now": {}}}}`)
	asked, err := net.RoundTrip(httptest.NewRequest(http.MethodPost, "matrix://n.example/_matrix/key/v2/query", query))
	if err != nil || asked.StatusCode != http.StatusOK {
		t.Fatalf("the notary learns of the key: %v, %v", asked, err)
	}
	id, m := signed(t, s.keys(), s.Name)
	net.set(s.Name, nil)
	notary := config.KeyPerspective{ServerName: spec.ServerName(n.Name), Keys: []config.KeyPerspectiveTrustKey{{
		KeyID:     n.Config.Global.KeyID,
		PublicKey: base64.RawStdEncoding.EncodeToString(n.Config.Global.PrivateKey.Public().(ed25519.PublicKey)),
	}}}
	k := start(t, "t.example", net, func(cfg *config.Dendrite) { cfg.FederationAPI.KeyPerspectives = config.KeyPerspectives{notary} }).keys()
	wantNone(t, k.Verify(t.Context(), s.Name, id, m))
	wantNone(t, k.VerifyArchived(t.Context(), s.Name, id, nil, m))
}

// Profile, section 3: "Keys come from the server, else a notary, else the archive".
func TestArchive(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	id, m := signed(t, s.keys(), s.Name)
	object, err := s.keys().KeyObject(t.Context(), s.Name, id)
	if err != nil {
		t.Fatal(err)
	}
	forgedID, forgery, forgedObject := forge(t, s.Name)

	// A server that answers is believed over any archive.
	wantKind(t, tt.keys().VerifyArchived(t.Context(), s.Name, forgedID, forgedObject, forgery), mimiport.KindBadSignature)

	net.set(s.Name, nil)
	k := start(t, "u.example", net).keys() // has never heard of it
	wantNone(t, k.VerifyArchived(t.Context(), s.Name, id, object, m))
	for name, bad := range map[string][]byte{
		"none": nil, "of another server": otherObject(t, tt), "tampered with": tampered(object),
		"without that key": forgedObject, "too large": make([]byte, maxKeyObject+1),
	} {
		t.Run(name, func(t *testing.T) {
			wantKind(t, k.VerifyArchived(t.Context(), s.Name, id, bad, m), mimiport.KindBadSignature)
		})
	}
}

// forge makes a signature in a server's name with a key of one's own, and a key object to go with it.
func forge(t *testing.T, server string) (keyID string, m *mimiport.MigrationAbort, object []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	const id = "ed25519:forged"
	if object, err = selfSigned(server, id, private); err != nil {
		t.Fatal(err)
	}
	m = abort(server)
	if err := mimiport.Sign(m, private); err != nil {
		t.Fatal(err)
	}
	return id, m, object
}

// selfSigned is a key object that publishes one key, in any server's name.
func selfSigned(server, keyID string, private ed25519.PrivateKey) ([]byte, error) {
	public := private.Public().(ed25519.PublicKey)
	fields, err := json.Marshal(gomatrixserverlib.ServerKeyFields{
		ServerName:    spec.ServerName(server),
		VerifyKeys:    map[gomatrixserverlib.KeyID]gomatrixserverlib.VerifyKey{gomatrixserverlib.KeyID(keyID): {Key: spec.Base64Bytes(public)}},
		ValidUntilTS:  spec.AsTimestamp(time.Now().Add(time.Hour)),
		OldVerifyKeys: map[gomatrixserverlib.KeyID]gomatrixserverlib.OldVerifyKey{},
	})
	if err != nil {
		return nil, err
	}
	return gomatrixserverlib.SignJSON(server, gomatrixserverlib.KeyID(keyID), private, fields)
}

func otherObject(t *testing.T, h *homeserver) []byte {
	t.Helper()
	object, err := h.keys().KeyObject(t.Context(), h.Name, string(h.Config.Global.KeyID))
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// tampered prolongs the validity by a digit.
func tampered(object []byte) []byte {
	var fields map[string]any
	_ = json.Unmarshal(object, &fields)
	fields["valid_until_ts"] = 9e12
	changed, _ := json.Marshal(fields)
	return changed
}

func TestKeyObject(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	for name, k := range map[string]*keys{"own": s.keys(), "remote": tt.keys()} {
		t.Run(name, func(t *testing.T) {
			object, err := k.KeyObject(t.Context(), s.Name, "ed25519:now")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := archived(s.Name, "ed25519:now", object); err != nil {
				t.Error(err)
			}
			_, err = k.KeyObject(t.Context(), s.Name, "ed25519:invented")
			wantKind(t, err, mimiport.KindBadSignature)
		})
	}
	net.set(s.Name, nil)
	_, err := tt.keys().KeyObject(t.Context(), s.Name, "ed25519:now")
	wantKind(t, err, mimiport.KindPeer)
}

// FuzzArchived feeds what a lineage may carry as an archived key object. One that is accepted holds a whole key.
func FuzzArchived(f *testing.F) {
	const server, keyID = "s.example", "ed25519:forged"
	_, private, err := ed25519.GenerateKey(bytes.NewReader(make([]byte, ed25519.SeedSize)))
	if err != nil {
		f.Fatal(err)
	}
	object, err := selfSigned(server, keyID, private)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(object)
	f.Add([]byte(`{"server_name":"s.example","verify_keys":{"ed25519:forged":{"key":""}},"valid_until_ts":1}`))
	f.Add([]byte(`{"server_name":"s.example","signatures":{"s.example":{"ed25519:forged":"\ud800"}}}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		key, err := archived(server, keyID, object)
		if (err == nil) != (len(key) == ed25519.PublicKeySize) {
			t.Errorf("key %x, error %v", key, err)
		}
	})
}
