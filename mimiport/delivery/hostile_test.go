package delivery_test

import (
	"context"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// hostile is a server's way to other servers. Their answers come from the test.
type hostile struct {
	delivery.Sender
	vote   func(*api.ContentUpload) (*api.SignedRequest, error)
	status func() (*api.MigrationStatus, error)
}

func (h hostile) PutContent(ctx context.Context, from, to string, c *api.ContentUpload) (*api.SignedRequest, error) {
	if h.vote == nil {
		return h.Sender.PutContent(ctx, from, to, c)
	}
	return h.vote(c)
}

func (h hostile) AskStatus(ctx context.Context, from, to string, id mimiport.MigrationID) (
	*api.MigrationStatus, error) {
	if h.status == nil {
		return h.Sender.AskStatus(ctx, from, to, id)
	}
	return h.status()
}

// meet lets a server meet a hostile one.
func (p *play) meet(ds string, h hostile) {
	h.Sender = p.Network()
	deps := p.services[ds].Deps
	deps.Sender = h
	p.services[ds] = delivery.New(deps)
}

// encoded signs a message as a server and encodes it.
func (p *play) encoded(signer string, m interface {
	mimiport.Signed
	Marshal() ([]byte, error)
}) []byte {
	p.t.Helper()
	if err := mimiport.Sign(m, p.Key(signer)); err != nil {
		p.t.Fatal(err)
	}
	return must(m.Marshal())(p.t)
}

// put hands a target a content, as its source would. The target does not count a refused content, so that it judges the
// next one, too.
func (p *play) put(a *attempt, data []byte) error {
	return p.putFrom(a, a.from, data)
}

// putFrom is put from any server.
func (p *play) putFrom(a *attempt, origin string, data []byte) error {
	p.t.Helper()
	_, err := p.services[a.to].PutContent(p.t.Context(), origin, &api.ContentUpload{
		ID: a.id, KeyID: "ed25519:1", Data: data, DecideBy: p.now,
	})
	m := must(p.stores[a.to].Migration(p.t.Context(), a.id))(p.t)
	if m.Refused == 0 {
		return err
	}
	m.Refused = 0
	if err := p.stores[a.to].Apply(p.t.Context(), &storage.Change{Migration: m}); err != nil {
		p.t.Fatal(err)
	}
	return err
}

// TestThirdRefusedContentEndsTheOffer: T refuses each bad content for its own fault. After two bad contents T takes a
// good one. After three T verifies no further content.
func TestThirdRefusedContentEndsTheOffer(t *testing.T) {
	for refusals, want := range map[int]string{2: "staged", 3: "dropped"} {
		p := newPlay(t)
		a := p.begin(serverA, serverB, bob)
		data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
		bad := p.resign(data, func(s *mimiport.GroupState) { s.Commit.GroupInfo = s.Base.GroupInfo })
		put := func(data []byte) error {
			_, err := p.services[serverB].PutContent(t.Context(), serverA, &api.ContentUpload{
				ID: a.id, KeyID: "ed25519:1", Data: data, DecideBy: p.now,
			})
			return err
		}
		for range refusals {
			expectKind(t, put(bad), mimiport.KindInvalid)
		}
		verified := 0
		p.Verified = func() { verified++ }
		if err := put(data); (err == nil) != (want == "staged") || (verified > 0) != (want == "staged") {
			t.Errorf("after %d: %v, %d verified", refusals, err, verified)
		}
		p.expect(a, "frozen", want)
		p.run()
		p.expect(a, map[string]string{"staged": "moved", "dropped": "aborted"}[want],
			map[string]string{"staged": "active", "dropped": "dropped"}[want])
	}
}

// TestFinalRefusals: FROZEN ends with a final refusal (profile, section 13). After any other kind of error S asks
// again, even a target without this module: the target may have the module again before decide_by.
func TestFinalRefusals(t *testing.T) {
	final := map[mimiport.Kind]bool{
		mimiport.KindBadMessage: true, mimiport.KindTooLarge: true, mimiport.KindUnsupported: true,
		mimiport.KindInvalid: true, mimiport.KindBadSignature: true, mimiport.KindForbidden: true,
		mimiport.KindUnknownMigration: true, mimiport.KindWrongEpoch: true, mimiport.KindConflict: true,
		mimiport.KindEnded: true, mimiport.KindOfferExpired: true,
	}
	for kind := mimiport.KindInternal; kind <= mimiport.KindPeer; kind++ {
		p := newPlay(t)
		p.meet(serverA, hostile{vote: func(*api.ContentUpload) (*api.SignedRequest, error) {
			return nil, mimiport.Errorf("stage", kind, "no")
		}})
		a := p.begin(serverA, serverB, bob)
		p.run()
		want := map[bool]string{true: "aborted", false: "frozen"}[final[kind]]
		if st, err := p.services[serverA].Migration(t.Context(), caller(bob), a.id); err != nil || st.State != want {
			t.Errorf("a refusal of kind %d: %+v, %v; want %s", kind, st, err, want)
		}
	}
}

// TestForgedVotes: S, "for its answer, first look[s] up [its] own row and compare[s] every field before trusting a
// signature" (profile, section 2), and decides only for T's vote on the content that it has sent.
func TestForgedVotes(t *testing.T) {
	for name, vote := range map[string]func(p *play, honest *mimiport.TargetMigrationComplete) *api.SignedRequest{
		"by another server": func(p *play, m *mimiport.TargetMigrationComplete) *api.SignedRequest {
			return &api.SignedRequest{Message: p.encoded(serverA, m), KeyID: "ed25519:1"}
		},
		"for another content": func(p *play, m *mimiport.TargetMigrationComplete) *api.SignedRequest {
			m.ContentHash[0] ^= 1
			return &api.SignedRequest{Message: p.encoded(serverB, m), KeyID: "ed25519:1"}
		},
		"with an unknown key": func(p *play, m *mimiport.TargetMigrationComplete) *api.SignedRequest {
			return &api.SignedRequest{Message: p.encoded(serverB, m), KeyID: "ed25519:2"}
		},
		"garbage": func(*play, *mimiport.TargetMigrationComplete) *api.SignedRequest {
			return &api.SignedRequest{Message: []byte("garbage"), KeyID: "ed25519:1"}
		},
		"none yet": func(*play, *mimiport.TargetMigrationComplete) *api.SignedRequest { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.meet(serverA, hostile{vote: func(up *api.ContentUpload) (*api.SignedRequest, error) {
				honest, err := p.services[serverB].PutContent(t.Context(), serverA, up)
				if err != nil {
					return nil, err
				}
				return vote(p, must(mimiport.UnmarshalTargetMigrationComplete(honest.Message))(t)), nil
			}})
			p.expectNoVote(p.begin(serverA, serverB, bob))
		})
	}
}

