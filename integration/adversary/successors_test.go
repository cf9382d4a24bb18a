package adversary

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// requireNotSucceeded shows the host a recover by the attacker's server, and fails the test unless nothing changes.
func (g *group) requireNotSucceeded(t *testing.T, name string) {
	t.Helper()
	claim := g.claim(mimiport.StepRecover, g.c.Name)
	for _, answer := range g.show(t, g.a, claimed(t, g.lineage(t), g.c.SigningIdentity, claim, nil)) {
		answer.requireRefused(t, name)
	}
	if host := g.where(t, g.alice, g.a); host.DeliveryService != g.a.Name {
		t.Fatalf("%s: the group is at %s", name, host.DeliveryService)
	}
}

// cutPower kills the host, and starts it again as if it had been down for the time d.
func (g *group) cutPower(t *testing.T, d time.Duration) {
	t.Helper()
	if err := errors.Join(g.a.Kill(), g.a.Age(t.Context(), d), g.a.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func succeedHealthy(t *testing.T, g *group) {
	list := api.Successors{RoomID: g.room, GroupID: g.id, Servers: []string{g.c.Name}}
	if err := g.alice.SetState(harness.Within(t), g.room, api.EventSuccessors, list); err != nil {
		t.Fatal(err)
	}
	g.requireNotSucceeded(t, "a recover of a healthy group")
	if kinds := g.evidence(t, g.a); !slices.Contains(kinds, string(migration.EvidenceContested)) {
		t.Errorf("the operator sees the evidence %q", kinds)
	}
	g.cutPower(t, 0)
	g.requireNotSucceeded(t, "a recover after a moment out of service")
}

// voidSuccessors: a host that was down for a day yields to a successor. Lists that do not count name the attacker's
// server as one.
func voidSuccessors(t *testing.T, g *group) {
	g.cutPower(t, 25*time.Hour)
	list := api.Successors{RoomID: g.room, GroupID: g.id, Servers: []string{g.c.Name}}
	err := g.mallory.SetState(harness.Within(t), g.room, api.EventSuccessors, list)
	harness.RequireRefused(t, err, "M_FORBIDDEN")
	g.requireNotSucceeded(t, "without a list")

	otherGroup, otherRoom, others := list, list, list
	otherGroup.GroupID, otherRoom.RoomID, others.Servers = []byte("another"), "!another:a.example", []string{g.b.Name}
	for name, l := range map[string]api.Successors{
		"of another group": otherGroup, "of another room": otherRoom, "of another server": others,
	} {
		if err := g.alice.SetState(harness.Within(t), g.room, api.EventSuccessors, l); err != nil {
			t.Fatal(err)
		}
		g.requireNotSucceeded(t, "a list "+name)
	}
	// A list does not count after its sender has lost the power, before or after its redaction.
	root := g.root[g.a]
	harness.Admit(t, g.alice, g.room, root)
	if err := g.alice.SetPowerLevel(harness.Within(t), g.room, root.ID, 100); err != nil {
		t.Fatal(err)
	}
	event, err := root.SendState(harness.Within(t), g.room, api.EventSuccessors, list)
	if err != nil {
		t.Fatal(err)
	}
	if err := root.SetPowerLevel(harness.Within(t), g.room, root.ID, 50); err != nil {
		t.Fatal(err)
	}
	g.requireNotSucceeded(t, "a list by somebody without power")
	if err := g.alice.Redact(harness.Within(t), g.room, event); err != nil {
		t.Fatal(err)
	}
	g.requireNotSucceeded(t, "the same, redacted")
}
