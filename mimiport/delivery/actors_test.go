package delivery_test

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// play is a world in which A hosts a bound group of alice (leaf 0) and bob (leaf 1). group is the state of the members.
type play struct {
	*world
	id    []byte
	group *mlstest.Group
}

func newPlay(t *testing.T) *play {
	t.Helper()
	return newPlayOf(t, 1)
}

// newPlayOf is newPlay for another cipher suite.
func newPlayOf(t *testing.T, suite uint16) *play {
	t.Helper()
	return newPlayFrom(t, mlstest.Options{CipherSuite: suite})
}

// newPlayFrom is newPlay for a group with more options.
func newPlayFrom(t *testing.T, o mlstest.Options) *play {
	t.Helper()
	p := &play{world: newWorld(t)}
	reserved, err := p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room})
	if err != nil {
		t.Fatal(err)
	}
	p.id = reserved.GroupID
	o.Seed, o.GroupID = 1, p.id
	o.Members = [][]byte{mlstest.Identity(alice, "ALICE"), mlstest.Identity(bob, "BOB")}
	p.group = mlstest.New(o)
	p.bind(serverA)
	return p
}

func (p *play) bind(ds string) {
	p.t.Helper()
	_, err := p.services[ds].BindGroup(p.t.Context(), caller(alice), p.id, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: p.group.GroupInfo(), RatchetTree: p.group.RatchetTree(),
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// leafOf maps a user to the index of the user's leaf.
var leafOf = map[string]uint32{alice: 0, bob: 1}

func (p *play) submit(ds, user string, req *api.SubmitRequest) (*api.SubmitResponse, error) {
	return p.services[ds].Submit(p.t.Context(), caller(user), p.id, req)
}

// commit lets a member commit, and the other members take the Commit.
func (p *play) commit(ds, user string, o mlstest.CommitOptions) *api.SubmitResponse {
	p.t.Helper()
	o.Sender, o.Path = leafOf[user], true
	c := p.group.Commit(o)
	res, err := p.submit(ds, user, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome})
	if err != nil {
		p.t.Fatal(err)
	}
	p.group = c.Next
	return res
}

func (p *play) say(ds, user string) *api.SubmitResponse {
	p.t.Helper()
	res, err := p.submit(ds, user, &api.SubmitRequest{Message: p.group.Application(nil, 100)})
	if err != nil {
		p.t.Fatal(err)
	}
	return res
}

// attempt is a migration under way, as the migrating client knows it.
type attempt struct {
	from, to, user string
	id             mimiport.MigrationID
	offer          *api.MigrationOffer
	init           *api.MigrationInitRequest
	commit         *mlstest.Commit
}

// request asks the target for an offer and prepares the Init. edit may spoil the Commit.
func (p *play) request(from, to, user string, edit func(*mlstest.CommitOptions)) (*attempt, error) {
	p.t.Helper()
	req, err := (&mimiport.MigrationRequest{SourceDomain: from, TargetDomain: to, GroupID: p.id,
		Epoch: p.group.Epoch()}).Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	offer, err := p.services[to].RequestMigration(p.t.Context(), caller(user),
		&api.MigrationRequestRequest{MigrationRequest: req, RoomID: room})
	if err != nil {
		return nil, err
	}
	return p.prepare(from, to, user, offer, edit), nil
}

// prepare makes the Init for an offer.
func (p *play) prepare(from, to, user string, offer *api.MigrationOffer, edit func(*mlstest.CommitOptions)) *attempt {
	p.t.Helper()
	response, err := mimiport.UnmarshalMigrationResponse(offer.MigrationResponse)
	if err != nil {
		p.t.Fatal(err)
	}
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: to}).Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	o := mlstest.CommitOptions{Sender: leafOf[user], Path: true, AuthenticatedData: aad}
	if edit != nil {
		edit(&o)
	}
	a := &attempt{from: from, to: to, user: user, id: response.ID(), offer: offer, commit: p.group.Commit(o)}
	a.init = &api.MigrationInitRequest{
		MigrationInit: p.signInit(response, leafOf[user]), KeyID: offer.KeyID,
		SubmitRequest: api.SubmitRequest{Message: a.commit.Message, GroupInfo: a.commit.GroupInfo, Welcome: a.commit.Welcome},
	}
	return a
}

func (p *play) signInit(response *mimiport.MigrationResponse, leaf uint32) []byte {
	p.t.Helper()
	return must(deliverytest.SignInit(p.group, leaf, response))(p.t)
}

func (p *play) mustRequest(from, to, user string) *attempt {
	p.t.Helper()
	a, err := p.request(from, to, user, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

// begin begins a migration. It does not run the outbox.
func (p *play) begin(from, to, user string) *attempt {
	p.t.Helper()
	a := p.mustRequest(from, to, user)
	if _, err := p.initiate(a); err != nil {
		p.t.Fatal(err)
	}
	return a
}

// initiate sends the Init. It does not run the outbox.
func (p *play) initiate(a *attempt) (*api.MigrationStatus, error) {
	return p.services[a.from].InitMigration(p.t.Context(), caller(a.user), a.id, a.init)
}

// move runs a migration to its end.
func (p *play) move(from, to, user string) *attempt {
	p.t.Helper()
	a := p.begin(from, to, user)
	p.run()
	p.expect(a, "moved", "active")
	p.group = a.commit.Next
	return a
}

// expect checks the state of a migration that each side reports.
func (p *play) expect(a *attempt, source, target string) {
	p.t.Helper()
	for _, side := range []struct{ server, want string }{{a.from, source}, {a.to, target}} {
		st, err := p.services[side.server].Migration(p.t.Context(), caller(a.user), a.id)
		if err != nil {
			p.t.Fatal(err)
		}
		if st.State != side.want {
			p.t.Errorf("the migration is %s at %s (%s), want %s", st.State, side.server, st.Reason, side.want)
		}
	}
}

// expectHosted checks that a server hosts the group in the state that the members have.
func (p *play) expectHosted(ds string, term uint64) {
	p.t.Helper()
	g, err := p.services[ds].Group(p.t.Context(), caller(alice), p.id)
	if err != nil {
		p.t.Fatal(err)
	}
	if g.Term != term || g.Epoch != p.group.Epoch() || g.State != "active" ||
		string(g.GroupInfo) != string(p.group.GroupInfo()) {
		p.t.Errorf("%s has the group %s at term %d, epoch %d; want term %d, epoch %d", ds, g.State, g.Term, g.Epoch, term,
			p.group.Epoch())
	}
	tree, err := p.services[ds].RatchetTree(p.t.Context(), caller(bob), p.id, g.Epoch)
	if err != nil {
		p.t.Fatal(err)
	}
	if string(tree) != string(p.group.RatchetTree()) {
		p.t.Errorf("%s has another tree than the members", ds)
	}
}

// expectMoved checks that a server redirects, with evidence that verifies.
func (p *play) expectMoved(ds, to string) {
	p.t.Helper()
	_, err := p.submit(ds, alice, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	if mimiport.KindOf(err) != mimiport.KindMoved {
		p.t.Errorf("%s answers a submit with %v, want a redirect", ds, err)
		return
	}
	moved := asError(err).Info.Moved
	confirmation, err := mimiport.UnmarshalMigrationConfirmation(moved.Confirmation)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.Verify(ds, moved.KeyID, confirmation); err != nil || moved.Server != to {
		p.t.Errorf("the redirect is to %s: %v", moved.Server, err)
	}
}
