package memory

import (
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// requireLimits fails unless a change, which is already written, keeps its limits.
func (s *Store) requireLimits(c *storage.Change) error {
	for _, l := range c.LimitsInOrder() {
		if s.count(&l, c.Volume) > l.Max {
			return &storage.LimitError{Quota: l.Quota}
		}
	}
	return nil
}

func (s *Store) count(l *storage.Limit, v *storage.Volume) int64 {
	switch {
	case l.Counter != nil:
		return matching(&s.groups, func(g *storage.Group) bool { return slices.Contains(g.Counters(), *l.Counter) }) +
			matching(&s.migrations, func(m *migration.Migration) bool {
				return slices.Contains(storage.MigrationCounters(m), *l.Counter)
			})
	case l.Migrations != nil:
		return matching(&s.migrations, func(m *migration.Migration) bool { return selected(m, l.Migrations) })
	case v != nil:
		stored, _ := s.volumes.get(s.volumes.key(v)) // the change wrote it
		return stored.Bytes
	}
	return 0
}

func matching[K, V any](t *table[K, V], match func(*V) bool) (n int64) {
	for _, row := range t.rows {
		if match(row) {
			n++
		}
	}
	return n
}

func counted(g *storage.Group, f *storage.GroupFilter) bool {
	return (len(f.States) == 0 || slices.Contains(f.States, g.State)) &&
		(f.Creator == "" || g.Creator == f.Creator) &&
		(f.RoomID == "" || g.RoomID == f.RoomID) &&
		(f.Server == "" || g.Server == f.Server)
}

// addVolume adds the bytes of one day together.
func (s *Store) addVolume(tx *transaction, v *storage.Volume) {
	sum := *v
	sum.ID = clone(v.ID)
	if before, err := s.volumes.get(s.volumes.key(v)); err == nil && before.Day == v.Day {
		sum.Bytes += before.Bytes
	}
	put(tx, &s.volumes, s.volumes.key(v), &sum)
}
