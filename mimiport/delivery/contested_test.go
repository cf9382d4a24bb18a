package delivery_test

import (
	"crypto/sha256"
	"encoding/json"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// forgedRecover is a lineage in which a server recovers the group from another one. Only the claiming server signs the
// step.
func (p *play) forgedRecover(from, by string) *api.LineageRequest {
	p.t.Helper()
	return p.shown(p.lineage(from), func(l *mimiport.Lineage) {
		claim := &mimiport.LineageClaim{
			Kind: mimiport.StepRecover, DomainName: by, GroupID: p.id, Term: l.Term() + 1, Epoch: p.group.Epoch(),
		}
		signed := migration.Signed{Message: p.encoded(by, claim), KeyID: "ed25519:1"}
		l.Steps = append(l.Steps, mimiport.LineageStep{Kind: claim.Kind, Claim: &signed})
	})
}

// TestClaimNeedsSupport: "Another server's claim makes a healthy host stop only when the room supports it": any user
// may show the claim, and the policy for imports may allow claims. The group goes on, and the server keeps the claim as
// evidence.
func TestClaimNeedsSupport(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{}`)
	p.allow(serverA, `{"accept_claims":true}`)
	claim := p.forgedRecover(serverA, serverC)
	for range 2 {
		expectRule(t, p.show(serverA, claim), "contested")
		p.expectHosted(serverA, 0)
	}
	p.expectKept(serverA, migration.EvidenceContested)

	// A pointer to another claim, or of another group or room, does not support this claim.
	decoded := must(mimiport.UnmarshalLineage(claim.Lineage))(t)
	pointer := api.Pointer{Via: serverC, Term: 1, ClaimHash: make([]byte, 32)}
	p.point(pointer)
	expectRule(t, p.show(serverA, claim), "contested")
	digest := sha256.Sum256(decoded.Steps[0].Claim.Message)
	sum := digest[:]
	for _, copied := range []api.Pointer{
		{RoomID: "!other:a.example", GroupID: p.id, ClaimHash: sum}, {RoomID: room, GroupID: []byte("other"), ClaimHash: sum},
	} {
		p.Room.Events = map[string]json.RawMessage{api.EventPointer: must(json.Marshal(copied))(t)}
		expectRule(t, p.show(serverA, claim), "contested")
	}
	p.expectHosted(serverA, 0)

	// If the policy lets nobody move groups away, the pointer does not count either. The operator can still yield.
	p.allow(serverA, `{"source":"nobody"}`)
	pointer.ClaimHash = sum
	p.point(pointer)
	expectRule(t, p.show(serverA, claim), "contested")
	host := must(p.services[serverA].Yield(t.Context(), p.id, claim))(t)
	if host.DeliveryService != serverC || host.Term != 1 {
		t.Errorf("after the yield the group is at %s in term %d", host.DeliveryService, host.Term)
	}
}

// TestStagedNeedsSupport: a claim that the room does not support does not end a vote. The source's decision still
// activates the group.
func TestStagedNeedsSupport(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{}`)
	claim := p.forgedRecover(serverA, serverC)
	p.lost = func(_, what string) bool { return what == "vote" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "frozen", "staged")
	expectRule(t, p.show(serverB, claim), "contested")
	p.expect(a, "frozen", "staged")
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(5 * time.Second)
	p.run()
	p.expect(a, "moved", "active")
}

// TestRecoverIsProvisional: "A recover that the pointer does not name is provisional": if the former host still works,
// the server that has recovered the group stops, and the former host goes on.
func TestRecoverIsProvisional(t *testing.T) {
	p := newPlay(t)
	p.allow(serverB, `{"recover":true}`)
	down := true
	p.lost = func(to, _ string) bool { return down && to == serverA }
	held := p.held(p.lineage(serverA))
	must(p.services[serverB].Recover(t.Context(), p.id, held))(t)
	p.run()
	p.expectHosted(serverB, 1)
	down = false
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expectHosted(serverA, 0)
	_, err := p.submit(serverB, bob, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindStopped)
	p.expectKept(serverA, migration.EvidenceContested)
	p.expectKept(serverB, migration.EvidenceContested)
}

// TestRecoverWithSupport: the former host follows a recover that the room supports, when it comes back.
func TestRecoverWithSupport(t *testing.T) {
	p := newPlay(t)
	p.allow(serverB, `{"recover":true}`)
	must(p.services[serverB].Recover(t.Context(), p.id, p.held(p.lineage(serverA))))(t)
	p.support(serverB)
	p.run()
	p.expectHosted(serverB, 1)
	p.expectAt(serverA, serverB, 1)
}

