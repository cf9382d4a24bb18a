package delivery_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// requireDenied checks that a refusal names the server that the room's ACL denies.
func requireDenied(t *testing.T, err error, server string) {
	t.Helper()
	expectKind(t, err, mimiport.KindForbidden)
	if err != nil && !strings.Contains(err.Error(), "the room's server ACL denies "+server) {
		t.Errorf("got %v", err)
	}
}

// TestACLOnEveryRoute: every route obeys the room's server ACL (profile, section 7). While the ACL denies B, no user of
// B reads, writes, or hands the group over. Without the ACL all of these requests succeed.
func TestACLOnEveryRoute(t *testing.T) {
	for name, prepare := range map[string]func(p *play, a *delivery.Service) (route func() error){
		"reserve": func(p *play, a *delivery.Service) func() error {
			p.allow(serverA, `{"creators":["b.example"]}`)
			return func() error { return failure(a.ReserveGroup(t.Context(), caller(bob), &forRoom)) }
		},
		"bind": func(p *play, a *delivery.Service) func() error {
			p.allow(serverA, `{"creators":["b.example"]}`)
			reserved := must(a.ReserveGroup(t.Context(), caller(bob), &forRoom))(t)
			return func() error { return p.bindAnother(bob, reserved, bob) }
		},
		"bind with one of its users": func(p *play, a *delivery.Service) func() error {
			reserved := must(a.ReserveGroup(t.Context(), caller(alice), &forRoom))(t)
			return func() error { return p.bindAnother(alice, reserved, alice, bob) }
		},
		"group": func(p *play, a *delivery.Service) func() error {
			return func() error { return failure(a.Group(t.Context(), caller(bob), p.id)) }
		},
		"host": func(p *play, a *delivery.Service) func() error {
			return func() error { return failure(a.Host(t.Context(), caller(bob), p.id)) }
		},
		"tree": func(p *play, a *delivery.Service) func() error {
			return func() error { return failure(a.RatchetTree(t.Context(), caller(bob), p.id, 0)) }
		},
		"log": func(p *play, a *delivery.Service) func() error {
			return func() error { return failure(a.Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{})) }
		},
		"lineage, shown by a user": func(p *play, a *delivery.Service) func() error {
			l := p.lineage(serverA)
			return func() error { return failure(a.ShowLineage(t.Context(), caller(bob), p.id, l)) }
		},
		"lineage, shown by the server": func(p *play, a *delivery.Service) func() error {
			l := p.lineage(serverA)
			return func() error { return failure(a.ShowLineage(t.Context(), api.Caller{Server: serverB}, p.id, l)) }
		},
		"application message": func(p *play, _ *delivery.Service) func() error {
			return p.submission(bob, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
		},
		"proposal": func(p *play, _ *delivery.Service) func() error {
			update := p.group.Propose(leafOf[bob], p.group.Update(leafOf[bob]))
			return p.submission(bob, &api.SubmitRequest{Message: update})
		},
		"commit": func(p *play, _ *delivery.Service) func() error {
			return p.commission(bob, mlstest.CommitOptions{Sender: leafOf[bob], Path: true})
		},
		"external commit": func(p *play, _ *delivery.Service) func() error {
			return p.commission(bob, mlstest.CommitOptions{Joiner: p.group.NewClient(mlstest.Identity(bob, "NEW"))})
		},
		"add of one of its users": func(p *play, _ *delivery.Service) func() error {
			add := p.group.Propose(leafOf[alice], p.group.Add(p.group.NewClient(mlstest.Identity(carol, "CAROL"))))
			return p.submission(alice, &api.SubmitRequest{Message: add})
		},
		"commit that adds one of its users": func(p *play, _ *delivery.Service) func() error {
			add := p.group.Add(p.group.NewClient(mlstest.Identity(carol, "CAROL")))
			return p.commission(alice, mlstest.CommitOptions{Path: true, Proposals: []*mlstest.Proposal{add}})
		},
		"offer to the server itself": func(p *play, _ *delivery.Service) func() error {
			return func() error { return failure(p.request(serverA, serverB, bob, nil)) }
		},
		"offer to another, by its user": func(p *play, _ *delivery.Service) func() error {
			p.addServer(serverC)
			p.Room.Joined["@dave:c.example"] = true
			p.allow(serverC, `{"target":"joined_servers"}`)
			return func() error { return failure(p.request(serverA, serverC, bob, nil)) }
		},
		"init": func(p *play, _ *delivery.Service) func() error {
			m := p.mustRequest(serverA, serverB, bob)
			return func() error { return failure(p.initiate(m)) }
		},
		"abort": func(p *play, a *delivery.Service) func() error {
			m := p.begin(serverA, serverB, bob)
			return func() error { return failure(a.AbortMigration(t.Context(), caller(bob), m.id)) }
		},
		"status, by a member": func(p *play, a *delivery.Service) func() error {
			m := p.begin(serverA, serverB, bob)
			return func() error { return failure(a.Migration(t.Context(), caller(carol), m.id)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.Room.Joined[carol] = true
			route := prepare(p, p.services[serverA])
			p.Room.Denied = []string{serverB}
			before := must(p.stores[serverA].Group(t.Context(), p.id))(t)
			requireDenied(t, route(), serverB)
			if after := must(p.stores[serverA].Group(t.Context(), p.id))(t); after.Version != before.Version {
				t.Error("the group was written to")
			}
			p.Room.Denied = nil
			if err := route(); err != nil {
				t.Errorf("without the ACL: %v", err)
			}
		})
	}
}

var forRoom = api.ReserveGroupRequest{RoomID: room}

func failure[A any](_ A, err error) error { return err }

// submission is a route by which a user sends a message to A.
func (p *play) submission(user string, req *api.SubmitRequest) func() error {
	return func() error { return failure(p.submit(serverA, user, req)) }
}

// commission is a route by which a user sends a Commit to A.
func (p *play) commission(user string, o mlstest.CommitOptions) func() error {
	c := p.group.Commit(o)
	return p.submission(user, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome})
}

