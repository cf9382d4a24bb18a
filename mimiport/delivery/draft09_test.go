package delivery_test

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/draft09test"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

func must[V any](v V, err error) func(testing.TB) V {
	return func(t testing.TB) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// draft09Play is a play with a group of go-mls.
type draft09Play struct {
	*play
	clients map[string]*draft09test.Client // by user
}

// newDraft09Play binds a group of alice alone at A.
func newDraft09Play(t *testing.T) *draft09Play {
	t.Helper()
	p := &draft09Play{&play{world: newWorld(t)}, map[string]*draft09test.Client{}}
	reserved := must(p.services[serverA].ReserveGroup(t.Context(), caller(alice),
		&api.ReserveGroupRequest{RoomID: room}))(t)
	p.id = reserved.GroupID
	for user, device := range map[string]string{alice: "ALICE", bob: "BOB"} {
		p.clients[user] = must(draft09test.NewClient(1, mlstest.Identity(user, device)))(t)
	}
	if err := p.clients[alice].Create(p.id); err != nil {
		t.Fatal(err)
	}
	must(p.services[serverA].BindGroup(t.Context(), caller(alice), p.id, &api.BindGroupRequest{
		Protocol: draft09.Protocol, GroupInfo: must(p.clients[alice].GroupInfo())(t),
	}))(t)
	return p
}

// send submits a message that the other client must handle.
func (p *draft09Play) send(ds, user string, req *api.SubmitRequest) {
	p.t.Helper()
	must(p.submit(ds, user, req))(p.t)
	p.follow(req.Message)
}

// follow lets all members take a handshake message.
func (p *draft09Play) follow(message []byte) {
	p.t.Helper()
	for user, c := range p.clients {
		if err := c.Handle(message); err != nil {
			p.t.Fatalf("%s: %v", user, err)
		}
	}
}

// say lets alice send a message, which bob reads.
func (p *draft09Play) say(ds string) {
	p.t.Helper()
	message := must(p.clients[alice].Protect([]byte("hello")))(p.t)
	must(p.submit(ds, alice, &api.SubmitRequest{Message: message}))(p.t)
	if text := must(p.clients[bob].Unprotect(message))(p.t); string(text) != "hello" {
		p.t.Errorf("bob reads %q", text)
	}
}

// addBob lets alice add bob through A.
func (p *draft09Play) addBob() {
	p.t.Helper()
	add := must(p.clients[alice].Add(must(p.clients[bob].KeyPackage())(p.t)))(p.t)
	must(p.submit(serverA, alice, &api.SubmitRequest{Message: add}))(p.t)
	c := must(p.clients[alice].Commit(nil, add))(p.t)
	must(p.submit(serverA, alice, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome}))(p.t)
	p.clients[alice].Merge()
	if err := p.clients[bob].Join(c.Welcome); err != nil {
		p.t.Fatal(err)
	}
}

// moveBy lets a user move the group. The migration Commit references the pending proposals.
func (p *draft09Play) moveBy(user, from, to string, proposals ...[]byte) {
	p.t.Helper()
	c := p.clients[user]
	req := must((&mimiport.MigrationRequest{SourceDomain: from, TargetDomain: to, GroupID: p.id,
		Epoch: c.Epoch()}).Marshal())(p.t)
	offer := must(p.services[to].RequestMigration(p.t.Context(), caller(user),
		&api.MigrationRequestRequest{MigrationRequest: req, RoomID: room}))(p.t)
	init := &mimiport.MigrationInit{Response: *must(mimiport.UnmarshalMigrationResponse(offer.MigrationResponse))(p.t)}
	init.Signature = must(c.Sign(mimiport.MigrationInitLabel, must(init.TBS())(p.t)))(p.t)
	commit := must(c.Commit(must((&mimiport.MigrationCommitAAD{TargetDomain: to}).Marshal())(p.t), proposals...))(p.t)
	a := &attempt{from: from, to: to, user: user, id: init.Response.ID(), init: &api.MigrationInitRequest{
		MigrationInit: must(init.Marshal())(p.t), KeyID: offer.KeyID,
		SubmitRequest: api.SubmitRequest{Message: commit.Message, GroupInfo: commit.GroupInfo, Welcome: commit.Welcome},
	}}
	must(p.initiate(a))(p.t)
	p.run()
	p.expect(a, "moved", "active")
	p.follow(commit.Message)
}

// TestDraft09Power: also in a group of go-mls, removing the leaf of another user needs the power to kick.
func TestDraft09Power(t *testing.T) {
	p := newDraft09Play(t)
	p.addBob()
	p.Room.Power[bob] = 0
	_, err := p.submit(serverA, bob, &api.SubmitRequest{Message: must(p.clients[bob].Remove(0))(t)})
	expectRule(t, err, "kick")
	p.send(serverA, alice, &api.SubmitRequest{Message: must(p.clients[alice].Remove(1))(t)})
}

// TestDraft09Group: a group of go-mls lives at A, moves to B with a proposal, lives there, and moves back.
func TestDraft09Group(t *testing.T) {
	p := newDraft09Play(t)
	p.addBob()
	p.say(serverA)
	update := must(p.clients[alice].Update())(t)
	p.send(serverA, alice, &api.SubmitRequest{Message: update})
	p.moveBy(bob, serverA, serverB, update)
	p.requireSameLog(serverB, serverA, bob, 0)
	p.say(serverB)
	c := must(p.clients[alice].Commit(nil))(t)
	p.send(serverB, alice, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
	p.moveBy(alice, serverB, serverA)
	p.say(serverA)
	g := must(p.services[serverA].Group(t.Context(), caller(alice), p.id))(t)
	if g.Protocol != draft09.Protocol || g.Term != 2 || g.Epoch != p.clients[bob].Epoch() ||
		string(g.TreeHash) != string(p.clients[bob].TreeHash()) {
		t.Errorf("A has %+v", g)
	}
}