// TestTwoRecovers: "Where two verified chains part at a term, everybody chooses alike": of two recovers into one term,
// the server whose recover the room's pointer does not name yields, even at equal terms.
func TestTwoRecovers(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{"recover":true}`)
	p.allow(serverB, `{"recover":true}`)
	p.lost = func(to, _ string) bool { return to == serverA }
	held := p.held(p.lineage(serverA))
	must(p.services[serverB].Recover(t.Context(), p.id, held))(t)
	must(p.services[serverC].Recover(t.Context(), p.id, held))(t)
	b, c := p.lineage(serverB), p.lineage(serverC)
	expectRule(t, p.show(serverB, c), "contested")
	expectRule(t, p.show(serverC, b), "contested")
	p.support(serverC)
	expectRule(t, p.show(serverC, b), "contested")
	if err := p.show(serverB, c); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverB, serverC, 1)
	p.expectHosted(serverC, 1)

	// The room changes its pointer to B's claim. C yields. B has the group again, but stays stopped until its operator
	// decides.
	p.point(api.Pointer{RoomID: room, GroupID: p.id, Via: serverB, Term: 1, ClaimHash: hashOfClaim(t, b)})
	for _, ds := range []string{serverB, serverC} {
		if err := p.show(ds, b); err != nil {
			t.Fatal(err)
		}
		p.expectAt(ds, serverB, 1)
	}
	_, err := p.submit(serverB, alice, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindStopped)
	must(p.services[serverB].Reclaim(t.Context(), p.id, &api.LineageRequest{}))(t)
	p.expectHosted(serverB, 2)
}

// hashOfClaim is the hash of the claim that a lineage ends with.
func hashOfClaim(t *testing.T, shown *api.LineageRequest) []byte {
	t.Helper()
	l := must(mimiport.UnmarshalLineage(shown.Lineage))(t)
	sum := sha256.Sum256(l.Steps[len(l.Steps)-1].Claim.Message)
	return sum[:]
}

// TestInsist: an operator who insists begins a term above the contested claim. The claimant follows it if the room
// supports it.
func TestInsist(t *testing.T) {
	p := newPlay(t)
	p.allow(serverB, `{"recover":true}`)
	must(p.services[serverB].Recover(t.Context(), p.id, p.held(p.lineage(serverA))))(t)
	claim := p.lineage(serverB)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	_, err := p.services[serverA].Reclaim(t.Context(), p.id, p.lineage(serverA))
	expectKind(t, err, mimiport.KindConflict) // that lineage has no claim
	must(p.services[serverA].Reclaim(t.Context(), p.id, claim))(t)
	p.expectHosted(serverA, 2)
	p.support(serverA)
	if err := p.show(serverB, p.lineage(serverA)); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverB, serverA, 2)
}

// TestRestoredWhileAway: A hosts the group again, and is restored from a backup that was made while B hosted the group.
// At first A and B point to each other. When a user shows A the lineage, A stops and keeps the evidence.
func TestRestoredWhileAway(t *testing.T) {
	p := newPlay(t)
	a := p.move(serverA, serverB, bob)
	backup := p.copyOf(serverA, a.id)
	p.move(serverB, serverA, alice)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	lineage := p.lineage(serverA)
	p.restore(serverA, backup)
	p.expectAt(serverA, serverB, 1)
	p.expectAt(serverB, serverA, 2)
	if err := p.show(serverA, lineage); err != nil {
		t.Fatal(err)
	}
	_, err := p.submit(serverA, alice, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindStopped)
	p.expectKept(serverA, migration.EvidenceOwnForgotten)
	p.allow(serverA, `{"recover":true}`)
	must(p.services[serverA].Recover(t.Context(), p.id, p.held(lineage)))(t)
	p.expectHosted(serverA, 3)
	p.allow(serverB, `{"accept_claims":true}`)
	p.move(serverA, serverB, bob)
}

// TestRivalLeadsBack: a server that yields to a lineage that leads back to it takes both steps at once. Otherwise the
// two servers would point to each other until a user showed the lineage again.
func TestRivalLeadsBack(t *testing.T) {
	p := newPlay(t)
	backup := p.copyOf(serverA)
	receipt := p.commit(serverA, alice, mlstest.CommitOptions{}).Receipt
	p.move(serverA, serverB, bob)
	p.move(serverB, serverA, alice)
	lineage := p.lineage(serverA)
	p.restore(serverA, backup)
	if err := p.show(serverA, &api.LineageRequest{Receipt: receipt}); err != nil {
		t.Fatal(err)
	}
	must(p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{}))(t)
	p.expectAt(serverA, serverA, 1)
	if err := p.show(serverA, lineage); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverA, serverA, 2)
	_, err := p.submit(serverA, alice, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindStopped)
}

// TestExpiredOfferDoesNotReturn: "nobody can stop a group with an expired offer": a host may confirm a move to a server
// that never voted. That does not stop the group at that server.
func TestExpiredOfferDoesNotReturn(t *testing.T) {
	p := newPlay(t)
	p.move(serverA, serverB, bob)
	back := p.mustRequest(serverB, serverA, alice)
	l := p.shown(p.lineage(serverB), func(l *mimiport.Lineage) { l.Steps = append(l.Steps, p.confirmed(back)) })
	if err := p.show(serverA, l); err != nil {
		t.Fatal(err)
	}
	p.expectMoved(serverA, serverB)
}

// confirmed is the step of a hostile source that confirms a target's offer without its vote.
func (p *play) confirmed(a *attempt) mimiport.LineageStep {
	p.t.Helper()
	offer := must(mimiport.UnmarshalMigrationResponse(a.offer.MigrationResponse))(p.t)
	confirmation := &mimiport.MigrationConfirmation{DomainName: a.to, Nonce: offer.Nonce, GroupID: p.id}
	return mimiport.LineageStep{
		Kind:         mimiport.StepMigration,
		Response:     migration.Signed{Message: a.offer.MigrationResponse, KeyID: a.offer.KeyID},
		Confirmation: migration.Signed{Message: p.encoded(a.from, confirmation), KeyID: "ed25519:1"},
	}
}

// nameInRoom makes the room's binding name a group.
func (p *play) nameInRoom(id []byte) {
	p.t.Helper()
	content := must(json.Marshal(api.Binding{RoomID: room, GroupID: id}))(p.t)
	p.Room.Events = map[string]json.RawMessage{api.EventGroup: content}
}

// TestForeignIDNeedsBinding: a server imports a foreign id only if the room's binding names the id. The foreign id
// gives way to the group with the preimage of the id.
func TestForeignIDNeedsBinding(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
	foreign := p.resign(data, func(s *mimiport.GroupState) { s.Lineage.Preimage = nil })
	expectKind(t, p.put(a, foreign), mimiport.KindForbidden)
	p.nameInRoom(p.id)
	if err := p.put(a, foreign); err != nil {
		t.Fatal(err)
	}
	expectKind(t, p.put(a, data), mimiport.KindConflict) // T has voted for another content of this offer
	must(p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id))(t)
	p.run()

	p.move(serverA, serverB, bob)
	p.expectHosted(serverB, 1)
}

// TestForeignIDIsRecovered: an operator recovers a group with a foreign id without the room's binding, unless that
// binding has a preimage of the id.
func TestForeignIDIsRecovered(t *testing.T) {
	p := newPlay(t)
	p.allow(serverB, `{"recover":true}`)
	own := p.lineage(serverA)
	held := p.held(p.shown(own, func(l *mimiport.Lineage) { l.Preimage = nil }))
	pre := must(mimiport.UnmarshalLineage(own.Lineage))(t).Preimage
	p.state(api.EventGroup, api.Binding{
		RoomID: room, GroupID: p.id,
		Preimage: &api.Preimage{CreatingServer: pre.CreatingServer, RoomID: pre.RoomID, Nonce: pre.Nonce[:]},
	})
	_, err := p.services[serverB].Recover(t.Context(), p.id, held)
	expectRule(t, err, "lineage")
	p.Room.Events = nil
	must(p.services[serverB].Recover(t.Context(), p.id, held))(t)
	p.expectHosted(serverB, 1)
}

// TestSquatterGivesWay: "A verified lineage with the preimage of an id displaces a row for that id without one".
func TestSquatterGivesWay(t *testing.T) {
	p := newPlay(t)
	squatter := mimiport.Lineage{CreatingServer: "evil.example", RoomID: room}
	g := must(p.stores[serverA].Group(t.Context(), p.id))(t)
	g.Version, g.Server, g.Lineage = 0, serverB, must(squatter.Marshal())(t)
	snap := must(p.stores[serverA].Snapshot(t.Context(), g.Key(), g.Epoch))(t)
	change := &storage.Change{Group: g, Snapshots: []storage.Snapshot{*snap}}
	if err := p.stores[serverB].Apply(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	p.move(serverA, serverB, bob)
	p.expectHosted(serverB, 1)
	p.expectKept(serverB, migration.EvidenceDisplaced)
}
