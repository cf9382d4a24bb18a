package mls

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// hostile draws proposals that are likely to conflict with each other.
type hostile struct {
	scene
	random *rand.Rand
	keys   [][]byte          // encryption keys to use again
	seen   []*mlstest.Client // clients to add again, with their keys or new ones
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// spoil changes a leaf that its owner then signs.
func (h *hostile) spoil(l *rfc9420.LeafNode) {
	switch h.random.IntN(8) {
	case 0:
		l.Capabilities.Proposals = nil
	case 1:
		l.Capabilities.Extensions = nil
	case 2:
		l.EncryptionKey = pick(h.random, h.keys)
	case 3:
		l.Credential.Contents = mlstest.Identity("@user1:example.org", "DEVICE1")
	case 4:
		l.Capabilities.Credentials = rfc9420.MakeUint16s(unknownCredential, rfc9420.CredentialBasic)
	case 5:
		l.Extensions = extensions(grease, []byte("leaf"))
	}
	h.keys = append(h.keys, l.EncryptionKey)
}

// newcomer makes a client. It may have the credential or the key of another client.
func (h *hostile) newcomer() *mlstest.Client {
	c := h.client(fmt.Sprintf("new%d", h.random.IntN(4)))
	if len(h.seen) > 0 && h.random.IntN(3) == 0 {
		c = c.As(pick(h.random, h.seen))
	}
	if h.random.IntN(4) == 0 {
		c = c.As(h.Client(pick(h.random, h.Leaves())))
	}
	h.seen = append(h.seen, c)
	return c
}

func (h *hostile) extensions() rfc9420.Extensions {
	list := appDataOf(uint16(11 + h.random.IntN(2)))
	switch h.random.IntN(4) {
	case 0:
		return extensions(unknownExtension, []byte{})
	case 1:
		return extensions(grease, []byte{byte(h.random.IntN(2))})
	case 2:
		wanted := required(pick(h.random, []uint16{grease, unknownExtension}))
		list, _ = list.With(rfc9420.ExtensionRequiredCapabilities, wanted)
	}
	return list
}

// message draws a proposal of a member, of a client that wants to join, or of the Delivery Service.
func (h *hostile) message() []byte {
	by, leaf := pick(h.random, h.Leaves()), pick(h.random, h.Leaves())
	add := func() *mlstest.Proposal {
		return h.addOf(h.newcomer(), h.spoil, func(k *rfc9420.KeyPackage) {
			if h.random.IntN(4) == 0 {
				k.InitKey = pick(h.random, h.keys)
			}
		})
	}
	switch h.random.IntN(13) {
	case 0, 1, 2:
		return h.Propose(by, add())
	case 3, 4:
		update := h.Update(by)
		update.Update = signLeaf(h.Client(by), edited(update.Update, h.spoil), h.ID(), by)
		return h.Propose(by, update)
	case 5:
		return h.Propose(by, h.Remove(leaf))
	case 6:
		return h.Propose(by, h.SelfRemove())
	case 7:
		return h.ProposeExternal(0, h.ds, h.Remove(leaf))
	case 8:
		return h.Propose(by, h.SetExtensions(h.extensions()))
	case 9:
		return h.Propose(by, h.SetAppData(uint16(11+h.random.IntN(3)), []byte("data")))
	case 10:
		return h.Propose(by, h.RemoveAppData(uint16(11+h.random.IntN(3))))
	case 11:
		custom := pick(h.random, []ProposalType{grease, unknownProposal})
		return h.Propose(by, &mlstest.Proposal{Type: custom, Custom: []byte("custom")})
	}
	return h.Propose(by, pick(h.random, []*mlstest.Proposal{
		h.ReInit([]byte("next")), h.PSK([]byte("psk")), h.AppEphemeral(1, []byte("data")),
	}))
}

// honest lists the members that can commit all pending proposals: no proposal updates or removes their leaves.
func honest(g Group, leaves []uint32) []uint32 {
	return slices.DeleteFunc(slices.Clone(leaves), func(leaf uint32) bool {
		return slices.ContainsFunc(g.Proposals(), func(p Proposal) bool {
			return p.Update != nil && p.Update.Leaf == leaf || p.Remove != nil && p.Remove.Leaf == leaf
		})
	})
}

// TestHostilePending draws hostile proposals. After each accepted proposal, a member can commit all pending ones, as
// some clients always do.
func TestHostilePending(t *testing.T) {
	count := make(map[ProposalType]int)
	for seed := range uint64(30) {
		h := &hostile{scene: newScene(appDataOf(11)), random: rand.New(rand.NewPCG(seed, 1)), keys: [][]byte{key(1)}}
		if seed%3 == 0 {
			h.scene = newScene(nil)
		}
		g := open(t, h.Group)
		for range 60 {
			next, p, err := g.Propose(h.message())
			if err != nil {
				checkTyped(t, err)
				continue
			}
			g = next
			count[p.Type]++
			var references [][]byte
			for _, p := range g.Proposals() {
				references = append(references, p.Message)
			}
			again := open(t, h.Group)
			for _, message := range references {
				again = propose(t, again, message) // as a server does that imports the group
			}
			able := honest(g, h.Leaves())
			if len(able) == 0 {
				if p.Sender.Type != SenderExternal {
					t.Fatalf("seed %d: no member can commit after a proposal of type %d", seed, p.Type)
				}
				break
			}
			c := h.Commit(mlstest.CommitOptions{
				Sender: pick(h.random, able), References: references, Path: h.random.IntN(2) == 0,
			})
			committed, effects, err := g.Commit(c.Message, c.GroupInfo)
			if err != nil {
				t.Fatalf("seed %d: %d proposals, the last of type %d: %v", seed, len(references), p.Type, err)
			}
			if h.random.IntN(8) == 0 && len(effects.Added) == 0 && !effects.Closes { // an added leaf may belong to no client
				g, h.Group = committed, c.Next
			}
		}
	}
	t.Logf("accepted by type: %v", count)
	for typ := ProposalAdd; typ <= ProposalSelfRemove; typ++ {
		if never := typ == ProposalPSK || typ == ProposalExternalInit; (count[typ] == 0) != never {
			t.Errorf("%d proposals of type %d were accepted", count[typ], typ)
		}
	}
}

// TestDemandedRemove: the Delivery Service's Remove replaces the pending proposals that conflict with it.
func TestDemandedRemove(t *testing.T) {
	s := newScene(nil)
	remove := s.ProposeExternal(0, s.ds, s.Remove(2))
	update, other := s.Propose(2, s.Update(2)), s.Propose(3, s.Update(3))
	for name, c := range map[string]struct{ before, left [][]byte }{
		"its Update": {[][]byte{update, other}, [][]byte{remove, other}},
		"a ReInit":   {[][]byte{s.Propose(2, s.ReInit([]byte("next")))}, [][]byte{remove}},
	} {
		g := open(t, s.Group)
		for _, message := range append(c.before, remove) {
			g = propose(t, g, message)
		}
		var left [][]byte
		for _, p := range g.Proposals() {
			left = append(left, p.Message)
		}
		if !slices.EqualFunc(left, c.left, slices.Equal) {
			t.Errorf("%s: %d proposals are pending", name, len(left))
		}
		if _, _, err := g.Propose(c.before[0]); ruleOf(err) != ruleTogether.name {
			t.Errorf("%s, sent again: %v", name, err)
		}
		withdrawn := s.Commit(mlstest.CommitOptions{References: c.before[:1]})
		if _, _, err := g.Commit(withdrawn.Message, withdrawn.GroupInfo); ruleOf(err) != ruleReference.name {
			t.Errorf("%s, committed nevertheless: %v", name, err)
		}
		all := s.Commit(mlstest.CommitOptions{References: left})
		if _, e := commit(t, g, all); len(e.Removed) != 1 || e.Removed[0].Leaf != 2 {
			t.Errorf("%s: removed %v", name, e.Removed)
		}
	}
}

// TestReplacedDevice: a device can be added again with its key when the removal of its leaf is pending.
func TestReplacedDevice(t *testing.T) {
	s := newScene(nil)
	again := s.Propose(0, s.Add(s.again(3).As(s.Client(3))))
	if _, _, err := open(t, s.Group).Propose(again); ruleOf(err) != ruleSignatureKeyUnique.name {
		t.Errorf("beside its leaf: %v", err)
	}
	remove := s.Propose(0, s.Remove(3))
	g := propose(t, propose(t, open(t, s.Group), remove), again)
	_, e := commit(t, g, s.Commit(mlstest.CommitOptions{References: [][]byte{remove, again}}))
	if len(e.Added) != 1 || len(e.Renewed) != 0 {
		t.Errorf("added %v, renewed %v", e.Added, e.Renewed)
	}
}

// ruleOf returns the rule in an error.
func ruleOf(err error) string {
	var typed *mimiport.Error
	if errors.As(err, &typed) {
		return typed.Info.Rule
	}
	return fmt.Sprint(err)
}
