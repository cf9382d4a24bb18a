package mls

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// walker makes the same changes to a synthetic group and to the engine's group.
type walker struct {
	t      *testing.T
	random *rand.Rand
	ds     *mlstest.Client
	group  *mlstest.Group
	engine Group
	names  int
}

func newWalker(t *testing.T, seed uint64, o mlstest.Options) *walker {
	w := &walker{
		t: t, random: rand.New(rand.NewPCG(seed, 0)), ds: mlstest.NewClient(seed+1000, o.CipherSuite, []byte("example.org")),
	}
	o.Seed = seed
	o.GroupID = []byte("group")
	o.ExternalSenders = []*mlstest.Client{w.ds}
	w.group = mlstest.New(o)
	w.engine = open(t, w.group)
	return w
}

func (w *walker) client() *mlstest.Client {
	w.names++
	return w.group.NewClient(mlstest.Identity(fmt.Sprintf("@new%d:example.org", w.names), "DEVICE"))
}

// member returns a random member that is not in a list.
func (w *walker) member(not ...uint32) uint32 {
	for {
		leaves := w.group.Leaves()
		leaf := leaves[w.random.IntN(len(leaves))]
		if !slices.Contains(not, leaf) {
			return leaf
		}
	}
}

// step makes one random Commit. It may be a member's or an external one. It may have a path. Its proposals are by
// value and by reference.
func (w *walker) step() {
	w.t.Helper()
	var o mlstest.CommitOptions
	n := len(w.group.Leaves())
	o.Tree = w.random.IntN(4) == 0
	if w.random.IntN(6) == 0 {
		o.Joiner = w.client()
		if leaf := w.member(); w.random.IntN(2) == 0 && n > 1 {
			o.References = append(o.References, w.group.Propose(leaf, w.group.SelfRemove()))
			w.apply(o)
			return
		}
		if w.random.IntN(2) == 0 {
			leaf := w.member()
			o.Joiner = w.group.Client(leaf)
			o.Proposals = append(o.Proposals, w.group.Remove(leaf))
		}
		w.apply(o)
		return
	}
	o.Sender = w.member()
	o.Path = w.random.IntN(2) == 0
	touched := []uint32{o.Sender}
	for range w.random.IntN(4) {
		if len(touched) >= n {
			break
		}
		switch leaf := w.member(touched...); w.random.IntN(8) {
		case 0:
			touched = append(touched, leaf)
			o.References = append(o.References, w.group.Propose(leaf, w.group.Update(leaf)))
		case 1:
			touched = append(touched, leaf)
			o.References = append(o.References, w.group.ProposeExternal(0, w.ds, w.group.Remove(leaf)))
		case 2:
			touched = append(touched, leaf)
			o.Proposals = append(o.Proposals, w.group.Remove(leaf))
		case 3:
			o.References = append(o.References, w.group.ProposeSelf(w.client()))
		case 4:
			o.Proposals = append(o.Proposals, w.group.Add(w.client()))
		case 5:
			touched = append(touched, leaf)
			o.References = append(o.References, w.group.Propose(leaf, w.group.SelfRemove()))
		case 6:
			o.Proposals = append(o.Proposals, w.group.SetAppData(uint16(11+w.random.IntN(4)), []byte{byte(w.names)}))
		case 7:
			o.Proposals = append(o.Proposals, w.group.AppEphemeral(11, []byte("data")))
		}
	}
	w.apply(o)
}

func (w *walker) apply(o mlstest.CommitOptions) {
	w.t.Helper()
	for _, message := range o.References {
		w.engine = propose(w.t, w.engine, message)
	}
	c := w.group.Commit(o)
	w.engine, _ = commit(w.t, w.engine, c)
	w.group = c.Next
	if !bytes.Equal(w.engine.(*group).encodedContext, w.group.Context()) {
		w.t.Fatal("the group contexts differ")
	}
}

// reopen checks that a group has the same state whether it is opened or has followed the Commits.
func (w *walker) reopen() {
	w.t.Helper()
	opened := open(w.t, w.group).(*group)
	applied := w.engine.(*group)
	if !bytes.Equal(opened.encodedContext, applied.encodedContext) || !bytes.Equal(opened.interim, applied.interim) ||
		!bytes.Equal(opened.RatchetTree(), applied.RatchetTree()) || opened.NumMembers() != applied.NumMembers() {
		w.t.Fatal("an opened group differs from the same group after Commits")
	}
	sameKeys(w.t, opened.keys.signature, applied.keys.signature)
	sameKeys(w.t, opened.keys.encryption, applied.keys.encryption)
	if !opened.tree.root.support.equal(applied.tree.root.support) {
		w.t.Fatal("the members' support differs")
	}
}

func sameKeys(t *testing.T, a, b *keySet) {
	t.Helper()
	if !slices.Equal(a.list(), b.list()) {
		t.Fatal("the keys differ")
	}
}

// list returns all ids in order.
func (s *keySet) list() (out []keyID) {
	switch {
	case s == nil:
		return nil
	case s.children == nil:
		return s.ids
	}
	for _, c := range s.children {
		out = append(out, c.list()...)
	}
	return out
}

func TestWalk(t *testing.T) {
	for seed := range uint64(14) {
		suite := uint16(seed%7) + 1
		t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) {
			t.Parallel()
			w := newWalker(
				t, seed, mlstest.Options{CipherSuite: suite, Members: identities(1 + int(seed)), Populated: seed%2 == 0},
			)
			for range 25 {
				w.step()
				w.reopen()
			}
		})
	}
}

// TestWalkLarge walks in a large group, whose tree has parents at many levels.
func TestWalkLarge(t *testing.T) {
	w := newWalker(t, 7, mlstest.Options{CipherSuite: 1, Members: identities(1500), Populated: true})
	for range 40 {
		w.step()
	}
	w.reopen()
}
