package delivery_test

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// submitted lets alice send a proposal.
func (p *play) submitted(proposal *mlstest.Proposal) []byte {
	p.t.Helper()
	message := p.group.Propose(leafOf[alice], proposal)
	must(p.submit(serverA, alice, &api.SubmitRequest{Message: message}))(p.t)
	return message
}

// TestMigrationCommit: the migration Commit is "a PublicMessage of a member, with a path that keeps the leaf's
// credential", and has "nothing else inside: no Adds or Removes by value, no ReInit"; if no external_senders entry is
// for S, "none is added" (profile, section 5).
func TestMigrationCommit(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*play, *mlstest.CommitOptions)
		rule string
	}{
		"no path": {func(p *play, o *mlstest.CommitOptions) {
			o.References, o.Path = [][]byte{p.submitted(p.group.Add(p.group.NewClient(mlstest.Identity(carol, "CAROL"))))}, false
		}, "migration-commit"},
		"another credential": {func(p *play, o *mlstest.CommitOptions) {
			o.Edit.Owner = p.group.NewClient(mlstest.Identity(bob, "OTHER"))
		}, "successor"},
		"from outside": {func(p *play, o *mlstest.CommitOptions) {
			o.Joiner = p.group.NewClient(mlstest.Identity(bob, "OTHER"))
		}, "migration-commit"},
		"an Add by value": {func(p *play, o *mlstest.CommitOptions) {
			o.Proposals = []*mlstest.Proposal{p.group.Add(p.group.NewClient(mlstest.Identity(carol, "CAROL")))}
		}, "migration-commit"},
		"a PSK by value": {func(p *play, o *mlstest.CommitOptions) {
			o.Proposals = []*mlstest.Proposal{p.group.PSK([]byte("psk"))}
		}, "migration-commit"},
		"a ReInit": {func(p *play, o *mlstest.CommitOptions) {
			o.References = [][]byte{p.submitted(p.group.ReInit([]byte("elsewhere")))}
		}, "migration-commit"},
		"extensions by reference": {func(p *play, o *mlstest.CommitOptions) {
			o.References = [][]byte{p.submitted(p.group.SetExtensions(grease(10)))}
		}, "migration-commit"},
		"extensions by value": {func(p *play, o *mlstest.CommitOptions) {
			o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(nil)}
		}, "external-senders"},
		"an entry of the target": {func(p *play, o *mlstest.CommitOptions) {
			entry := p.group.NewClient([]byte(serverB)).ExternalSender()
			o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(externalSenders(entry))}
		}, "external-senders"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.Room.Joined[carol] = true
			a, err := p.request(serverA, serverB, bob, func(o *mlstest.CommitOptions) { c.edit(p, o) })
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.initiate(a)
			expectRule(t, err, c.rule)
			p.expectHosted(serverA, 0)
		})
	}
}

// TestInitIsForOneMigration: the MigrationInit, the Commit and the MigrationResponse must be of one migration, from
// this server to another one.
func TestInitIsForOneMigration(t *testing.T) {
	p := newPlay(t)
	other := p.mustRequest(serverA, serverB, bob)
	a := p.mustRequest(serverA, serverB, bob)
	asked := false
	p.lost = func(_, what string) bool {
		asked = asked || what == "status"
		return false
	}
	init := func(server string, id mimiport.MigrationID, req *api.MigrationInitRequest) error {
		_, err := p.services[server].InitMigration(t.Context(), caller(bob), id, req)
		return err
	}
	expectKind(t, init(serverA, other.id, a.init), mimiport.KindBadMessage)
	expectKind(t, init(serverB, a.id, a.init), mimiport.KindInvalid)
	foreign := func(source, target string) error {
		response := &mimiport.MigrationResponse{Request: mimiport.MigrationRequest{SourceDomain: source, TargetDomain: target,
			GroupID: p.id, Epoch: p.group.Epoch()}}
		p.encoded(serverB, response)
		req := *a.init
		req.MigrationInit = p.signInit(response, leafOf[bob])
		return init(serverA, response.ID(), &req)
	}
	expectKind(t, foreign("c.example", serverB), mimiport.KindInvalid)
	expectKind(t, foreign(serverB, serverA), mimiport.KindInvalid)
	expectKind(t, foreign(serverA, "not a name"), mimiport.KindBadMessage)
	p.Room.Power[bob] = 0
	expectKind(t, init(serverA, a.id, a.init), mimiport.KindForbidden)
	p.Room.Power[bob] = 100
	if asked {
		t.Error("a target was asked of what cannot be")
	}

	// "A client that knows only the draft sends two messages: it cannot migrate from us" (profile, section 5).
	alone := *a.init
	alone.SubmitRequest = api.SubmitRequest{}
	expectKind(t, init(serverA, a.id, &alone), mimiport.KindBadMessage)

	// An offer whose epoch is not the Commit's.
	request := must((&mimiport.MigrationRequest{SourceDomain: serverA, TargetDomain: serverB, GroupID: p.id,
		Epoch: p.group.Epoch() + 1}).Marshal())(t)
	offer := must(p.services[serverB].RequestMigration(t.Context(), caller(bob),
		&api.MigrationRequestRequest{MigrationRequest: request, RoomID: room}))(t)
	_, err := p.initiate(p.prepare(serverA, serverB, bob, offer, nil))
	expectRule(t, err, "migration-commit")
	p.expectHosted(serverA, 0)
}

