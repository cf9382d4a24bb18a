package delivery_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// agree sets the room's list of successors.
func (p *play) agree(servers ...string) {
	p.t.Helper()
	p.list(api.Successors{RoomID: room, GroupID: p.id, Servers: servers})
}

func (p *play) list(l api.Successors) {
	p.t.Helper()
	p.Room.Events[api.EventSuccessors] = must(json.Marshal(l))(p.t)
}

func (p *play) beat(ds string) {
	p.t.Helper()
	if err := p.services[ds].Beat(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

func (p *play) started(ds string) {
	p.t.Helper()
	p.Restart(ds)
	if err := p.services[ds].Started(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

// whileOut takes a host out of service for some time after its last beat.
func (p *play) whileOut(ds string, d time.Duration) {
	p.t.Helper()
	p.beat(ds)
	p.now = p.now.Add(d)
	p.started(ds)
}

const day = 24 * time.Hour

// newSuccession is a group at A whose room lists B as a successor.
func newSuccession(t *testing.T) *play {
	t.Helper()
	p := newPlay(t)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	p.run()
	p.agree(serverB)
	return p
}

// recoverAt lets a server's operator recover the group, and returns the lineage with that claim.
func (p *play) recoverAt(ds string) *api.LineageRequest {
	p.t.Helper()
	p.allow(ds, `{"recover":true}`)
	must(p.services[ds].Recover(p.t.Context(), p.id, p.held(p.lineage(serverA))))(p.t)
	return p.lineage(ds)
}

// TestSuccessorOfLostHost: a host was out of service for a day, and a listed successor has recovered the group
// meanwhile. The host yields when a user shows it the claim. The pointer names nothing.
func TestSuccessorOfLostHost(t *testing.T) {
	p := newSuccession(t)
	claim := p.recoverAt(serverB)
	p.whileOut(serverA, day)
	p.now = p.now.Add(time.Hour)
	p.beat(serverA)
	p.started(serverA) // the host starts again after a moment
	if err := p.show(serverA, claim); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverA, serverB, 1)
	p.expectHosted(serverB, 1)
	p.expectKept(serverA, migration.EvidenceHigherTerm)
}

// TestSuccessorOfFrozenHost: a host that yields gives up the migration for which it has frozen the group.
func TestSuccessorOfFrozenHost(t *testing.T) {
	p := newSuccession(t)
	p.addThird(`{"target":"joined_servers"}`)
	claim := p.recoverAt(serverB)
	p.lost = func(_, what string) bool { return what == "content" || what == "abort" }
	a := p.begin(serverA, serverC, alice)
	p.whileOut(serverA, day)
	if err := p.show(serverA, claim); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverA, serverB, 1)
	p.expect(a, "aborted", "offered")
}

// TestHealthyHostStays: "a successor is trusted with a lost group, not with a healthy one". Each condition of the rule
// alone keeps the group where it is.
func TestHealthyHostStays(t *testing.T) {
	for name, act := range map[string]func(p *play){
		"never out":             func(p *play) { p.beat(serverA); p.started(serverA) },
		"no heartbeat":          func(p *play) { p.now = p.now.Add(2 * day); p.started(serverA) },
		"out for a minute less": func(p *play) { p.whileOut(serverA, day-time.Minute) },
		"in service, clock ahead": func(p *play) {
			p.started(serverA)
			p.now = p.now.Add(2 * day)
			p.beat(serverA)
		},
		"clock ahead at the start, and right again": func(p *play) {
			p.whileOut(serverA, 2*day)
			p.now = p.now.Add(-2 * day)
		},
		"the same, after a beat": func(p *play) {
			p.whileOut(serverA, 2*day)
			p.now = p.now.Add(-2 * day)
			p.beat(serverA)
			p.now = p.now.Add(2 * day)
			p.beat(serverA)
		},
		"back for a day": func(p *play) { p.whileOut(serverA, day); p.now = p.now.Add(day) },
		"a Commit since": func(p *play) {
			p.whileOut(serverA, day)
			p.commit(serverA, alice, mlstest.CommitOptions{})
		},
		"a Commit during the outage": func(p *play) {
			p.beat(serverA)
			p.now = p.now.Add(time.Hour)
			p.commit(serverA, alice, mlstest.CommitOptions{})
			p.now = p.now.Add(2 * day)
			p.started(serverA)
		},
		"a claim of an earlier epoch": func(p *play) {
			p.commit(serverA, alice, mlstest.CommitOptions{})
			p.whileOut(serverA, day)
		},
		"of another group": func(p *play) {
			p.whileOut(serverA, day)
			p.list(api.Successors{RoomID: room, GroupID: []byte("other"), Servers: []string{serverB}})
		},
		"of another room": func(p *play) {
			p.whileOut(serverA, day)
			p.list(api.Successors{RoomID: "!old:a.example", GroupID: p.id, Servers: []string{serverB}})
		},
		"of another server": func(p *play) { p.whileOut(serverA, day); p.agree(serverC) },
		"nobody":            func(p *play) { p.whileOut(serverA, day); p.agree() },
		"a broken list": func(p *play) {
			p.whileOut(serverA, day)
			p.agree(serverB, serverB)
		},
		"without a user in the room": func(p *play) {
			p.whileOut(serverA, day)
			p.Room.Joined[bob] = false
		},
		"denied by the ACL":    func(p *play) { p.whileOut(serverA, day); p.Room.Denied = []string{serverB} },
		"the operator alone":   func(p *play) { p.whileOut(serverA, day); p.allow(serverA, `{"source":"server_admin"}`) },
		"nobody moves a group": func(p *play) { p.whileOut(serverA, day); p.allow(serverA, `{"source":"nobody"}`) },
		"has forgotten what it signed": func(p *play) {
			p.whileOut(serverA, day)
			forgotten := []storage.Evidence{{GroupID: p.id, Kind: migration.EvidenceOwnForgotten, At: p.now}}
			if err := p.stores[serverA].Apply(p.t.Context(), &storage.Change{Evidence: forgotten}); err != nil {
				p.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newSuccession(t)
			early := p.forgedRecover(serverA, serverB)
			act(p)
			claim := early
			if name == "a Commit since" { // here the successor knows the present epoch
				claim = p.forgedRecover(serverA, serverB)
			}
			expectRule(t, p.show(serverA, claim), "contested")
			p.expectAt(serverA, serverA, 0)
		})
	}
}

// TestStoppedHostStays: a host that has stopped the group does not yield to a successor, and contests nothing.
func TestStoppedHostStays(t *testing.T) {
	p := newSuccession(t)
	claim := p.forgedRecover(serverA, serverB)
	stopped := must(p.stores[serverA].Group(t.Context(), p.id))(t)
	stopped.State = migration.GroupStopped
	if err := p.stores[serverA].Apply(t.Context(), &storage.Change{Group: stopped}); err != nil {
		t.Fatal(err)
	}
	p.whileOut(serverA, day)
	if err := p.show(serverA, claim); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverA, serverA, 0)
	p.expectKept(serverA, migration.EvidenceContested)
}

// TestSuccessorAfterRestore: the heartbeat of a restored database proves nothing. A claim of a later epoch shows that
// the host has accepted a Commit that its database does not know.
func TestSuccessorAfterRestore(t *testing.T) {
	p := newSuccession(t)
	backup := p.copyOf(serverA)
	before := p.group
	p.commit(serverA, alice, mlstest.CommitOptions{})
	claim := p.forgedRecover(serverA, serverB)
	p.restore(serverA, backup)
	p.group = before
	p.whileOut(serverA, day)
	expectRule(t, p.show(serverA, claim), "contested")
	p.expectHosted(serverA, 0)
}

// TestStagedAndSuccessor: a server that has voted cannot know whether the source is lost. A listed successor's claim
// therefore does not end the vote.
func TestStagedAndSuccessor(t *testing.T) {
	p := newSuccession(t)
	p.addThird(`{}`)
	p.agree(serverC)
	claim := p.forgedRecover(serverA, serverC)
	p.lost = func(_, what string) bool { return what == "vote" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.whileOut(serverB, day)
	expectRule(t, p.show(serverB, claim), "contested")
	p.expect(a, "frozen", "staged")
}

// TestFirstSuccessor: of two recovers into one term, the recover by the successor that the list names first wins. It
// also wins against a server that the list does not name.
func TestFirstSuccessor(t *testing.T) {
	for name, list := range map[string][]string{
		"second": {serverC, serverB}, "not listed": {serverC},
		"after a server that has left": {"gone.example", serverC, serverB},
	} {
		t.Run(name, func(t *testing.T) {
			p := newSuccession(t)
			p.addThird(`{"recover":true}`)
			p.lost = func(to, _ string) bool { return to == serverA }
			held := p.held(p.lineage(serverA))
			b := p.recoverAt(serverB)
			must(p.services[serverC].Recover(t.Context(), p.id, held))(t)
			c := p.lineage(serverC)
			p.agree(list...)
			expectRule(t, p.show(serverC, b), "contested")
			p.expectHosted(serverC, 1)
			if err := p.show(serverB, c); err != nil {
				t.Fatal(err)
			}
			p.expectAt(serverB, serverC, 1)
		})
	}
}

// TestPointerBeforeSuccessors: the pointer outranks the list of successors.
func TestPointerBeforeSuccessors(t *testing.T) {
	p := newSuccession(t)
	p.addThird(`{"recover":true}`)
	p.lost = func(to, _ string) bool { return to == serverA }
	held := p.held(p.lineage(serverA))
	b := p.recoverAt(serverB)
	must(p.services[serverC].Recover(t.Context(), p.id, held))(t)
	p.support(serverB)
	p.agree(serverC, serverB)
	if err := p.show(serverC, b); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverC, serverB, 1)
}

// TestSuccessorIsProvisional: a listed successor that has recovered a group from a healthy host stops, like any server
// that the pointer does not name.
func TestSuccessorIsProvisional(t *testing.T) {
	p := newSuccession(t)
	p.recoverAt(serverB)
	p.run()
	p.expectHosted(serverA, 0)
	_, err := p.submit(serverB, bob, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindStopped)
}
