package delivery_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// held is a request to recover the group from the state that a member holds.
func (p *play) held(l *api.LineageRequest) *api.RecoverRequest {
	return &api.RecoverRequest{
		BindGroupRequest: api.BindGroupRequest{Protocol: "mls10", GroupInfo: p.group.GroupInfo(),
			RatchetTree: p.group.RatchetTree()},
		Lineage: l.Lineage,
	}
}

func (p *play) allow(ds, policy string) {
	p.t.Helper()
	if _, err := p.services[ds].SetPolicy(p.t.Context(), json.RawMessage(policy)); err != nil {
		p.t.Fatal(err)
	}
}

// expectAt checks the host and the term that a server names for the group.
func (p *play) expectAt(ds, at string, term uint64) {
	p.t.Helper()
	host, err := p.services[ds].Host(p.t.Context(), caller(alice), p.id)
	if err != nil || host.DeliveryService != at || host.Term != term {
		p.t.Errorf("%s says that the group is at %+v, %v; want %s in term %d", ds, host, err, at, term)
	}
}

// evidenceKinds are the kinds of the evidence that a server keeps, oldest first.
func (p *play) evidenceKinds(ds string) (kinds []storage.EvidenceKind) {
	p.t.Helper()
	kept, err := p.stores[ds].Evidence(p.t.Context(), p.id)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range kept {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// expectKept checks that a server keeps one piece of evidence, of a kind.
func (p *play) expectKept(ds string, kind storage.EvidenceKind) {
	p.t.Helper()
	if kinds := p.evidenceKinds(ds); len(kinds) != 1 || kinds[0] != kind {
		p.t.Errorf("the evidence at %s is %v", ds, kinds)
	}
}

// TestReclaimedWhileStaged: a target that waits for the decision gets the decision and the reclaim in one lineage. It
// never accepts in between.
func TestReclaimedWhileStaged(t *testing.T) {
	p := newReclaimed(t)
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(time.Hour)
	p.support(serverA)
	if err := p.show(serverB, p.lineage(serverA)); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverB, serverA, 2)
	p.expectKept(serverB, migration.EvidenceHigherTerm)
	p.run()
	p.expectAt(serverB, serverA, 2)
	p.expectHosted(serverA, 2)
}

// TestReclaimAfterDrop: a migration back has staged the group here, and an operator has dropped it. A reclaim takes its
// place. A late confirmation of that migration revives nothing.
func TestReclaimAfterDrop(t *testing.T) {
	p := newPlay(t)
	p.move(serverA, serverB, bob)
	p.lost = func(_, what string) bool { return what == "vote" }
	back := p.begin(serverB, serverA, alice)
	p.run()
	p.expect(back, "frozen", "staged")
	if _, err := p.services[serverA].DropStaged(t.Context(), back.id); err != nil {
		t.Fatal(err)
	}
	if _, err := p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{}); err != nil {
		t.Fatal(err)
	}
	p.support(serverA)
	p.expectHosted(serverA, 2)
	_, err := p.services[serverA].ConfirmMigration(t.Context(), caller(alice), back.id, p.confirmation(back))
	expectKind(t, err, mimiport.KindEnded)
	p.expectHosted(serverA, 2)

	// B gives up its own migration when it hears of the reclaim: no vote can decide that migration any more.
	p.lost = func(_, what string) bool { return what == "content" }
	p.now = p.now.Add(time.Second)
	p.run()
	p.expect(back, "aborted", "dropped")
	p.expectAt(serverB, serverA, 2)
	p.now = p.now.Add(time.Hour)
	p.lost = func(string, string) bool { return false }
	p.run()
	p.expect(back, "aborted", "dropped")
	p.expectAt(serverB, serverA, 2)
}

// TestRecoverAfterDrop: the source of a group is lost. The target that waits for its decision can recover the group
// when an operator has dropped the staged group.
func TestRecoverAfterDrop(t *testing.T) {
	p := newPlay(t)
	p.allow(serverB, `{"recover":true}`)
	p.lost = func(_, what string) bool { return what == "vote" }
	a := p.begin(serverA, serverB, bob)
	held := p.held(p.lineage(serverA))
	p.run()
	p.expect(a, "frozen", "staged")
	_, err := p.services[serverB].Recover(t.Context(), p.id, held)
	expectKind(t, err, mimiport.KindConflict)
	if _, err := p.services[serverB].DropStaged(t.Context(), a.id); err != nil {
		t.Fatal(err)
	}
	if _, err := p.services[serverB].Recover(t.Context(), p.id, held); err != nil {
		t.Fatal(err)
	}
	p.expectHosted(serverB, 1)
	_, err = p.services[serverB].ConfirmMigration(t.Context(), caller(bob), a.id, p.confirmation(a))
	expectKind(t, err, mimiport.KindEnded)

	// A was not lost after all, and still waits for the vote when it hears of the recover.
	p.support(serverB)
	if err := p.show(serverA, p.lineage(serverB)); err != nil {
		t.Fatal(err)
	}
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(10 * time.Second)
	p.run()
	p.expect(a, "aborted", "dropped")
	p.expectAt(serverA, serverB, 1)
	p.expectKept(serverA, migration.EvidenceHigherTerm)
}

