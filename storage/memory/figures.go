package memory

import (
	"context"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Figures implements storage.Store.
func (s *Store) Figures(context.Context) (*storage.Figures, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &storage.Figures{
		Groups: make(map[migration.GroupState]int), Migrations: make(map[storage.MigrationClass]int),
		Evidence: make(map[storage.EvidenceKind]int), Outbox: s.backlogs(),
	}
	for _, g := range s.latest(nil) {
		f.Groups[g.State]++
		if g.State == migration.GroupActive || g.State == migration.GroupFrozen {
			f.Members += g.Members
		}
	}
	for _, m := range s.migrations.rows {
		f.Migrations[storage.MigrationClass{Role: m.Role, State: m.State}]++
		switch m.State {
		case migration.Frozen:
			f.Frozen = earlier(f.Frozen, m.CreatedAt)
		case migration.Staged:
			f.Staged = earlier(f.Staged, m.CreatedAt)
		}
	}
	for _, e := range s.evidence.rows {
		f.Evidence[e.Kind]++
	}
	return f, nil
}

func (s *Store) backlogs() (all []storage.Backlog) {
	for _, r := range s.rows.rows {
		if r.Kind == migration.RowPurge || r.Kind == migration.RowEnd {
			continue
		}
		if n := len(all); n == 0 || all[n-1].Destination != r.Destination {
			all = append(all, storage.Backlog{Destination: r.Destination})
		}
		b := &all[len(all)-1]
		b.Rows++
		b.Oldest = earlier(b.Oldest, r.Created)
		b.Attempts = max(b.Attempts, r.Attempts)
	}
	return all
}

// earlier returns the earlier of two times. The zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
