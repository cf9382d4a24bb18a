package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// newSucceeded returns a group whose room lists b as a successor, and whose host is lost. b's operator has recovered
// the group. bob, who has no power to send the pointer, has followed. alice has not.
func newSucceeded(t *testing.T, n *harness.TestNetwork) *away {
	t.Helper()
	g := newAwayOn(t, n)
	harness.Do(t, g.alice, "successors", harness.Args{"servers": []string{g.b.Name}}, nil)
	if err := g.bob.User.SetPowerLevel(harness.Within(t), g.Room, g.bob.User.ID, 0); err != nil {
		t.Fatal(err)
	}
	for _, member := range []*harness.Client{g.alice, g.bob} {
		harness.Do(t, member, "sync", nil, nil)
	}
	if err := g.lost.Kill(); err != nil {
		t.Fatal(err)
	}
	g.recover(t, g.admins[g.b], g.bob)
	harness.Do(t, g.bob, "patience", harness.Args{"ms": 20_000}, nil)
	harness.Do(t, g.bob, "wait_for", harness.Args{"kind": "state", "ds": g.b.Name, "term": 2, "timeout": 90_000}, nil)
	if st := harness.State(t, g.alice); st.DS != g.lost.Name {
		t.Fatalf("alice is at %s already", st.DS)
	}
	return g
}

// TestSuccessor: a host that was out of service for a day yields to the successor that the room lists. The pointer does
// not name the claim.
func TestSuccessor(t *testing.T)           { testSuccessor(t, harness.NewTestNetwork) }
func TestSuccessorOnPostgres(t *testing.T) { testSuccessor(t, harness.NewPostgresNetwork) }

func testSuccessor(t *testing.T, network func(testing.TB) *harness.TestNetwork) {
	t.Parallel() // the client waits most of the time
	g := newSucceeded(t, network(t))
	if err := g.lost.Age(t.Context(), 25*time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := g.lost.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		if err := g.bob.Do(ctx, "sync", nil, nil); err != nil { // bob's client shows the claim to the former host
			return err
		}
		return g.requireYielded(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	harness.Do(t, g.alice, "sync", nil, nil)
	g.RequireAt(t, g.b, 2)
	g.Talk(t)
	commit(t, g.alice, g.bob)
	g.RequireSettled(t)
}

// requireYielded returns an error unless the lost host redirects to b in the term of b's claim.
func (g *away) requireYielded(ctx context.Context) error {
	var host api.HostResponse
	if err := g.bob.Do(ctx, "host", harness.Args{"ds": g.lost.Name}, &host); err != nil {
		return err
	}
	if host.DeliveryService != g.b.Name || host.Moved == nil || len(host.Moved.LineageClaim) == 0 {
		return fmt.Errorf("the group is at %s in term %d", host.DeliveryService, host.Term)
	}
	return nil
}

// TestSuccessorOfHealthyHost: a host that was out of service for a moment keeps the group. It keeps the successor's
// claim as evidence, and the recovered group stops.
func TestSuccessorOfHealthyHost(t *testing.T) {
	t.Parallel()
	g := newSucceeded(t, harness.NewTestNetwork(t))
	if err := g.lost.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		if err := g.bob.Do(ctx, "sync", nil, nil); err != nil {
			return err
		}
		body := api.SubmitRequest{Message: []byte{1}}
		err := g.bob.User.Do(ctx, http.MethodPost, at(g.b.Name, "/groups/"+g.Group+"/messages"), body, nil)
		if harness.CodeOf(err) != prefix+"M_GROUP_STOPPED" {
			return fmt.Errorf("the recovered group answers %w", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var evidence json.RawMessage
	g.operate(t, g.admins[g.lost], http.MethodGet, "/evidence", nil, &evidence)
	if !strings.Contains(string(evidence), strconv.Quote(string(migration.EvidenceContested))) {
		t.Errorf("the operator sees the evidence %s", evidence)
	}
	if err := g.requireYielded(harness.Within(t)); err == nil {
		t.Error("the host has yielded")
	}
	harness.Do(t, g.alice, "send", harness.Args{"text": "still here"}, nil)
}
