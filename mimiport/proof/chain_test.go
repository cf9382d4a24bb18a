package proof_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
)

// chain is a group that moves from host to host.
type chain = prooftest.Chain

const keyID = "ed25519:1"

// keyOf returns a server's signing key.
func keyOf(server string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(server))
	return ed25519.NewKeyFromSeed(seed[:])
}

// objects caches key objects by server.
var objects = map[string][]byte{}

// object returns a server's key object. It has one key, with which the server signs chains.
func object(server string) []byte {
	if objects[server] == nil {
		pair := prooftest.Pair{ID: keyID, Key: keyOf(server), Until: time.UnixMilli(1e12)}
		objects[server] = prooftest.KeyObject(server, pair)
	}
	return objects[server]
}

// online returns the keys that all servers publish now.
func online() *prooftest.Keys {
	k := &prooftest.Keys{Published: map[string][]byte{}}
	for _, server := range servers {
		k.Published[server] = object(server)
	}
	return k
}

// signed returns a message with a server's signature.
func signed(server string, m prooftest.Message) mimiport.SignedMessage {
	if err := mimiport.Sign(m, keyOf(server)); err != nil {
		panic(err)
	}
	return mimiport.SignedMessage{Message: must(m.Marshal()), KeyID: keyID, KeyObject: object(server)}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newChain(creator string) *chain {
	pre := mimiport.GroupIDPreimage{CreatingServer: creator, RoomID: "!room:" + creator, Nonce: mimiport.Nonce{1}}
	return prooftest.NewChain(pre, signed)
}

var servers = []string{"a.example", "b.example", "c.example:8448", "[2001:db8::1]", "e.example"}

// drawChain draws a chain that verifies.
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
	epoch := c.Epoch + rapid.Uint64Range(0, 1000).Draw(t, "epochs")
	switch kind := rapid.SampledFrom([]mimiport.StepKind{1, 1, 1, mimiport.StepReclaim, mimiport.StepRecover}).Draw(t,
		"kind"); {
	case kind == mimiport.StepMigration:
		c.Migrate(others(c.Host).Draw(t, "target"), epoch)
	case kind == mimiport.StepReclaim && c.Before != "":
		c.Claim(kind, rapid.SampledFrom([]string{c.Host, c.Before}).Draw(t, "claimant"), epoch)
	default:
		c.Claim(mimiport.StepRecover, rapid.SampledFrom(servers).Draw(t, "claimant"), epoch)
	}
}

// copied returns a copy of a lineage to change.
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
