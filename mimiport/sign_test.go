package mimiport

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"pgregory.net/rapid"
)

var (
	testKey  = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	otherKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize))
)

func publicKey(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// allSigned draws one of each structure that a server signs.
func allSigned(t *rapid.T) []Signed {
	return []Signed{
		draw(t, genResponse), draw(t, genContent), draw(t, genComplete),
		draw(t, genConfirmation), draw(t, genAbort), draw(t, genClaim),
		draw(t, genReceipt), draw(t, genSenderOffer), draw(t, genVote),
	}
}

func TestSignVerify(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, m := range allSigned(t) {
			if err := Sign(m, testKey); err != nil {
				t.Fatal(err)
			}
			if len(*m.signature()) != ed25519.SignatureSize {
				t.Errorf("%s: a signature of %d bytes", m.name(), len(*m.signature()))
			}
			if err := Verify(m, publicKey(testKey)); err != nil {
				t.Error(err)
			}
			if err := Verify(m, publicKey(otherKey)); KindOf(err) != KindBadSignature {
				t.Errorf("%s: another's key: %v", m.name(), err)
			}
			bit := rapid.IntRange(0, 8*ed25519.SignatureSize-1).Draw(t, "bit")
			(*m.signature())[bit/8] ^= 1 << (bit % 8)
			if err := Verify(m, publicKey(testKey)); KindOf(err) != KindBadSignature {
				t.Errorf("%s: bit %d of the signature flipped: %v", m.name(), bit, err)
			}
		}
	})
}

func TestVerifyRefusesBadKeys(t *testing.T) {
	m := &MigrationAbort{SourceDomain: "a.example"}
	if err := Sign(m, testKey); err != nil {
		t.Fatal(err)
	}
	for _, key := range []ed25519.PublicKey{nil, {}, publicKey(testKey)[:31], append(publicKey(testKey), 0)} {
		if err := Verify(m, key); KindOf(err) != KindBadSignature {
			t.Errorf("a key of %d bytes: %v", len(key), err)
		}
	}
}

// TestNoSignatureFitsTwoStructs: a signature over one structure never verifies on another, because the signed content
// includes the label.
func TestNoSignatureFitsTwoStructs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := allSigned(t)
		for _, from := range all {
			if err := Sign(from, testKey); err != nil {
				t.Fatal(err)
			}
			for _, to := range all {
				if to == from {
					continue
				}
				*to.signature() = *from.signature()
				if err := Verify(to, publicKey(testKey)); KindOf(err) != KindBadSignature {
					t.Fatalf("the signature of a %s verifies on a %s", from.name(), to.name())
				}
			}
		}
	})
}

// TestNeverAMatrixSignature: "A Matrix signature is over text that starts with `{`, so the two can never be confused:
// a test proves it" (profile, section 2).
func TestNeverAMatrixSignature(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, m := range allSigned(t) {
			tbs, err := signContent(m)
			if err != nil {
				t.Fatal(err)
			}
			if tbs[0] >= 0x40 || tbs[0] == '{' || json.Valid(tbs) {
				t.Fatalf("the signed content of a %s starts with %#x", m.name(), tbs[0])
			}
		}
	})
}

// TestMatrixSignaturesDoNotCross: a Matrix signature does not verify on a structure of the profile, and a signature of
// the profile does not verify on a Matrix object. Both have the same key.
func TestMatrixSignaturesDoNotCross(t *testing.T) {
	const server, keyID = "a.example", "ed25519:a"
	m := &MigrationAbort{SourceDomain: server}
	object, err := gomatrixserverlib.SignJSON(server, keyID, testKey, []byte(`{"source_domain":"a.example"}`))
	if err != nil {
		t.Fatal(err)
	}
	var signed struct {
		SourceDomain string                                                  `json:"source_domain"`
		Signatures   map[string]map[gomatrixserverlib.KeyID]spec.Base64Bytes `json:"signatures"`
	}
	if err := json.Unmarshal(object, &signed); err != nil {
		t.Fatal(err)
	}
	m.Signature = signed.Signatures[server][keyID]
	if err := Verify(m, publicKey(testKey)); KindOf(err) != KindBadSignature {
		t.Errorf("a Matrix signature verifies on a MigrationAbort: %v", err)
	}
	if err := Sign(m, testKey); err != nil {
		t.Fatal(err)
	}
	signed.Signatures[server][keyID] = m.Signature
	forged, err := json.Marshal(&signed)
	if err != nil {
		t.Fatal(err)
	}
	if gomatrixserverlib.VerifyJSON(server, keyID, publicKey(testKey), object) != nil {
		t.Error("the object as Matrix signed it does not verify")
	}
	if gomatrixserverlib.VerifyJSON(server, keyID, publicKey(testKey), forged) == nil {
		t.Error("the signature of a MigrationAbort verifies on a Matrix object")
	}
}

func TestMigrationID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := draw(t, genResponse)
		id := m.ID()
		if parsed, err := ParseMigrationID(id.String()); err != nil || parsed != id {
			t.Fatalf("%s parses to %s, %v", id, parsed, err)
		}
		m.Signature = nil
		if m.ID() != id {
			t.Error("the id depends on the signature")
		}
		m.Nonce[0] ^= 1
		if m.ID() == id {
			t.Error("the id does not depend on the nonce")
		}
	})
}

func TestParseMigrationID(t *testing.T) {
	const valid = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	if _, err := ParseMigrationID(valid); err != nil {
		t.Error(err)
	}
	for _, s := range []string{
		"", valid[1:], valid + "A", valid + "=", valid[1:] + "B", valid[1:] + "+", valid[:20] + "\n" + valid[20:],
	} {
		if _, err := ParseMigrationID(s); KindOf(err) != KindBadMessage {
			t.Errorf("%q: %v", s, err)
		}
	}
}
