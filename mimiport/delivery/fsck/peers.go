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

// Gap is a migration whose other side nobody knows, because the other server cannot be asked.
type Gap struct {
	Migration mimiport.MigrationID
	Server    string
	Err       error
}

func (g Gap) String() string {
	return fmt.Sprintf("migration %s: %s cannot be asked: %v", g.Migration, g.Server, g.Err)
}

// Peers asks the other server of each migration for its status, and returns the contradictions between the two sides. A
// server that gives no answer is a gap: it says nothing about this store. Peers returns an error only if it cannot read
// the store.
func Peers(ctx context.Context, store Store, ask Ask) (problems []Problem, gaps []Gap, err error) {
	for after := (mimiport.MigrationID{}); ; {
		records, err := store.Migrations(ctx, storage.MigrationFilter{}, after, page)
		if err != nil {
			return nil, nil, err
		}
		for i := range records {
			m := &records[i]
			peer, what, err := compare(ctx, m, ask)
			if err != nil {
				gaps = append(gaps, Gap{m.ID, peer, err})
			}
			if what != "" {
				problems = append(problems, Problem{Group: m.GroupID, Term: m.Term, Migration: m.ID, What: what})
			}
		}
		if len(records) < page {
			return problems, gaps, nil
		}
		after = records[page-1].ID
	}
}

// compare describes the contradiction between the two sides of a migration, or returns "". The error says why the other
// server, peer, cannot be asked.
func compare(ctx context.Context, m *migration.Migration, ask Ask) (peer, what string, err error) {
	own, peer := m.Source, m.Target
	if m.Role == migration.Target {
		own, peer = peer, own
	}
	there, err := ask(ctx, own, peer, m.ID)
	if mimiport.KindOf(err) == mimiport.KindUnknownMigration {
		if slices.Contains([]migration.State{migration.Offered, migration.Dropped, migration.Aborted}, m.State) {
			return peer, "", nil // the migration never came there, or the other server has forgotten it
		}
		return peer, fmt.Sprintf("it is %s, and %s says: %v", m.State, peer, err), nil
	}
	if err != nil {
		return peer, "", err
	}
	source, target := m.State, migration.State(there.State)
	if m.Role == migration.Target {
		source, target = target, source
	}
	if !slices.Contains(together[source], target) {
		return peer, fmt.Sprintf("it is %s at the source and %s at the target", source, target), nil
	}
	return peer, "", nil
}
