package delivery_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// lineage returns the group's lineage at a server.
func (p *play) lineage(ds string) *api.LineageRequest {
	p.t.Helper()
	host, err := p.services[ds].Host(p.t.Context(), caller(alice), p.id)
	if err != nil {
		p.t.Fatal(err)
	}
	return &api.LineageRequest{Lineage: host.Lineage}
}

func (p *play) show(ds string, l *api.LineageRequest) error {
	_, err := p.services[ds].ShowLineage(p.t.Context(), caller(alice), p.id, l)
	return err
}

// claimHash is the hash of the claim that ends a lineage.
func claimHash(t *testing.T, req *api.LineageRequest) []byte {
	t.Helper()
	l := must(mimiport.UnmarshalLineage(req.Lineage))(t)
	sum := sha256.Sum256(l.Steps[len(l.Steps)-1].Claim.Message)
	return sum[:]
}

// support makes the room's pointer name the claim by which a server has the group.
func (p *play) support(ds string) {
	p.t.Helper()
	shown := p.lineage(ds)
	term := must(mimiport.UnmarshalLineage(shown.Lineage))(p.t).Term()
	p.point(api.Pointer{Via: ds, Term: term, Epoch: p.group.Epoch(), ClaimHash: claimHash(p.t, shown)})
}

// point sets the room's pointer.
func (p *play) point(pointer api.Pointer) {
	p.t.Helper()
	pointer.RoomID, pointer.GroupID = room, p.id
	content, err := json.Marshal(pointer)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Room.Events = map[string]json.RawMessage{api.EventPointer: content}
}

// copyOf returns a backup of a server's store: a new store with the group's present data, without the outbox.
func (p *play) copyOf(ds string, migrations ...mimiport.MigrationID) storage.Store {
	p.t.Helper()
	from, to := p.stores[ds], memory.New()
	g, err := from.Group(p.t.Context(), p.id)
	if err != nil {
		p.t.Fatal(err)
	}
	key := storage.GroupKey{ID: p.id, Term: g.Term}
	snap, err := from.Snapshot(p.t.Context(), key, g.Epoch)
	if err != nil {
		p.t.Fatal(err)
	}
	entries, err := from.Entries(p.t.Context(), key, 0, 1000)
	if err != nil {
		p.t.Fatal(err)
	}
	g.Version = 0
	changes := []*storage.Change{{Group: g, Snapshots: []storage.Snapshot{*snap}, Entries: entries}}
	receipts, err := from.Receipts(p.t.Context(), storage.Epoch{GroupKey: key}, 1000)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range receipts {
		changes = append(changes, &storage.Change{Receipt: &receipts[i]})
	}
	for _, id := range migrations {
		m, err := from.Migration(p.t.Context(), id)
		if err != nil {
			p.t.Fatal(err)
		}
		m.Version = 0
		c := &storage.Change{Migration: m}
		if data, err := from.Content(p.t.Context(), id); err == nil {
			c.Content = &storage.Content{ID: id, Data: data}
		}
		changes = append(changes, c)
	}
	for _, c := range changes {
		if err := to.Apply(p.t.Context(), c); err != nil {
			p.t.Fatal(err)
		}
	}
	return to
}

// restore lets a server start on another store.
func (p *play) restore(ds string, store storage.Store) {
	deps := p.services[ds].Deps
	deps.Store = store
	p.stores[ds], p.services[ds] = store, delivery.New(deps)
}

