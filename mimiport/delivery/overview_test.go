package delivery_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

func (p *play) shownTo(ds string) *api.AdminGroup {
	p.t.Helper()
	return must(p.services[ds].AdminGroup(p.t.Context(), p.id))(p.t)
}

// TestShowsGroup: an operator sees a group's members by server, who may move it where, and after a move where it went.
func TestShowsGroup(t *testing.T) {
	p := newPlay(t)
	g := p.shownTo(serverA)
	want := &api.Hosted{
		Members: 2, Servers: []api.ServerMembers{
			{Server: serverA, Users: 1, Leaves: 1}, {Server: serverB, Users: 1, Leaves: 1},
		},
		PendingRemovals: []api.PendingLeaf{},
		Moves: &api.Moves{
			Movable: api.MovableYes, Users: []string{bob, alice}, Total: 2, Targets: []string{serverB}, Why: []api.Reason{},
		},
	}
	if diff := cmp.Diff(want, g.Hosted); diff != "" || g.LastCommit != 0 || g.MovedTo != nil {
		t.Errorf("%+v %s", g, diff)
	}
	p.commit(serverA, alice, mlstest.CommitOptions{})
	if g = p.shownTo(serverA); g.LastCommit == 0 || g.Hosted.Members != 2 {
		t.Errorf("after a Commit: %+v", g)
	}
	p.Room.Power[bob] = 0
	if m := p.shownTo(serverA).Hosted.Moves; m.Movable != api.MovableAsk || m.Why[0].Rule != "no_own_user" {
		t.Errorf("only a user of the source has the power: %+v", m)
	}
	p.Room.Power[alice] = 0
	if m := p.shownTo(serverA).Hosted.Moves; m.Movable != api.MovableNo || m.Why[0].Rule != "no_power" || m.Total > 0 {
		t.Errorf("nobody has the power: %+v", m)
	}
	p.allow(serverA, `{"source":"server_admin"}`)
	p.Room.Admins = []string{alice, bob}
	if m := p.shownTo(serverA).Hosted.Moves; !cmp.Equal(m.Users, []string{alice}) {
		t.Errorf("the administrator: %+v", m)
	}
	p.allow(serverA, `{"source":"any_member"}`)
	p.move(serverA, serverB, bob)
	g = p.shownTo(serverA)
	if diff := cmp.Diff(&api.MovedTo{Server: serverB, Term: 1}, g.MovedTo); diff != "" || g.Hosted != nil {
		t.Errorf("after the move: %+v %s", g, diff)
	}
	if g = p.shownTo(serverB); g.State != "active" || g.Hosted.Members != 2 {
		t.Errorf("at the target: %+v", g)
	}
}

// TestShowsPendingRemovals: a leaf whose removal is proposed is shown, and its user is no mover.
func TestShowsPendingRemovals(t *testing.T) {
	p := newExternalPlay(t)
	p.leave(serverA, carol)
	h := p.shownTo(serverA).Hosted
	if len(h.PendingRemovals) != 1 || h.PendingRemovals[0].UserID != carol {
		t.Errorf("%+v", h)
	}
}

// TestShowsStopped: an operator sees the members of a stopped group, and why nobody can move it.
func TestShowsStopped(t *testing.T) {
	p := newPlay(t)
	stopped := must(p.stores[serverA].Group(t.Context(), p.id))(t)
	stopped.State = migration.GroupStopped
	if err := p.stores[serverA].Apply(t.Context(), &storage.Change{Group: stopped}); err != nil {
		t.Fatal(err)
	}
	h := p.shownTo(serverA).Hosted
	if h.Members != 2 || h.Moves.Movable != api.MovableNo || h.Moves.Why[0].Rule != "stopped" {
		t.Errorf("%+v", h)
	}
}

// TestListsGroups: the total counts all pages, and a group that cannot be read hides no other.
func TestListsGroups(t *testing.T) {
	p := newPlay(t)
	for range 3 {
		must(p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room}))(t)
	}
	list := func(f storage.GroupFilter, after []byte, limit int) ([]api.AdminGroup, int) {
		t.Helper()
		groups, total, err := p.services[serverA].AdminGroups(t.Context(), f, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		return groups, total
	}
	first, total := list(storage.GroupFilter{}, nil, 3)
	rest, again := list(storage.GroupFilter{}, first[2].GroupID, 3)
	if len(first) != 3 || len(rest) != 1 || total != 4 || again != 4 {
		t.Errorf("%d and %d of %d and %d", len(first), len(rest), total, again)
	}
	svc := p.services[serverA]
	deps := svc.Deps
	deps.Engines = nil
	groups, _, err := delivery.New(deps).AdminGroups(t.Context(), storage.GroupFilter{}, nil, 10)
	faults := 0
	for _, g := range groups {
		if g.Fault != "" && g.Hosted == nil {
			faults++
		}
	}
	if err != nil || len(groups) != 4 || faults != 1 {
		t.Errorf("%d groups, %d faults, %v", len(groups), faults, err)
	}
}

