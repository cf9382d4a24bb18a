package proof_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
)

// TestVerify: a key counts only if its origin is good enough and its server had it at the given time.
func TestVerify(t *testing.T) {
	const server = "a.example"
	now := time.UnixMilli(1e12)
	old := prooftest.Pair{ID: "ed25519:old", Key: keyOf("old"), Until: now.Add(-time.Hour)}
	current := prooftest.Pair{ID: keyID, Key: keyOf(server), Until: now.Add(time.Hour)}
	object := prooftest.KeyObject(server, current, old)
	live := &prooftest.Keys{Published: map[string][]byte{server: object}}
	known := &prooftest.Keys{Stored: map[string][][]byte{server: {object}}}
	refused := &prooftest.Keys{Stored: known.Stored, Refused: []string{server}}
	const bad = mimiport.KindBadSignature
	none := prooftest.Pair{ID: "ed25519:none", Key: keyOf("old")}
	another := prooftest.Pair{ID: keyID, Key: keyOf("old")}
	after := current.Until.Add(time.Millisecond)
	for _, tt := range []struct {
		name  string
		keys  *prooftest.Keys
		pair  prooftest.Pair
		since time.Time
		least proof.Origin
		want  mimiport.Kind // KindInternal if it verifies
	}{
		{"current, live", live, current, now, proof.Live, mimiport.KindInternal},
		{"current, live, although known would do", live, current, now, proof.Known, mimiport.KindInternal},
		{"current, known", known, current, now, proof.Known, mimiport.KindInternal},
		{"current, known, must be live", known, current, now, proof.Live, mimiport.KindPeer},
		{"until it is no more", known, current, current.Until, proof.Known, mimiport.KindInternal},
		{"no more", live, current, after, proof.Live, bad},
		{"known, no more, and nobody to ask", known, current, after, proof.Known, mimiport.KindPeer},
		{"old", live, old, now, proof.Known, bad},
		{"old, current then", live, old, old.Until, proof.Known, mimiport.KindInternal},
		{"never there", live, none, now, proof.Known, bad},
		{"another key of that id", live, another, now, proof.Known, bad},
		{"not asked", refused, current, now, proof.Live, mimiport.KindForbidden},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &mimiport.MigrationAbort{SourceDomain: server}
			if err := mimiport.Sign(m, tt.pair.Key); err != nil {
				t.Fatal(err)
			}
			key, err := proof.Verify(t.Context(), tt.keys, server, tt.pair.ID, m, tt.since, tt.least)
			if mimiport.KindOf(err) != tt.want || (err == nil) != (key != nil) {
				t.Errorf("got %v, %v", key, err)
			}
			if key != nil && string(key.Object) != string(object) {
				t.Error("it is not told where the key was published")
			}
		})
	}
	_, err := proof.Verify(t.Context(), live, "", keyID, &mimiport.MigrationAbort{}, now, proof.Known)
	if mimiport.KindOf(err) != mimiport.KindBadMessage {
		t.Errorf("a name that is none: %v", err)
	}
	if len(live.Asked()) == 0 || len(known.Asked()) != 2 {
		t.Errorf("asked: %v, %v", live.Asked(), known.Asked())
	}
}

// TestGivenUp: a canceled request accepts no presented key.
func TestGivenUp(t *testing.T) {
	c := newChain("a.example")
	c.Migrate("b.example", 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	named := proof.Rules{Named: &proof.Place{Server: "b.example", Term: 1}}
	_, err := proof.Lineage(ctx, &prooftest.Keys{}, c.ID, &c.Lineage, named)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestFewAreAsked: for one lineage this server asks at most eight other servers for their keys, each once.
func TestFewAreAsked(t *testing.T) {
	many, one := newChain("a.example"), newChain("a.example")
	for i := range 1000 {
		many.Claim(mimiport.StepRecover, fmt.Sprintf("s%d.example", i), 1)
		one.Claim(mimiport.StepRecover, "b.example", 1)
		one.Lineage.Steps[i].Claim.KeyID = fmt.Sprintf("ed25519:%d", i)
	}
	k := &prooftest.Keys{Published: map[string][]byte{"b.example": object("b.example")}}
	_, err := proof.Lineage(t.Context(), k, many.ID, &many.Lineage, proof.Rules{})
	if mimiport.KindOf(err) != mimiport.KindPeer {
		t.Error(err)
	}
	if n := len(k.Asked()); n != 8 {
		t.Errorf("%d servers were asked", n)
	}
	_, err = proof.Lineage(t.Context(), k, one.ID, &one.Lineage, proof.Rules{})
	expectLineageError(t, err, "no key")
	if n := len(k.Asked()) - 8; n != 1 {
		t.Errorf("one server was asked %d times", n)
	}
}

// FuzzKeyObject decodes arbitrary bytes as a server's key object. All decoded keys are whole Ed25519 keys.
func FuzzKeyObject(f *testing.F) {
	const server = "a.example"
	f.Add(object(server))
	f.Add([]byte(`{"server_name":"a.example","verify_keys":{"ed25519:1":{"key":""}},"valid_until_ts":1}`))
	f.Add([]byte(`{"server_name":"a.example","signatures":{"a.example":{"ed25519:1":"\ud800"}}}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		keys, err := proof.KeyObject(server, object)
		if (err == nil) != (keys != nil) {
			t.Errorf("%d keys, error %v", len(keys), err)
		}
		for id, key := range keys {
			if len(key.Public) != ed25519.PublicKeySize || len(id) > 255 {
				t.Errorf("key %q of %d bytes", id, len(key.Public))
			}
		}
	})
}
