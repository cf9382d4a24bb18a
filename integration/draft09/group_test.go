package draft09_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/scenario"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	engine "github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	storage "github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

func TestMain(m *testing.M) {
	draft09.ServeClient()
	os.Exit(harness.Run(m))
}

// trio is a group of go-mls: alice and carol have accounts at A, bob at B. All of them may move it.
type trio struct {
	*testing.T
	a, b              *harness.Server
	alice, bob, carol *harness.Client
	group             string
	said              int
}

func newTrio(t *testing.T, n *harness.TestNetwork) *trio {
	t.Helper()
	x := &trio{T: t, a: n.StartServer(t, harness.Section), b: n.StartServer(t, harness.Section)}
	alice, bob := harness.RegisterUser(t, x.a, "alice", false), harness.RegisterUser(t, x.b, "bob", false)
	carol := harness.RegisterUser(t, x.a, "carol", false)
	room, err := alice.CreateRoom(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []*harness.User{bob, carol} {
		err := errors.Join(alice.Invite(t.Context(), room, u.ID), u.Join(t.Context(), room, x.a.Name), alice.SetPowerLevel(t.Context(), room, u.ID, 100))
		if err != nil {
			t.Fatal(err)
		}
	}
	x.alice, x.bob, x.carol = x.start(alice), x.start(bob), x.start(carol)
	var st harness.GroupState
	x.do(x.alice, "create_group", harness.Args{"room": room}, &st)
	x.group = st.Group
	return x
}

func (x *trio) start(u *harness.User) *harness.Client {
	x.Helper()
	c, err := draft09.StartClient(x.Context(), u)
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { _ = c.Kill() }) // it may have ended
	x.do(c, "publish_key_packages", nil, nil)
	return c
}

func (x *trio) do(c *harness.Client, command string, args harness.Args, out any) {
	x.Helper()
	ctx, cancel := context.WithTimeout(x.Context(), 2*harness.Patience)
	defer cancel()
	if err := c.Do(ctx, command, args, out); err != nil {
		x.Fatalf("%s: %s: %v", c.Name, command, err)
	}
}

// add lets alice add another user.
func (x *trio) add(c *harness.Client) {
	x.Helper()
	x.do(x.alice, "add", harness.Args{"user": c.User.ID}, nil)
	x.do(c, "join", nil, nil)
}

// talk lets each member send a message that all others decrypt.
func (x *trio) talk(members ...*harness.Client) {
	x.Helper()
	for _, from := range members {
		x.said++
		text := fmt.Sprintf("message %d", x.said)
		x.do(from, "send", harness.Args{"text": text}, nil)
		for _, to := range members {
			if to != from {
				x.do(to, "wait_for", harness.Args{"kind": "message", "text": text}, nil)
			}
		}
	}
}

// agree waits until the members are where the first of them is, and checks that they and the Delivery Service have the same group.
func (x *trio) agree(ds *harness.Server, term uint64, members ...*harness.Client) {
	x.Helper()
	var first harness.GroupState
	x.do(members[0], "state", nil, &first)
	for _, c := range members[1:] {
		var st harness.GroupState
		x.do(c, "wait_for", harness.Args{"kind": "state", "epoch": first.Epoch, "term": first.Term}, &st)
		if st.EpochAuthenticator != first.EpochAuthenticator || st.Epoch != first.Epoch || st.DS != first.DS {
			x.Fatalf("%s and %s differ:\n%+v\n%+v", members[0].Name, c.Name, first, st)
		}
	}
	var hosted api.GroupResponse
	x.do(members[0], "ds_info", harness.Args{"ds": ds.Name}, &hosted)
	here := harness.GroupState{
		Group: base64.RawURLEncoding.EncodeToString(hosted.GroupID), Room: hosted.RoomID, DS: ds.Name, Term: term, Epoch: hosted.Epoch,
		EpochAuthenticator: first.EpochAuthenticator, TreeHash: hex.EncodeToString(hosted.TreeHash),
		ConfirmedTranscriptHash: hex.EncodeToString(hosted.ConfirmedTranscriptHash), Members: first.Members,
	}
	if fmt.Sprint(here) != fmt.Sprint(first) || hosted.Term != term || hosted.Members != len(members) || hosted.Protocol != engine.Protocol {
		x.Fatalf("%s has %+v, %s has %+v", ds.Name, hosted, members[0].Name, first)
	}
}

