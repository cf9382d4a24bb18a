package kill

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

// audit kills all servers, checks what they have stored, and starts them again. Exactly one of them, host, has the group.
func (p *party) audit(t *testing.T, host int) {
	t.Helper()
	for i, s := range p.servers {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		state := audit(t, s.Name, p.stores[i])
		if want := i == host; (state == migration.GroupActive) != want {
			t.Errorf("at %s the group is %s", s.Name, state)
		}
	}
	for _, s := range p.servers {
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// audit checks the database of a server that is down, and returns the state of its only group, empty where it has none.
func audit(t *testing.T, server, connection string) (state migration.GroupState) {
	t.Helper()
	store, err := engine.Open(t.Context(), connection, postgres.Pool{MaxOpen: 2, MaxIdle: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	rfc9420 := mls.RFC9420(mls.DefaultLimits())
	report, err := fsck.Check(t.Context(), store, map[string]mls.Engine{rfc9420.Protocol(): rfc9420})
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range report.Problems {
		t.Errorf("%s: %s", server, problem)
	}
	loose, err := store.Loose(t.Context())
	if err != nil || len(loose) > 0 {
		t.Errorf("%s: %q %v", server, loose, err)
	}
	groups, err := store.Groups(t.Context(), nil, 2)
	if err != nil || len(groups) > 1 {
		t.Fatal(len(groups), err)
	}
	if len(groups) == 1 {
		state = groups[0].State
	}
	return state
}

// askPeers lets each server that is down ask the others, as an operator does before it starts again.
func (p *party) askPeers(t *testing.T) {
	t.Helper()
	for i, s := range p.servers {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		fsck := exec.CommandContext(t.Context(), "go", "run", "github.com/matrix-org/dendrite/contrib/mimi/cmd/mimictl",
			"fsck", "-db", p.stores[i], "-peers", filepath.Join(s.Dir, "matrix_key.pem"))
		fsck.Env = append(os.Environ(), "SSL_CERT_FILE="+filepath.Join(filepath.Dir(s.Dir), "tls.crt"))
		if out, err := fsck.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", s.Name, err, out)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
