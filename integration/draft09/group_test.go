package draft09_test

import (
	"os"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/audit"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/scenario"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	engine "github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
)

func TestMain(m *testing.M) {
	draft09.ServeClient()
	os.Exit(harness.Run(m))
}

// trio is a group of go-mls: alice and carol have accounts at A, bob at B. alice and bob may move it, and remove carol.
type trio struct {
	*testing.T
	*party.Party
	a, b              *harness.Server
	alice, bob, carol *harness.Client
}

func newTrio(t *testing.T, n *harness.TestNetwork) *trio {
	t.Helper()
	x := &trio{T: t, a: n.StartServer(t, harness.Section), b: n.StartServer(t, harness.Section)}
	alice, bob := harness.RegisterUser(t, x.a, "alice", false), harness.RegisterUser(t, x.b, "bob", false)
	carol := harness.RegisterUser(t, x.a, "carol", false)
	room := harness.SharedRoom(t, alice, bob)
	harness.Admit(t, alice, room, carol)
	x.alice, x.bob, x.carol = x.start(alice), x.start(bob), x.start(carol)
	var err error
	if x.Party, err = party.Create(harness.Within(t), x.alice, room); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *trio) start(u *harness.User) *harness.Client {
	return harness.RunClient(x, u, draft09.StartClient)
}

// do gives a client a command, and fails the test on an error.
func (x *trio) do(c *harness.Client, command string, args harness.Args) {
	x.Helper()
	harness.Do(x, c, command, args, nil)
}

// add lets alice add another user.
func (x *trio) add(c *harness.Client) {
	x.Helper()
	if err := x.Add(harness.Within(x), c); err != nil {
		x.Fatal(err)
	}
}

// remove lets a member remove another member.
func (x *trio) remove(by, c *harness.Client) {
	x.Helper()
	x.do(by, "remove", harness.Args{"user": c.User.ID})
	x.Members = slices.DeleteFunc(x.Members, func(m *harness.Client) bool { return m == c })
}

// requireAt fails the test unless all members and a server have the same group of go-mls, in this term.
func (x *trio) requireAt(ds *harness.Server, term uint64) {
	x.Helper()
	x.RequireAt(x, ds, term)
	var hosted api.GroupResponse
	harness.Do(x, x.alice, "ds_info", harness.Args{"ds": ds.Name}, &hosted)
	if hosted.Protocol != engine.Protocol {
		x.Fatalf("at %s it is a group of %s", ds.Name, hosted.Protocol)
	}
}

// live plays the life of the group: members are added, one member commits another's Update, the group moves twice, and
// a member is removed. The members send messages after each step.
func (x *trio) live() {
	x.add(x.bob)
	x.Talk(x)
	x.add(x.carol)
	x.requireAt(x.a, 0)
	x.Talk(x)

	x.do(x.carol, "propose_update", nil)
	x.Move(x, x.bob, x.b)
	x.requireAt(x.b, 1)
	x.Talk(x)
	x.do(x.alice, "propose_update", nil)
	x.do(x.carol, "update", nil)
	x.requireAt(x.b, 1)

	x.remove(x.bob, x.carol)
	x.requireAt(x.b, 1)
	x.Talk(x)
	x.requireOutside(x.carol)

	x.Move(x, x.alice, x.a)
	x.requireAt(x.a, 2)
	x.Talk(x)
	x.audit()
}

// requireOutside fails the test unless a removed member cannot send: the member's last epoch has ended, and the member
// has no keys of the next epoch.
func (x *trio) requireOutside(c *harness.Client) {
	x.Helper()
	err := c.Do(harness.Within(x), "send", harness.Args{"text": "still here"}, nil)
	harness.RequireRefused(x, err, "IO.GITHUB.MIMIPORT.M_WRONG_EPOCH")
}

// audit stops the servers and checks their databases: A has the group, and B had it.
func (x *trio) audit() {
	x.Helper()
	states := map[*harness.Server]migration.GroupState{x.a: migration.GroupActive, x.b: migration.GroupMoved}
	for s, want := range states {
		if err := s.Stop(); err != nil {
			x.Fatal(err)
		}
		if state := audit.Check(x, s.Name, s.Store(), engine.New()); state != want {
			x.Errorf("at %s the group is %s", s.Name, state)
		}
	}
}

func TestGroupLivesAndMoves(t *testing.T) { newTrio(t, harness.NewTestNetwork(t)).live() }

func TestGroupLivesAndMovesOnPostgres(t *testing.T) { newTrio(t, harness.NewPostgresNetwork(t)).live() }

// TestMove plays the demo's scenario with clients of go-mls.
func TestMove(t *testing.T) {
	n := harness.NewTestNetwork(t).Network
	if err := scenario.Move(harness.Within(t), n, draft09.StartClient, t.Log); err != nil {
		t.Fatal(err)
	}
}
