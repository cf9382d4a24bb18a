package delivery_test

import (
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// close asks a server to close the group.
func (p *play) close(ds, user string) (*api.GroupResponse, error) {
	return p.services[ds].CloseGroup(p.t.Context(), caller(user), p.id)
}

// expectClosed checks that A still serves reads of the group but takes nothing for it: no message, no Commit, no move.
func (p *play) expectClosed() {
	p.t.Helper()
	g, err := p.services[serverA].Group(p.t.Context(), caller(bob), p.id)
	if err != nil || g.State != "closed" || g.Epoch != p.group.Epoch() {
		p.t.Errorf("the group is shown as %+v, %v", g, err)
	}
	if _, err := p.services[serverA].RatchetTree(p.t.Context(), caller(bob), p.id, p.group.Epoch()); err != nil {
		p.t.Errorf("its tree: %v", err)
	}
	log, err := p.services[serverA].Messages(p.t.Context(), caller(bob), p.id, api.MessagesQuery{})
	if err != nil || !log.End {
		p.t.Errorf("its log: %+v, %v", log, err)
	}
	c := p.group.Commit(mlstest.CommitOptions{Sender: leafOf[bob], Path: true})
	join := p.group.Commit(mlstest.CommitOptions{Joiner: p.group.NewClient(mlstest.Identity(bob, "NEW"))})
	for name, req := range map[string]*api.SubmitRequest{
		"a message":          {Message: p.group.Application(nil, 10)},
		"a proposal":         {Message: p.group.Propose(leafOf[bob], p.group.Update(leafOf[bob]))},
		"a Commit":           {Message: c.Message, GroupInfo: c.GroupInfo},
		"an external Commit": {Message: join.Message, GroupInfo: join.GroupInfo},
	} {
		if _, err := p.submit(serverA, bob, req); mimiport.KindOf(err) != mimiport.KindClosed {
			p.t.Errorf("%s: %v", name, err)
		}
	}
	_, err = p.initiate(p.mustRequest(serverA, serverB, bob))
	expectKind(p.t, err, mimiport.KindClosed)
}

// TestReInitCloses: a ReInit by a user with the right to close the group closes it for good, by value and by reference
// (profile, section 9).
func TestReInitCloses(t *testing.T) {
	for _, kind := range []string{"value", "reference"} {
		t.Run(kind, func(t *testing.T) {
			p := newExternalPlay(t)
			reInit := p.group.ReInit([]byte("next"))
			o := mlstest.CommitOptions{Proposals: []*mlstest.Proposal{reInit}}
			if kind == "reference" {
				o = mlstest.CommitOptions{References: [][]byte{p.submitted(reInit)}}
			}
			o.Sender, o.Path = leafOf[alice], true
			c := p.group.Commit(o)
			req := &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}
			first := must(p.submit(serverA, alice, req))(t)
			p.group = c.Next
			p.expectClosed()
			again, err := p.submit(serverA, alice, req)
			if err != nil || again.Seq != first.Seq {
				t.Errorf("the same Commit again gives %+v, %v", again, err)
			}
			p.restart(serverA)
			p.expectClosed()
			p.leave(serverA, carol)
			if n := len(p.proposals(serverA)); n != 0 {
				t.Errorf("%d removals are proposed in a closed group", n)
			}
			p.expectSound(serverA)
		})
	}
}

// TestClose: only a user who may move the group may close it. Closing again changes nothing.
func TestClose(t *testing.T) {
	p := newExternalPlay(t)
	_, err := p.close(serverA, carol)
	expectKind(t, err, mimiport.KindForbidden)
	_, err = p.close(serverA, "@eve:a.example")
	expectKind(t, err, mimiport.KindForbidden)
	p.expectHosted(serverA, 0)
	for range 2 {
		if g, err := p.close(serverA, bob); err != nil || g.State != "closed" {
			t.Fatalf("got %+v, %v", g, err)
		}
		p.expectClosed()
	}
	p.run()
	p.restart(serverA)
	p.expectClosed()
	p.expectSound(serverA)
}

// TestCloseEndsMigration: closing a group ends its undecided migration.
func TestCloseEndsMigration(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "vote" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "frozen", "staged")
	must(p.close(serverA, alice))(t)
	p.run()
	p.expect(a, "aborted", "dropped")
	p.expectClosed()
	p.expectSound(serverA)
	p.expectSound(serverB)
}

// TestClosedForGood: no operator can take up a closed group again.
func TestClosedForGood(t *testing.T) {
	p := newPlay(t)
	p.allow(serverA, `{"recover":true}`)
	held := p.held(p.lineage(serverA))
	must(p.close(serverA, alice))(t)
	_, err := p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{})
	expectKind(t, err, mimiport.KindConflict)
	_, err = p.services[serverA].Reclaim(t.Context(), p.id, p.forgedRecover(serverA, serverB))
	expectKind(t, err, mimiport.KindConflict)
	_, err = p.services[serverA].Recover(t.Context(), p.id, held)
	expectKind(t, err, mimiport.KindConflict)
	p.expectClosed()
}

