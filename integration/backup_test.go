package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

// TestRestoredBackup: a server whose database is put back to before a migration hosts the group again in its own eyes. Shown its own
// confirmation by a member it stops and redirects, and the group can come back to it.
func TestRestoredBackup(t *testing.T) {
	servers := harness.StartServers(t, 2)
	a, b := servers[0], servers[1]
	p := newPairAt(t, a, b)
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	database := filepath.Join(a.Dir, "mimi_portability.db")
	backup, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	do(t, p.bob, "migrate", harness.Args{"target": b.Name}, nil)
	p.settle(t)

	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(database, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	host := func(ds string) (h delivery.HostResponse) {
		t.Helper()
		if err := p.bob.User.Do(harness.Within(t), http.MethodGet, at(ds, "/groups/"+p.group+"/host"), nil, &h); err != nil {
			t.Fatal(err)
		}
		return h
	}
	if h := host(a.Name); h.DeliveryService != a.Name {
		t.Errorf("the restored server says that the group is at %s", h.DeliveryService)
	}
	shown := delivery.LineageRequest{Lineage: host(b.Name).Lineage}
	if err := p.bob.User.Do(harness.Within(t), http.MethodPut, at(a.Name, "/groups/"+p.group+"/lineage"), shown, nil); err != nil {
		t.Fatal(err)
	}
	if h := host(a.Name); h.DeliveryService != b.Name || h.Moved == nil {
		t.Errorf("after it was shown where the group is, it says %s", h.DeliveryService)
	}
	p.talk(t)
	do(t, p.alice, "migrate", harness.Args{"target": a.Name}, nil)
	if ds := p.settle(t); ds.DS != a.Name || ds.Term != 2 {
		t.Errorf("the group is at %s in term %d", ds.DS, ds.Term)
	}
}
