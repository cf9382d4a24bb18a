package delivery_test

import (
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
)

const carol = "@carol:b.example"

var suite = api.SuiteRequest{Protocol: "mls10", CipherSuite: 1}

// newExternalPlay is a play of alice, bob and carol whose group lists A as an external sender.
func newExternalPlay(t *testing.T, more ...[]byte) *play {
	t.Helper()
	p := &play{world: newWorld(t)}
	p.Room.Joined[carol] = true
	reserved, err := p.services[serverA].ReserveGroup(t.Context(), caller(alice),
		&api.ReserveGroupRequest{RoomID: room, SuiteRequest: suite})
	if err != nil {
		t.Fatal(err)
	}
	p.id = reserved.GroupID
	p.group = p.groupWith(more, reserved.ExternalSender)
	p.bind(serverA)
	return p
}

func (p *play) groupWith(more [][]byte, entries ...[]byte) *mlstest.Group {
	members := [][]byte{mlstest.Identity(alice, "ALICE"), mlstest.Identity(bob, "BOB"), mlstest.Identity(carol, "CAROL")}
	return mlstest.New(mlstest.Options{
		Seed: 1, GroupID: p.id, Extensions: externalSenders(entries...), Members: append(members, more...),
	})
}

// externalSenders is the encoded extension that lists entries.
func externalSenders(entries ...[]byte) []byte { return mlstest.ExternalSenders(entries...) }

// leave lets a user leave the room, and tells a server.
func (p *play) leave(ds, user string) {
	p.t.Helper()
	p.Room.Joined[user] = false
	if err := p.services[ds].RoomChanged(p.t.Context(), room); err != nil {
		p.t.Fatal(err)
	}
	p.now = p.now.Add(2 * time.Second)
	p.run()
}

// proposals lists the proposals in a server's log.
func (p *play) proposals(ds string) (messages [][]byte) {
	p.t.Helper()
	log, err := p.services[ds].Messages(p.t.Context(), caller(alice), p.id, api.MessagesQuery{})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, m := range log.Messages {
		if m.Kind == "proposal" && m.Epoch == p.group.Epoch() {
			messages = append(messages, m.Message)
		}
	}
	return messages
}

// TestOwnEntry: the DS refuses a Commit "that changes or drops the DS's own entry" (profile, section 5). A group may
// list the server only with the key that the server has given out.
func TestOwnEntry(t *testing.T) {
	p := newExternalPlay(t)
	forged := p.group.NewClient([]byte(serverA))
	other := &play{world: p.world}
	reserved, err := p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room})
	if err != nil {
		t.Fatal(err)
	}
	if len(reserved.ExternalSender) != 0 {
		t.Error("an entry that was not asked for")
	}
	other.id = reserved.GroupID
	other.group = other.groupWith(nil, forged.ExternalSender())
	_, err = p.services[serverA].BindGroup(t.Context(), caller(alice), other.id, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: other.group.GroupInfo(), RatchetTree: other.group.RatchetTree(),
	})
	expectRule(t, err, "external-senders")

	for name, extensions := range map[string][]byte{"dropped": nil, "forged": externalSenders(forged.ExternalSender())} {
		c := p.group.Commit(mlstest.CommitOptions{Sender: 0, Path: true,
			Proposals: []*mlstest.Proposal{p.group.SetExtensions(extensions)}})
		_, err := p.submit(serverA, alice, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
		if err == nil {
			t.Errorf("the entry was %s", name)
		}
		expectRule(t, err, "external-senders")
	}
}

func expectRule(t *testing.T, err error, rule string) {
	t.Helper()
	if got := asError(err).Info.Rule; got != rule {
		t.Errorf("got %v (rule %q), want rule %q", err, got, rule)
	}
}

// TestRemoveProposed: when a user leaves the room the server proposes the removal of their leaves, once, and the next
// member Commit must remove them.
func TestRemoveProposed(t *testing.T) {
	p := newExternalPlay(t)
	p.leave(serverA, carol)
	p.leave(serverA, carol)
	proposed := p.proposals(serverA)
	if len(proposed) != 1 {
		t.Fatalf("%d proposals", len(proposed))
	}
	if rows, _, err := p.stores[serverA].Due(t.Context(), p.now.Add(time.Hour), 10); err != nil || len(rows) != 0 {
		t.Errorf("it is still to be done: %+v, %v", rows, err)
	}
	without := p.group.Commit(mlstest.CommitOptions{Sender: 0, Path: true})
	_, err := p.submit(serverA, alice, &api.SubmitRequest{Message: without.Message, GroupInfo: without.GroupInfo})
	expectRule(t, err, "pending-remove")
	p.commit(serverA, alice, mlstest.CommitOptions{References: proposed})
	p.expectHosted(serverA, 0)
	p.leave(serverA, carol)
	if again := p.proposals(serverA); len(again) != 0 {
		t.Error("a removal was proposed of somebody who is not in the group")
	}
}

