package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

// TestDeniedServer: a Delivery Service applies the server ACL of the room's current state, by the rules of the Matrix
// specification and not by Dendrite's (profile, section 7). An ACL ignores ports, so the name of bob's homeserver is an
// IP address.
func TestDeniedServer(t *testing.T) {
	network := harness.NewTestNetwork(t)
	section := strings.Replace(harness.Section, "allow_ip_literals: false", "allow_ip_literals: true", 1)
	a := network.StartServer(t, section)
	network.Host = "127.0.0.1"
	b := network.StartServer(t, section)
	p := newPairAt(t, a, b)
	carol := harness.RegisterUser(t, b, "carol", false)
	harness.Admit(t, p.bob.User, p.Room, carol)
	publishKeyPackage(t, carol)
	harness.Do(t, p.alice, "add", harness.Args{"user": carol.ID}, nil)
	p.RequireSettled(t)

	denies := map[string]any{"allow": []string{"*"}, "deny": []string{"127.*"}}
	p.setACL(t, denies)
	p.requireDenied(t, b.Name)
	p.requireDeniedRoutes(t, b.Name)
	p.requireDeniedFanOut(t, carol)
	type content = map[string]any
	for name, c := range map[string]struct {
		acl    content
		denied []string
	}{
		"addresses":                 {content{"allow": []string{"*"}, "allow_ip_literals": false}, []string{b.Name}},
		"another case":              {content{"allow": []string{"LOCALHOST"}}, []string{b.Name}},
		"a part of a name, allowed": {content{"allow": []string{"127.0.0.1", "ocalhos"}}, []string{a.Name}},
		"a part of a name, denied":  {content{"allow": []string{"*"}, "deny": []string{"ocalhos"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p.setACL(t, content{"allow": "*"}) // not a list: it allows nobody
			p.requireDenied(t, a.Name, b.Name)
			p.setACL(t, c.acl)
			p.requireDenied(t, c.denied...)
		})
	}

	redacted := p.setACL(t, denies)
	p.requireDenied(t, b.Name)
	if err := p.alice.User.Redact(harness.Within(t), p.Room, redacted); err != nil {
		t.Fatal(err)
	}
	p.requireDenied(t, b.Name)
	restart(t, a)
	p.requireDenied(t, b.Name)
}

// setACL sets the room's server ACL, as alice, and returns the event's id.
func (p *pair) setACL(t *testing.T, content map[string]any) string {
	t.Helper()
	id, err := p.alice.User.SendState(harness.Within(t), p.Room, acl.EventType, content)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// asks sends a user's request to the group's host. If the room's ACL denies the user's server, it returns the server's
// name.
func (p *pair) asks(t *testing.T, u *harness.User, method, route string, body any) (denied string) {
	t.Helper()
	err := u.Do(harness.Within(t), method, at(p.alice.User.Server.Name, route), body, nil)
	var refused *harness.Error
	if errors.As(err, &refused) && refused.Code == "M_FORBIDDEN" {
		_, denied, _ = strings.Cut(fmt.Sprint(refused.Fields["error"]), "the room's server ACL denies ")
	} else if err != nil {
		t.Errorf("%s %s: %v", method, route, err)
	}
	return denied
}

// requireDenied waits until the ACL denies exactly these servers.
func (p *pair) requireDenied(t *testing.T, servers ...string) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(context.Context) error {
		var denied []string
		for _, c := range []*harness.Client{p.alice, p.bob} {
			if server := p.asks(t, c.User, http.MethodGet, "/groups/"+p.Group, nil); server != "" {
				denied = append(denied, server)
			}
		}
		if !slices.Equal(denied, servers) {
			return fmt.Errorf("the ACL denies %q, not %q", denied, servers)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// requireDeniedRoutes checks that alice's server refuses all requests of bob, whose server the ACL denies. It also
// checks that bob's server takes no group from alice's.
func (p *pair) requireDeniedRoutes(t *testing.T, server string) {
	t.Helper()
	group := "/groups/" + p.Group
	from := mimiport.MigrationRequest{
		SourceDomain: server, TargetDomain: p.alice.User.Server.Name, GroupID: p.id(t), Epoch: 1,
	}
	offer := api.MigrationRequestRequest{MigrationRequest: encode(t, &from), RoomID: p.Room}
	for _, r := range []struct {
		by            *harness.Client
		method, route string
		body          any
	}{
		{p.bob, http.MethodPost, "/groups", api.ReserveGroupRequest{RoomID: p.Room}},
		{p.bob, http.MethodGet, group, nil},
		{p.bob, http.MethodGet, group + "/host", nil},
		{p.bob, http.MethodGet, group + "/messages", nil},
		{p.bob, http.MethodGet, group + "/tree?epoch=1", nil},
		{p.bob, http.MethodPost, group + "/messages", api.SubmitRequest{Message: []byte("any")}},
		{p.bob, http.MethodPut, group + "/lineage", api.LineageRequest{Lineage: []byte("any")}},
		{p.alice, http.MethodPost, "/migrations", offer},
	} {
		if denied := p.asks(t, r.by.User, r.method, r.route, r.body); denied != server {
			t.Errorf("%s %s denies %q", r.method, r.route, denied)
		}
	}
}

// requireDeniedFanOut checks that a user of the denied server never receives a Commit that the host accepts meanwhile.
// bob finds it in the log when the ACL allows his server again.
func (p *pair) requireDeniedFanOut(t *testing.T, carol *harness.User) {
	t.Helper()
	harness.Do(t, p.alice, "update", nil, nil)
	requireNothingDue(t, p.alice.User.Server, carol.Server.Name)
	p.setACL(t, map[string]any{"allow": []string{"*"}, "allow_ip_literals": true})
	p.requireDenied(t)
	p.Talk(t)
	p.RequireSettled(t)
	want := map[string][]received{federation.SenderID(p.alice.User.Server.Name): {
		{0, "commit", ""}, // the Commit that added her
		{0, "welcome", ""}, {0, "application", ""}, {0, "application", ""},
	}}
	if diff := cmp.Diff(want, receive(t, carol, 4)); diff != "" {
		t.Error(diff)
	}
}

// requireNothingDue waits until a server has no row to deliver to another server.
func requireNothingDue(t *testing.T, from *harness.Server, to string) {
	t.Helper()
	store, err := engine.Open(t.Context(), from.Database("mimi_portability"), postgres.Pool{MaxOpen: 1, MaxIdle: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	err = harness.Poll(harness.Within(t), func(ctx context.Context) error {
		rows, _, err := store.Due(ctx, time.Now(), 100)
		if waiting, failed := store.Waiting(ctx); failed != nil || len(waiting) > 0 {
			return fmt.Errorf("%s still has messages on their way: %v, %v", from.Name, waiting, failed)
		}
		if slices.ContainsFunc(rows, func(r storage.Row) bool { return r.Destination == to }) {
			return fmt.Errorf("%s still has a row for %s", from.Name, to)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
