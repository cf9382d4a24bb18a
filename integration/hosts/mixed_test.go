package hosts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// TestMixedFederation: a group lives on a server of Dendrite v0.13.8 and one of the fork. A user of v0.13.8 has made
// the room.
func TestMixedFederation(t *testing.T) {
	onSQLite(t, func(t *testing.T, n *harness.TestNetwork) {
		old := n.StartServer(t, harness.Section)
		n.Binary = forked(t)
		there(t, old, n.StartServer(t, harness.Section))
	})
}

// TestMixedFederationBack: a user of the fork has made the room. The fork's server has its NATS outside. It is one NATS
// server: the fork would read a stream no more that has no leader yet, as with three (docs/scaling.md).
func TestMixedFederationBack(t *testing.T) {
	onPostgres(t, func(t *testing.T, n *harness.TestNetwork) {
		old := n.StartServer(t, harness.Section)
		n.Binary, n.NATS = forked(t), harness.StartOneNATS(t).Addresses()
		there(t, n.StartServer(t, harness.Section), old)
	})
}

// there plays a group that is made at home, moves away, and comes back. A member is kicked on the way.
func there(t *testing.T, home, away *harness.Server) {
	t.Helper()
	p := gather(t, home, away)
	p.Talk(t)
	p.Move(t, p.Members[1], away)
	p.RequireAt(t, away, 1)
	p.Talk(t)
	requireKickedRemoved(t, p, newUser(t, home))
	p.Move(t, p.Members[0], home)
	p.RequireAt(t, home, 2)
	p.Talk(t)
}

// gather makes a group of new users of two servers. The first creates it.
func gather(t *testing.T, first, second *harness.Server) *party.Party {
	t.Helper()
	return party.Gather(t, newUser(t, first), newUser(t, second))
}

// newUser registers a user with a name that nobody has.
func newUser(t *testing.T, s *harness.Server) *harness.User {
	t.Helper()
	return harness.RegisterUser(t, s, strings.ToLower(rand.Text()), false)
}

// requireKickedRemoved lets the first member add a user and then kick the user from the room. The next Commit must
// remove the leaf. The user is on the first member's server: an invitation from another may come after the join.
func requireKickedRemoved(t *testing.T, p *party.Party, u *harness.User) {
	t.Helper()
	creator, members := p.Members[0], len(p.Members)
	harness.Admit(t, creator.User, p.Room, u)
	c := harness.StartTestClient(t, u)
	harness.Do(t, c, "publish_key_packages", nil, nil)
	harness.Do(t, creator, "add", harness.Args{"user": u.ID}, nil)
	harness.Do(t, c, "join", nil, nil)
	if err := creator.User.Kick(harness.Within(t), p.Room, u.ID); err != nil {
		t.Fatal(err)
	}
	harness.Do(t, creator, "wait_for", harness.Args{"kind": "state", "pending_proposals": 1}, nil)
	harness.Do(t, creator, "update", nil, nil)
	harness.Do(t, c, "wait_for", harness.Args{"kind": "removed"}, nil)
	if at := p.RequireSettled(t); len(at.Members) != members {
		t.Errorf("there are %d members after the kick", len(at.Members))
	}
}

// TestUpgradeToFork: a homeserver of Dendrite v0.13.8 goes on as one of the fork, with its groups, its redirects and a
// migration that was under way.
func TestUpgradeToFork(t *testing.T) {
	onPostgres(t, testUpgradeToFork)
}

func testUpgradeToFork(t *testing.T, n *harness.TestNetwork) {
	n.Links = harness.NewLinks()
	patient := harness.Section + "  decide_by: 10m\n"
	a, b := n.StartServer(t, patient), n.StartServer(t, patient)
	stays, gone := gather(t, a, b), gather(t, a, b)
	gone.Move(t, gone.Members[1], b)
	gone.RequireAt(t, b, 1)
	admin := harness.RegisterUser(t, a, "admin", true)
	going, end := stuck(t, n, admin, a, b)

	if err := errors.Join(a.Stop(), a.Upgrade(forked(t)), a.Start(harness.Within(t))); err != nil {
		t.Fatal(err)
	}
	if !underWay(t, admin, going.Group) {
		t.Error("after the upgrade, no migration is under way")
	}
	n.Links.Mend()
	if out := end(); out.State != party.Moved {
		t.Errorf("the migration that was under way: %+v", out)
	}
	going.RequireAt(t, b, 1)
	var host api.HostResponse
	harness.Do(t, gone.Members[0], "host", harness.Args{"ds": a.Name}, &host)
	if host.DeliveryService != b.Name || host.Term != 1 {
		t.Errorf("the redirect says %+v", host)
	}
	for _, p := range []*party.Party{stays, gone, going} {
		p.Talk(t)
	}
	stays.Move(t, stays.Members[1], b)
	stays.RequireAt(t, b, 1)
	going.Move(t, going.Members[0], a)
	going.RequireAt(t, a, 2)
}

// stuck makes a group whose migration from a to b is under way, and cannot end until the links are mended. A migration
// that is faster than this test ends, and another group follows.
func stuck(
	t *testing.T, n *harness.TestNetwork, admin *harness.User, a, b *harness.Server,
) (going *party.Party, end func() party.Outcome) {
	t.Helper()
	for range 5 {
		going = gather(t, a, b)
		n.Links.Set(a, b, harness.Slow)
		end = harness.Beside(t, func(ctx context.Context) (party.Outcome, error) {
			return party.Migrate(ctx, going.Members[1], b.Name)
		})
		awaitUnderWay(t, admin, going.Group)
		n.Links.Set(a, b, harness.Refused)
		if underWay(t, admin, going.Group) {
			return going, end
		}
		n.Links.Mend()
		end()
	}
	t.Fatal("no migration could be stopped")
	return nil, nil
}

// awaitUnderWay waits until a server's list has a migration of the group.
func awaitUnderWay(t *testing.T, admin *harness.User, group string) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(context.Context) error {
		if migrationOf(t, admin, group) == nil {
			return fmt.Errorf("there is no migration of %s", group)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// underWay reports whether a server's list has a migration of the group that is not decided.
func underWay(t *testing.T, admin *harness.User, group string) bool {
	t.Helper()
	m := migrationOf(t, admin, group)
	return m != nil && m.Confirmation == nil && m.Abort == nil
}

// migrationOf returns the migration of a group in a server's list, nil for none.
func migrationOf(t *testing.T, admin *harness.User, group string) *api.MigrationStatus {
	t.Helper()
	var list adminapi.Page[*api.MigrationStatus]
	err := admin.Do(harness.Within(t), http.MethodGet, adminapi.PathPrefix+"/migrations", nil, &list)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Items {
		if m.GroupID.String() == group {
			return m
		}
	}
	return nil
}