// TestRestoredBeforeMove: "Own signature beats own database" (profile, section 3): a source that was restored from a
// backup before the migration hosts the group again. When a user shows it its own confirmation, it stops for good and
// redirects.
func TestRestoredBeforeMove(t *testing.T) {
	p := newPlay(t)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	backup, before := p.copyOf(serverA), p.group
	p.move(serverA, serverB, bob)
	p.restore(serverA, backup)
	if g, err := p.services[serverA].Group(t.Context(), caller(alice), p.id); err != nil || g.State != "active" ||
		g.Epoch != before.Epoch() {
		t.Fatalf("the restored server says %+v, %v", g, err)
	}
	l := p.lineage(serverB)
	forged := p.shown(l, func(l *mimiport.Lineage) {
		decision := &l.Steps[0].Confirmation
		decision.Message = bytes.Clone(decision.Message)
		decision.Message[len(decision.Message)-1] ^= 1
	})
	if err := p.show(serverA, forged); err == nil {
		t.Error("a forged lineage was taken")
	}
	for range 2 {
		if err := p.show(serverA, l); err != nil {
			t.Fatal(err)
		}
		p.expectMoved(serverA, serverB)
	}
	p.expectKept(serverA, migration.EvidenceOwnForgotten)
	p.expectHosted(serverB, 1)
	p.move(serverB, serverA, alice) // the group can come back
	p.expectHosted(serverA, 2)
}

// TestPointerStops: a restored source also learns from the room's pointer that it has confirmed a move of the group. It
// ignores a pointer that does not verify.
func TestPointerStops(t *testing.T) {
	p := newPlay(t)
	backup := p.copyOf(serverA)
	a := p.move(serverA, serverB, bob)
	after := p.group
	p.restore(serverA, backup)
	st, err := p.services[serverB].Migration(t.Context(), caller(bob), a.id)
	if err != nil {
		t.Fatal(err)
	}
	pointer := api.Pointer{Via: serverB, Term: 1, Epoch: after.Epoch(), Evidence: &api.PointerEvidence{
		MigrationResponse: st.MigrationResponse.Message, ResponseKeyID: st.MigrationResponse.KeyID,
		MigrationConfirmation: append([]byte(nil), st.Confirmation.Message...), ConfirmationKeyID: st.Confirmation.KeyID,
	}}
	last := len(pointer.Evidence.MigrationConfirmation) - 1
	for _, forged := range []byte{1, 0} {
		pointer.Evidence.MigrationConfirmation[last] = st.Confirmation.Message[last] ^ forged
		p.point(pointer)
		if err := p.services[serverA].RoomChanged(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		p.now = p.now.Add(2 * time.Second)
		p.run()
		host, err := p.services[serverA].Host(t.Context(), caller(alice), p.id)
		if want := map[byte]string{1: serverA, 0: serverB}[forged]; err != nil || host.DeliveryService != want {
			t.Errorf("the group is at %+v, %v; want %s", host, err, want)
		}
	}
}

// TestRestoredWhileFrozen: a source is restored from the middle of a migration. When a user shows it its own
// confirmation, it completes the move and does not abort at decide_by.
func TestRestoredWhileFrozen(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	backup := p.copyOf(serverA, a.id)
	p.run()
	p.expect(a, "moved", "active")
	p.restore(serverA, backup)
	p.expect(a, "frozen", "active")
	if err := p.show(serverA, p.lineage(serverB)); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.expect(a, "moved", "active")
	p.group = a.commit.Next
	p.expectMoved(serverA, serverB)
	log, err := p.services[serverA].Messages(t.Context(), caller(alice), p.id, api.MessagesQuery{})
	if err != nil || len(log.Messages) != 1 || log.Messages[0].Migration == nil {
		t.Errorf("the log is %+v, %v", log, err)
	}
}

// TestRestoredAndAborted: a restored source aborts a migration that it had confirmed before. It stops when somebody
// shows it the confirmation.
func TestRestoredAndAborted(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	backup := p.copyOf(serverA, a.id)
	p.run()
	p.restore(serverA, backup)
	if st, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id); err != nil || st.State != "aborted" {
		t.Fatalf("the abort gives %+v, %v", st, err)
	}
	p.run() // B is active and keeps the abort as evidence
	p.expectKept(serverB, migration.EvidenceBothOutcomes)
	if err := p.show(serverA, p.lineage(serverB)); err != nil {
		t.Fatal(err)
	}
	p.group = a.commit.Next
	p.expectMoved(serverA, serverB)
	p.expectHosted(serverB, 1)
	p.now = p.now.Add(time.Hour)
	p.run()
	if rows, _, err := p.stores[serverA].Due(t.Context(), p.now.Add(time.Hour), 10); err != nil || len(rows) != 0 {
		t.Errorf("A goes on with %+v, %v", rows, err)
	}
}