// move lets a member move the group to their own server.
func (x *trio) move(c *harness.Client) {
	x.Helper()
	var end struct{ State, Reason string }
	x.do(c, "migrate", harness.Args{"target": c.User.Server.Name}, &end)
	if end.State != "moved" {
		x.Fatalf("the migration has ended as %+v", end)
	}
}

// live is the life of the group: adds, an Update that another member commits, two moves, a removal, and messages all the while.
func (x *trio) live() {
	x.add(x.bob)
	x.talk(x.alice, x.bob)
	x.add(x.carol)
	x.agree(x.a, 0, x.alice, x.bob, x.carol)
	x.talk(x.alice, x.bob, x.carol)

	x.do(x.carol, "propose_update", nil, nil)
	x.move(x.bob)
	x.agree(x.b, 1, x.bob, x.alice, x.carol)
	x.talk(x.alice, x.bob, x.carol)
	x.do(x.alice, "propose_update", nil, nil)
	x.do(x.carol, "update", nil, nil)
	x.agree(x.b, 1, x.carol, x.alice, x.bob)

	x.do(x.bob, "remove", harness.Args{"user": x.carol.User.ID}, nil)
	x.agree(x.b, 1, x.bob, x.alice)
	x.talk(x.alice, x.bob)
	x.outside(x.carol)

	x.move(x.alice)
	x.agree(x.a, 2, x.alice, x.bob)
	x.talk(x.alice, x.bob)
	x.audit()
}

// outside checks that one who was removed can send nothing any more: their last epoch is over, and they get no keys of the next.
func (x *trio) outside(c *harness.Client) {
	x.Helper()
	err := c.Do(x.Context(), "send", harness.Args{"text": "still here"}, nil)
	var refused *harness.Error
	if !errors.As(err, &refused) || refused.Code != "IO.GITHUB.MIMIPORT.M_WRONG_EPOCH" {
		x.Fatalf("%s sends after their removal: %v", c.Name, err)
	}
}

// audit stops the servers and derives anew all that they have stored.
func (x *trio) audit() {
	x.Helper()
	for _, s := range []*harness.Server{x.a, x.b} {
		if err := s.Stop(); err != nil {
			x.Fatal(err)
		}
		store, err := storage.Open(x.Context(), cmp.Or(s.Postgres, s.Database("mimi_portability")), postgres.Pool{MaxOpen: 2, MaxIdle: 2})
		if err != nil {
			x.Fatal(err)
		}
		report, err := fsck.Check(x.Context(), store, map[string]mls.Engine{engine.Protocol: engine.New()})
		if err := errors.Join(err, store.Close()); err != nil {
			x.Fatal(err)
		}
		if report.Groups == 0 || len(report.Problems) > 0 {
			x.Errorf("%s: %+v", s.Name, report)
		}
	}
}

func TestGroupLivesAndMoves(t *testing.T) {
	newTrio(t, harness.NewTestNetwork(t)).live()
}

func TestGroupLivesAndMovesOnPostgres(t *testing.T) {
	databases, network := pgtest.Start(t), harness.NewTestNetwork(t)
	network.Postgres = func() string { return databases.Database(t) }
	newTrio(t, network).live()
}

// TestMove plays what the demo shows.
func TestMove(t *testing.T) {
	if err := scenario.Move(harness.Within(t), harness.NewTestNetwork(t).Network, draft09.StartClient, func(line string) { t.Log(line) }); err != nil {
		t.Fatal(err)
	}
}
