package kill

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
)

// section is the default section with a short decide_by. It raises the quotas, as the tests try many moves. Users of
// any server in the room may move the group.
const section = harness.Section + `
  decide_by: 3s
  policy: {target: joined_servers, quotas: {moves_per_hour: 0, aborts_an_hour: 0, offers: 0}}
`

// group is a group with one member on each of some homeservers. It moves between the first two of them.
type group struct {
	*party.Party
	network *harness.TestNetwork
	servers []*harness.Server
	stores  []string // the connection strings of the module's databases
	movers  [2]int   // by target: the member who moves the group to it

	mu     sync.Mutex // guards the fields below
	said   int
	owed   [][]string        // by member: the acknowledged messages that the member must receive
	epochs map[uint64]string // confirmed transcript hashes of the epochs of acknowledged Commits
}

// newGroup starts a server with each section, and makes a group with a member on each. The first server hosts it.
func newGroup(t *testing.T, network *harness.TestNetwork, sections ...string) *group {
	t.Helper()
	g := &group{network: network, movers: [2]int{0, 1}, epochs: map[uint64]string{}}
	g.owed = make([][]string, len(sections))
	var users []*harness.User
	for i, section := range sections {
		s := network.StartServer(t, section)
		g.servers, g.stores = append(g.servers, s), append(g.stores, s.Store())
		users = append(users, harness.RegisterUser(t, s, []string{"alice", "bob", "carol"}[i], false))
	}
	g.Party = party.Gather(t, users...)
	return g
}

// newLinkedGroup makes a group on three servers with links between them. The group moves between the servers of alice
// and bob. carol is on the third server and moves it.
func newLinkedGroup(t *testing.T) *group {
	t.Helper()
	network := harness.NewTestNetwork(t)
	network.Links = harness.NewLinks()
	g := newGroup(t, network, section, section, section)
	g.movers = [2]int{2, 2}
	return g
}

// requirePointer waits until the room's pointer names the server that has the group.
func (g *group) requirePointer(t *testing.T) {
	t.Helper()
	host := g.servers[g.requireSettled(t)].Name
	if _, err := g.Members[0].User.AwaitPointer(harness.Within(t), g.Room, host, 0); err != nil {
		t.Fatal(err)
	}
}

// requireSettled waits until all members and the Delivery Service have the same state of the group. It fails the test
// if an acknowledged Commit is lost. It returns the index of the Delivery Service's server.
func (g *group) requireSettled(t *testing.T) (host int) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		states := make([]harness.GroupState, len(g.Members))
		for i, c := range g.Members {
			if err := c.Do(ctx, "sync", nil, &states[i]); err != nil {
				return err
			}
		}
		at := states[0]
		for epoch := range g.epochs {
			if epoch > at.Epoch {
				return fmt.Errorf("the acknowledged Commit to epoch %d is lost: the group is in epoch %d", epoch, at.Epoch)
			}
		}
		host = slices.IndexFunc(g.servers, func(s *harness.Server) bool { return s.Name == at.DS })
		return party.Agree(ctx, g.Members[0], states...)
	})
	if err != nil {
		t.Fatal(err)
	}
	return host
}