// TestVirtualHosts: a server with several names migrates a group under the name that hosts it. It does not migrate a
// group from one of its names to another.
func TestVirtualHosts(t *testing.T) {
	const alias = "alias.a.example"
	p := newPlay(t)
	deps := p.services[serverA].Deps
	deps.IsLocal = func(s string) bool { return s == serverA || s == alias }
	p.services[serverA] = delivery.New(deps)
	request := func(source, target string) (*api.MigrationOffer, error) {
		data := must((&mimiport.MigrationRequest{SourceDomain: source, TargetDomain: target, GroupID: p.id,
			Epoch: p.group.Epoch()}).Marshal())(t)
		server := target
		if target == alias {
			server = serverA
		}
		return p.services[server].RequestMigration(t.Context(), caller(bob),
			&api.MigrationRequestRequest{MigrationRequest: data, RoomID: room})
	}
	_, err := request(serverA, alias)
	expectKind(t, err, mimiport.KindInvalid)
	offer := must(request(alias, serverB))(t)
	_, err = p.initiate(p.prepare(serverA, serverB, bob, offer, nil))
	expectKind(t, err, mimiport.KindInvalid)
	p.expectHosted(serverA, 0)
}

// TestAbortedCommit: "The hash of an aborted Commit is kept and refused on every path" (profile, section 5): with a new
// Response, too.
func TestAbortedCommit(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	must(p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id))(t)
	p.run()
	b := p.mustRequest(serverA, serverB, bob)
	b.init.SubmitRequest = a.init.SubmitRequest
	_, err := p.initiate(b)
	expectRule(t, err, "aborted-commit")
	p.expectHosted(serverA, 0)
	p.move(serverA, serverB, bob)
}