// TestRecoverBehind: a server that has confirmed a move does not recover the group from the state before the move. One
// term would have two hosts.
func TestRecoverBehind(t *testing.T) {
	p := newPlay(t)
	p.allow(serverA, `{"recover":true}`)
	held := p.held(p.lineage(serverA))
	p.move(serverA, serverB, bob)
	_, err := p.services[serverA].Recover(t.Context(), p.id, held)
	expectKind(t, err, mimiport.KindInvalid)
	if _, err := p.services[serverA].Recover(t.Context(), p.id, p.held(p.lineage(serverB))); err != nil {
		t.Error(err)
	}
	p.expectHosted(serverA, 2)
	p.commit(serverA, alice, mlstest.CommitOptions{})
}

// TestRestoredKeepsEvidence: a restored source has forgotten its confirmation. When a user shows it the confirmation,
// it keeps the evidence.
func TestRestoredKeepsEvidence(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	backup := p.copyOf(serverA, a.id)
	p.run()
	p.restore(serverA, backup)
	if err := p.show(serverA, p.lineage(serverB)); err != nil {
		t.Fatal(err)
	}
	p.expectKept(serverA, migration.EvidenceOwnForgotten)
}

// TestReclaimToldAgain: a target that has dropped the staged group does not know the group when the source tells it of
// the reclaim. If the target takes up the group later by a confirmation, the source tells it again.
func TestReclaimToldAgain(t *testing.T) {
	p := newPlay(t)
	p.lost = func(to, what string) bool {
		return to == serverB && what == "confirmation" || to == serverA && what == "status"
	}
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "decided", "staged")
	if _, err := p.services[serverB].DropStaged(t.Context(), a.id); err != nil {
		t.Fatal(err)
	}
	if _, err := p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{}); err != nil {
		t.Fatal(err)
	}
	p.run()
	if _, err := p.services[serverB].ConfirmMigration(t.Context(), caller(bob), a.id, p.confirmation(a)); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverB, serverB, 1)
	p.support(serverA)
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expectAt(serverB, serverA, 2)
}

// TestReclaimForgotten: the target of a reclaimed group may never know the group again. The source tells it of the
// reclaim until retention ends.
func TestReclaimForgotten(t *testing.T) {
	p := newPlay(t)
	p.move(serverA, serverB, bob)
	p.restore(serverB, memory.New())
	if _, err := p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, wait := range []struct {
		time.Duration
		rows bool
	}{{time.Hour, true}, {8 * 24 * time.Hour, false}} {
		p.now = p.now.Add(wait.Duration)
		p.run()
		rows, _, err := p.stores[serverA].Due(t.Context(), p.now.Add(time.Hour), 10)
		told := slices.ContainsFunc(rows, func(r storage.Row) bool { return r.Kind == migration.RowLineage })
		if err != nil || told != wait.rows {
			t.Errorf("after %s A has to do %+v, %v", wait.Duration, rows, err)
		}
	}
}

// TestReclaimOtherBranch: a restored source has accepted another Commit in the place of the migration Commit. It cannot
// reclaim the group: its state is not the state that it gave to the target, although both have the same epoch.
func TestReclaimOtherBranch(t *testing.T) {
	p := newPlay(t)
	backup, before := p.copyOf(serverA), p.group
	p.move(serverA, serverB, bob)
	l := p.lineage(serverB)
	p.restore(serverA, backup)
	p.group = before
	p.commit(serverA, alice, mlstest.CommitOptions{})
	if err := p.show(serverA, l); err != nil {
		t.Fatal(err)
	}
	if _, err := p.services[serverA].Reclaim(t.Context(), p.id,
		&api.LineageRequest{}); mimiport.KindOf(err) != mimiport.KindConflict {
		t.Errorf("the reclaim ends with %v", err)
	}
	p.expectAt(serverA, serverB, 1)
}

// TestRecalledWhileFrozen: a restored source has aborted a migration that it had confirmed, and is frozen for another
// one. When a user shows it its confirmation, it confirms no other migration.
func TestRecalledWhileFrozen(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	backup := p.copyOf(serverA, a.id)
	p.run()
	l := p.lineage(serverB)
	p.restore(serverA, backup)
	p.restore(serverB, memory.New()) // B would refuse another migration
	p.allow(serverB, `{"target":"joined_servers"}`)
	if _, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id); err != nil {
		t.Fatal(err)
	}
	other := p.begin(serverA, serverB, alice)
	if err := p.show(serverA, l); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.expectAt(serverA, serverB, 1)
	st, err := p.services[serverA].Migration(t.Context(), caller(alice), other.id)
	if err != nil || st.State != "aborted" || st.Confirmation != nil {
		t.Errorf("the other migration is %+v, %v", st, err)
	}
}

// TestRestoredTakesBack: a restored source gets the content of a move back to it, and finds its own confirmation in the
// lineage. It does not go on in the term that it has confirmed away, even if the move back aborts.
func TestRestoredTakesBack(t *testing.T) {
	p := newPlay(t)
	backup := p.copyOf(serverA)
	p.move(serverA, serverB, bob)
	p.restore(serverA, backup)
	p.lost = func(_, what string) bool { return what == "vote" }
	back := p.begin(serverB, serverA, alice)
	p.run()
	p.expect(back, "frozen", "staged")
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expect(back, "aborted", "dropped")
	p.expectMoved(serverA, serverB)
	p.expectKept(serverA, migration.EvidenceOwnForgotten)
	p.expectHosted(serverB, 1)
}
