package sqlstore

import (
	"context"
	"database/sql"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Figures implements storage.Store.
func (s *Store) Figures(ctx context.Context) (*storage.Figures, error) {
	f := &storage.Figures{
		Groups: make(map[migration.GroupState]int), Migrations: make(map[storage.MigrationClass]int),
		Evidence: make(map[storage.EvidenceKind]int),
	}
	for _, read := range []func(context.Context, *storage.Figures) error{
		s.countGroups, s.countMigrations, s.countEvidence, s.countRows,
	} {
		if err := read(ctx, f); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (s *Store) countGroups(ctx context.Context, f *storage.Figures) error {
	w := latestWhere(&storage.GroupFilter{})
	query := "SELECT state, count(*), sum(members) FROM mimiport_groups AS g " + w.with("GROUP BY state")
	return s.query(ctx, query, w.args, func(rows *sql.Rows) error {
		var state migration.GroupState
		var count, members int
		err := rows.Scan(&state, &count, &members)
		f.Groups[state] = count
		if state == migration.GroupActive || state == migration.GroupFrozen {
			f.Members += members
		}
		return err
	})
}

func (s *Store) countMigrations(ctx context.Context, f *storage.Figures) error {
	const query = "SELECT role, state, count(*), min(created_at) FROM mimiport_migrations GROUP BY role, state"
	return s.query(ctx, query, nil, func(rows *sql.Rows) error {
		var class storage.MigrationClass
		var count int
		var oldest int64
		err := rows.Scan(&class.Role, &class.State, &count, &oldest)
		f.Migrations[class] = count
		switch class.State {
		case migration.Frozen:
			f.Frozen = storage.Time(oldest)
		case migration.Staged:
			f.Staged = storage.Time(oldest)
		}
		return err
	})
}

func (s *Store) countEvidence(ctx context.Context, f *storage.Figures) error {
	const query = "SELECT kind, count(*) FROM mimiport_evidence GROUP BY kind"
	return s.query(ctx, query, nil, func(rows *sql.Rows) error {
		var kind storage.EvidenceKind
		var count int
		err := rows.Scan(&kind, &count)
		f.Evidence[kind] = count
		return err
	})
}

func (s *Store) countRows(ctx context.Context, f *storage.Figures) error {
	const query = `SELECT destination, count(*), coalesce(min(nullif(created_at, 0)), 0), max(attempts)
		FROM mimiport_outbox WHERE kind NOT IN ($1, $2) GROUP BY destination ORDER BY destination`
	return s.query(ctx, query, []any{migration.RowPurge, migration.RowEnd}, func(rows *sql.Rows) error {
		var b storage.Backlog
		err := rows.Scan(&b.Destination, &b.Rows, (*millis)(&b.Oldest), &b.Attempts)
		f.Outbox = append(f.Outbox, b)
		return err
	})
}