// TestRemovalsBeyondAnEpoch: when more leaves must go than an epoch has places for proposals, the server proposes those
// that fit, and the others after the next Commit.
func TestRemovalsBeyondAnEpoch(t *testing.T) {
	p := newExternalPlay(t, mlstest.Identity(carol, "TABLET"))
	limits := mls.DefaultLimits()
	limits.Proposals = 1
	p.RestartWith(serverA, func(d *delivery.Deps) {
		d.Engines = map[string]mls.Engine{"mls10": mls.RFC9420(limits)}
		d.Now = func() time.Time { return p.now }
	})
	p.leave(serverA, carol)
	first := p.proposals(serverA)
	if len(first) != 1 {
		t.Fatalf("%d proposals in one epoch", len(first))
	}
	p.commit(serverA, alice, mlstest.CommitOptions{References: first})
	p.now = p.now.Add(time.Hour)
	p.run()
	second := p.proposals(serverA)
	if len(second) != 1 {
		t.Fatalf("%d proposals in the next epoch", len(second))
	}
	p.commit(serverA, alice, mlstest.CommitOptions{References: second})
	p.expectHosted(serverA, 0)
}

// TestLastCommit: a member whom a Commit removes gets that Commit, even after the member has left the room. The member
// gets nothing after it.
func TestLastCommit(t *testing.T) {
	p := newExternalPlay(t)
	p.leave(serverA, carol)
	p.run()
	p.Got = nil
	p.say(serverA, alice)
	removal := p.commit(serverA, alice, mlstest.CommitOptions{References: p.proposals(serverA)})
	p.say(serverA, alice)
	p.run()
	var got []uint64
	for _, d := range p.Got {
		if d.User == carol {
			got = append(got, d.Seq)
			if d.Seq != removal.Seq {
				t.Errorf("carol got a %s", d.Kind)
			}
		}
	}
	if len(got) != 1 {
		t.Errorf("carol got %v", got)
	}
}

// TestLastReading: a user who has left the room reads only proposals and Commits, up to the Commit that removes them.
// Before that Commit is accepted the user reads nothing.
func TestLastReading(t *testing.T) {
	p := newPlay(t)
	p.addCarol(serverA)
	read := func(user string, q api.MessagesQuery) (*api.MessagesResponse, error) {
		return p.services[serverA].Messages(t.Context(), caller(user), p.id, q)
	}
	refused := func(when, user string, q api.MessagesQuery) {
		t.Helper()
		if _, err := read(user, q); mimiport.KindOf(err) != mimiport.KindForbidden {
			t.Errorf("%s: %v", when, err)
		}
	}
	p.leave(serverA, carol)
	p.say(serverA, alice)
	removing := p.submitted(p.group.Remove(p.leaf(carol)))
	refused("while the leaf is there", carol, api.MessagesQuery{})
	removal := p.commit(serverA, alice, mlstest.CommitOptions{Path: true, References: [][]byte{removing}})
	p.commit(serverA, alice, mlstest.CommitOptions{Path: true})
	var kinds []string
	for from, end := uint64(1), false; !end; {
		res := must(read(carol, api.MessagesQuery{From: from, Limit: 1}))(t)
		for _, m := range res.Messages {
			if kinds = append(kinds, m.Kind); len(m.Message) == 0 || m.Kind == "commit" && m.Receipt == nil {
				t.Errorf("message %d lacks its bytes or receipt", m.Seq)
			}
		}
		from, end = res.Next, res.End
		if end && from != removal.Seq+1 {
			t.Errorf("the log ends before %d, not after %d", from, removal.Seq)
		}
	}
	if !slices.Equal(kinds, []string{"commit", "proposal", "commit"}) {
		t.Errorf("carol reads %v", kinds)
	}
	refused("from after that Commit", carol, api.MessagesQuery{From: removal.Seq + 1})
	refused("who was never there", "@eve:b.example", api.MessagesQuery{})
	_, err := p.services[serverA].Group(t.Context(), caller(carol), p.id)
	if mimiport.KindOf(err) != mimiport.KindForbidden {
		t.Errorf("the group: %v", err)
	}
	p.move(serverA, serverB, bob)
	if res := must(read(carol, api.MessagesQuery{Term: new(uint64)}))(t); res.Moved != nil || len(res.Messages) != 3 {
		t.Errorf("after the move carol is told of %+v, and reads %d messages", res.Moved, len(res.Messages))
	}
	p.Room.Denied = []string{registry.ServerOf(carol)}
	refused("a denied user", carol, api.MessagesQuery{})
}

