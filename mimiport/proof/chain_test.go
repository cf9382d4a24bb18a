package proof_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

const keyID = "ed25519:1"

// keyOf is a server's signing key.
func keyOf(server string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(server))
	return ed25519.NewKeyFromSeed(seed[:])
}

// keys knows every server's key, and counts what it is asked.
type keys struct{ asked int }

func (k *keys) VerifyArchived(_ context.Context, server, id string, _ []byte, m mimiport.Signed) error {
	k.asked++
	if id != keyID && id != keyID+" again" {
		return mimiport.Errorf("verify", mimiport.KindBadSignature, "no key %s of %s", id, server)
	}
	return mimiport.Verify(m, keyOf(server).Public().(ed25519.PublicKey))
}

// signed is a message with a server's signature.
func signed(server string, m interface {
	mimiport.Signed
	Marshal() ([]byte, error)
}) mimiport.SignedMessage {
	if err := mimiport.Sign(m, keyOf(server)); err != nil {
		panic(err)
	}
	return mimiport.SignedMessage{Message: must(m.Marshal()), KeyID: keyID}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// chain is a group on its way from host to host.
type chain struct {
	id           []byte
	host, before string
	epoch        uint64
	lineage      mimiport.Lineage
}

func newChain(creator string) *chain {
	preimage := &mimiport.GroupIDPreimage{CreatingServer: creator, RoomID: "!room:" + creator, Nonce: mimiport.Nonce{1}}
	return &chain{
		id: preimage.GroupID(), host: creator,
		lineage: mimiport.Lineage{CreatingServer: creator, Preimage: preimage, RoomID: preimage.RoomID},
	}
}

// move is an offer and the decision on it: the group goes to a target at an epoch.
func (c *chain) move(target string, epoch uint64) (*mimiport.MigrationResponse, *mimiport.MigrationConfirmation) {
	offer := &mimiport.MigrationResponse{
		Request: mimiport.MigrationRequest{SourceDomain: c.host, TargetDomain: target, GroupID: c.id, Epoch: epoch},
		Nonce:   sha256.Sum256(binary.BigEndian.AppendUint64([]byte(target), c.lineage.Term())),
	}
	return offer, &mimiport.MigrationConfirmation{DomainName: target, Nonce: offer.Nonce, GroupID: c.id}
}

// migrates adds a migration.
func (c *chain) migrates(target string, epoch uint64) {
	offer, decision := c.move(target, epoch)
	c.add(target, epoch+1, mimiport.LineageStep{
		Kind: mimiport.StepMigration, Response: signed(target, offer), Confirmation: signed(c.host, decision),
	})
}

// claimed adds a reclaim or a recover.
func (c *chain) claimed(kind mimiport.StepKind, server string, epoch uint64) {
	claim := signed(server, &mimiport.LineageClaim{
		Kind: kind, DomainName: server, GroupID: c.id, Term: c.lineage.Term() + 1, Epoch: epoch,
	})
	c.add(server, epoch, mimiport.LineageStep{Kind: kind, Claim: &claim})
}

func (c *chain) add(host string, epoch uint64, step mimiport.LineageStep) {
	c.host, c.before, c.epoch = host, c.host, epoch
	c.lineage.Steps = append(c.lineage.Steps, step)
}

var servers = []string{"a.example", "b.example", "c.example:8448", "[2001:db8::1]", "e.example"}

// drawChain draws a chain that holds.
func drawChain(t *rapid.T) *chain {
	c := newChain(rapid.SampledFrom(servers).Draw(t, "creator"))
	for range rapid.IntRange(0, 8).Draw(t, "steps") {
		drawStep(t, c)
	}
	return c
}

func drawStep(t *rapid.T, c *chain) {
	others := func(not string) *rapid.Generator[string] {
		return rapid.SampledFrom(servers).Filter(func(s string) bool { return s != not })
	}
	epoch := c.epoch + rapid.Uint64Range(0, 1000).Draw(t, "epochs")
	switch kind := rapid.SampledFrom([]mimiport.StepKind{1, 1, 1, mimiport.StepReclaim, mimiport.StepRecover}).Draw(t, "kind"); {
	case kind == mimiport.StepMigration:
		c.migrates(others(c.host).Draw(t, "target"), epoch)
	case kind == mimiport.StepReclaim && c.before != "":
		c.claimed(kind, rapid.SampledFrom([]string{c.host, c.before}).Draw(t, "claimant"), epoch)
	default:
		c.claimed(mimiport.StepRecover, rapid.SampledFrom(servers).Draw(t, "claimant"), epoch)
	}
}

// copied is a lineage to change.
func copied(t testing.TB, l *mimiport.Lineage) *mimiport.Lineage {
	t.Helper()
	data, err := l.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	c, err := mimiport.UnmarshalLineage(data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
