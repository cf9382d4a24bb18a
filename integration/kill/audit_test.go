package kill

import (
	"os"
	"os/exec"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/audit"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

// audit kills all servers, checks their databases, and starts them again. Exactly one server, host, must have the
// group.
func (g *group) audit(t *testing.T, host int) {
	t.Helper()
	var starts []func(*testing.T)
	for i, s := range g.servers {
		starts = append(starts, kill(t, s))
		state := audit.Check(t, s.Name, g.stores[i], mls.RFC9420(mls.DefaultLimits()))
		if want := i == host; (state == migration.GroupActive) != want {
			t.Errorf("at %s the group is %s", s.Name, state)
		}
	}
	for _, start := range starts {
		start(t)
	}
}

// askPeers kills each server, and asks the other servers for its groups, as an operator does before a start.
func (g *group) askPeers(t *testing.T) {
	t.Helper()
	for i, s := range g.servers {
		start := kill(t, s)
		fsck := exec.CommandContext(t.Context(), "go", "run", "github.com/matrix-org/dendrite/contrib/mimi/cmd/mimictl",
			"fsck", "-db", g.stores[i], "-peers", s.SigningKeyFile(), "-allow-private-networks")
		fsck.Env = append(os.Environ(), "SSL_CERT_FILE="+g.network.CertFile())
		if out, err := fsck.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", s.Name, err, out)
		}
		start(t)
	}
}