// TestPolicyBeforeDecision: the policy is asked "by S in the deciding transaction; never after" (profile, section 8).
func TestPolicyBeforeDecision(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool {
		if what == "vote" {
			p.Room.Power[bob] = 0
		}
		return false
	}
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "aborted", "dropped")
}

// TestDecidedForGood: "A `migration_id` ends once" (profile, section 6): nothing takes back the decision of S: no abort
// by its client, no deadline, no refusal by the target, no row that runs twice.
func TestDecidedForGood(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.now = p.now.Add(59 * time.Second)
	m := must(p.stores[serverA].Migration(t.Context(), a.id))(t)
	before := must2(p.stores[serverA].Due(t.Context(), m.DecideBy.Add(time.Hour), 100))(t)
	p.run()
	p.expect(a, "decided", "staged")

	if st, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id); err != nil ||
		st.State != "decided" || st.Abort != nil {
		t.Errorf("its client's abort gives %+v, %v", st, err)
	}
	p.now = p.now.Add(24 * time.Hour)
	p.meet(serverA, hostile{vote: func(*api.ContentUpload) (*api.SignedRequest, error) {
		t.Error("content was sent after the decision")
		return nil, mimiport.Errorf("stage", mimiport.KindForbidden, "no")
	}})
	for _, row := range before { // the content, and the clock at decide_by
		if err := p.services[serverA].Do(t.Context(), row); err != nil {
			t.Errorf("%s again: %v", row.Kind, err)
		}
	}
	p.expectMoved(serverA, serverB)
	p.lost = func(string, string) bool { return false }
	p.run()
	p.expect(a, "moved", "active")
	p.group = a.commit.Next
	p.expectHosted(serverB, 1)
}

func must2[V, W any](v V, _ W, err error) func(testing.TB) V { return must(v, err) }

