package integration

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// TestRestoredBackup: a server whose database is put back to before a migration hosts the group again in its own eyes. Shown its own
// confirmation by a member it stops and redirects, and the group can come back to it.
func TestRestoredBackup(t *testing.T) {
	p := newPair(t)
	a, b := p.alice.User.Server, p.bob.User.Server
	putBack := backUp(t, a)
	p.Move(t, p.bob, b)
	p.RequireSettled(t)

	putBack()
	host := func(ds string) (h api.HostResponse) {
		t.Helper()
		route := at(ds, "/groups/"+p.Group+"/host")
		if err := p.bob.User.Do(harness.Within(t), http.MethodGet, route, nil, &h); err != nil {
			t.Fatal(err)
		}
		return h
	}
	// A client that had not seen the end of its former host's log may have shown it by now, unasked.
	shown := api.LineageRequest{Lineage: host(b.Name).Lineage}
	route := at(a.Name, "/groups/"+p.Group+"/lineage")
	if err := p.bob.User.Do(harness.Within(t), http.MethodPut, route, shown, nil); err != nil {
		t.Fatal(err)
	}
	if h := host(a.Name); h.DeliveryService != b.Name || h.Moved == nil {
		t.Errorf("after it was shown where the group is, it says %s", h.DeliveryService)
	}
	p.Talk(t)
	p.Move(t, p.alice, a)
	p.RequireAt(t, a, 2)
}

// backUp stops a server, keeps its module's database as it is, and starts it again. The result puts the database back in the same way.
func backUp(t *testing.T, s *harness.Server) (putBack func()) {
	t.Helper()
	database := filepath.Join(s.Dir, "mimi_portability.db")
	var backup []byte
	whileDown(t, s, func() (err error) {
		backup, err = os.ReadFile(database)
		return err
	})
	return func() {
		t.Helper()
		whileDown(t, s, func() error { return os.WriteFile(database, backup, 0o600) })
	}
}

// whileDown does something while a server is down.
func whileDown(t *testing.T, s *harness.Server, do func() error) {
	t.Helper()
	if err := errors.Join(s.Stop(), do(), s.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
}