// bindAnother binds an id to a group of some users.
func (p *play) bindAnother(creator string, reserved *api.ReserveGroupResponse, users ...string) error {
	o := mlstest.Options{Seed: 3, GroupID: reserved.GroupID}
	for _, user := range users {
		o.Members = append(o.Members, mlstest.Identity(user, "DEVICE"))
	}
	g := mlstest.New(o)
	_, err := p.services[serverA].BindGroup(p.t.Context(), caller(creator), reserved.GroupID, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: g.GroupInfo(), RatchetTree: g.RatchetTree(),
	})
	return err
}

// TestACLAndFanOut: a server gets no messages while the room's ACL denies it, not even messages accepted before. When
// the ACL allows the server again, its users catch up from the log.
func TestACLAndFanOut(t *testing.T) {
	p := newPlay(t)
	p.say(serverA, alice)
	p.Room.Denied = []string{serverB}
	p.say(serverA, alice)
	p.run()
	if reached(p, bob) || !reached(p, alice) {
		t.Errorf("got: %v", p.Got)
	}
	p.Room.Denied = nil
	last := p.say(serverA, alice)
	p.run()
	if !reached(p, bob) {
		t.Error("a server that is let in again gets nothing")
	}
	log := must(p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{}))(t)
	if uint64(len(log.Messages)) != last.Seq {
		t.Errorf("the log has %d messages of %d", len(log.Messages), last.Seq)
	}
}

func reached(p *play, user string) bool {
	return slices.ContainsFunc(p.Got, func(d deliverytest.Delivery) bool { return d.User == user })
}

// TestACLKeepsLeaves: the ACL takes no leaf from the group, and a proposal from before it blocks nobody.
func TestACLKeepsLeaves(t *testing.T) {
	p := newExternalPlay(t)
	update := p.group.Propose(leafOf[bob], p.group.Update(leafOf[bob]))
	must(p.submit(serverA, bob, &api.SubmitRequest{Message: update}))(t)
	p.Room.Denied = []string{serverB}
	if err := p.services[serverA].RoomChanged(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	p.now = p.now.Add(2 * time.Second)
	p.run()
	if proposed := p.proposals(serverA); len(proposed) != 1 {
		t.Errorf("%d proposals, want bob's alone", len(proposed))
	}
	p.commit(serverA, alice, mlstest.CommitOptions{References: [][]byte{update}})
}

// TestACLBeforeDecision: both servers obey the ACL until the decision (profile, section 8): the target before it votes,
// and the source when it has the vote.
func TestACLBeforeDecision(t *testing.T) {
	for _, last := range []string{"content", "vote"} {
		for _, server := range []string{serverA, serverB} {
			t.Run(last+" "+server, func(t *testing.T) {
				p := newPlay(t)
				p.lost = func(_, what string) bool {
					if what == last {
						p.Room.Denied = []string{server}
					}
					return false
				}
				a := p.begin(serverA, serverB, bob)
				p.run()
				p.expect(a, "aborted", "dropped")
				st := must(p.services[serverB].Migration(t.Context(), caller(bob), a.id))(t)
				if voted := st.Complete != nil; voted != (last == "vote") {
					t.Errorf("the target has voted: %v", voted)
				}
			})
		}
	}
}

// TestACLDeniesHost: the log warns the operator when the room denies the server that hosts its group.
func TestACLDeniesHost(t *testing.T) {
	p := newPlay(t)
	var log bytes.Buffer
	p.services[serverA].Log = slog.New(slog.NewTextHandler(&log, nil))
	for _, denied := range []string{serverB, serverA} {
		log.Reset()
		p.Room.Denied = []string{denied}
		if err := p.services[serverA].RoomChanged(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		p.now = p.now.Add(2 * time.Second)
		p.run()
		told := strings.Contains(log.String(), "a room's server ACL denies this server")
		if told != (denied == serverA) {
			t.Errorf("with %s denied the log says: %s", denied, log.String())
		}
	}
}
