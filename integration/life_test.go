package integration

import (
	"context"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/scenario"
)

// TestLife plays the whole life of a group with members on dendrite-mimi, a Synapse and a stock Dendrite. The user of
// the Synapse has made the room. All members have the same epoch authenticator after each step.
func TestLife(t *testing.T) { testLife(t, harness.NewTestNetwork(t), "11") }

// TestLifeOnPostgres is TestLife in a room of version 10, with the Dendrites on PostgreSQL.
func TestLifeOnPostgres(t *testing.T) { testLife(t, harness.NewPostgresNetwork(t), "10") }

func testLife(t *testing.T, n *harness.TestNetwork, version string) {
	stock := []*harness.Server{n.StartSynapse(t), n.StartServer(t, "")}
	ctx, cancel := context.WithTimeout(t.Context(), 10*harness.Patience)
	defer cancel()
	if err := scenario.Life(ctx, n.Network, stock, version, t.Log); err != nil {
		t.Fatal(err)
	}
}