// TestNoEntry: in a group without the server's entry the server proposes nothing. It only stops serving users who have
// left.
func TestNoEntry(t *testing.T) {
	p := newPlay(t)
	p.leave(serverA, bob)
	if proposed := p.proposals(serverA); len(proposed) != 0 {
		t.Errorf("%d proposals", len(proposed))
	}
}

// TestMostLeave: the server proposes nothing when most users leave at once, as after a state reset.
func TestMostLeave(t *testing.T) {
	p := newExternalPlay(t)
	p.Room.Joined[bob] = false
	p.leave(serverA, carol)
	if proposed := p.proposals(serverA); len(proposed) != 0 {
		t.Errorf("%d proposals", len(proposed))
	}
	p.Room.Joined[bob] = true
	p.now = p.now.Add(time.Hour)
	p.run()
	if proposed := p.proposals(serverA); len(proposed) != 1 {
		t.Errorf("%d proposals when it is one of three", len(proposed))
	}
}

// swapRequest asks for a move to B. Its Commit gives the external_senders entry of A to B. edit may spoil the Commit.
func (p *play) swapRequest(user string, edit func(*mlstest.CommitOptions, []byte)) *attempt {
	p.t.Helper()
	req, err := (&mimiport.MigrationRequest{SourceDomain: serverA, TargetDomain: serverB, GroupID: p.id,
		Epoch: p.group.Epoch()}).Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	offer, err := p.services[serverB].RequestMigration(p.t.Context(), caller(user), &api.MigrationRequestRequest{
		MigrationRequest: req, RoomID: room, SuiteRequest: suite,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	sender, err := mimiport.UnmarshalExternalSenderOffer(offer.ExternalSenderOffer)
	if err != nil {
		p.t.Fatal(err)
	}
	a := p.prepare(serverA, serverB, user, offer, func(o *mlstest.CommitOptions) { edit(o, sender.ExternalSender) })
	a.init.ExternalSenderOffer = offer.ExternalSenderOffer
	return a
}

// TestSwap: if an entry is for S, "the Commit has one by-value GroupContextExtensions that puts T's entry at the first
// such index, drops further entries of S or T, and leaves every other entry and extension byte for byte" (profile,
// section 5). After the move T proposes.
func TestSwap(t *testing.T) {
	p := newExternalPlay(t)
	good := func(o *mlstest.CommitOptions, entry []byte) {
		o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(externalSenders(entry))}
	}
	for name, edit := range map[string]func(*mlstest.CommitOptions, []byte){
		"no swap": func(*mlstest.CommitOptions, []byte) {},
		"both": func(o *mlstest.CommitOptions, entry []byte) {
			o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(externalSenders(entry, entry))}
		},
		"another key": func(o *mlstest.CommitOptions, _ []byte) {
			entry := p.group.NewClient([]byte(serverB)).ExternalSender()
			o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(externalSenders(entry))}
		},
		"besides a Remove by value": func(o *mlstest.CommitOptions, entry []byte) {
			good(o, entry)
			o.Proposals = append(o.Proposals, p.group.Remove(2))
		},
	} {
		if _, err := p.initiate(p.swapRequest(bob, edit)); mimiport.KindOf(err) != mimiport.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
		p.expectHosted(serverA, 0)
	}
	unsigned := p.swapRequest(bob, good)
	unsigned.init.ExternalSenderOffer = append([]byte(nil), unsigned.init.ExternalSenderOffer...)
	unsigned.init.ExternalSenderOffer[len(unsigned.init.ExternalSenderOffer)-1] ^= 1
	_, err := p.initiate(unsigned)
	expectKind(t, err, mimiport.KindBadSignature)

	a := p.swapRequest(bob, good)
	if _, err := p.initiate(a); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.expect(a, "moved", "active")
	p.group = a.commit.Next
	p.expectHosted(serverB, 1)
	p.leave(serverB, carol)
	if proposed := p.proposals(serverB); len(proposed) != 1 {
		t.Errorf("the target has made %d proposals", len(proposed))
	}
}