// TestStagedLearnsFromLineage: STAGED ends with "a verified lineage in which S's step of that term is another migration
// → DROPPED" (profile, section 6).
func TestStagedLearnsFromLineage(t *testing.T) {
	p := newPlay(t)
	lost := p.mustRequest(serverA, serverB, bob)
	p.lost = func(_, what string) bool { return what == "vote" || what == "abort" }
	if _, err := p.initiate(lost); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.expect(lost, "frozen", "staged")
	if _, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), lost.id); err != nil {
		t.Fatal(err)
	}

	// Meanwhile the group goes to a third server.
	const serverC, carol = "c.example", "@carol:c.example"
	p.addServer(serverC)
	p.Room.Joined[carol], p.Room.Power[carol] = true, 100
	p.commit(serverA, alice,
		mlstest.CommitOptions{Proposals: []*mlstest.Proposal{p.group.Add(p.group.NewClient(mlstest.Identity(carol,
			"CAROL")))}})
	leafOf[carol] = 2
	defer delete(leafOf, carol)
	p.lost = func(to, _ string) bool { return to == serverB }
	a := p.begin(serverA, serverC, carol)
	p.run()
	p.expect(a, "moved", "active")
	p.expect(lost, "aborted", "staged")
	expectKind(t, p.show(serverB, p.lineage(serverC)), mimiport.KindUnknownGroup) // B will not get the group
	p.expect(lost, "aborted", "dropped")
}

// TestReclaim: "Target lost for good after the decision: operator `reclaim` at S, a new term …; T yields to the higher
// term" (profile, section 6).
func TestReclaim(t *testing.T) {
	p := newPlay(t)
	_, err := p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{})
	expectKind(t, err, mimiport.KindConflict) // the group is at A
	p.move(serverA, serverB, bob)
	down := true
	p.lost = func(to, _ string) bool { return down && to == serverB }
	host, err := p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{})
	if err != nil || host.DeliveryService != serverA || host.Term != 2 {
		t.Fatalf("the reclaim gives %+v, %v", host, err)
	}
	_, err = p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{})
	expectKind(t, err, mimiport.KindConflict)
	p.run()
	p.expectHosted(serverA, 2)
	p.commit(serverA, alice, mlstest.CommitOptions{})

	down = false
	p.now = p.now.Add(time.Hour)
	p.run() // A shows B the lineage, but the room does not support it yet
	p.expectAt(serverB, serverB, 1)
	p.expectKept(serverB, migration.EvidenceContested)
	p.support(serverA)
	p.now = p.now.Add(time.Hour)
	p.run()
	_, err = p.submit(serverB, bob, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindMoved)
	if moved := asError(err).Info.Moved; moved == nil || moved.Server != serverA || moved.Term != 2 ||
		len(moved.Claim) == 0 {
		t.Errorf("B redirects to %+v", moved)
	}

	// The group can move on only to a server that accepts a lineage with a claim.
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "aborted", "dropped")
	p.allow(serverB, `{"accept_claims":true}`)
	p.move(serverA, serverB, bob)
	p.expectHosted(serverB, 3)
}

// newReclaimed is a group that its source has reclaimed. The target has voted. No decision reaches the target.
func newReclaimed(t *testing.T) *play {
	t.Helper()
	p := newPlay(t)
	p.lost = func(to, what string) bool { return to == serverB && what != "content" && what != "status" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "decided", "staged")
	if _, err := p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{}); err != nil {
		t.Fatal(err)
	}
	p.group = a.commit.Next
	return p
}