// TestStagedForGood: only messages signed by S end STAGED: "it never infers an abort from silence", and "status answers
// are hints: only signed bytes move a row" (profile, sections 6 and 2). The time of the offer does not count any more.
func TestStagedForGood(t *testing.T) {
	for name, status := range map[string]func() (*api.MigrationStatus, error){
		"aborted, it says": func() (*api.MigrationStatus, error) { return &api.MigrationStatus{State: "aborted"}, nil },
		"frozen, it says":  func() (*api.MigrationStatus, error) { return &api.MigrationStatus{State: "frozen"}, nil },
		"moved, it says":   func() (*api.MigrationStatus, error) { return &api.MigrationStatus{State: "moved"}, nil },
		"it does not know of it": func() (*api.MigrationStatus, error) {
			return nil, mimiport.Errorf("", mimiport.KindUnknownMigration, "no")
		},
		"it refuses": func() (*api.MigrationStatus, error) {
			return nil, mimiport.Errorf("", mimiport.KindForbidden, "no")
		},
		"an unsigned abort": func() (*api.MigrationStatus, error) {
			return &api.MigrationStatus{State: "aborted",
				Abort: &api.SignedInfo{Message: []byte("garbage"), KeyID: "ed25519:1"}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.lost = func(_, what string) bool { return what == "vote" || what == "abort" || what == "confirmation" }
			a := p.begin(serverA, serverB, bob)
			p.run()
			p.meet(serverB, hostile{status: status})
			for range 3 {
				p.now = p.now.Add(20 * time.Minute)
				p.run()
				p.expect(a, "aborted", "staged")
			}
		})
	}
}

// TestStagedAsks: "after `decide_by` it asks S" (profile, section 6), and not before. T follows the answer that S has
// signed.
func TestStagedAsks(t *testing.T) {
	p := newPlay(t)
	asked := 0
	p.lost = func(to, what string) bool {
		if to == serverA && what == "status" {
			asked++
		}
		return what == "confirmation"
	}
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.now = p.now.Add(59 * time.Second)
	p.run()
	p.expect(a, "decided", "staged")
	if asked != 0 {
		t.Error("T asks before decide_by")
	}
	p.now = p.now.Add(2 * time.Second)
	p.run()
	p.expect(a, "decided", "active")
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expect(a, "moved", "active")
}

// TestRowsTwice: "the worker that resumes after a crash is the one that runs every time" (profile, section 6): each row
// of a hand-over may run again after the end of the hand-over, and changes nothing.
func TestRowsTwice(t *testing.T) {
	p := newPlay(t)
	done := map[string][]storage.Row{}
	p.lost = func(to, what string) bool {
		for server, store := range p.stores {
			done[server] = append(done[server], must2(store.Due(t.Context(), p.now.Add(time.Hour), 100))(t)...)
		}
		return false
	}
	p.move(serverA, serverB, bob)
	p.lost = func(string, string) bool { return false }
	for server, rows := range done {
		for _, row := range rows {
			if err := p.services[server].Do(t.Context(), row); err != nil {
				t.Errorf("%s at %s: %v", row.Kind, server, err)
			}
		}
	}
	p.expectHosted(serverB, 1)
	p.expectMoved(serverA, serverB)
}

// TestContentAtWork: while T works on a content, a second request with the same content gets a time to wait. T does not
// verify the content twice.
func TestContentAtWork(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
	again := func() (*api.SignedRequest, error) {
		return p.services[serverB].PutContent(t.Context(), serverA,
			&api.ContentUpload{ID: a.id, KeyID: "ed25519:1", Data: data, DecideBy: p.now})
	}
	at := 0
	p.Verified = func() {
		if at++; at > 1 {
			return
		}
		if vote, err := again(); vote != nil || err != nil {
			t.Errorf("meanwhile: %+v, %v", vote, err)
		}
	}
	if vote, err := again(); vote == nil || err != nil {
		t.Errorf("got %+v, %v", vote, err)
	}
	p.Verified = nil
}

// TestSecondMigrationWaits: STAGED has the group's "id and quota reserved" (profile, section 6): a second migration of
// the same term waits for the end of the first, and then takes its place.
func TestSecondMigrationWaits(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "vote" || what == "abort" }
	first := p.begin(serverA, serverB, bob)
	p.run()
	must(p.services[serverA].AbortMigration(t.Context(), caller(bob), first.id))(t)
	p.run()
	p.expect(first, "aborted", "staged")
	p.commit(serverA, alice, mlstest.CommitOptions{})
	p.lost = func(_, what string) bool { return what == "abort" }
	second := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(first, "aborted", "staged")
	p.expect(second, "frozen", "offered")
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(10 * time.Second)
	p.run()
	p.now = p.now.Add(10 * time.Second)
	p.run()
	p.expect(first, "aborted", "dropped")
	p.expect(second, "moved", "active")
	p.group = second.commit.Next
	p.expectHosted(serverB, 1)
}