// TestCloseElsewhere: a server does not close a group that it does not host, or no longer hosts.
func TestCloseElsewhere(t *testing.T) {
	p := newPlay(t)
	_, err := p.close(serverB, alice)
	expectKind(t, err, mimiport.KindUnknownGroup)
	p.move(serverA, serverB, bob)
	_, err = p.close(serverA, alice)
	expectKind(t, err, mimiport.KindMoved)
	p.expectHosted(serverB, 1)
}

// TestClosedEnds: the server keeps the log and the trees of a closed group through retention, and counts them until
// then. It remembers for good that the group was closed.
func TestClosedEnds(t *testing.T) {
	p := newPlay(t)
	p.allow(serverA, `{"quotas":{"groups_per_room":1}}`)
	must(p.close(serverA, alice))(t)
	reserve := func() error {
		_, err := p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room})
		return err
	}
	expectRule(t, reserve(), "groups_per_room")
	p.now = p.now.Add(6 * 24 * time.Hour)
	p.run()
	p.expectClosed()
	p.now = p.now.Add(25 * time.Hour)
	p.run()
	_, err := p.services[serverA].Group(t.Context(), caller(alice), p.id)
	expectKind(t, err, mimiport.KindClosed)
	_, err = p.services[serverA].Messages(t.Context(), caller(alice), p.id, api.MessagesQuery{})
	expectKind(t, err, mimiport.KindClosed)
	_, err = p.submit(serverA, alice, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindClosed)
	if err := reserve(); err != nil {
		t.Errorf("the group counts after its end: %v", err)
	}
	p.expectSound(serverA)
}

// TestReports: a member reports a Commit once, and the operator sees it. Nothing else depends on it.
func TestReports(t *testing.T) {
	p := newPlay(t)
	seq := p.commit(serverA, alice, mlstest.CommitOptions{}).Seq
	message := p.say(serverA, alice).Seq
	report := func(user string, seq uint64) error {
		_, err := p.services[serverA].Report(t.Context(), caller(user), p.id, &api.ReportRequest{
			Seq: seq, Reason: strings.Repeat("no ", 1000),
		})
		return err
	}
	expectKind(t, report("@eve:a.example", seq), mimiport.KindForbidden)
	p.Room.Joined[carol] = true
	expectKind(t, report(carol, seq), mimiport.KindForbidden) // carol is in the room, not in the group
	for _, other := range []uint64{0, message, message + 1, 1<<53 - 1} {
		expectKind(t, report(bob, other), mimiport.KindInvalid)
	}
	for _, user := range []string{bob, bob, alice} {
		if err := report(user, seq); err != nil {
			t.Fatal(err)
		}
	}
	reports := must(p.services[serverA].AdminReports(t.Context(), p.id))(t)
	if len(reports) != 2 {
		t.Errorf("the operator sees %+v", reports)
	}
	for _, r := range reports {
		if r.Seq != seq || r.Epoch+1 != p.group.Epoch() || len(r.Reason) > 512 || r.At != p.now.UnixMilli() {
			t.Errorf("the operator sees %+v", r)
		}
	}
	if kept := must(p.services[serverA].AdminEvidence(t.Context(), p.id))(t); len(kept) != 0 {
		t.Errorf("it counts as evidence: %v", kept)
	}
	p.expectHosted(serverA, 0)
	p.commit(serverA, bob, mlstest.CommitOptions{})
}

// TestReportsAreFew: the server bounds the number of one user's reports about a group.
func TestReportsAreFew(t *testing.T) {
	p := newPlay(t)
	for i := range 101 {
		seq := p.commit(serverA, alice, mlstest.CommitOptions{}).Seq
		_, err := p.services[serverA].Report(t.Context(), caller(bob), p.id, &api.ReportRequest{Seq: seq})
		if i < 100 && err != nil {
			t.Fatal(err)
		}
		if i == 100 {
			expectRule(t, err, "reports")
		}
	}
}

// TestReportedEpochIsKept: the server keeps the epoch before a reported Commit for a day, even if it compacts the log
// meanwhile.
func TestReportedEpochIsKept(t *testing.T) {
	p := newPlay(t)
	busy := func() {
		for range 300 {
			p.commit(serverA, alice, mlstest.CommitOptions{})
			if p.group.Epoch()%50 == 0 {
				p.run()
			}
		}
	}
	tree := func(epoch uint64) error {
		_, err := p.services[serverA].RatchetTree(t.Context(), caller(bob), p.id, epoch)
		return err
	}
	epoch := p.group.Epoch()
	seq := p.commit(serverA, alice, mlstest.CommitOptions{}).Seq
	if _, err := p.services[serverA].Report(t.Context(), caller(bob), p.id, &api.ReportRequest{Seq: seq}); err != nil {
		t.Fatal(err)
	}
	busy()
	p.restart(serverA)
	if err := tree(epoch); err != nil {
		t.Errorf("the epoch before the reported Commit: %v", err)
	}
	p.now = p.now.Add(25 * time.Hour)
	busy()
	p.restart(serverA)
	expectKind(t, tree(epoch), mimiport.KindWrongEpoch)
}
