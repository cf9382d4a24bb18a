// Package audit checks the databases of homeservers.
package audit

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	contract "github.com/matrix-org/dendrite/contrib/mimi/storage"
	storage "github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

// Check checks the module's database of a stopped server: it derives all stored values again. It returns the state of
// the only group of the engine, or "" if there is none.
func Check(t testing.TB, server, connection string, engine mls.Engine) (state migration.GroupState) {
	t.Helper()
	store, err := storage.Open(t.Context(), connection, postgres.Pool{MaxOpen: 2, MaxIdle: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	report, err := fsck.Check(t.Context(), store, map[string]mls.Engine{engine.Protocol(): engine})
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range report.Problems {
		t.Errorf("%s: %s", server, problem)
	}
	loose, err := store.Loose(t.Context())
	if err != nil || len(loose) > 0 {
		t.Errorf("%s: %q %v", server, loose, err)
	}
	groups, err := store.Groups(t.Context(), contract.GroupFilter{}, nil, 2)
	if err != nil || len(groups) > 1 {
		t.Fatal(len(groups), err)
	}
	if len(groups) == 1 {
		state = groups[0].State
	}
	return state
}
