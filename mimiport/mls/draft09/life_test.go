package draft09_test

import (
	"bytes"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/draft09test"
)

// world is a group as its members and a Delivery Service see it. Clients go by the identity of their credential.
type world struct {
	testing.TB
	suite   uint16
	group   mls.Group
	members map[string]*draft09test.Client
	outside map[string]*draft09test.Client
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newWorld makes a group of one member, alice.
func newWorld(t testing.TB, suite uint16) *world {
	w := &world{TB: t, suite: suite, members: map[string]*draft09test.Client{}, outside: map[string]*draft09test.Client{}}
	alice := w.client("alice")
	if err := alice.Create([]byte("group")); err != nil {
		t.Fatal(err)
	}
	w.move("alice", w.outside, w.members)
	w.group = must(draft09.New().Open(must(alice.GroupInfo())(t), nil))(t)
	return w
}

// client makes a client outside of the group.
func (w *world) client(name string) *draft09test.Client {
	w.outside[name] = must(draft09test.NewClient(w.suite, []byte(name)))(w)
	return w.outside[name]
}

func (w *world) move(name string, from, to map[string]*draft09test.Client) {
	to[name] = from[name]
	delete(from, name)
}

// propose hands a proposal to the Delivery Service and the members.
func (w *world) propose(message []byte, err error) []byte {
	w.Helper()
	must(message, err)(w)
	next, p, err := w.group.Propose(message)
	w.group = must(next, err)(w)
	if !bytes.Equal(p.Message, message) {
		w.Error("the proposal is another")
	}
	w.deliver(message)
	return message
}

// add lets a member propose to add a new client.
func (w *world) add(by, name string) []byte {
	w.Helper()
	return w.propose(w.members[by].Add(must(w.client(name).KeyPackage())(w)))
}

func (w *world) deliver(message []byte) {
	w.Helper()
	for name, c := range w.members {
		if err := c.Handle(message); err != nil {
			w.Fatalf("%s: %v", name, err)
		}
	}
}

// commit lets a member commit, those who are removed leave, everybody else follow, and those who are added join.
func (w *world) commit(by string, authenticatedData []byte, proposals ...[]byte) *mls.Effects {
	w.Helper()
	c := must(w.members[by].Commit(authenticatedData, proposals...))(w)
	next, effects, err := w.group.Commit(c.Message, c.GroupInfo)
	w.group = must(next, err)(w)
	for _, m := range effects.Removed {
		w.move(string(m.Identity), w.members, w.outside)
	}
	w.deliver(c.Message)
	var welcomes [][]byte
	if c.Welcome != nil {
		welcomes = append(welcomes, c.Welcome)
	}
	if err := draft09.New().CheckWelcomes(effects, welcomes); err != nil {
		w.Fatal(err)
	}
	for _, m := range effects.Added {
		name := string(m.Identity)
		if err := w.outside[name].Join(c.Welcome); err != nil {
			w.Fatalf("%s: %v", name, err)
		}
		w.move(name, w.outside, w.members)
	}
	w.agree()
	return effects
}

// agree checks that the Delivery Service and all members are in the same state, and that the members can talk.
func (w *world) agree() {
	w.Helper()
	reopened := must(draft09.New().Open(w.group.GroupInfo(), w.group.RatchetTree()))(w)
	for name, c := range w.members {
		for _, g := range []mls.Group{w.group, reopened} {
			if g.Epoch() != c.Epoch() || !bytes.Equal(g.TreeHash(), c.TreeHash()) ||
				!bytes.Equal(g.ConfirmedTranscriptHash(), c.ConfirmedTranscriptHash()) ||
				!bytes.Equal(g.RatchetTree(), must(c.RatchetTree())(w)) {
				w.Fatalf("epoch %d: %s and the Delivery Service differ", c.Epoch(), name)
			}
		}
		w.talk(name)
	}
}

// talk lets a member say something to all others.
func (w *world) talk(name string) {
	w.Helper()
	message := must(w.members[name].Protect([]byte("from " + name)))(w)
	if m := must(draft09.New().Parse(message))(w); m.Kind != mls.KindApplication || m.Epoch != w.group.Epoch() {
		w.Errorf("an application message of epoch %d is %+v", w.group.Epoch(), m)
	}
	for other, c := range w.members {
		if other == name {
			continue
		}
		if text := must(c.Unprotect(message))(w); string(text) != "from "+name {
			w.Errorf("%s reads %q", other, text)
		}
	}
}

// TestLife takes a group through adds, an update, a migration Commit and a remove.
func TestLife(t *testing.T) {
	for _, suite := range []uint16{1, 3} {
		live(newWorld(t, suite))
	}
}

func live(w *world) {
	w.agree()
	e := w.commit("alice", []byte("aad"), w.add("alice", "bob"), w.add("alice", "carol"))
	if e.HasPath || len(e.Added) != 2 || string(e.Added[1].Identity) != "carol" || e.Added[1].Leaf != 2 || string(e.AuthenticatedData) != "aad" {
		w.Errorf("effects of two Adds: %+v", e)
	}
	e = w.commit("carol", nil, w.propose(w.members["bob"].Update()))
	if !e.HasPath || len(e.Updated) != 1 || e.Updated[0].Leaf != 1 || e.Committer.Leaf != 2 || !e.SameCredential {
		w.Errorf("effects of an Update: %+v", e)
	}
	migrate(w)
	e = w.commit("carol", nil, w.propose(w.members["bob"].Remove(0)))
	if len(e.Removed) != 1 || string(e.Removed[0].Identity) != "alice" || w.group.NumMembers() != 3 {
		w.Errorf("effects of a Remove: %+v", e)
	}
	e = w.commit("dave", nil, w.add("carol", "erin"))
	if len(e.Added) != 1 || e.Added[0].Leaf != 0 {
		w.Errorf("effects of an Add into a blank: %+v", e)
	}
	e = w.commit("bob", nil, w.propose(w.members["carol"].Remove(3)), w.add("carol", "frank"), w.add("carol", "grace"), w.propose(w.members["erin"].Update()))
	if len(e.Proposals) != 4 || !e.HasPath || len(e.Added) != 2 || e.Added[0].Leaf != 3 || e.Added[1].Leaf != 4 {
		w.Errorf("effects of everything at once: %+v", e)
	}
}

// migrate makes a migration Commit, which brings a new member along.
func migrate(w *world) {
	aad := must((&mimiport.MigrationCommitAAD{TargetDomain: "b.example"}).Marshal())(w)
	bob := w.members["bob"]
	sig := must(bob.Sign(mimiport.MigrationInitLabel, []byte("content")))(w)
	if err := w.group.VerifyMember(bob.Leaf(), mimiport.MigrationInitLabel, []byte("content"), sig); err != nil {
		w.Error(err)
	}
	err := w.group.VerifyMember(bob.Leaf(), mimiport.MigrationInitLabel, []byte("Content"), sig)
	if mimiport.KindOf(err) != mimiport.KindBadSignature {
		w.Errorf("another content: %v", err)
	}
	before := w.group
	e := w.commit("bob", aad, w.add("alice", "dave"), w.propose(w.members["carol"].Update()))
	switch {
	case !e.HasPath, !e.SameCredential, !bytes.Equal(e.ExtensionsBefore, e.ExtensionsAfter), !bytes.Equal(e.AuthenticatedData, aad),
		e.Sender != mls.Sender{Type: mls.SenderMember, Index: 1}, len(before.ExternalSenders()) != 0:
		w.Errorf("effects of a migration Commit: %+v", e)
	}
	for _, p := range e.Proposals {
		if p.Ref == nil || p.Message == nil {
			w.Errorf("a proposal by value: %+v", p)
		}
	}
}
