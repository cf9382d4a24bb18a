package integration

import (
	"net/http"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// TestRestoredBackup: the source restores a backup from before a migration, and so believes that it hosts the group. A
// member shows it its own confirmation. It then stops and redirects, and the group can move back to it.
func TestRestoredBackup(t *testing.T) {
	p := newPair(t)
	a, b := p.alice.User.Server, p.bob.User.Server
	putBack := harness.BackUp(t, a)
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
	// A client that reads its former host's log may have shown the confirmation already.
	shown := api.LineageRequest{Lineage: host(b.Name).Lineage}
	route := at(a.Name, "/groups/"+p.Group+"/lineage")
	if err := p.bob.User.Do(harness.Within(t), http.MethodPut, route, shown, nil); err != nil {
		t.Fatal(err)
	}
	if h := host(a.Name); h.DeliveryService != b.Name || h.Moved == nil {
		t.Errorf("the source has seen its own confirmation, and says that the group is at %s", h.DeliveryService)
	}
	p.Talk(t)
	p.Move(t, p.alice, a)
	p.RequireAt(t, a, 2)
}
