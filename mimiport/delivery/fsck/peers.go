package fsck

import (
	"context"
	"fmt"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Ask asks another server, in the name of a local one, for the status of a migration: delivery.Sender.AskStatus.
type Ask func(ctx context.Context, from, to string, id mimiport.MigrationID) (*api.MigrationStatus, error)

// together lists the states of a target that a state of the source allows (profile, section 6).
var together = map[migration.State][]migration.State{
	migration.Frozen:  {migration.Offered, migration.Staged, migration.Dropped},
	migration.Decided: {migration.Staged, migration.Active},
	migration.Moved:   {migration.Active},
	migration.Aborted: {migration.Offered, migration.Staged, migration.Dropped},
}

// Peers asks the other server of each migration for its status, and returns the contradictions between the two sides. A
// server that does not answer is a problem too. Peers returns an error only if it cannot read the store.
func Peers(ctx context.Context, store Store, ask Ask) (problems []Problem, err error) {
	for after := (mimiport.MigrationID{}); ; {
		records, err := store.Migrations(ctx, storage.MigrationFilter{}, after, page)
		if err != nil {
			return nil, err
		}
		for i := range records {
			if what := compare(ctx, &records[i], ask); what != "" {
				m := &records[i]
				problems = append(problems, Problem{Group: m.GroupID, Term: m.Term, Migration: m.ID, What: what})
			}
		}
		if len(records) < page {
			return problems, nil
		}
		after = records[page-1].ID
	}
}

// compare describes the contradiction between the two sides of a migration, or returns "".
func compare(ctx context.Context, m *migration.Migration, ask Ask) string {
	own, peer := m.Source, m.Target
	if m.Role == migration.Target {
		own, peer = peer, own
	}
	there, err := ask(ctx, own, peer, m.ID)
	if mimiport.KindOf(err) == mimiport.KindUnknownMigration &&
		slices.Contains([]migration.State{migration.Offered, migration.Dropped, migration.Aborted}, m.State) {
		return "" // the migration never came there, or the other server has forgotten it
	}
	if err != nil {
		return fmt.Sprintf("it is %s, and %s says: %v", m.State, peer, err)
	}
	source, target := m.State, migration.State(there.State)
	if m.Role == migration.Target {
		source, target = target, source
	}
	if !slices.Contains(together[source], target) {
		return fmt.Sprintf("it is %s at the source and %s at the target", source, target)
	}
	return ""
}
