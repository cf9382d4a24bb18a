package delivery_test

import (
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

const serverC = "c.example"

// addThird adds a third server with a policy and a user in the room.
func (p *play) addThird(policy string) {
	p.t.Helper()
	p.addServer(serverC)
	p.Room.Joined["@carol:c.example"] = true
	p.allow(serverC, policy)
}

// forge changes the proof of a step and signs it again: the response as target, the confirmation as source.
func (p *play) forge(step *mimiport.LineageStep, target, source string,
	edit func(*mimiport.MigrationResponse, *mimiport.MigrationConfirmation)) {
	p.t.Helper()
	response := must(mimiport.UnmarshalMigrationResponse(step.Response.Message))(p.t)
	confirmation := must(mimiport.UnmarshalMigrationConfirmation(step.Confirmation.Message))(p.t)
	edit(response, confirmation)
	step.Response.Message, step.Confirmation.Message = p.encoded(target, response), p.encoded(source, confirmation)
}

// voted has a target sign its vote in a migration that begins a term.
func (p *play) voted(step *mimiport.LineageStep, target string, term uint64) {
	p.t.Helper()
	response := must(mimiport.UnmarshalMigrationResponse(step.Response.Message))(p.t)
	vote := &mimiport.MigrationVote{MigrationID: response.ID(), Term: term, ContentHash: make([]byte, 32)}
	step.Vote = migration.Signed{Message: p.encoded(target, vote), KeyID: step.Response.KeyID}
}

// shown returns a lineage to show, after an edit.
func (p *play) shown(l *api.LineageRequest, edit func(*mimiport.Lineage)) *api.LineageRequest {
	p.t.Helper()
	decoded := must(mimiport.UnmarshalLineage(l.Lineage))(p.t)
	edit(decoded)
	return &api.LineageRequest{Lineage: must(decoded.Marshal())(p.t)}
}

// TestChain: "T checks the chain before it imports: starts at the creating server, ends at S, epochs rise strictly",
// each step proved by both servers' signatures (profile, section 3).
func TestChain(t *testing.T) {
	type (
		response     = *mimiport.MigrationResponse
		confirmation = *mimiport.MigrationConfirmation
	)
	p := newPlay(t)
	p.addServer(serverC)
	p.move(serverA, serverB, bob)
	p.move(serverB, serverA, alice)
	real := p.lineage(serverA)
	for name, edit := range map[string]func(*mimiport.Lineage){
		"from another host": func(l *mimiport.Lineage) {
			p.forge(&l.Steps[1], serverA, serverC, func(r response, _ confirmation) { r.Request.SourceDomain = serverC })
		},
		"from another creator": func(l *mimiport.Lineage) { l.CreatingServer, l.Preimage = serverC, nil },
		"an offer of another group": func(l *mimiport.Lineage) {
			p.forge(&l.Steps[1], serverA, serverB, func(r response, _ confirmation) { r.Request.GroupID = []byte("other") })
		},
		"a decision of another group": func(l *mimiport.Lineage) {
			p.forge(&l.Steps[1], serverA, serverB, func(_ response, c confirmation) { c.GroupID = []byte("other") })
		},
		"a decision for another target": func(l *mimiport.Lineage) {
			p.forge(&l.Steps[1], serverA, serverB, func(_ response, c confirmation) { c.DomainName = serverC })
		},
		"a decision on another offer": func(l *mimiport.Lineage) {
			p.forge(&l.Steps[1], serverA, serverB, func(_ response, c confirmation) { c.Nonce[0] ^= 1 })
		},
		"an offer not by its target": func(l *mimiport.Lineage) {
			p.forge(&l.Steps[1], serverC, serverB, func(response, confirmation) {})
		},
		"a decision not by its source": func(l *mimiport.Lineage) {
			p.forge(&l.Steps[1], serverA, serverC, func(response, confirmation) {})
		},
		"two steps of one epoch": func(l *mimiport.Lineage) {
			p.forge(&l.Steps[1], serverA, serverB, func(r response, _ confirmation) { r.Request.Epoch-- })
		},
		"another id's preimage": func(l *mimiport.Lineage) { l.Preimage.Nonce[0] ^= 1 },
		"a claim of another kind": func(l *mimiport.Lineage) {
			l.Steps = append(l.Steps, p.claim(serverB, &mimiport.LineageClaim{
				Kind: mimiport.StepRecover, DomainName: serverB, GroupID: p.id, Term: 3, Epoch: 9,
			}))
			l.Steps[2].Kind = mimiport.StepReclaim
		},
		"a claim by another": func(l *mimiport.Lineage) {
			l.Steps = append(l.Steps, p.claim(serverC, &mimiport.LineageClaim{
				Kind: mimiport.StepReclaim, DomainName: serverB, GroupID: p.id, Term: 3, Epoch: 9,
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := p.show(serverA, p.shown(real, edit)); err == nil {
				t.Error("it was taken")
			}
			p.expectHosted(serverA, 2)
		})
	}
	long := p.shown(real, func(l *mimiport.Lineage) {
		for len(l.Steps) <= 1000 {
			l.Steps = append(l.Steps, l.Steps[0])
		}
	})
	if err := p.show(serverA, long); err == nil || !strings.Contains(err.Error(), "more than 1000 steps") {
		t.Errorf("a long chain: %v", err) // the server does not verify it
	}
	if err := p.show(serverA, real); err != nil {
		t.Error(err)
	}
}

// claim is a step by which a server claims a group. signer may be another server.
func (p *play) claim(signer string, c *mimiport.LineageClaim) mimiport.LineageStep {
	return mimiport.LineageStep{Kind: c.Kind, Claim: &migration.Signed{Message: p.encoded(signer, c), KeyID: "ed25519:1"}}
}

// TestChainEndsAtSource: the chain in a content "ends at S" and before the epoch of the request (profile, section 3).
func TestChainEndsAtSource(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{"target":"joined_servers"}`)
	p.move(serverA, serverB, bob)
	a := p.begin(serverB, serverC, bob)
	data := must(p.stores[serverB].Content(t.Context(), a.id))(t)
	for name, edit := range map[string]func(*mimiport.GroupState){
		"at another server": func(s *mimiport.GroupState) { s.Lineage.Steps = nil },
		"in a later epoch": func(s *mimiport.GroupState) {
			p.forge(&s.Lineage.Steps[0], serverB, serverA,
				func(r *mimiport.MigrationResponse, _ *mimiport.MigrationConfirmation) { r.Request.Epoch = 100 })
		},
		"in another room": func(s *mimiport.GroupState) { s.Lineage.RoomID = "!other:a.example" },
	} {
		err := p.put(a, p.resignAs(serverB, data, edit))
		if asError(err).Info.Rule != "lineage" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := p.put(a, data); err != nil {
		t.Error(err)
	}
}

// TestAnotherBranch: a server contests a lineage that parts from its own, unless that lineage outranks its own.
func TestAnotherBranch(t *testing.T) {
	p := newPlay(t)
	p.addServer(serverC)
	p.move(serverA, serverB, bob)
	elsewhere := p.shown(p.lineage(serverB), func(l *mimiport.Lineage) {
		l.Steps = append(l.Steps, l.Steps[0])
		p.forge(&l.Steps[0], serverC, serverA, func(r *mimiport.MigrationResponse, c *mimiport.MigrationConfirmation) {
			r.Request.TargetDomain, c.DomainName = serverC, serverC
		})
		p.forge(&l.Steps[1], serverB, serverC, func(r *mimiport.MigrationResponse, c *mimiport.MigrationConfirmation) {
			r.Request.SourceDomain, r.Request.Epoch = serverC, 1
			r.Nonce[0] ^= 1
			c.Nonce = r.Nonce
		})
	})
	err := p.show(serverB, elsewhere) // A has signed two outcomes
	expectRule(t, err, "contested")
	p.expectHosted(serverB, 1)

	must(p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{}))(t)
	withVotes := false
	onward := func(l *mimiport.Lineage) {
		step := func(from, to string, term, epoch uint64) mimiport.LineageStep {
			next := l.Steps[0]
			p.forge(&next, to, from, func(r *mimiport.MigrationResponse, c *mimiport.MigrationConfirmation) {
				r.Request.SourceDomain, r.Request.TargetDomain, c.DomainName, r.Request.Epoch = from, to, to, epoch
				r.Nonce[0] ^= byte(epoch)
				c.Nonce = r.Nonce
			})
			next.Vote = mimiport.SignedMessage{}
			if withVotes {
				p.voted(&next, to, term)
			}
			return next
		}
		l.Steps = append(l.Steps, step(serverB, serverC, 2, 1), step(serverC, serverB, 3, 2))
	}
	show := func() error { return p.show(serverA, p.shown(p.lineage(serverB), onward)) }
	p.support(serverA)
	withVotes = true
	expectRule(t, show(), "contested") // B has moved the group, but A has reclaimed it
	p.Room.Events = nil                // without the pointer, a migration with its target's vote outranks a claim
	withVotes = false
	expectRule(t, show(), "contested")
	p.expectAt(serverA, serverA, 2)
	withVotes = true
	if err := show(); err != nil {
		t.Error(err)
	}
	p.expectAt(serverA, serverC, 2)
}

// TestWhoShows: every user and server of the group's room may show a lineage.
func TestWhoShows(t *testing.T) {
	p := newPlay(t)
	backup := p.copyOf(serverA)
	p.move(serverA, serverB, bob)
	p.restore(serverA, backup)
	l := p.lineage(serverB)
	show := func(c api.Caller) error {
		_, err := p.services[serverA].ShowLineage(t.Context(), c, p.id, l)
		return err
	}
	expectKind(t, show(caller("@eve:a.example")), mimiport.KindForbidden)
	expectKind(t, show(api.Caller{Server: serverC}), mimiport.KindForbidden)
	p.expectAt(serverA, serverA, 0)
	if err := show(api.Caller{Server: serverB}); err != nil {
		t.Error(err)
	}
	p.expectAt(serverA, serverB, 1)
}

// TestStagedLearnsTheDecision: a lineage that holds the staged migration has the same effect as the confirmation alone.
func TestStagedLearnsTheDecision(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	before := p.lineage(serverA)
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "decided", "staged")
	m := must(p.stores[serverA].Migration(t.Context(), a.id))(t)
	l := p.shown(before, func(l *mimiport.Lineage) {
		l.Steps = append(l.Steps,
			mimiport.LineageStep{Kind: mimiport.StepMigration, Response: m.Response, Confirmation: m.Confirmation})
	})
	if err := p.show(serverB, l); err != nil {
		t.Error(err)
	}
	p.expect(a, "decided", "active")
}

// TestReclaimTooLate: a reclaim needs "the state that the target was given", which the source keeps through retention.
func TestReclaimTooLate(t *testing.T) {
	p := newPlay(t)
	p.move(serverA, serverB, bob)
	p.now = p.now.Add(8 * 24 * time.Hour)
	p.run()
	_, err := p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{})
	expectKind(t, err, mimiport.KindConflict)
	p.expectMoved(serverA, serverB)
}

// TestRedirectByClaim: a host that yields redirects to the server that has claimed the group, even if the group has
// moved on since.
func TestRedirectByClaim(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{"target":"joined_servers","accept_claims":true}`)
	p.move(serverA, serverB, bob)
	down := true
	p.lost = func(to, _ string) bool { return down && to == serverB }
	must(p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{}))(t)
	a := p.begin(serverA, serverC, bob)
	p.run()
	p.expect(a, "moved", "active")
	down = false
	p.support(serverA)
	if err := p.show(serverB, p.lineage(serverC)); err != nil {
		t.Fatal(err)
	}
	host := must(p.services[serverB].Host(t.Context(), caller(alice), p.id))(t)
	if host.Moved == nil || len(host.Moved.LineageClaim) == 0 {
		t.Errorf("B redirects to %+v", host.Moved)
	}
}

// TestRecoverRefusals: a recover needs the state of this group and a verified lineage.
func TestRecoverRefusals(t *testing.T) {
	p := newPlay(t)
	p.allow(serverB, `{"recover":true}`)
	held := p.held(p.lineage(serverA))
	other := mlstest.New(mlstest.Options{GroupID: []byte("other"), Members: [][]byte{mlstest.Identity(alice, "ALICE")}})
	for name, edit := range map[string]func(*api.RecoverRequest){
		"another group": func(r *api.RecoverRequest) {
			r.GroupInfo, r.RatchetTree = other.GroupInfo(), other.RatchetTree()
		},
		"another preimage": func(r *api.RecoverRequest) {
			r.Lineage = p.shown(&api.LineageRequest{Lineage: held.Lineage},
				func(l *mimiport.Lineage) { l.Preimage.Nonce[0] ^= 1 }).Lineage
		},
		"a leaf of nobody": func(r *api.RecoverRequest) {
			g := mlstest.New(mlstest.Options{GroupID: p.id, Members: [][]byte{[]byte("nobody")}})
			r.GroupInfo, r.RatchetTree = g.GroupInfo(), g.RatchetTree()
		},
		"no lineage": func(r *api.RecoverRequest) { r.Lineage = nil },
	} {
		req := *held
		edit(&req)
		if _, err := p.services[serverB].Recover(t.Context(), p.id, &req); err == nil {
			t.Errorf("%s was recovered", name)
		}
	}
}

// TestYieldsWhileFrozen: a host yields while its own migration waits for the decision. When that migration aborts, the
// host does not accept again.
func TestYieldsWhileFrozen(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{"target":"joined_servers"}`)
	p.move(serverA, serverB, bob)
	p.lost = func(to, what string) bool { return to == serverB || to == serverC && what == "content" }
	a := p.begin(serverB, serverC, bob)
	must(p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{}))(t)
	p.support(serverA)
	if err := p.show(serverB, p.lineage(serverA)); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverB, serverA, 2)
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expect(a, "aborted", "dropped")
	p.expectAt(serverB, serverA, 2)
}
