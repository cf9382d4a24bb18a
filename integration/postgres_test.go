package integration

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/scenario"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// The module shares the one PostgreSQL database of each homeserver.
func TestGroupMovesOnPostgres(t *testing.T) {
	server := pgtest.Start(t)
	network := harness.NewTestNetwork(t)
	network.Postgres = func() string { return server.Database(t) }
	if err := scenario.Move(harness.Within(t), network.Network, scenario.TypeScript, func(line string) { t.Log(line) }); err != nil {
		t.Fatal(err)
	}
}