// TestRemovesInMigration: the migration Commit "references every Remove the DS itself proposed at epoch n" (profile,
// section 5).
func TestRemovesInMigration(t *testing.T) {
	p := newExternalPlay(t)
	p.leave(serverA, carol)
	proposed := p.proposals(serverA)
	swap := func(references [][]byte) func(*mlstest.CommitOptions, []byte) {
		return func(o *mlstest.CommitOptions, entry []byte) {
			o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(externalSenders(entry))}
			o.References = references
		}
	}
	_, err := p.initiate(p.swapRequest(bob, swap(nil)))
	expectRule(t, err, "pending-remove")

	a := p.swapRequest(bob, swap(proposed))
	if _, err := p.initiate(a); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.expect(a, "moved", "active")
	p.group = a.commit.Next
	p.expectHosted(serverB, 1)
}

// TestLeftWhileFrozen: a frozen group takes no proposals. If a user leaves meanwhile, the source proposes the removal
// after an abort, and the target proposes it after an activation.
func TestLeftWhileFrozen(t *testing.T) {
	p := newExternalPlay(t)
	swap := func(o *mlstest.CommitOptions, entry []byte) {
		o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(externalSenders(entry))}
	}
	a := p.swapRequest(bob, swap)
	if _, err := p.initiate(a); err != nil {
		t.Fatal(err)
	}
	p.Room.Joined[carol] = false
	if err := p.services[serverA].RoomChanged(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	if _, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id); err != nil {
		t.Fatal(err)
	}
	p.run()
	if proposed := p.proposals(serverA); len(proposed) != 1 {
		t.Errorf("%d proposals after the abort", len(proposed))
	}

	p.Room.Joined[carol] = true
	p.commit(serverA, alice, mlstest.CommitOptions{References: p.proposals(serverA)})
	dave := "@dave:b.example"
	p.Room.Joined[dave] = true
	p.commit(serverA, alice,
		mlstest.CommitOptions{Proposals: []*mlstest.Proposal{p.group.Add(p.group.NewClient(mlstest.Identity(dave, "DAVE")))}})
	b := p.swapRequest(bob, swap)
	if _, err := p.initiate(b); err != nil {
		t.Fatal(err)
	}
	p.Room.Joined[dave] = false
	p.run()
	p.expect(b, "moved", "active")
	p.group = b.commit.Next
	if proposed := p.proposals(serverB); len(proposed) != 1 {
		t.Errorf("%d proposals after the activation", len(proposed))
	}
}

// TestSelfRemovesForJoiners: the group's description lists only its pending SelfRemoves. An external Commit that covers
// them removes their senders.
func TestSelfRemovesForJoiners(t *testing.T) {
	p := newExternalPlay(t)
	leaving := p.group.Propose(2, p.group.SelfRemove())
	must(p.submit(serverA, carol, &api.SubmitRequest{Message: leaving}))(t)
	must(p.submit(serverA, bob, &api.SubmitRequest{Message: p.group.Propose(1, p.group.Update(1))}))(t)
	described := must(p.services[serverA].Group(t.Context(), caller(bob), p.id))(t)
	if len(described.SelfRemoves) != 1 || string(described.SelfRemoves[0]) != string(leaving) {
		t.Fatalf("%d SelfRemoves, want the one", len(described.SelfRemoves))
	}
	p.Room.Joined[dave] = true
	c := p.group.Commit(mlstest.CommitOptions{
		Joiner: p.newClient(dave, "DAVE"), References: [][]byte{described.SelfRemoves[0]},
	})
	must(p.submit(serverA, dave, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}))(t)
	p.group = c.Next
	if got := must(p.services[serverA].Group(t.Context(), caller(dave), p.id))(t); got.Members != 3 ||
		got.SelfRemoves != nil {
		t.Errorf("%d members and %d SelfRemoves after the Commit", got.Members, len(got.SelfRemoves))
	}
}