// TestReclaimUndecidedTarget: a reclaim before the target has taken the confirmation deletes the confirmation from the
// outbox.
func TestReclaimUndecidedTarget(t *testing.T) {
	p := newReclaimed(t)
	p.expectHosted(serverA, 2)
}

// TestRecover: "Source lost for good: operator `recover` at T from what members hold, off by default" (profile, section
// 6).
func TestRecover(t *testing.T) {
	p := newPlay(t)
	req := p.held(p.lineage(serverA))
	svc := p.services[serverB]
	_, err := svc.Recover(t.Context(), p.id, req)
	expectKind(t, err, mimiport.KindForbidden)
	p.allow(serverB, `{"recover":true}`)
	bad := *req
	bad.GroupInfo = []byte("garbage")
	if _, err := svc.Recover(t.Context(), p.id, &bad); err == nil {
		t.Error("garbage was recovered")
	}
	if _, err := svc.Recover(t.Context(), p.id, req); err != nil {
		t.Fatal(err)
	}
	p.expectHosted(serverB, 1)
	_, err = svc.Recover(t.Context(), p.id, req)
	expectKind(t, err, mimiport.KindConflict)
	p.commit(serverB, bob, mlstest.CommitOptions{})

	// The host was not lost after all. It yields only if the room supports the claim: accept_claims is only for
	// imports.
	p.allow(serverA, `{"accept_claims":true}`)
	err = p.show(serverA, p.lineage(serverB))
	expectRule(t, err, "contested")
	p.expectKept(serverA, migration.EvidenceContested)
	p.support(serverB)
	if err := p.show(serverA, p.lineage(serverB)); err != nil {
		t.Fatal(err)
	}
	_, err = p.submit(serverA, alice, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindMoved)
}

// TestForeignClaims: a claim counts only if it follows from the steps before it.
func TestForeignClaims(t *testing.T) {
	p := newPlay(t)
	p.addServer("c.example")
	p.move(serverA, serverB, bob)
	encoded := p.lineage(serverB).Lineage
	claimed := func(edit func(*mimiport.LineageClaim)) *api.LineageRequest {
		l, err := mimiport.UnmarshalLineage(encoded)
		if err != nil {
			t.Fatal(err)
		}
		c := &mimiport.LineageClaim{Kind: mimiport.StepReclaim, DomainName: serverA, GroupID: p.id, Term: 2,
			Epoch: p.group.Epoch()}
		edit(c)
		if err := mimiport.Sign(c, p.Key(c.DomainName)); err != nil {
			t.Fatal(err)
		}
		data, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		l.Steps = append(l.Steps,
			mimiport.LineageStep{Kind: c.Kind, Claim: &migration.Signed{Message: data, KeyID: "ed25519:1"}})
		out, err := l.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return &api.LineageRequest{Lineage: out}
	}
	for name, edit := range map[string]func(*mimiport.LineageClaim){
		"by a server that never had the group": func(c *mimiport.LineageClaim) { c.DomainName = "c.example" },
		"of another group":                     func(c *mimiport.LineageClaim) { c.GroupID = []byte("other") },
		"of another term":                      func(c *mimiport.LineageClaim) { c.Term = 3 },
		"of an earlier epoch":                  func(c *mimiport.LineageClaim) { c.Epoch = 0 },
	} {
		if err := p.show(serverB, claimed(edit)); err == nil {
			t.Errorf("a reclaim %s was taken", name)
		}
		p.expectHosted(serverB, 1)
	}
	right := claimed(func(*mimiport.LineageClaim) {})
	expectRule(t, p.show(serverB, right), "contested")
	if _, err := p.services[serverB].Yield(t.Context(), p.id, right); err != nil {
		t.Errorf("the reclaim by the host before: %v", err)
	}
}
