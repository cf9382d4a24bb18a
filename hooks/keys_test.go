package hooks

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/federation/dial"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
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

// verify checks a signature by a key with which its server signs now.
func (k *keys) verify(ctx context.Context, server, keyID string, m mimiport.Signed) error {
	return k.verifySince(ctx, server, keyID, m, k.now())
}

// verifySince checks a signature by a key with which its server signed at a time or later.
func (k *keys) verifySince(ctx context.Context, server, keyID string, m mimiport.Signed, since time.Time) error {
	_, err := proof.Verify(ctx, k, server, keyID, m, since, proof.Known)
	return err
}

// at sets the clock of the keys.
func (k *keys) at(now time.Time) { k.now = func() time.Time { return now } }

// Profile, section 2: "Our own signatures are checked against our own keys, never through the key ring."
func TestOwnSignatures(t *testing.T) {
	s := start(t, "s.example", newFabric())
	k := s.keys()
	oldID, old := signed(t, k, s.Name)
	wantNone(t, k.verify(t.Context(), s.Name, oldID, old))
	wantKind(t, k.verify(t.Context(), s.Name, "ed25519:invented", old), mimiport.KindBadSignature)
	wantKind(t, k.verifySince(t.Context(), s.Name, "ed25519:invented", old, time.Time{}), mimiport.KindBadSignature)
	wantKind(t, k.verify(t.Context(), s.Name, oldID, abort(s.Name)), mimiport.KindBadSignature)

	s.rotate(t)
	k.at(time.Now().Add(time.Second))
	wantKind(t, k.verify(t.Context(), s.Name, oldID, old), mimiport.KindBadSignature)
	wantNone(t, k.verifySince(t.Context(), s.Name, oldID, old, time.Time{}))
	newID, fresh := signed(t, k, s.Name)
	wantNone(t, k.verify(t.Context(), s.Name, newID, fresh))

	wantNone(t, k.VerifyOwn(s.Name, oldID, old))
	wantNone(t, k.VerifyOwn(s.Name, newID, fresh))
	wantKind(t, k.VerifyOwn(s.Name, oldID, fresh), mimiport.KindBadSignature)
	wantKind(t, k.VerifyOwn(s.Name, "ed25519:invented", old), mimiport.KindBadSignature)
	k.stolen = []string{oldID}
	wantKind(t, k.VerifyOwn(s.Name, oldID, old), mimiport.KindBadSignature)
	wantNone(t, k.VerifyOwn(s.Name, newID, fresh))
}

// TestOwnKeysAreOnlyOurs: this server refuses a key of its own name that it does not have, whoever shows it.
func TestOwnKeysAreOnlyOurs(t *testing.T) {
	s := start(t, "s.example", newFabric())
	_, err := s.keys().Live(t.Context(), s.Name, []string{"ed25519:invented"})
	wantKind(t, err, mimiport.KindBadSignature)
}

func TestSignAsStranger(t *testing.T) {
	s := start(t, "s.example", newFabric())
	if _, err := s.keys().Sign("t.example", abort("t.example")); err == nil {
		t.Error("this server signed in the name of another server")
	}
}

// Profile, section 2: "A signature received live is checked with a current verify key of that server (never an old
// one), within its validity."
func TestRemoteSignatures(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	id, m := signed(t, s.keys(), s.Name)
	k := tt.keys()

	net.set(s.Name, nil)
	wantKind(t, k.verify(t.Context(), s.Name, id, m), mimiport.KindPeer)
	net.set(s.Name, s.handler)
	k.silent.spoke(s.Name)
	wantNone(t, k.verify(t.Context(), s.Name, id, m))
	wantKind(t, k.verify(t.Context(), s.Name, id, abort(s.Name)), mimiport.KindBadSignature)
	wantKind(t, k.verify(t.Context(), s.Name, "ed25519:invented", m), mimiport.KindBadSignature)

	net.set(s.Name, nil) // the key is stored now
	wantNone(t, k.verify(t.Context(), s.Name, id, m))
	_, err := proof.Verify(t.Context(), k, s.Name, id, m, k.now(), proof.Live)
	wantKind(t, err, mimiport.KindPeer) // but not live
	k.at(time.Now().Add(8 * 24 * time.Hour))
	wantKind(t, k.verify(t.Context(), s.Name, id, m), mimiport.KindPeer) // expired, and nobody can be asked
}