// TestAbortIsDelivered: S sends an abort until T has taken it. A T that does not know the migration has nothing to
// drop.
func TestAbortIsDelivered(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "vote" || what == "abort" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	must(p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id))(t)
	p.run()
	p.expect(a, "aborted", "staged")
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(5 * time.Second) // before T asks
	p.run()
	p.expect(a, "aborted", "dropped")

	p.lost = func(_, what string) bool { return what == "abort" }
	b := p.begin(serverA, serverB, bob)
	must(p.services[serverA].AbortMigration(t.Context(), caller(bob), b.id))(t)
	p.run()
	p.restore(serverB, newWorld(t).stores[serverB]) // T has lost everything
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(5 * time.Second)
	p.run()
	if rows := must2(p.stores[serverA].Due(t.Context(), p.now.Add(time.Hour), 10))(t); len(rows) != 0 {
		t.Errorf("S goes on with %+v", rows)
	}
}

// TestWhoAborts: "Client abort: C, or whoever may migrate, in FROZEN only" (profile, section 6), at the source alone.
func TestWhoAborts(t *testing.T) {
	p := newPlay(t)
	p.Room.Joined[carol] = true
	a := p.begin(serverA, serverB, bob)
	abort := func(ds, user string) error {
		_, err := p.services[ds].AbortMigration(t.Context(), caller(user), a.id)
		return err
	}
	expectKind(t, abort(serverA, carol), mimiport.KindForbidden) // carol has no power
	expectKind(t, abort(serverB, bob), mimiport.KindForbidden)   // the target
	p.Room.Joined[bob] = false
	expectKind(t, abort(serverA, bob), mimiport.KindForbidden)
	p.Room.Joined[bob] = true
	p.expect(a, "frozen", "offered")
	if err := abort(serverA, alice); err != nil {
		t.Error(err)
	}
	p.expect(a, "aborted", "offered")
}

// TestNoPurgeBeforeTheEnd: "retention → state purged" (profile, section 6) holds only after the end. S keeps the state
// of a decision that T has not taken. T keeps the group that a second migration has staged.
func TestNoPurgeBeforeTheEnd(t *testing.T) {
	p := newPlay(t)
	epoch := p.group.Epoch()
	p.lost = func(_, what string) bool { return what == "vote" }
	first := p.begin(serverA, serverB, bob)
	p.run()
	must(p.services[serverA].AbortMigration(t.Context(), caller(bob), first.id))(t)
	p.run()
	p.expect(first, "aborted", "dropped") // T has a row to purge it in a week
	p.lost = func(to, what string) bool { return what == "confirmation" || what == "status" && to == serverA }
	second := p.begin(serverA, serverB, bob)
	p.run()
	p.now = p.now.Add(8 * 24 * time.Hour)
	p.run()
	p.expect(second, "decided", "staged")
	if _, err := p.services[serverA].RatchetTree(t.Context(), caller(alice), p.id, epoch); err != nil {
		t.Errorf("S has purged what T has not taken: %v", err)
	}
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expect(second, "moved", "active")
	p.group = second.commit.Next
	p.expectHosted(serverB, 1)
	p.now = p.now.Add(time.Minute)
	p.run()
	_, err := p.services[serverA].RatchetTree(t.Context(), caller(alice), p.id, epoch)
	expectKind(t, err, mimiport.KindWrongEpoch)
}

// TestPurgeIsOfItsOwn: a dropped group is "kept through retention" (profile, section 6). The retention counts from its
// own end, and not from the end of an earlier migration to the same term.
func TestPurgeIsOfItsOwn(t *testing.T) {
	const day = 24 * time.Hour
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "vote" }
	dropped := func() *attempt {
		a := p.begin(serverA, serverB, bob)
		p.run()
		must(p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id))(t)
		p.run()
		p.expect(a, "aborted", "dropped")
		return a
	}
	dropped()
	p.now = p.now.Add(5 * day)
	second := dropped()
	p.now = p.now.Add(4 * day)
	p.run()
	if _, err := p.services[serverB].ConfirmMigration(t.Context(), caller(bob), second.id,
		p.confirmation(second)); err != nil {
		t.Error(err)
	}
	p.expect(second, "aborted", "active")
}

// TestClosedAtTheFreeze: "The proposal set is closed at the freeze" (profile, section 7): the DS proposes nothing
// either.
func TestClosedAtTheFreeze(t *testing.T) {
	p := newExternalPlay(t)
	p.lost = func(_, what string) bool { return what == "vote" }
	a := p.swapRequest(bob, func(o *mlstest.CommitOptions, entry []byte) {
		o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(externalSenders(entry))}
	})
	must(p.initiate(a))(t)
	p.leave(serverA, carol)
	p.expect(a, "frozen", "staged")
	if n := len(p.proposals(serverA)); n != 0 {
		t.Errorf("%d proposals while frozen", n)
	}
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(10 * time.Second)
	p.run()
	p.expect(a, "moved", "active")
}
