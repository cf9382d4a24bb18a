package delivery_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// TestVoteNamesMigration: T names the migration in its MigrationVote. Both servers keep that vote, and prove the step
// with it in their lineages. A target that speaks only the draft gives no MigrationVote.
func TestVoteNamesMigration(t *testing.T) {
	for _, draft := range []string{"", serverB} {
		p := newPlay(t)
		p.Draft = draft
		a := p.move(serverA, serverB, bob)
		p.lost = func(to, _ string) bool { return to == serverB }
		must(p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{}))(t)
		step := must(mimiport.UnmarshalLineage(p.lineage(serverA).Lineage))(t).Steps[0]
		if draft != "" {
			if step.Vote.Message != nil {
				t.Error("a target that speaks only the draft has named the migration")
			}
			continue
		}
		vote, err := mimiport.UnmarshalMigrationVote(step.Vote.Message)
		if err != nil {
			t.Fatal(err)
		}
		m := must(p.stores[serverA].Migration(t.Context(), a.id))(t)
		if vote.MigrationID != a.id || vote.Term != 1 || !bytes.Equal(vote.ContentHash, m.ContentHash) {
			t.Errorf("the vote is %+v", vote)
		}
		if err := p.Verify(serverB, step.Vote.KeyID, vote); err != nil {
			t.Error(err)
		}
		there := must(mimiport.UnmarshalLineage(p.lineage(serverB).Lineage))(t).Steps[0]
		if !bytes.Equal(there.Vote.Message, step.Vote.Message) {
			t.Error("the two servers have two votes")
		}
	}
}

// TestForgedMigrationVotes: a vote does not count if T has not signed its MigrationVote for this migration. S asks
// again until decide_by.
func TestForgedMigrationVotes(t *testing.T) {
	for name, forge := range map[string]struct {
		signer string
		edit   func(*mimiport.MigrationVote)
	}{
		"by another server":    {serverA, func(*mimiport.MigrationVote) {}},
		"in another migration": {serverB, func(v *mimiport.MigrationVote) { v.MigrationID[0] ^= 1 }},
		"in another term":      {serverB, func(v *mimiport.MigrationVote) { v.Term++ }},
		"for another content":  {serverB, func(v *mimiport.MigrationVote) { v.ContentHash = make([]byte, 32) }},
		"garbage":              {},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.meet(serverA, hostile{vote: func(up *api.ContentUpload) (*api.SignedRequest, error) {
				answer, err := p.services[serverB].PutContent(t.Context(), serverA, up)
				if err != nil {
					return nil, err
				}
				vote := must(mimiport.UnmarshalMigrationVote(answer.Vote))(t)
				if answer.Vote = []byte("garbage"); forge.edit != nil {
					forge.edit(vote)
					answer.Vote = p.encoded(forge.signer, vote)
				}
				return answer, nil
			}})
			p.expectNoVote(p.begin(serverA, serverB, bob))
		})
	}
}

// borrowedVotes are votes that a target has signed for other migrations. A hostile source puts them beside the offer of
// a step that begins term.
func (p *play) borrowedVotes(step *mimiport.LineageStep, target string, term uint64) map[string]migration.Signed {
	p.t.Helper()
	offer := must(mimiport.UnmarshalMigrationResponse(step.Response.Message))(p.t)
	sign := func(m interface {
		mimiport.Signed
		Marshal() ([]byte, error)
	}) migration.Signed {
		return migration.Signed{Message: p.encoded(target, m), KeyID: step.Response.KeyID}
	}
	hash := make([]byte, 32)
	other := mimiport.MigrationID{1}
	return map[string]migration.Signed{
		"none":                 {},
		"naming no migration":  sign(&mimiport.TargetMigrationComplete{ContentHash: hash}),
		"in another migration": sign(&mimiport.MigrationVote{MigrationID: other, Term: term, ContentHash: hash}),
		"in another term":      sign(&mimiport.MigrationVote{MigrationID: offer.ID(), Term: term + 1, ContentHash: hash}),
	}
}