func TestRemoteRotation(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	oldID, old := signed(t, s.keys(), s.Name)
	s.rotate(t)
	newID, fresh := signed(t, s.keys(), s.Name)
	k := tt.keys()
	k.at(time.Now().Add(time.Second))
	wantKind(t, k.verify(t.Context(), s.Name, oldID, old), mimiport.KindBadSignature)
	wantNone(t, k.verifySince(t.Context(), s.Name, oldID, old, time.Time{}))
	wantNone(t, k.verifySince(t.Context(), s.Name, oldID, old, time.Now().Add(-time.Hour)))
	wantKind(t, k.verifySince(t.Context(), s.Name, oldID, old, time.Now().Add(time.Hour)), mimiport.KindBadSignature)
	wantNone(t, k.verify(t.Context(), s.Name, newID, fresh))
}

// TestExpiredKey: a stored key counts for a time only if it was valid then. This also holds for a key that its server
// never listed as old.
func TestExpiredKey(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	id, m := signed(t, s.keys(), s.Name)
	k := tt.keys()
	wantNone(t, k.verify(t.Context(), s.Name, id, m)) // now the key is stored
	net.set(s.Name, nil)
	fetched := time.Now()
	k.at(fetched.Add(365 * 24 * time.Hour))
	wantKind(t, k.verifySince(t.Context(), s.Name, id, m, k.now().Add(-time.Hour)), mimiport.KindPeer)
	wantNone(t, k.verifySince(t.Context(), s.Name, id, m, fetched)) // the key was valid then
}

// TestKnownKeys: this server knows a fetched key for ever, also when the key's server is gone or has another key. The
// last fetched object of a key counts.
func TestKnownKeys(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	oldID, old := signed(t, s.keys(), s.Name)
	k := tt.keys()
	wantNone(t, k.verify(t.Context(), s.Name, oldID, old))
	s.rotate(t)
	k.at(time.Now().Add(time.Second))
	wantNone(t, k.verify(t.Context(), s.Name, oldID, old)) // no server has listed it as old
	newID, fresh := signed(t, s.keys(), s.Name)
	wantNone(t, k.verify(t.Context(), s.Name, newID, fresh))
	wantKind(t, k.verify(t.Context(), s.Name, oldID, old), mimiport.KindBadSignature)

	net.set(s.Name, nil)
	again := start(t, "t2.example", net).keys()
	again.store = k.store // another process on the same database
	known, err := again.Known(t.Context(), s.Name)
	if err != nil || len(known) != 2 {
		t.Errorf("%d keys are known: %v", len(known), err)
	}
	object, err := again.KeyObject(t.Context(), s.Name, newID)
	if _, bad := proof.KeyObject(s.Name, object); err != nil || bad != nil {
		t.Errorf("the known key object: %v, %v", err, bad)
	}
}

// counted counts its requests.
type counted struct {
	http.RoundTripper
	n *int
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	*c.n++
	return c.RoundTripper.RoundTrip(r)
}

// TestSilentServer: this server does not ask an unreachable server again for a minute, or until that one sends a
// request.
func TestSilentServer(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	id, m := signed(t, s.keys(), s.Name)
	k, asked, now := tt.keys(), 0, time.Now()
	k.client = fclient.NewClient(fclient.WithTransport(counted{net, &asked}))
	k.at(now)
	net.set(s.Name, nil)
	for range 1000 {
		wantKind(t, k.verify(t.Context(), s.Name, id, m), mimiport.KindPeer)
	}
	if asked != 1 {
		t.Errorf("it was asked %d times within a minute", asked)
	}
	k.at(now.Add(silence))
	wantKind(t, k.verify(t.Context(), s.Name, id, m), mimiport.KindPeer)
	net.set(s.Name, s.handler)
	wantKind(t, k.verify(t.Context(), s.Name, id, m), mimiport.KindPeer)
	k.silent.spoke(s.Name)
	wantNone(t, k.verify(t.Context(), s.Name, id, m))
	if asked != 3 {
		t.Errorf("it was asked %d times, want 3", asked)
	}
}

