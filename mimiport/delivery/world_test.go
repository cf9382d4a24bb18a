package delivery_test

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

const (
	serverA = "a.example"
	serverB = "b.example"
	room    = deliverytest.RoomID
	alice   = "@alice:a.example"
	bob     = "@bob:b.example"
)

// world is A and B with their default quotas, both engines, and one clock. The test sets the clock.
type world struct {
	*deliverytest.World
	t        *testing.T
	now      time.Time
	services map[string]*delivery.Service // the World's
	stores   map[string]storage.Store     // the World's
	lost     func(to, what string) bool   // says which requests and votes the network loses
}

func newWorld(t *testing.T) *world {
	w := &world{World: deliverytest.New(0, nil), t: t, now: time.Unix(1_700_000_000, 0).UTC()}
	w.services, w.stores = w.Services, w.Stores
	w.lost = func(string, string) bool { return false }
	w.Lose = func(m deliverytest.Message) bool { return m.What != "answer" && w.lost(m.To, m.What) }
	w.Logf = t.Logf
	w.Room.Join(alice, bob)
	w.addServer(serverA)
	w.addServer(serverB)
	return w
}

// addServer adds a Delivery Service to the world.
func (w *world) addServer(name string) {
	w.Add(name, memory.New())
	w.RestartWith(name, func(d *delivery.Deps) {
		d.Engines = map[string]mls.Engine{"mls10": mls.RFC9420(mls.DefaultLimits()), draft09.Protocol: draft09.New()}
		d.Now = func() time.Time { return w.now }
		d.DefaultPolicy = policy.Default()
	})
}

// run does due rows at all servers until no row is due. The servers try failed rows again later.
func (w *world) run() {
	w.t.Helper()
	if err := w.Run(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) runOnce() {
	w.t.Helper()
	if _, err := w.WorkAll(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// caller is a user for whom the user's homeserver vouches.
func caller(user string) api.Caller { return deliverytest.Caller(user) }
