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

// section is the default with a short time to decide, without the quotas that so many attempts would use up, and for a
// group that users of any server in its room may move.
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
	movers  [2]int   // by target: the member who moves the group there

	mu     sync.Mutex // guards what follows
	said   int
	owed   [][]string        // by member: what they have to receive, for its sending was acknowledged
	epochs map[uint64]string // the transcript of each epoch that a Commit was acknowledged to lead to
}

// newGroup makes a group on servers with a section each. The first server has it.
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

// newLinkedGroup makes a group on three servers with links between them: alice and bob have one that the group moves to
// and from each, carol has a third one and moves it.
func newLinkedGroup(t *testing.T) *group {
	t.Helper()
	network := harness.NewTestNetwork(t)
	network.Links = harness.NewLinks()
	g := newGroup(t, network, section, section, section)
	g.movers = [2]int{2, 2}
	return g
}

// requireSettled fails the test unless all members and the Delivery Service come to have the same group, which has lost
// no Commit that was acknowledged. It returns which server that Delivery Service is.
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
				return fmt.Errorf("a Commit that led to epoch %d is lost: this is epoch %d", epoch, at.Epoch)
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
