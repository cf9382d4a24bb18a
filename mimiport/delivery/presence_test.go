package delivery_test

import (
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// TestHostLeftRoom: a host that has left the room gives that as its reason, and does not say that members are not
// joined. Users who were members in the last state that the host saw can read the group and move it away.
func TestHostLeftRoom(t *testing.T) {
	p := newPlay(t)
	p.say(serverA, alice)
	p.Room.Left = map[string]bool{serverA: true}
	_, err := p.submit(serverA, bob, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindForbidden)
	expectRule(t, err, "host-left-room")
	_, err = p.services[serverA].Group(t.Context(), caller("@late:b.example"), p.id)
	expectRule(t, err, "host-left-room")
	_, err = p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room})
	expectRule(t, err, "host-left-room")
	p.expectHosted(serverA, 0) // both members read it
	log := must(p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{}))(t)
	if len(log.Messages) != 1 {
		t.Errorf("bob reads %d messages", len(log.Messages))
	}

	p.Room.Power[alice] = 0
	weak := p.mustRequest(serverA, serverB, bob)
	weak.user = alice // alice has no power in the last state
	_, err = p.initiate(weak)
	expectKind(t, err, mimiport.KindForbidden)
	p.move(serverA, serverB, bob)
	p.expectHosted(serverB, 1)
	p.say(serverB, bob)
}

// TestHostLeftRoomRemoves: such a host proposes to remove each user who is not joined in the last state that the host
// saw.
func TestHostLeftRoomRemoves(t *testing.T) {
	p := newExternalPlay(t)
	p.Room.Left = map[string]bool{serverA: true}
	p.leave(serverA, carol)
	p.expectProposals(serverA, 1)
}

// TestClaimAfterHostLeft: a host that has left the room does not use the room's pointer.
func TestClaimAfterHostLeft(t *testing.T) {
	p := newPlay(t)
	p.allow(serverB, `{"recover":true}`)
	must(p.services[serverB].Recover(t.Context(), p.id, p.held(p.lineage(serverA))))(t)
	p.support(serverB)
	p.Room.Left = map[string]bool{serverA: true}
	expectRule(t, p.show(serverA, p.lineage(serverB)), "contested")
	must(p.services[serverA].Yield(t.Context(), p.id, p.lineage(serverB)))(t)
	p.expectAt(serverA, serverB, 1)
}

// newUnseen is a group at B. B was never in the group's room.
func newUnseen(t *testing.T) *play {
	t.Helper()
	p := newPlay(t)
	p.allow(serverA, `{"require_room":false}`)
	p.allow(serverB, `{"require_room":false,"target":"local_users"}`)
	p.Room.Unseen = map[string]bool{serverB: true}
	p.move(serverA, serverB, bob)
	return p
}

// TestHostNeverInRoom: a host that was never in the room decides by MLS alone: only the group's members can use the
// group, joined to the room or not. The host removes nobody.
func TestHostNeverInRoom(t *testing.T) {
	const mallory = "@mallory:b.example"
	p := newUnseen(t)
	p.Room.Joined[mallory], p.Room.Joined[bob] = true, false
	p.expectHosted(serverB, 1)
	p.commit(serverB, bob, mlstest.CommitOptions{})
	message := p.group.Application(nil, 100)
	must(p.submit(serverB, alice, &api.SubmitRequest{Message: message}))(t)
	p.run()
	if !p.Received(alice, message) || !p.Received(bob, message) {
		t.Error("a member was not sent a message")
	}
	stranger := caller(mallory)
	_, err := p.services[serverB].Messages(t.Context(), stranger, p.id, api.MessagesQuery{})
	expectKind(t, err, mimiport.KindForbidden)
	_, err = p.services[serverB].Group(t.Context(), stranger, p.id)
	expectKind(t, err, mimiport.KindForbidden)
	_, err = p.services[serverB].CloseGroup(t.Context(), stranger, p.id)
	expectKind(t, err, mimiport.KindForbidden)
	_, err = p.submit(serverB, mallory, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindForbidden)
	_, err = p.services[serverB].ReserveGroup(t.Context(), caller(bob), &api.ReserveGroupRequest{RoomID: room})
	expectKind(t, err, mimiport.KindForbidden)
	p.expectHosted(serverB, 1)
	log := must(p.services[serverB].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{}))(t)
	if slices.ContainsFunc(log.Messages, func(m api.LogMessage) bool { return m.Kind == string(storage.EntryProposal) }) {
		t.Error("the server has proposed something")
	}

	p.allow(serverB, `{"require_room":true}`) // the group stays here, but nobody can use it
	_, err = p.submit(serverB, alice, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindForbidden)
}