// TestOutsideInit: "Outside a MigrationInit the DS refuses a Commit whose authenticated_data parses as
// MigrationCommitAAD with a valid server name" (profile, section 5), and no other for its authenticated_data.
func TestOutsideInit(t *testing.T) {
	p := newPlay(t)
	c := p.group.Commit(mlstest.CommitOptions{Path: true, AuthenticatedData: announce("c.example")})
	_, err := p.submit(serverA, alice, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
	expectRule(t, err, "migration-commit-outside-init")
	p.commit(serverA, alice, mlstest.CommitOptions{AuthenticatedData: announce("not a name")})
	p.commit(serverA, alice, mlstest.CommitOptions{AuthenticatedData: append(announce("c.example"), 0)})
	p.expectHosted(serverA, 0)
}

// TestSafeAAD: if the group uses SafeAAD, MigrationCommitAAD is the item of one component (profile, section 5). A
// migration Commit must hold that item. A Commit outside a MigrationInit must not hold it.
func TestSafeAAD(t *testing.T) {
	const dictionary = "\x00\x06\x05\x04\x00\x02\x01\x00" // app_data_dictionary: safe_aad, an empty list
	p := newPlayFrom(t, mlstest.Options{CipherSuite: 1, Extensions: []byte(dictionary)})
	safe := func(aad []byte) []byte {
		g := must(mls.RFC9420(mls.DefaultLimits()).Open(p.group.GroupInfo(), p.group.RatchetTree()))(t)
		return must(mls.AddMigrationAAD(g, aad))(t)
	}
	c := p.group.Commit(mlstest.CommitOptions{Path: true, AuthenticatedData: safe(announce("c.example"))})
	_, err := p.submit(serverA, alice, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
	expectRule(t, err, "migration-commit-outside-init")
	p.commit(serverA, alice, mlstest.CommitOptions{AuthenticatedData: []byte{0}})

	with := func(data []byte) *attempt {
		return must(p.request(serverA, serverB, bob, func(o *mlstest.CommitOptions) { o.AuthenticatedData = data }))(t)
	}
	_, err = p.initiate(with(announce(serverB)))
	expectRule(t, err, "safe-aad")
	_, err = p.initiate(with(safe(announce("c.example"))))
	expectRule(t, err, "migration-commit")
	a := with(safe(announce(serverB)))
	must(p.initiate(a))(t)
	p.run()
	p.expect(a, "moved", "active")
}

// TestSwapIsSigned: "C gets T's entry with the MigrationResponse, signed by T; T refuses any other" (profile, section
// 5).
func TestSwapIsSigned(t *testing.T) {
	p := newExternalPlay(t)
	swap := func(o *mlstest.CommitOptions, entry []byte) {
		o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(externalSenders(entry))}
	}
	without := p.swapRequest(bob, swap)
	without.init.ExternalSenderOffer = nil
	_, err := p.initiate(without)
	expectRule(t, err, "external-senders")
	of, other := p.swapRequest(bob, swap), p.swapRequest(bob, swap)
	of.init.ExternalSenderOffer = other.init.ExternalSenderOffer
	_, err = p.initiate(of)
	expectKind(t, err, mimiport.KindInvalid)
	p.expectHosted(serverA, 0)

	// The group lists no entry of S, and an entry of T with a key that T has not given out. S cannot know that.
	other2 := newPlayWith(t,
		func(g *mlstest.Group) [][]byte { return [][]byte{g.NewClient([]byte(serverB)).ExternalSender()} })
	a := other2.begin(serverA, serverB, bob)
	other2.run()
	other2.expect(a, "aborted", "dropped")
}

// newPlayWith is a play whose group has the given external_senders.
func newPlayWith(t *testing.T, entries func(*mlstest.Group) [][]byte) *play {
	p := &play{world: newWorld(t)}
	p.Room.Joined[carol] = true
	p.id = must(p.services[serverA].ReserveGroup(t.Context(), caller(alice),
		&api.ReserveGroupRequest{RoomID: room}))(t).GroupID
	p.group = p.groupWith(nil, entries(p.groupWith(nil))...)
	p.bind(serverA)
	return p
}

// TestPendingRemove: "A pending Remove of C means C cannot migrate" (profile, section 5); "the next member Commit at
// that epoch must remove the leaf, unless its sender is the one removed. External Commits are exempt …: the DS …
// proposes again at the new epoch" (section 7).
func TestPendingRemove(t *testing.T) {
	p := newExternalPlay(t)
	leafOf[carol] = 2
	defer delete(leafOf, carol)
	p.leave(serverA, carol)
	if n := len(p.proposals(serverA)); n != 1 {
		t.Fatalf("%d proposals", n)
	}
	joiner := p.group.Commit(mlstest.CommitOptions{Joiner: p.group.NewClient(mlstest.Identity(bob, "NEW"))})
	must(p.submit(serverA, bob, &api.SubmitRequest{Message: joiner.Message, GroupInfo: joiner.GroupInfo}))(t)
	p.group = joiner.Next
	p.run()
	if n := len(p.proposals(serverA)); n != 1 {
		t.Errorf("%d proposals after an external Commit", n)
	}
	p.Room.Joined[carol], p.Room.Power[carol] = true, 100 // carol is back, but her Remove is still pending
	_, err := p.initiate(p.swapRequest(carol, func(o *mlstest.CommitOptions, entry []byte) {
		o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(externalSenders(entry))}
	}))
	expectRule(t, err, "pending-remove")
	p.commit(serverA, carol, mlstest.CommitOptions{})
	p.expectHosted(serverA, 0)
}

