package delivery_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
)

// siege is a play in which bob, carol and dave make any proposals. dave asks for an Add of himself. alice has more
// power than the three.
type siege struct {
	*play
	departed bool // a user has left the room
}

// newSiege is a siege of a group of five, so that two users who leave are not most of the group.
func newSiege(t *testing.T) *siege {
	p := &play{world: newWorld(t)}
	p.Logf = nil
	users := []string{alice, bob, carol, "@frank:a.example", "@grace:a.example"}
	p.Room.Join(append(users, dave)...)
	reserved := must(p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{
		RoomID: room, SuiteRequest: suite,
	}))(t)
	p.id = reserved.GroupID
	o := mlstest.Options{Seed: 1, GroupID: p.id, Extensions: externalSenders(reserved.ExternalSender)}
	for i, device := range []string{"ALICE", "BOB", "CAROL", "FRANK", "GRACE"} {
		o.Members = append(o.Members, mlstest.Identity(users[i], device))
	}
	p.group = mlstest.New(o)
	p.bind(serverA)
	return &siege{play: p}
}

// draw draws a proposal message of bob or carol, or of dave.
func (s *siege) draw(t *rapid.T) (user string, message []byte) {
	user = rapid.SampledFrom([]string{bob, carol}).Draw(t, "user")
	g, leaf := s.group, s.leaf(user)
	add := func(user string) *mlstest.Proposal {
		device := rapid.SampledFrom([]string{"ALICE", "BOB", "NEW"}).Draw(t, "device")
		return g.Add(g.NewClient(mlstest.Identity(user, device)))
	}
	proposals := map[string]func() *mlstest.Proposal{
		"update": func() *mlstest.Proposal { return g.Update(leaf) },
		"remove": func() *mlstest.Proposal { return g.Remove(rapid.Uint32Range(0, 5).Draw(t, "leaf")) },
		"self":   func() *mlstest.Proposal { return g.SelfRemove() },
		"add": func() *mlstest.Proposal {
			return add(rapid.SampledFrom([]string{alice, bob, dave, "@eve:b.example"}).Draw(t, "added"))
		},
		"nameless": func() *mlstest.Proposal { return g.Add(g.NewClient([]byte("nobody"))) },
		"expired": func() *mlstest.Proposal {
			return g.Add(g.NewClient(mlstest.Identity(bob, "OLD")).Lasting(1, 2))
		},
		"psk":    func() *mlstest.Proposal { return g.PSK([]byte("psk")) },
		"reinit": func() *mlstest.Proposal { return g.ReInit([]byte("next")) },
		"bare":   func() *mlstest.Proposal { return g.SetExtensions(nil) },
		"same":   func() *mlstest.Proposal { return g.SetExtensions(externalSenders(s.ownEntry())) },
		"grease": func() *mlstest.Proposal { return g.AppEphemeral(1, []byte("data")) },
	}
	kinds := []string{
		"update", "remove", "self", "add", "nameless", "expired", "psk", "reinit", "bare", "same", "grease", "join",
	}
	kind := rapid.SampledFrom(kinds).Draw(t, "kind")
	if kind == "join" {
		return dave, g.ProposeSelf(g.NewClient(mlstest.Identity(dave, "DAVE")))
	}
	return user, g.Propose(leaf, proposals[kind]())
}

// pending lists the proposals that a client takes if it can leave out proposals: all pending proposals but those that
// the server must refuse.
func (s *siege) pending(t *rapid.T) (all, chosen [][]byte) {
	all = s.proposals(serverA)
	state, err := mls.RFC9420(mls.DefaultLimits()).Open(s.group.GroupInfo(), s.group.RatchetTree())
	for _, message := range all {
		if err == nil {
			state, _, err = state.Propose(message)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range state.Proposals() {
		whose := p.Add
		if p.Update != nil {
			whose = p.Update
		}
		if whose == nil {
			chosen = append(chosen, p.Message)
			continue
		}
		if id, err := registry.Identity(*whose); err == nil && s.Room.Joined[id.UserID] {
			chosen = append(chosen, p.Message)
		}
	}
	return all, chosen
}

// commits lets alice commit some proposals.
func (s *siege) commits(references [][]byte) error {
	return s.sends(s.group.Commit(mlstest.CommitOptions{Path: true, References: references}))
}

// joinsAnew lets alice join by an external Commit that replaces her leaf.
func (s *siege) joinsAnew() error {
	return s.sends(s.group.Commit(mlstest.CommitOptions{
		Joiner:    s.group.NewClient(mlstest.Identity(alice, "ALICE")),
		Proposals: []*mlstest.Proposal{s.group.Remove(0)},
	}))
}

func (s *siege) sends(c *mlstest.Commit) error {
	_, err := s.submit(serverA, alice, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome})
	if err == nil {
		s.group = c.Next
	}
	return err
}

// TestNobodyBlocks: no user can keep honest members from committing for longer than one refused request. While
// everybody stays in the room, the server accepts alice's Commit of all pending proposals, with any proposals by
// others. After a refusal, a client that can choose proposals succeeds with its choice, and a client that cannot joins
// anew. A user who has left is out of the group after the next Commit.
func TestNobodyBlocks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSiege(t)
		clear(s.Room.Power)
		s.Room.Power[alice] = 101
		for _, user := range []string{bob, carol} {
			s.Room.Power[user] = rapid.SampledFrom([]int64{0, 50, 100}).Draw(rt, "power")
		}
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			if rapid.IntRange(0, 5).Draw(rt, "leaves") == 0 {
				s.departed = true
				s.leave(serverA, rapid.SampledFrom([]string{bob, carol, dave}).Draw(rt, "who"))
				continue
			}
			user, message := s.draw(rt)
			_, err := s.submit(serverA, user, &api.SubmitRequest{Message: message})
			if mimiport.KindOf(err) == mimiport.KindInternal && err != nil {
				rt.Fatal(err)
			}
		}
		s.relieve(rt)
	})
}

// relieve lets alice commit, and checks the members of the group after it.
func (s *siege) relieve(t *rapid.T) {
	all, chosen := s.pending(t)
	err := s.commits(all)
	switch {
	case err != nil && !s.departed:
		t.Fatalf("all %d that are pending: %v", len(all), err)
	case err != nil && rapid.Bool().Draw(t, "chooses"):
		err = s.commits(chosen)
	case err != nil:
		if err = s.joinsAnew(); err == nil {
			s.run()
			_, chosen = s.pending(t)
			err = s.commits(chosen)
		}
	}
	if err != nil {
		t.Fatalf("after one refusal: %v", err)
	}
	g, err := s.services[serverA].Group(s.t.Context(), caller(alice), s.id)
	if err != nil {
		t.Fatal(err)
	}
	if g.State == "closed" {
		return // a user with enough power has closed the group
	}
	for _, user := range []string{bob, carol, dave} {
		if !s.Room.Joined[user] && s.isMember(user) {
			t.Fatalf("%s has left the room, and is in the group", user)
		}
	}
}

// isMember says whether a user has a leaf.
func (s *siege) isMember(user string) bool {
	for _, leaf := range s.group.Leaves() {
		id, err := mimiport.UnmarshalLeafIdentity(s.group.Client(leaf).Identity())
		if err != nil {
			s.t.Fatal(fmt.Errorf("leaf %d: %w", leaf, err))
		}
		if id.UserID == user {
			return true
		}
	}
	return false
}
