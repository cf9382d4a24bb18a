package delivery_test

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// submitLater lets a member submit a Commit of the members' epoch, which nobody accepts.
func (p *play) submitLater(user string) error {
	p.t.Helper()
	c := p.group.Commit(mlstest.CommitOptions{Sender: leafOf[user], Path: true})
	_, err := p.submit(serverA, user, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
	return err
}

// newBehind is a group whose server was restored from before its last Commits.
func newBehind(t *testing.T) (p *play, before *mlstest.Group) {
	p = newPlay(t)
	backup, before := p.copyOf(serverA), p.group
	for range 3 {
		p.commit(serverA, alice, mlstest.CommitOptions{})
	}
	p.restore(serverA, backup)
	return p, before
}

// Profile, section 3: "A server shown … a well-signed handshake of a later epoch than its own, stops accepting for that group, keeps
// the evidence, alarms." Two users have to show one: what one member makes up stops nobody.
func TestBehindItsMembers(t *testing.T) {
	p, _ := newBehind(t)
	for range 3 {
		expectKind(t, p.submitLater(alice), mimiport.KindWrongEpoch)
	}
	if kinds := p.evidenceKinds(serverA); len(kinds) != 1 || kinds[0] != storage.EvidenceLaterEpoch {
		t.Errorf("the evidence is %v", kinds)
	}
	stale := p.group
	expectKind(t, p.submitLater(bob), mimiport.KindStopped)
	if kinds := p.evidenceKinds(serverA); len(kinds) != 2 || kinds[1] != storage.EvidenceStopped {
		t.Errorf("the evidence is %v", kinds)
	}
	p.restart(serverA)
	for _, user := range []string{alice, bob} {
		_, err := p.submit(serverA, user, &api.SubmitRequest{Message: stale.Application(nil, 10)})
		expectKind(t, err, mimiport.KindStopped)
		expectKind(t, p.submitLater(user), mimiport.KindStopped)
	}
	_, err := p.initiate(p.mustRequest(serverA, serverB, bob))
	expectKind(t, err, mimiport.KindStopped)
	if _, err := p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{}); err != nil {
		t.Errorf("what was accepted cannot be read: %v", err)
	}
	if host, err := p.services[serverA].Host(t.Context(), caller(bob), p.id); err != nil || host.DeliveryService != serverA || host.Term != 0 {
		t.Errorf("the group is at %+v, %v", host, err)
	}
}

// Nothing that one user sends stops a group, nor what is not well-signed by a member's leaf.
func TestNotBehind(t *testing.T) {
	p, _ := newBehind(t)
	behind := func(edit func(user string, req *api.SubmitRequest) string) {
		t.Helper()
		for _, user := range []string{alice, bob} {
			c := p.group.Commit(mlstest.CommitOptions{Sender: leafOf[user], Path: true})
			req := &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}
			_, err := p.submit(serverA, edit(user, req), req)
			expectKind(t, err, mimiport.KindWrongEpoch)
		}
	}
	behind(func(user string, req *api.SubmitRequest) string { req.GroupInfo = nil; return user })
	behind(func(user string, req *api.SubmitRequest) string {
		req.GroupInfo = append([]byte(nil), req.GroupInfo...)
		req.GroupInfo[len(req.GroupInfo)-1] ^= 1
		return user
	})
	behind(func(user string, req *api.SubmitRequest) string {
		req.GroupInfo = p.group.GroupInfo()
		return user
	}) // of another epoch than the Commit leads to
	behind(func(user string, _ *api.SubmitRequest) string { // signed by the other one
		return map[string]string{alice: bob, bob: alice}[user]
	})
	if kinds := p.evidenceKinds(serverA); len(kinds) != 0 {
		t.Errorf("the evidence is %v", kinds)
	}
	behind(func(string, *api.SubmitRequest) string { return alice }) // her own, and bob's
	if kinds := p.evidenceKinds(serverA); len(kinds) != 1 {
		t.Errorf("the evidence is %v", kinds)
	}
	if g, err := p.services[serverA].Group(t.Context(), caller(alice), p.id); err != nil || g.State != "active" {
		t.Errorf("the group is %+v, %v", g, err)
	}
}

// An operator goes on with a stopped group from what a member holds, without loss, or from what the backup has.
func TestStoppedGoesOn(t *testing.T) {
	stop := func(t *testing.T) (*play, *mlstest.Group) {
		p, before := newBehind(t)
		expectKind(t, p.submitLater(alice), mimiport.KindWrongEpoch)
		expectKind(t, p.submitLater(bob), mimiport.KindStopped)
		return p, before
	}
	t.Run("recover", func(t *testing.T) {
		p, _ := stop(t)
		p.allow(serverA, `{"recover":true}`)
		host, err := p.services[serverA].Recover(t.Context(), p.id, p.held(p.lineage(serverA)))
		if err != nil || host.Term != 1 {
			t.Fatalf("the recover gives %+v, %v", host, err)
		}
		p.goesOn()
	})
	t.Run("reclaim", func(t *testing.T) {
		p, before := stop(t)
		host, err := p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{})
		if err != nil || host.Term != 1 {
			t.Fatalf("the reclaim gives %+v, %v", host, err)
		}
		for _, user := range []string{alice, bob} { // they have not heard of it: their epoch is void, and stops nothing again
			expectKind(t, p.submitLater(user), mimiport.KindWrongEpoch)
		}
		p.group = before
		p.goesOn()
	})
}

// goesOn checks that the group is in use at A in term 1, and can move on to where claims are accepted.
func (p *play) goesOn() {
	p.t.Helper()
	p.expectHosted(serverA, 1)
	p.commit(serverA, bob, mlstest.CommitOptions{})
	p.expectSound(serverA)
	p.allow(serverB, `{"accept_claims":true}`)
	p.move(serverA, serverB, bob)
	p.expectHosted(serverB, 2)
	p.expectSound(serverA)
	p.expectSound(serverB)
}

// expectSound checks what a server has stored.
func (p *play) expectSound(ds string) {
	p.t.Helper()
	report, err := fsck.Check(p.t.Context(), p.stores[ds].(*memory.Store), p.services[ds].Engines)
	if err != nil || len(report.Problems) > 0 {
		p.t.Errorf("%s: %v %v", ds, report, err)
	}
}

// A stopped group learns of a later term, as any other does.
func TestStoppedLearns(t *testing.T) {
	p := newPlay(t)
	backup := p.copyOf(serverA)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	before := p.group
	p.move(serverA, serverB, bob)
	after := p.group
	p.restore(serverA, backup)
	p.group = before
	expectKind(t, p.submitLater(alice), mimiport.KindWrongEpoch)
	expectKind(t, p.submitLater(bob), mimiport.KindStopped)
	if err := p.show(serverA, p.lineage(serverB)); err != nil {
		t.Fatal(err)
	}
	p.group = after
	p.expectMoved(serverA, serverB)
}