// TestStatus: the status counts what is here, and names the origin of each value of the policy.
func TestStatus(t *testing.T) {
	p := newPlay(t)
	p.RestartWith(serverA, func(d *delivery.Deps) {
		d.DefaultPolicy.Recover, d.ConfiguredPolicy = true, []string{"recover"}
		d.About = api.About{Module: "v1", Database: "SQLite", Schema: 13}
	})
	p.allow(serverA, `{"target":"nobody","quotas":{"members":7}}`)
	p.Service(serverA).SetPeers(func() []api.FailingPeer { return []api.FailingPeer{{Server: serverB}} })
	st := must(p.Service(serverA).Status(t.Context()))(t)
	if st.Groups["active"] != 1 || len(st.Groups) != 8 || st.Members != 2 || st.Module != "v1" || len(st.Peers) != 1 {
		t.Errorf("%+v", st)
	}
	for path, want := range map[string]api.PolicyValue{
		"source":          {Value: policy.SourcePowerLevel, Origin: api.OriginDefault},
		"recover":         {Value: true, Origin: api.OriginSection},
		"target":          {Value: policy.TargetNobody, Origin: api.OriginAdministrator},
		"quotas.members":  {Value: 7, Origin: api.OriginAdministrator},
		"quotas.reserved": {},
	} {
		if got := st.Policy[path]; got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	must(p.Service(serverA).SetPolicy(t.Context(), json.RawMessage(`{"preset":"section","recover":false}`)))(t)
	origins := must(p.Service(serverA).PolicyOrigins(t.Context()))(t)
	if origins["target"].Origin != api.OriginDefault || origins["recover"].Origin != api.OriginAdministrator {
		t.Errorf("after the return to the file: %+v", origins)
	}
}

// silent is a store that does not answer.
type silent struct{ storage.Store }

func (silent) Setting(ctx context.Context, _ string) (json.RawMessage, error) {
	return nil, errors.New("connection to 10.0.0.1 refused")
}

// TestHealth: a server whose database does not answer is unhealthy, and reveals no details.
func TestHealth(t *testing.T) {
	p := newPlay(t)
	if err := p.services[serverA].Health(t.Context()); err != nil {
		t.Error(err)
	}
	deps := p.services[serverA].Deps
	deps.Store = silent{deps.Store}
	if err := delivery.New(deps).Health(t.Context()); err == nil || err.Error() != "the database does not answer" {
		t.Error(err)
	}
}

// TestAuditLog: an act is in the log before it begins, and its end comes later. A failure is an end too.
func TestAuditLog(t *testing.T) {
	p := newPlay(t)
	svc := p.services[serverA]
	log := func() []api.AuditEntry { return must(svc.AuditLog(t.Context(), storage.AuditID{}, 10))(t) }
	e := storage.AuditEntry{Actor: alice, Action: storage.AuditPolicy, Before: []byte(`{"target":"nobody"}`)}
	err := svc.Record(t.Context(), e, func() (any, error) {
		if all := log(); len(all) != 1 || all[0].After != nil || string(all[0].Before) != `{"target":"nobody"}` {
			t.Errorf("during the act: %+v", all)
		}
		return map[string]string{"target": "local_users"}, nil
	})
	if all := log(); err != nil || len(all) != 1 || string(all[0].After) != `{"target":"local_users"}` {
		t.Errorf("after the act: %+v, %v", all, err)
	}
	p.now = p.now.Add(time.Second)
	failure := errors.New("no")
	if err := svc.Record(t.Context(), e, func() (any, error) { return nil, failure }); !errors.Is(err, failure) {
		t.Error(err)
	}
	if all := log(); len(all) != 2 || string(all[0].After) != `{"error":"no"}` {
		t.Errorf("after a failure: %+v", all)
	}
}

// TestReadersObeyACL: the readers of a room's groups are its joined users, but for those of a denied server.
func TestReadersObeyACL(t *testing.T) {
	p := newPlay(t)
	readers := func() *api.Readers {
		return must(p.services[serverA].Readers(t.Context(), deliverytest.RoomID))(t)
	}
	if r := readers(); !r.Known || !slices.Contains(r.Users, alice) || !slices.Contains(r.Users, bob) {
		t.Errorf("got %+v", r)
	}
	p.Room.Denied = []string{serverB}
	if r := readers(); !slices.Contains(r.Users, alice) || slices.Contains(r.Users, bob) {
		t.Errorf("with an ACL: got %+v", r)
	}
}
