package mls

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// TestExternalRemove: in each suite, a group accepts a Remove that a generated key of its external_senders has signed.
// It refuses one that another key has signed.
func TestExternalRemove(t *testing.T) {
	e := RFC9420(DefaultLimits()).(*engine)
	for suite := uint16(1); suite <= 7; suite++ {
		t.Run(fmt.Sprint(suite), func(t *testing.T) {
			private, entry := newKey(t, e, suite)
			stranger, _ := newKey(t, e, suite)
			members := mlstest.New(mlstest.Options{
				Seed: 1, CipherSuite: suite, GroupID: []byte("group"), Members: [][]byte{[]byte("a"), []byte("b")},
				Extensions: extension(rfc9420.ExtensionExternalSenders, list(entry)),
			})
			g, err := e.Open(members.GroupInfo(), members.RatchetTree())
			if err != nil {
				t.Fatal(err)
			}
			forged, err := e.ProposeRemove(g, stranger, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := g.Propose(forged); err == nil {
				t.Error("the group accepts a proposal of a stranger")
			}
			message, err := e.ProposeRemove(g, private, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			next, p, err := g.Propose(message)
			if err != nil || p.Type != ProposalRemove || p.Remove.Leaf != 1 || p.Sender.Type != SenderExternal {
				t.Fatalf("the proposal gives %+v, %v", p, err)
			}
			c := members.Commit(mlstest.CommitOptions{Sender: 0, Path: true, References: [][]byte{message}})
			if _, effects, err := next.Commit(c.Message, c.GroupInfo); err != nil || len(effects.Removed) != 1 {
				t.Errorf("the Commit gives %+v, %v", effects, err)
			}
		})
	}
	if _, err := e.GenerateKey(0x0a0a, rand.Reader); err == nil {
		t.Error("the engine makes a key for an unknown suite")
	}
	if _, _, err := e.Entry(1, []byte("short"), nil); err == nil {
		t.Error("the engine makes an entry for a key of the wrong length")
	}
}

func newKey(t *testing.T, e *engine, suite uint16) (private, entry []byte) {
	t.Helper()
	private, err := e.GenerateKey(suite, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, entry, err = e.Entry(suite, private, []byte("a.example")); err != nil {
		t.Fatal(err)
	}
	return private, entry
}

func extension(typ uint16, data []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint16(typ)
	wire.AddOpaque(&b, data)
	return b.BytesOrPanic()
}

// list encodes entries of external_senders as one vector.
func list(entries ...[]byte) []byte {
	var b cryptobyte.Builder
	wire.AddOpaque(&b, bytes.Join(entries, nil))
	return b.BytesOrPanic()
}

// TestSwap: "puts T's entry at the first such index, drops further entries of S or T, leaves every other entry and
// extension byte for byte" (profile, section 5).
func TestSwap(t *testing.T) {
	e := RFC9420(DefaultLimits()).(*engine)
	entry := func(name string) []byte {
		credential := rfc9420.Credential{Type: rfc9420.CredentialBasic, Contents: []byte(name)}
		b, err := rfc9420.Marshal(&rfc9420.ExternalSender{SignatureKey: []byte("key of " + name), Credential: credential})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s, target, bot := entry("s"), entry("t"), entry("bot")
	stale := bytes.Replace(target, []byte("key"), []byte("old"), 1)
	other := extension(0xf000, []byte("kept"))
	group := func(entries ...[]byte) []byte {
		return list(other, extension(rfc9420.ExtensionExternalSenders, list(entries...)), other)
	}
	for name, c := range map[string]struct{ before, after []byte }{
		"replaced":           {group(bot, s, bot), group(bot, target, bot)},
		"further ones go":    {group(s, bot, s, stale), group(target, bot)},
		"target came before": {group(stale, s), group(target)},
		"none names source":  {group(bot, stale), group(bot, stale)},
		"no such extension":  {list(other), list(other)},
	} {
		got, err := e.Swap(c.before, []byte("s"), []byte("t"), target)
		if err != nil || !bytes.Equal(got, c.after) {
			t.Errorf("%s: got %x, %v; want %x", name, got, err, c.after)
		}
	}
	for _, bad := range [][]byte{nil, {5}, list(extension(rfc9420.ExtensionExternalSenders, []byte{1}))} {
		if _, err := e.Swap(bad, []byte("s"), []byte("t"), target); err == nil {
			t.Errorf("%x was swapped", bad)
		}
	}
}
