package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// away is a group of two members on the homeservers a and b. The group's host is a third server, lost, which the test
// will stop.
type away struct {
	*pair
	a, b, lost *harness.Server
	admins     map[*harness.Server]*harness.User
}

func newAway(t *testing.T) *away {
	t.Helper()
	return newAwayOn(t, harness.NewTestNetwork(t))
}

// newAwayOn makes the group on three new servers of a network.
func newAwayOn(t *testing.T, n *harness.TestNetwork) *away {
	t.Helper()
	servers := []*harness.Server{
		n.StartServer(t, harness.Section), n.StartServer(t, harness.Section), n.StartServer(t, harness.Section),
	}
	g := &away{a: servers[0], b: servers[1], lost: servers[2], admins: map[*harness.Server]*harness.User{}}
	g.pair = newPairAt(t, g.a, g.b)
	for _, s := range servers {
		admin := harness.RegisterUser(t, s, "admin", true)
		g.admins[s] = admin
		setPolicy(t, admin, policy{"target": "joined_servers", "recover": true, "accept_claims": true})
	}
	harness.Admit(t, g.alice.User, g.Room, g.admins[g.lost])
	g.Move(t, g.bob, g.lost)
	g.Talk(t)
	g.RequireSettled(t)
	return g
}

func (g *away) follow(t *testing.T, s *harness.Server) {
	t.Helper()
	for _, member := range []*harness.Client{g.alice, g.bob} {
		harness.Do(t, member, "follow", harness.Args{"ds": s.Name}, nil)
	}
}

// operate sends a request about the group to the admin API of an administrator's server.
func (p *pair) operate(t *testing.T, admin *harness.User, method, route string, body, answer any) {
	t.Helper()
	path := adminapi.PathPrefix + "/groups/" + p.Group + route
	if err := admin.Do(harness.Within(t), method, path, body, answer); err != nil {
		t.Fatalf("%s %s: %v", method, route, err)
	}
}

// recover recovers the group at an administrator's server from a member's copy.
func (p *pair) recover(t *testing.T, admin *harness.User, holder *harness.Client) {
	t.Helper()
	var held adminapi.RecoverRequest
	harness.Do(t, holder, "export", nil, &held)
	held.HostIsLost, held.AlthoughItAnswers = true, true // some hosts answer, and have lost their data
	p.operate(t, admin, http.MethodPost, "/recover", held, nil)
}

// commit lets one member make an empty Commit, and waits until the other member has followed.
func commit(t *testing.T, by, other *harness.Client) {
	t.Helper()
	var st harness.GroupState
	harness.Do(t, by, "update", nil, &st)
	harness.Do(t, other, "wait_for", harness.Args{"kind": "state", "epoch": st.Epoch, "term": st.Term}, nil)
}

// requireGoesOn checks that the members can send and commit, and that bob can move the group.
func (p *pair) requireGoesOn(t *testing.T, target *harness.Server, term uint64) {
	t.Helper()
	p.Talk(t)
	commit(t, p.bob, p.alice)
	commit(t, p.alice, p.bob)
	p.Move(t, p.alice, target)
	p.Talk(t)
	p.RequireAt(t, target, term)
}

// show sends a server the lineage of the group's host, as a member.
func (p *pair) show(t *testing.T, ds string) error {
	t.Helper()
	var host api.HostResponse
	harness.Do(t, p.alice, "host", nil, &host)
	route := at(ds, "/groups/"+p.Group+"/lineage")
	shown := api.LineageRequest{Lineage: host.Lineage}
	return p.alice.User.Do(harness.Within(t), http.MethodPut, route, shown, nil)
}

// TestReclaimed: the host of a group is lost after more Commits. The operator of the former host reclaims the group. A
// member in the epoch where the new term begins goes on. A member in a later epoch of the lost host rejoins. The group
// moves again. The lost host comes back, and yields to the claim that the room's pointer names. A client has set the
// pointer.
func TestReclaimed(t *testing.T) {
	g := newAway(t)
	harness.WhileDown(t, g.a, func() error {
		for range 3 {
			harness.Do(t, g.bob, "update", nil, nil)
		}
		return g.lost.Kill()
	})
	if alice, bob := harness.State(t, g.alice), harness.State(t, g.bob); alice.Epoch != bob.Epoch-3 {
		t.Fatalf("alice is in epoch %d, bob in %d", alice.Epoch, bob.Epoch)
	}
	g.operate(t, g.admins[g.a], http.MethodPost, "/reclaim", adminapi.ReclaimRequest{TargetIsLost: true}, nil)
	g.follow(t, g.a)
	g.RequireAt(t, g.a, 2)
	g.requireGoesOn(t, g.b, 3)

	if err := g.lost.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		// Dendrite sends nothing to a server that was down, until that server sends something.
		if _, err := g.admins[g.lost].Send(ctx, g.Room, "io.github.mimiport.test.back", struct{}{}); err != nil {
			return err
		}
		return g.show(t, g.lost.Name)
	})
	if err != nil {
		t.Fatal(err)
	}
	var host api.HostResponse
	harness.Do(t, g.alice, "host", harness.Args{"ds": g.lost.Name}, &host)
	if host.DeliveryService != g.a.Name || host.Moved == nil || len(host.Moved.LineageClaim) == 0 {
		t.Errorf("the lost server says that the group is at %s", host.DeliveryService)
	}
	g.Talk(t)
}

