package delivery_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

const dave = "@dave:b.example"

// entrance is a way by which a leaf can enter the group of alice and bob.
type entrance struct {
	user, device string
	enter        func(p *play) error
}

// entrances are all such ways. The device has no leaf in the group before, unless the entrance renews its key.
var entrances = map[string]entrance{
	"Add by value": {dave, "DAVE", func(p *play) error {
		return p.tryCommit(alice, mlstest.CommitOptions{
			Path: true, Proposals: []*mlstest.Proposal{p.group.Add(p.newClient(dave, "DAVE"))},
		})
	}},
	"Add by reference": {dave, "DAVE", func(p *play) error {
		add := p.group.Add(p.newClient(dave, "DAVE"))
		return p.trySubmit(alice, &api.SubmitRequest{Message: p.group.Propose(leafOf[alice], add)})
	}},
	"new member's proposal": {dave, "DAVE", func(p *play) error {
		return p.trySubmit(dave, &api.SubmitRequest{Message: p.group.ProposeSelf(p.newClient(dave, "DAVE"))})
	}},
	"external Commit": {dave, "DAVE", func(p *play) error {
		return p.tryCommit(dave, mlstest.CommitOptions{Joiner: p.newClient(dave, "DAVE")})
	}},
	"path with a new key": {bob, "BOB", func(p *play) error {
		return p.tryCommit(bob, mlstest.CommitOptions{
			Sender: leafOf[bob], Path: true, Edit: mlstest.Edit{Owner: p.newClient(bob, "BOB")},
		})
	}},
}

func (p *play) newClient(user, device string) *mlstest.Client {
	return p.group.NewClient(mlstest.Identity(user, device))
}

func (p *play) trySubmit(user string, req *api.SubmitRequest) error {
	_, err := p.submit(serverA, user, req)
	return err
}

func (p *play) tryCommit(user string, o mlstest.CommitOptions) error {
	c := p.group.Commit(o)
	return p.trySubmit(user, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome})
}