// TestHostNeverInRoomAndPower: at such a host each member may do everything that MLS allows: change the group, remove
// other members, and close the group.
func TestHostNeverInRoomAndPower(t *testing.T) {
	p := newUnseen(t)
	clear(p.Room.Power)
	p.commit(serverB, alice, mlstest.CommitOptions{Proposals: []*mlstest.Proposal{p.group.SetExtensions(nil)}})
	remove := p.group.Propose(leafOf[alice], p.group.Remove(leafOf[bob]))
	must(p.submit(serverB, alice, &api.SubmitRequest{Message: remove}))(t)
	if g, err := p.close(serverB, bob); err != nil || g.State != "closed" {
		t.Errorf("closing gives %+v, %v", g, err)
	}
}

// TestHostNeverInRoomAndClaims: such a host yields only to its own signature or to its operator. It imports no foreign
// id.
func TestHostNeverInRoomAndClaims(t *testing.T) {
	p := newUnseen(t)
	p.addThird(`{}`)
	claim := p.forgedRecover(serverB, serverC)
	p.point(api.Pointer{Via: serverC, Term: 2, ClaimHash: claimHash(t, claim)})
	p.agree(serverC)
	p.whileOut(serverB, day)
	expectRule(t, p.show(serverB, claim), "contested")
	must(p.services[serverB].Yield(t.Context(), p.id, claim))(t)
	p.expectAt(serverB, serverC, 2)

	p = newPlay(t)
	p.allow(serverA, `{"require_room":false}`)
	p.allow(serverB, `{"require_room":false}`)
	a := p.begin(serverA, serverB, bob)
	data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
	p.nameInRoom(p.id)
	p.Room.Unseen = map[string]bool{serverB: true}
	foreign := p.resign(data, func(s *mimiport.GroupState) { s.Lineage.Preimage = nil })
	expectKind(t, p.put(a, foreign), mimiport.KindForbidden)
	if kinds := p.evidenceKinds(serverB); slices.Contains(kinds, migration.EvidenceDisplaced) {
		t.Errorf("the evidence is %v", kinds)
	}
}

// TestMoversOnOneServer: a bind warns if all users with the right to move the group are on one server. A repeated bind
// warns, too.
func TestMoversOnOneServer(t *testing.T) {
	bind := func(p *play) []string {
		return must(p.services[serverA].BindGroup(p.t.Context(), caller(alice), p.id, &api.BindGroupRequest{
			Protocol: "mls10", GroupInfo: p.group.GroupInfo(), RatchetTree: p.group.RatchetTree(),
		}))(p.t).Warnings
	}
	for name, c := range map[string]struct {
		policy string
		bobs   int64
		want   bool
	}{
		"both may": {`{}`, 100, false}, "one may": {`{}`, 99, true}, "anybody may": {`{"source":"any_member"}`, 0, false},
		"the operator may": {`{"source":"server_admin"}`, 0, false}, "nobody may": {`{"source":"nobody"}`, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.allow(serverA, c.policy)
			p.Room.Power[bob] = c.bobs
			if got := slices.Contains(bind(p), api.WarnOneServer); got != c.want {
				t.Errorf("the bind warns: %v", got)
			}
			g := must(p.services[serverA].Group(t.Context(), caller(alice), p.id))(t)
			if g.Warnings != nil {
				t.Errorf("reading the group warns of %v", g.Warnings)
			}
		})
	}
}