// TestRecovered: the host of a group is lost. The operator of another server recovers the group from a member's copy.
func TestRecovered(t *testing.T) {
	g := newAway(t)
	commit(t, g.bob, g.alice)
	before := g.RequireSettled(t)
	if err := g.lost.Kill(); err != nil {
		t.Fatal(err)
	}
	g.recover(t, g.admins[g.b], g.alice)
	g.follow(t, g.b)
	if at := g.RequireAt(t, g.b, 2); at.Epoch != before.Epoch {
		t.Errorf("the group is in epoch %d, not %d", at.Epoch, before.Epoch)
	}
	g.requireGoesOn(t, g.a, 3)
}

// TestRecoverStops: an operator recovers a group whose host is only down, and the room does not support the claim. When
// the host is back, it goes on and keeps the claim as evidence. The recovered group stops.
func TestRecoverStops(t *testing.T) {
	g := newAway(t)
	harness.WhileDown(t, g.lost, func() error {
		g.recover(t, g.admins[g.b], g.alice)
		return nil
	})
	send := func(ctx context.Context) error {
		body := api.SubmitRequest{Message: []byte{1}}
		return g.alice.User.Do(ctx, http.MethodPost, at(g.b.Name, "/groups/"+g.Group+"/messages"), body, nil)
	}
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		if err := send(ctx); harness.CodeOf(err) != prefix+"M_GROUP_STOPPED" {
			return fmt.Errorf("the recovered group answers %w", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, admin := range []*harness.User{g.admins[g.lost], g.admins[g.b]} {
		var evidence json.RawMessage
		g.operate(t, admin, http.MethodGet, "/evidence", nil, &evidence)
		if !strings.Contains(string(evidence), strconv.Quote(string(migration.EvidenceContested))) {
			t.Errorf("the operator sees the evidence %s", evidence)
		}
	}
	g.Talk(t)
	g.RequireAt(t, g.lost, 1)
}

// TestRestoredBehind: a host restores a backup from before several Commits. A member's receipt stops it, and it tells
// its operator. The operator recovers the group from a member's copy. No Commit is lost, and no member has to act.
func TestRestoredBehind(t *testing.T) {
	p := newPair(t)
	a := p.alice.User.Server
	p.Talk(t)
	admin := harness.RegisterUser(t, a, "admin", true)
	setPolicy(t, admin, policy{"recover": true})
	putBack := harness.BackUp(t, a)
	commit(t, p.bob, p.alice)
	commit(t, p.alice, p.bob)
	p.Talk(t)
	before := p.RequireSettled(t)
	putBack()

	err := p.bob.Do(harness.Within(t), "send", harness.Args{"text": "too early"}, nil)
	if err == nil || !strings.Contains(err.Error(), "the Delivery Service is behind") {
		t.Errorf("bob sends: %v", err)
	}
	for _, member := range []*harness.Client{p.alice, p.bob} {
		err := member.Do(harness.Within(t), "send", harness.Args{"text": "too early"}, nil)
		harness.RequireRefused(t, err, prefix+"M_GROUP_STOPPED")
		harness.RequireRefused(t, member.Do(harness.Within(t), "update", nil, nil), prefix+"M_GROUP_STOPPED")
	}
	var evidence json.RawMessage
	p.operate(t, admin, http.MethodGet, "/evidence", nil, &evidence)
	if !strings.Contains(string(evidence), strconv.Quote(string(migration.EvidenceOwnForgotten))) {
		t.Errorf("the operator sees the evidence %s", evidence)
	}

	p.recover(t, admin, p.bob)
	p.Talk(t)
	if at := p.RequireAt(t, a, 1); at.Epoch != before.Epoch {
		t.Errorf("the group is in epoch %d, not %d", at.Epoch, before.Epoch)
	}
	commit(t, p.bob, p.alice)
	commit(t, p.alice, p.bob)
	p.Talk(t)
	p.RequireSettled(t)
}
