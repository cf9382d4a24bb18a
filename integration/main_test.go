package integration

import (
	"errors"
	"os"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
)

func TestMain(m *testing.M) { os.Exit(harness.Run(m)) }

// pair is a group of alice and bob, on two homeservers. alice has created it, and both may move it.
type pair struct {
	*party.Party
	alice, bob *harness.Client
}

func newPair(t *testing.T) *pair {
	t.Helper()
	servers := harness.StartServers(t, 2)
	return newPairAt(t, servers[0], servers[1])
}

// newPairAt makes a pair on running servers: a is alice's, b is bob's.
func newPairAt(t *testing.T, a, b *harness.Server) *pair {
	t.Helper()
	p := party.Gather(t, harness.RegisterUser(t, a, "alice", false), harness.RegisterUser(t, b, "bob", false))
	return &pair{p, p.Members[0], p.Members[1]}
}

// restart kills a server, like a power cut, and starts it again.
func restart(t *testing.T, s *harness.Server) {
	t.Helper()
	if err := errors.Join(s.Kill(), s.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
}