// TestGivenUp: a canceled request says nothing about the server that it asks.
func TestGivenUp(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	id, m := signed(t, s.keys(), s.Name)
	k := tt.keys()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.verify(ctx, s.Name, id, m); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	wantNone(t, k.verify(t.Context(), s.Name, id, m))
}

// TestManySilentServers: the number of unreachable servers in memory is bounded.
func TestManySilentServers(t *testing.T) {
	k := start(t, "t.example", newFabric()).keys()
	for i := range 3 * maxSilent {
		k.silent.fell(strings.Repeat("a", i%200+1) + "." + strings.Repeat("b", i/200+1))
	}
	if len(k.silent.since) > maxSilent {
		t.Errorf("%d servers are in memory", len(k.silent.since))
	}
}

// TestOwnRefusals: a server that this one must not ask, by its own rules, does not count as unreachable.
func TestOwnRefusals(t *testing.T) {
	k := start(t, "t.example", newFabric()).keys()
	k.client = fclient.NewClient(fclient.WithTransport(dial.NewTransport(dial.Allowed{}, false, time.Now)))
	for _, server := range []string{"192.0.2.1", "127.1:8448", "[2001:db8::1]"} {
		_, err := k.Live(t.Context(), server, []string{"ed25519:a"})
		wantKind(t, err, mimiport.KindForbidden)
	}
	_, err := proof.Verify(t.Context(), k, "", "ed25519:a", abort(""), time.Now(), proof.Known)
	wantKind(t, err, mimiport.KindBadMessage)
}

// TestAnswerThatIsNone: a server that answers with anything but its keys counts as unreachable, and nothing of its
// answer is stored.
func TestAnswerThatIsNone(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	id, m := signed(t, s.keys(), s.Name)
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string][]byte{
		"nothing": nil, "no JSON": []byte("<html>"), "no key object": []byte(`{"a":1}`),
		"too much":         bytes.Repeat([]byte(" "), proof.MaxKeyObject+1),
		"another server's": prooftest.KeyObject("u.example", prooftest.Pair{ID: id, Key: private, Until: time.Now()}),
	} {
		t.Run(name, func(t *testing.T) {
			net.set(s.Name, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) }))
			k := tt.keys()
			wantKind(t, k.verify(t.Context(), s.Name, id, m), mimiport.KindPeer)
			if stored, err := k.store.KeyObjects(t.Context(), s.Name); len(stored) > 0 || err != nil {
				t.Errorf("the store has %v: %v", stored, err)
			}
		})
	}
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
	k := start(t, "t.example", net, func(cfg *config.Dendrite) {
		cfg.FederationAPI.KeyPerspectives = config.KeyPerspectives{notary}
	}).keys()
	wantNone(t, k.verify(t.Context(), s.Name, id, m))
	_, err = proof.Verify(t.Context(), k, s.Name, id, m, k.now(), proof.Live)
	wantNone(t, err)
	wantKind(t, k.verify(t.Context(), s.Name, "ed25519:invented", m), mimiport.KindPeer)
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
			published, err := proof.KeyObject(s.Name, object)
			if _, ok := published["ed25519:now"]; !ok {
				t.Errorf("it does not hold the key: %v", err)
			}
			_, err = k.KeyObject(t.Context(), s.Name, "ed25519:invented")
			wantKind(t, err, mimiport.KindBadSignature)
		})
	}
	net.set(s.Name, nil)
	_, err := tt.keys().KeyObject(t.Context(), s.Name, "ed25519:now")
	wantKind(t, err, mimiport.KindPeer)
}