// TestProposals: the sender of a proposal must be the calling member, or the proposal must add a user of the room. A
// frozen group takes no proposals: "the proposal set is closed at the freeze" (profile, section 7).
func TestProposals(t *testing.T) {
	p := newPlayWith(t, func(g *mlstest.Group) [][]byte {
		return [][]byte{mlstest.NewClient(9, 1, []byte("elsewhere.example")).ExternalSender()}
	})
	submit := func(user string, message []byte) error {
		_, err := p.submit(serverA, user, &api.SubmitRequest{Message: message})
		return err
	}
	update := p.group.Propose(0, p.group.Update(0))
	expectKind(t, submit(bob, update), mimiport.KindForbidden)
	stranger := mlstest.NewClient(9, 1, []byte("elsewhere.example"))
	expectKind(t, submit(alice, p.group.ProposeExternal(0, stranger, p.group.Remove(1))), mimiport.KindForbidden)
	dave := p.group.NewClient(mlstest.Identity("@dave:b.example", "DAVE"))
	expectKind(t, submit(alice, p.group.Propose(0, p.group.Add(dave))), mimiport.KindForbidden)
	elsewhere := mlstest.New(mlstest.Options{GroupID: []byte("elsewhere"),
		Members: [][]byte{mlstest.Identity(alice, "ALICE")}})
	expectKind(t, submit(alice, elsewhere.Application(nil, 10)), mimiport.KindInvalid)
	p.expectHosted(serverA, 0)

	if err := submit(alice, update); err != nil {
		t.Fatal(err)
	}
	p.Room.Joined[alice] = false
	c := p.group.Commit(mlstest.CommitOptions{Sender: 1, Path: true, References: [][]byte{update}})
	_, err := p.submit(serverA, bob, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
	expectKind(t, err, mimiport.KindForbidden) // "A leaf may exist only while its user is joined": none is renewed
	p.Room.Joined[alice] = true

	p.begin(serverA, serverB, bob)
	expectKind(t, submit(alice, p.group.Propose(0, p.group.Remove(2))), mimiport.KindInProgress)
}

// TestResync: an external Commit removes the former leaf of the joining device. It removes no leaf of another user or
// device. Proposals of members do not keep the device out.
func TestResync(t *testing.T) {
	p := newPlay(t)
	p.Room.Power[bob] = 0
	join := func(device string, leaf uint32) *mlstest.Commit {
		return p.group.Commit(mlstest.CommitOptions{
			Joiner:    p.group.NewClient(mlstest.Identity(bob, device)),
			Proposals: []*mlstest.Proposal{p.group.Remove(leaf)},
		})
	}
	p.submitted(p.group.Update(leafOf[alice]))
	for _, c := range []*mlstest.Commit{join("BOB", leafOf[alice]), join("OTHER", leafOf[bob])} {
		_, err := p.submit(serverA, bob, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
		expectRule(t, err, "successor")
	}
	c := join("BOB", leafOf[bob])
	must(p.submit(serverA, bob, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}))(t)
	p.group = c.Next
	p.expectHosted(serverA, 0)
}

// TestRemovedIsTold: a removed member gets the Commit that removes them, and no message after it.
func TestRemovedIsTold(t *testing.T) {
	p := newExternalPlay(t)
	p.commit(serverA, alice, mlstest.CommitOptions{Proposals: []*mlstest.Proposal{p.group.Remove(2)}})
	p.say(serverA, alice)
	p.run()
	var got []string
	for _, d := range p.Got {
		if d.User == carol {
			got = append(got, d.Kind)
		}
	}
	if len(got) != 1 || got[0] != "commit" {
		t.Errorf("the removed was sent %v", got)
	}
}

// TestLargeByReference: messages go out "inline up to 32 KiB and by reference above" (profile, section 7).
func TestLargeByReference(t *testing.T) {
	p := newPlay(t)
	for size, inline := range map[int]bool{31 << 10: true, 33 << 10: false} {
		res := must(p.submit(serverA, alice, &api.SubmitRequest{Message: p.group.Application(nil, size)}))(t)
		p.Got = nil
		p.run()
		if len(p.Got) != 2 || (len(p.Got[0].Message) > 0) != inline || p.Got[0].Seq != res.Seq {
			t.Errorf("%d bytes: got %d events, the first of %d bytes", size, len(p.Got), len(p.Got[0].Message))
		}
	}
}

// TestWhoIsTold: the servers of a migration, its user and the members can read its status.
func TestWhoIsTold(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	for _, c := range []struct {
		caller api.Caller
		want   mimiport.Kind
	}{
		{caller("@eve:a.example"), mimiport.KindForbidden}, {api.Caller{Server: "c.example"}, mimiport.KindForbidden},
		{caller(alice), mimiport.KindInternal}, {api.Caller{Server: serverB}, mimiport.KindInternal},
	} {
		if _, err := p.services[serverA].Migration(t.Context(), c.caller, a.id); mimiport.KindOf(err) != c.want {
			t.Errorf("%+v: %v", c.caller, err)
		}
	}
}
