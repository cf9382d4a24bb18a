package fsck_test

import (
	"context"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

func TestPeers(t *testing.T) {
	unknown := mimiport.Errorf("load migration", mimiport.KindUnknownMigration, "none")
	away := mimiport.Errorf("ask", mimiport.KindPeer, "no answer")
	for _, test := range []struct {
		role  migration.Role
		here  migration.State
		there migration.State
		err   error
		want  string // part of the problem; empty for none
	}{
		{migration.Source, migration.Frozen, migration.Staged, nil, ""},
		{migration.Source, migration.Frozen, migration.Active, nil, "it is frozen at the source and active at the target"},
		{migration.Source, migration.Decided, migration.Active, nil, ""},
		{migration.Source, migration.Decided, migration.Dropped, nil, "it is decided at the source and dropped"},
		{migration.Source, migration.Moved, migration.Active, nil, ""},
		{migration.Source, migration.Moved, migration.Staged, nil, "it is moved at the source and staged"},
		{migration.Source, migration.Moved, "", unknown, "it is moved, and peer.example says"},
		{migration.Source, migration.Aborted, migration.Active, nil, "it is aborted at the source and active"},
		{migration.Source, migration.Aborted, "", unknown, ""},
		{migration.Target, migration.Active, migration.Moved, nil, ""},
		{migration.Target, migration.Active, migration.Aborted, nil, "it is aborted at the source and active at the target"},
		{migration.Target, migration.Active, "", unknown, "it is active, and peer.example says"},
		{migration.Target, migration.Offered, "", unknown, ""},
		{migration.Target, migration.Staged, "", away, ""},
	} {
		store := memory.New()
		m := &migration.Migration{ID: mimiport.MigrationID{1}, Role: test.role, State: test.here, Source: "own.example",
			Target: "peer.example"}
		if test.role == migration.Target {
			m.Source, m.Target = m.Target, m.Source
		}
		if err := store.Apply(t.Context(), &storage.Change{Migration: m}); err != nil {
			t.Fatal(err)
		}
		problems, gaps, err := fsck.Peers(t.Context(), store,
			func(_ context.Context, from, to string, _ mimiport.MigrationID) (*api.MigrationStatus, error) {
				if from != "own.example" || to != "peer.example" {
					t.Errorf("%s asks %s", from, to)
				}
				return &api.MigrationStatus{State: string(test.there)}, test.err
			})
		if want := test.err == away; (len(gaps) == 1) != want {
			t.Errorf("%+v: gaps %v", test, gaps)
		}
		switch {
		case err != nil || len(problems) > 1 || (len(problems) == 1) != (test.want != ""):
			t.Errorf("%+v: %v (%v)", test, problems, err)
		case test.want != "" && !strings.Contains(problems[0].What, test.want):
			t.Errorf("%+v: %s", test, problems[0])
		}
	}
}
