package delivery_test

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// newDoor is a play of alice (power level 100), bob (0) and carol, with some power.
func newDoor(t *testing.T, power int64) *play {
	p := newExternalPlay(t)
	p.Room.Power[bob], p.Room.Power[carol] = 0, power
	return p
}

// ownEntry is the server's entry for external_senders.
func (p *play) ownEntry() []byte {
	p.t.Helper()
	reserved, err := p.services[serverA].ReserveGroup(p.t.Context(), caller(alice), &api.ReserveGroupRequest{
		RoomID: room, SuiteRequest: suite,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return reserved.ExternalSender
}

// propose lets a user send a proposal.
func (p *play) propose(user string, proposal *mlstest.Proposal) error {
	_, err := p.submit(serverA, user, &api.SubmitRequest{Message: p.group.Propose(p.leaf(user), proposal)})
	return err
}

// commitValue lets a user commit a proposal by value.
func (p *play) commitValue(user string, proposal *mlstest.Proposal) error {
	c := p.group.Commit(mlstest.CommitOptions{
		Sender: p.leaf(user), Path: true, Proposals: []*mlstest.Proposal{proposal},
	})
	_, err := p.submit(serverA, user, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome})
	return err
}

// leaf is the leaf index of a user's first device.
func (p *play) leaf(user string) uint32 {
	return map[string]uint32{alice: 0, bob: 1, carol: 2}[user]
}

// TestPower: removing the leaf of another user needs the power to kick in the room. Changing the group needs the power
// to send the pointer event. Both hold by reference and by value (profile, section 7).
func TestPower(t *testing.T) {
	remove := func(user string) func(*play) *mlstest.Proposal {
		return func(p *play) *mlstest.Proposal { return p.group.Remove(p.leaf(user)) }
	}
	reInit := func(p *play) *mlstest.Proposal { return p.group.ReInit([]byte("next")) }
	extend := func(p *play) *mlstest.Proposal { return p.group.SetExtensions(externalSenders(p.ownEntry())) }
	for name, c := range map[string]struct {
		power    int64 // the power of carol, who proposes
		proposal func(*play) *mlstest.Proposal
		before   func(*play)
		rule     string
	}{
		"nobody removes the creator":      {0, remove(alice), nil, "kick"},
		"who may kick does not remove up": {50, remove(alice), nil, "kick"},
		"equals do not remove each other": {100, remove(alice), nil, "kick"},
		"below the level for kicking":     {49, remove(bob), nil, "kick"},
		"who may kick removes":            {50, remove(bob), nil, ""},
		"anybody removes who has left":    {0, remove(alice), func(p *play) { p.Room.Joined[alice] = false }, ""},
		"a ReInit":                        {99, reInit, nil, "group-power"},
		"a ReInit by who may point":       {100, reInit, nil, ""},
		"extensions":                      {99, extend, nil, "group-power"},
		"extensions by who may point":     {100, extend, nil, ""},
	} {
		for kind, send := range map[string]func(*play, string, *mlstest.Proposal) error{
			"reference": (*play).propose, "value": (*play).commitValue,
		} {
			t.Run(name+" by "+kind, func(t *testing.T) {
				p := newDoor(t, c.power)
				if c.before != nil {
					c.before(p)
				}
				err := send(p, carol, c.proposal(p))
				expectRule(t, err, c.rule)
				if c.rule != "" {
					expectKind(t, err, mimiport.KindForbidden)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestCommitterIsNotJudged: the server does not judge a committer for the proposals of others that the Commit
// references.
func TestCommitterIsNotJudged(t *testing.T) {
	p := newDoor(t, 50)
	message := p.group.Propose(p.leaf(alice), p.group.Remove(p.leaf(carol)))
	must(p.submit(serverA, alice, &api.SubmitRequest{Message: message}))(t)
	p.commit(serverA, bob, mlstest.CommitOptions{References: [][]byte{message}})
	p.expectHosted(serverA, 0)
}

// TestOwnLeaves: every member may remove the leaves of their own devices, and leaves that the server proposes to
// remove.
func TestOwnLeaves(t *testing.T) {
	p := newDoor(t, 0)
	join := p.group.Commit(mlstest.CommitOptions{Joiner: p.group.NewClient(mlstest.Identity(bob, "OTHER"))})
	must(p.submit(serverA, bob, &api.SubmitRequest{Message: join.Message, GroupInfo: join.GroupInfo}))(t)
	p.group = join.Next
	if err := p.propose(bob, p.group.Remove(3)); err != nil {
		t.Errorf("a device of one's own: %v", err)
	}
	p.leave(serverA, carol)
	p.Room.Joined[carol], p.Room.Power[carol] = true, 100 // carol is back, but her Remove is still pending
	if err := p.commitValue(bob, p.group.Remove(p.leaf(carol))); err != nil {
		t.Errorf("a leaf that the server wants to go: %v", err)
	}
}

// TestUnusable: the server refuses a proposal by reference if no Commit, or not every member's Commit, could cover it.
func TestUnusable(t *testing.T) {
	for name, c := range map[string]struct {
		proposal func(*play) *mlstest.Proposal
		rule     string
	}{
		"a PSK": {func(p *play) *mlstest.Proposal { return p.group.PSK([]byte("psk")) }, "psk-reference"},
		"extensions without the server's entry": {func(p *play) *mlstest.Proposal {
			return p.group.SetExtensions(nil)
		}, "external-senders"},
		"extensions with another key of the server": {func(p *play) *mlstest.Proposal {
			return p.group.SetExtensions(externalSenders(p.group.NewClient([]byte(serverA)).ExternalSender()))
		}, "external-senders"},
		"an Add of a user who is not in the room": {func(p *play) *mlstest.Proposal {
			return p.group.Add(p.group.NewClient(mlstest.Identity("@dave:b.example", "DAVE")))
		}, "joined"},
		"an Add that names no device": {func(p *play) *mlstest.Proposal {
			return p.group.Add(p.group.NewClient([]byte("nobody")))
		}, "leaf-identity"},
		"an Add of a device that a signed request cannot name": {func(p *play) *mlstest.Proposal {
			return p.group.Add(p.group.NewClient(mlstest.Identity(alice, `D":{}},"@victim:b.example":{"D`)))
		}, "leaf-identity"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newDoor(t, 100)
			expectRule(t, p.propose(carol, c.proposal(p)), c.rule)
		})
	}
}

// TestLifetime: the server refuses an Add whose KeyPackage is not valid by the server's clock. An accepted Add stays
// valid.
func TestLifetime(t *testing.T) {
	p := newDoor(t, 0)
	now := uint64(p.now.Unix())
	add := func(from, to uint64) *mlstest.Proposal {
		return p.group.Add(p.group.NewClient(mlstest.Identity(alice, "PHONE")).Lasting(from, to))
	}
	const hour = 60 * 60 // the tolerance for wrong clocks
	for name, c := range map[string]struct {
		proposal *mlstest.Proposal
		rule     string
	}{
		"expired":       {add(now-2*hour, now-hour-1), "lifetime"},
		"not yet valid": {add(now+hour+1, now+2*hour), "lifetime"},
		"inverted":      {add(now+1, now-1), "lifetime-order"},
	} {
		for kind, err := range map[string]error{
			"reference": p.propose(alice, c.proposal), "value": p.commitValue(alice, c.proposal),
		} {
			if asError(err).Info.Rule != c.rule {
				t.Errorf("%s by %s: %v", name, kind, err)
			}
		}
	}
	message := p.group.Propose(p.leaf(alice), add(now-hour, now))
	must(p.submit(serverA, alice, &api.SubmitRequest{Message: message}))(t)
	p.now = p.now.Add(2 * time.Hour)
	p.Restart(serverA)
	p.commit(serverA, alice, mlstest.CommitOptions{References: [][]byte{message}})
	p.Restart(serverA)
	p.expectHosted(serverA, 0)
}

// TestDeviceUnique: the server binds no group in which a device has two leaves.
func TestDeviceUnique(t *testing.T) {
	p := newPlay(t)
	reserved, err := p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room})
	if err != nil {
		t.Fatal(err)
	}
	twice := mlstest.New(mlstest.Options{GroupID: reserved.GroupID, Members: [][]byte{
		mlstest.Identity(alice, "ALICE"), mlstest.Identity(bob, "BOB"), mlstest.Identity(bob, "BOB"),
	}})
	_, err = p.services[serverA].BindGroup(t.Context(), caller(alice), reserved.GroupID, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: twice.GroupInfo(), RatchetTree: twice.RatchetTree(),
	})
	expectRule(t, err, "device-unique")
}