// TestDeviceKey: by every entrance a leaf can come in only with the key that its device publishes. The server refuses
// the leaf if the homeserver does not answer. It does not hold the group while it waits.
func TestDeviceKey(t *testing.T) {
	for name, e := range entrances {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.Room.Joined[dave] = true
			p.Devices.Publish(e.user, e.device, []byte("another"))
			expectRule(t, e.enter(p), "device-key")
			p.Devices.Bare(e.user, e.device)
			expectRule(t, e.enter(p), "device-key")
			p.Devices.Delete(e.user, e.device)
			expectRule(t, e.enter(p), "device-key")
			p.Devices.Silence(serverB, true)
			expectKind(t, e.enter(p), mimiport.KindPeer)
			p.Devices.Silence(serverB, false)
			p.Devices.Trust(e.user, e.device)
			if err := e.enter(p); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestDeviceKeyInMigrations: the server refuses a migration Commit if a new leaf does not have the key of its device.
func TestDeviceKeyInMigrations(t *testing.T) {
	p := newPlay(t)
	p.Devices.Publish(bob, "BOB", []byte("another"))
	a := must(p.request(serverA, serverB, bob, func(o *mlstest.CommitOptions) {
		o.Edit.Owner = p.newClient(bob, "BOB")
	}))(t)
	_, err := p.initiate(a)
	expectRule(t, err, "device-key")
	p.expectHosted(serverA, 0)
}

// TestKeyless: with the policy "published", as for application services, a device without a key comes in only by its
// own user's Commit. A device with another key does not come in at all.
func TestKeyless(t *testing.T) {
	own := []string{"external Commit", "path with a new key"}
	for _, policy := range []string{
		`{"device_keys":"published"}`, `{"application_services":["@d*:b.example","` + bob + `"]}`,
	} {
		for name, e := range entrances {
			p := newPlay(t)
			p.allow(serverA, policy)
			p.Room.Joined[dave] = true
			p.Devices.Publish(e.user, e.device, []byte("another"))
			expectRule(t, e.enter(p), "device-key")
			p.Devices.Delete(e.user, e.device)
			err := e.enter(p)
			if slices.Contains(own, name) && err != nil {
				t.Errorf("%s, %s: %v", policy, name, err)
			} else if !slices.Contains(own, name) {
				expectRule(t, err, "device-key")
			}
		}
	}
}

// TestFounders: the server binds a group only if each leaf has the key of its device.
func TestFounders(t *testing.T) {
	p := &play{world: newWorld(t)}
	req := &api.ReserveGroupRequest{RoomID: room}
	reserved := must(p.services[serverA].ReserveGroup(t.Context(), caller(alice), req))(t)
	p.id = reserved.GroupID
	p.group = p.groupWith(nil)
	p.Room.Joined[carol] = true
	bind := func() error {
		_, err := p.services[serverA].BindGroup(t.Context(), caller(alice), p.id, &api.BindGroupRequest{
			Protocol: "mls10", GroupInfo: p.group.GroupInfo(), RatchetTree: p.group.RatchetTree(),
		})
		return err
	}
	p.Devices.Publish(carol, "CAROL", []byte("another"))
	expectRule(t, bind(), "device-key")
	p.Devices.Trust(carol, "CAROL")
	p.Devices.Bare(alice, "ALICE")
	expectRule(t, bind(), "device-key")
	p.allow(serverA, `{"device_keys":"published"}`)
	if err := bind(); err != nil {
		t.Error(err)
	}
}

// TestKnownKeysAreNotAsked: the server does not ask a homeserver about a key that the device's leaf already has.
func TestKnownKeysAreNotAsked(t *testing.T) {
	p := newPlay(t)
	before := len(p.Devices.Asked())
	p.commit(serverA, bob, mlstest.CommitOptions{})
	p.say(serverA, alice)
	update := p.group.Propose(leafOf[bob], p.group.Update(leafOf[bob]))
	must(p.submit(serverA, bob, &api.SubmitRequest{Message: update}))(t)
	p.commit(serverA, alice, mlstest.CommitOptions{References: [][]byte{update}})
	if asked := p.Devices.Asked()[before:]; len(asked) != 0 {
		t.Errorf("asked %v", asked)
	}
}

// reader reads the group while the server asks homeservers.
type reader struct {
	delivery.Devices
	read func() error
}

func (r *reader) Look(ctx context.Context, from, server string, leaves []delivery.LeafKey) ([]delivery.Finding, error) {
	if err := r.read(); err != nil {
		return nil, err
	}
	return r.Devices.Look(ctx, from, server, leaves)
}

// TestGroupIsFreeWhileAsking: the server does not hold a group while it asks homeservers.
func TestGroupIsFreeWhileAsking(t *testing.T) {
	p := newPlay(t)
	p.Room.Joined[dave] = true
	read := 0
	p.RestartWith(serverA, func(d *delivery.Deps) {
		d.Devices = &reader{p.Devices, func() error {
			read++
			_, err := p.services[serverA].Group(t.Context(), caller(alice), p.id)
			return err
		}}
	})
	if err := entrances["external Commit"].enter(p); err != nil || read == 0 {
		t.Errorf("read %d times: %v", read, err)
	}
}

// changed tells a server that a user's devices have changed, and lets the server work.
func (p *play) changed(ds, user string) {
	p.t.Helper()
	if err := p.services[ds].DevicesChanged(p.t.Context(), user); err != nil {
		p.t.Fatal(err)
	}
	p.settle()
}

func (p *play) settle() {
	p.t.Helper()
	p.now = p.now.Add(2 * time.Second)
	p.run()
}

func (p *play) expectProposals(ds string, want int) {
	p.t.Helper()
	if got := p.proposals(ds); len(got) != want {
		p.t.Errorf("%d removals are proposed, want %d", len(got), want)
	}
}

// TestDeviceGone: a device loses its leaf, once, if its homeserver no longer lists it, or if it publishes another key
// than its leaf's. A device that publishes no key keeps its leaf. While a homeserver does not answer, all leaves of its
// users stay.
func TestDeviceGone(t *testing.T) {
	const published, bridge = `{"device_keys":"published"}`, `{"application_services":["@carol:b.example"]}`
	for name, c := range map[string]struct {
		policy string
		change func(*play)
		want   int
	}{
		"deleted":            {`{}`, func(p *play) { p.Devices.Delete(carol, "CAROL") }, 1},
		"another key":        {`{}`, func(p *play) { p.Devices.Publish(carol, "CAROL", []byte("x")) }, 1},
		"no key":             {`{}`, func(p *play) { p.Devices.Bare(carol, "CAROL") }, 0},
		"no change":          {`{}`, func(*play) {}, 0},
		"silence":            {`{}`, func(p *play) { p.Devices.Silence(serverB, true) }, 0},
		"never listed":       {published, func(p *play) { p.Devices.Delete(carol, "CAROL") }, 0},
		"keyless, another":   {published, func(p *play) { p.Devices.Publish(carol, "CAROL", []byte("x")) }, 1},
		"application":        {bridge, func(p *play) { p.Devices.Delete(carol, "CAROL") }, 0},
		"another user's":     {`{}`, func(p *play) { p.Devices.Delete("@eve:b.example", "CAROL") }, 0},
		"another device's":   {`{}`, func(p *play) { p.Devices.Delete(carol, "PHONE") }, 0},
		"the user goes, too": {`{}`, func(p *play) { p.Devices.Delete(carol, "CAROL"); p.leave(serverA, carol) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := newExternalPlay(t)
			p.allow(serverA, c.policy)
			c.change(p)
			p.changed(serverA, carol)
			p.changed(serverA, carol)
			p.expectProposals(serverA, c.want)
		})
	}
}

// TestOwnDeviceGone: this server notices deleted devices of its own users even if the policy needs no published key.
func TestOwnDeviceGone(t *testing.T) {
	p := newExternalPlay(t)
	p.allow(serverA, `{"device_keys":"published"}`)
	p.Devices.Delete(alice, "ALICE")
	p.changed(serverA, alice)
	p.expectProposals(serverA, 1)
}

// TestSilentHomeserverIsAskedAgain: the server asks a homeserver again until it answers.
func TestSilentHomeserverIsAskedAgain(t *testing.T) {
	p := newExternalPlay(t)
	p.Devices.Delete(carol, "CAROL")
	p.Devices.Silence(serverB, true)
	p.changed(serverA, carol)
	p.Devices.Silence(serverB, false)
	p.settle()
	p.expectProposals(serverA, 1)
}

// TestManyChangesAreOneLook: a homeserver may report changes again and again, and never answer. The server has no more
// work than after one report. If a report comes while the server looks, the server looks again afterwards.
func TestManyChangesAreOneLook(t *testing.T) {
	p := newExternalPlay(t)
	p.Devices.Delete(carol, "CAROL")
	p.Devices.Silence(serverB, true)
	for range 50 {
		p.changed(serverA, carol)
	}
	asked := len(p.Devices.Asked())
	p.Devices.Silence(serverB, false)
	p.now = p.now.Add(time.Hour)
	p.run()
	if more := len(p.Devices.Asked()) - asked; more != 2 {
		t.Errorf("asked %d times about one device", more)
	}
	p.expectProposals(serverA, 1)
}

// TestAudit: an audit finds changes for which no event came.
func TestAudit(t *testing.T) {
	p := newExternalPlay(t)
	p.Devices.Delete(carol, "CAROL")
	p.Room.Joined[bob] = false
	p.settle()
	p.expectProposals(serverA, 0)
	p.Room.Joined[bob] = true
	last, err := p.services[serverA].Audit(t.Context(), nil, 1)
	if err != nil || string(last) != string(p.id) {
		t.Fatalf("got %v, %v", last, err)
	}
	if last, err = p.services[serverA].Audit(t.Context(), last, 1); err != nil || last != nil {
		t.Fatalf("got %v, %v after the last group", last, err)
	}
	p.settle()
	p.expectProposals(serverA, 1)
}

// TestRemovalsSurviveExternalCommits: an external Commit drops the pending proposals. The server proposes its removals
// again.
func TestRemovalsSurviveExternalCommits(t *testing.T) {
	p := newExternalPlay(t)
	p.Room.Joined[dave] = true
	p.Devices.Delete(carol, "CAROL")
	p.changed(serverA, carol)
	p.expectProposals(serverA, 1)
	c := p.group.Commit(mlstest.CommitOptions{Joiner: p.newClient(dave, "DAVE")})
	must(p.submit(serverA, dave, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}))(t)
	p.group = c.Next
	p.settle()
	p.expectProposals(serverA, 1)
}

// TestGoneDeviceDoesNotComeBack: a deleted device cannot come back under the same key. Neither the Commit that removes
// its leaf nor its own external Commit can add it. A device that exists again may come back.
func TestGoneDeviceDoesNotComeBack(t *testing.T) {
	for name, back := range map[string]func(p *play, c *mlstest.Client) error{
		"Remove and Add": func(p *play, c *mlstest.Client) error {
			return p.tryCommit(alice, mlstest.CommitOptions{
				References: p.proposals(serverA), Proposals: []*mlstest.Proposal{p.group.Add(c)},
			})
		},
		"external Commit": func(p *play, c *mlstest.Client) error {
			return p.tryCommit(dave, mlstest.CommitOptions{Joiner: c, Proposals: []*mlstest.Proposal{p.group.Remove(3)}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newExternalPlay(t)
			p.Room.Joined[dave] = true
			c := p.newClient(dave, "DAVE")
			p.commit(serverA, alice, mlstest.CommitOptions{Path: true, Proposals: []*mlstest.Proposal{p.group.Add(c)}})
			p.Devices.Delete(dave, "DAVE")
			p.changed(serverA, dave)
			p.expectProposals(serverA, 1)
			expectRule(t, back(p, c), "device-key")
			p.Devices.Trust(dave, "DAVE")
			if err := back(p, c); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMembersRemoval: while a member's proposal to remove a leaf is pending, the server proposes no Remove of that
// leaf, because nobody could commit both. When the member's proposal is dropped, the server makes its own.
func TestMembersRemoval(t *testing.T) {
	p := newExternalPlay(t)
	p.Devices.Delete(carol, "CAROL")
	leaving := p.group.Propose(2, p.group.SelfRemove())
	must(p.submit(serverA, carol, &api.SubmitRequest{Message: leaving}))(t)
	p.changed(serverA, carol)
	p.expectProposals(serverA, 1)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expectProposals(serverA, 1)
}

// newLot is a group at A with the given members. It lists A as an external sender.
func newLot(t *testing.T, members ...[]byte) *play {
	t.Helper()
	p := &play{world: newWorld(t)}
	p.Room.Joined[carol] = true
	reserved := must(p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{
		RoomID: room, SuiteRequest: suite,
	}))(t)
	p.id = reserved.GroupID
	p.group = mlstest.New(mlstest.Options{
		Seed: 1, GroupID: p.id, Extensions: externalSenders(reserved.ExternalSender), Members: members,
	})
	p.bind(serverA)
	return p
}

// TestOneUserGoes: the server proposes to remove all leaves of one user, even if these are most of the group's leaves.
// The user may have left, or may have deleted the devices.
func TestOneUserGoes(t *testing.T) {
	crowd := [][]byte{mlstest.Identity(alice, "A"), mlstest.Identity(bob, "B1"), mlstest.Identity(bob, "B2")}
	p := newLot(t, crowd...)
	p.leave(serverA, bob)
	p.expectProposals(serverA, 2)

	p = newLot(t, crowd...)
	p.Devices.Delete(bob, "B1")
	p.Devices.Delete(bob, "B2")
	p.changed(serverA, bob)
	p.expectProposals(serverA, 2)
}

// TestOperatorLetsThemGo: the server proposes to remove most of a group's users only if an operator allows it.
func TestOperatorLetsThemGo(t *testing.T) {
	p := newLot(t, mlstest.Identity(alice, "A"), mlstest.Identity(bob, "B1"), mlstest.Identity(bob, "B2"),
		mlstest.Identity(carol, "C"))
	p.Devices.Delete(bob, "B2")
	p.Room.Joined[carol] = false
	p.changed(serverA, bob)
	p.expectProposals(serverA, 0)
	p.Devices.Silence(serverA, true)
	got, err := p.services[serverA].Expel(t.Context(), p.id)
	if diff := cmp.Diff(&api.Expelled{Leaves: 2, Unasked: []string{serverA}}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	p.expectProposals(serverA, 2)
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expectProposals(serverA, 2)
	if rows, _, err := p.stores[serverA].Due(t.Context(), p.now.Add(time.Hour), 10); err != nil || len(rows) != 0 {
		t.Errorf("it is still to be done: %+v, %v", rows, err)
	}
}

// TestRecoverTakesAll: a recover takes a group with any leaves, because the group would be lost otherwise. The new host
// proposes to remove the leaves that may not be in the group.
func TestRecoverTakesAll(t *testing.T) {
	p := newExternalPlay(t)
	reserved := must(p.services[serverB].ReserveGroup(t.Context(), caller(bob), &api.ReserveGroupRequest{
		RoomID: room, SuiteRequest: suite,
	}))(t)
	p.group = mlstest.New(mlstest.Options{
		Seed: 1, GroupID: p.id, Extensions: externalSenders(reserved.ExternalSender), Members: [][]byte{
			mlstest.Identity(alice, "ALICE"), mlstest.Identity(bob, "BOB"), mlstest.Identity(carol, "CAROL"),
			mlstest.Identity(bob, "BOB"),
		},
	})
	p.allow(serverB, `{"recover":true}`)
	must(p.services[serverB].Recover(t.Context(), p.id, p.held(p.lineage(serverA))))(t)
	drift := must(p.services[serverB].Drift(t.Context(), caller(bob), p.id))(t)
	want := []api.DriftLeaf{{Leaf: 3, UserID: bob, DeviceID: "BOB", Faults: []api.Fault{api.FaultDuplicate}}}
	if diff := cmp.Diff(want, drift.Leaves); diff != "" {
		t.Error(diff)
	}
	p.lost = func(to, _ string) bool { return to == serverA } // A would contest the claim
	p.settle()
	p.expectProposals(serverB, 1)
}

// TestDrift: members and administrators see each leaf that does not fit the room or the devices, each joined user
// without a leaf, and each homeserver that has not answered. The call changes nothing.
func TestDrift(t *testing.T) {
	const erin = "@erin:c.example"
	p := newExternalPlay(t)
	svc := p.services[serverA]
	p.Room.Joined[erin] = true
	expect := func(want *api.Drift) {
		t.Helper()
		for _, c := range []api.Caller{caller(bob), {Admin: true}} {
			got, err := svc.Drift(t.Context(), c, p.id)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
		}
	}
	none := []string{}
	expect(&api.Drift{Leaves: []api.DriftLeaf{}, WithoutLeaf: []string{erin}, Unasked: none})
	p.Devices.Publish(alice, "ALICE", []byte("x"))
	p.Devices.Bare(bob, "BOB")
	p.Devices.Delete(carol, "CAROL")
	p.Room.Joined[carol] = false
	leaves := []api.DriftLeaf{
		{Leaf: 0, UserID: alice, DeviceID: "ALICE", Faults: []api.Fault{api.FaultOtherKey}},
		{Leaf: 1, UserID: bob, DeviceID: "BOB", Faults: []api.Fault{api.FaultNoKey}},
		{Leaf: 2, UserID: carol, DeviceID: "CAROL", Faults: []api.Fault{api.FaultNotJoined, api.FaultNoDevice}},
	}
	expect(&api.Drift{Leaves: leaves, WithoutLeaf: []string{erin}, Unasked: none})
	p.Devices.Silence(serverB, true)
	leaves = []api.DriftLeaf{
		leaves[0], {Leaf: 2, UserID: carol, DeviceID: "CAROL", Faults: []api.Fault{api.FaultNotJoined}},
	}
	expect(&api.Drift{Leaves: leaves, WithoutLeaf: []string{erin}, Unasked: []string{serverB}})
	p.expectProposals(serverA, 0)

	_, err := svc.Drift(t.Context(), caller(carol), p.id)
	expectKind(t, err, mimiport.KindForbidden)
	_, err = svc.Drift(t.Context(), caller(bob), []byte("unknown"))
	expectKind(t, err, mimiport.KindUnknownGroup)
}