// TestBorrowedVoteReturns: a hostile host has an expired offer of a server, and that server's vote for another
// migration. The host cannot stop the group at that server with them. The server may still have the offer or not.
func TestBorrowedVoteReturns(t *testing.T) {
	p := newPlay(t)
	p.move(serverA, serverB, bob)
	step := p.confirmed(p.mustRequest(serverB, serverA, alice))
	p.now = p.now.Add(time.Hour)
	p.run()
	show := func() {
		t.Helper()
		for name, vote := range p.borrowedVotes(&step, serverA, 2) {
			step.Vote = vote
			l := p.shown(p.lineage(serverB), func(l *mimiport.Lineage) { l.Steps = append(l.Steps, step) })
			if err := p.show(serverA, l); err != nil {
				t.Errorf("a vote %s: %v", name, err)
			}
			p.expectMoved(serverA, serverB)
		}
	}
	show()
	if err := p.stores[serverA].Forget(t.Context(), storage.Horizon{Offers: p.now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	show()
	p.voted(&step, serverA, 2) // with a real vote for this step, A has forgotten its own vote
	l := p.shown(p.lineage(serverB), func(l *mimiport.Lineage) { l.Steps = append(l.Steps, step) })
	if err := p.show(serverA, l); err != nil {
		t.Fatal(err)
	}
	p.expectKept(serverA, migration.EvidenceOwnForgotten)
}

// TestReturnsWithoutVote: a restored server stops in a term for which a lineage lacks its vote, if it has decided on
// the next move itself. A later host may have left the vote out. Nobody else's word counts in its place.
func TestReturnsWithoutVote(t *testing.T) {
	p := newPlay(t)
	a := p.move(serverA, serverB, bob)
	backup := p.copyOf(serverA, a.id)
	p.move(serverB, serverA, alice)
	p.move(serverA, serverB, bob)
	p.restore(serverA, backup)
	stripped := func(edit func(*mimiport.Lineage)) error {
		return p.show(serverA, p.shown(p.lineage(serverB), func(l *mimiport.Lineage) {
			for i := range l.Steps {
				l.Steps[i].Vote = mimiport.SignedMessage{}
			}
			edit(l)
		}))
	}
	if stripped(func(l *mimiport.Lineage) {
		p.forge(&l.Steps[2], serverB, serverB, func(*mimiport.MigrationResponse, *mimiport.MigrationConfirmation) {})
	}) == nil {
		t.Error("a decision that another has signed is taken")
	}
	if err := stripped(func(l *mimiport.Lineage) { l.Steps = l.Steps[:2] }); err != nil {
		t.Error(err)
	}
	p.expectAt(serverA, serverB, 1)
	if err := stripped(func(*mimiport.Lineage) {}); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverA, serverB, 3)
	forgotten := []storage.EvidenceKind{migration.EvidenceOwnForgotten, migration.EvidenceOwnForgotten}
	if kinds := p.evidenceKinds(serverA); !slices.Equal(kinds, forgotten) { // of term 2, and of the next move
		t.Errorf("the evidence is %v", kinds)
	}
}

// TestBorrowedVoteEndsNoRecover: a hostile former host cannot end a recover with an old offer of a third server that
// never voted. If the third server has voted for the migration, the migration outranks the recover.
func TestBorrowedVoteEndsNoRecover(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{"target":"any_creator","creators":["a.example"]}`)
	p.allow(serverB, `{"recover":true}`)
	step := p.confirmed(p.mustRequest(serverA, serverC, alice))
	was := p.lineage(serverA)
	p.lost = func(to, _ string) bool { return to == serverA }
	must(p.services[serverB].Recover(t.Context(), p.id, p.held(was)))(t)
	p.now = p.now.Add(time.Hour)
	p.run()
	show := func() error {
		return p.show(serverB, p.shown(was, func(l *mimiport.Lineage) { l.Steps = append(l.Steps, step) }))
	}
	for name, vote := range p.borrowedVotes(&step, serverC, 1) {
		step.Vote = vote
		if err := show(); asError(err).Info.Rule != "contested" {
			t.Errorf("a vote %s: %v", name, err)
		}
		p.expectHosted(serverB, 1)
	}
	p.voted(&step, serverC, 1)
	if err := show(); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverB, serverC, 1)
}
