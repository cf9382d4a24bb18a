package engine_test

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// Of each engine CopyGone copies the groups all of whose terms here have ended, with their logs and migrations. It
// copies no group that is here again in a later term, no open offer and no key.
func TestCopyGone(t *testing.T) {
	for _, connection := range []string{
		"file:" + filepath.Join(t.TempDir(), "mimi.db"), pgtest.Start(t).Database(t),
	} {
		from, to := open(t, connection), open(t, "file:"+filepath.Join(t.TempDir(), "gone.db"))
		terms := map[string][]migration.GroupState{
			"moved":  {migration.GroupMoved},
			"closed": {migration.GroupMoved, migration.GroupClosed},
			"back":   {migration.GroupMoved, migration.GroupActive},
			"staged": {migration.GroupMoved, migration.GroupStaged},
		}
		move := byte(0)
		for id, states := range terms {
			for term, state := range states {
				move++
				key := storage.GroupKey{ID: []byte(id), Term: uint64(term)}
				apply(t, from, &storage.Change{
					Group:   &storage.Group{ID: key.ID, Term: key.Term, State: state},
					Entries: []storage.Entry{{GroupID: key.ID, Term: key.Term, Seq: 1, Hash: [32]byte{move}}},
				})
				apply(t, from, &storage.Change{Migration: &migration.Migration{
					ID: mimiport.MigrationID{move}, GroupID: key.ID, Role: migration.Source, State: migration.Moved,
				}})
			}
		}
		apply(t, from, &storage.Change{Migration: &migration.Migration{
			ID: mimiport.MigrationID{0xff}, GroupID: []byte("moved"), Role: migration.Target, State: migration.Offered,
		}})
		if err := from.PutSetting(t.Context(), "external-sender", []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if err := engine.CopyGone(t.Context(), from, to); err != nil {
			t.Fatal(err)
		}
		requireGone(t, to, terms)
		if err := engine.CopyGone(t.Context(), from, to); err == nil {
			t.Error("copied onto a full database")
		}
	}
}

func apply(t *testing.T, store *engine.Store, c *storage.Change) {
	t.Helper()
	if err := store.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// requireGone fails the test unless a store has exactly the terms of the groups that have gone.
func requireGone(t *testing.T, store *engine.Store, terms map[string][]migration.GroupState) {
	t.Helper()
	found, err := store.Migrations(t.Context(), storage.MigrationFilter{}, mimiport.MigrationID{}, 100)
	if err != nil || len(found) != 3 {
		t.Errorf("%d migrations, %v", len(found), err)
	}
	for id, states := range terms {
		gone := slices.Contains([]string{"moved", "closed"}, id)
		for term := range states {
			key := storage.GroupKey{ID: []byte(id), Term: uint64(term)}
			if _, err := store.GroupAt(t.Context(), key); errors.Is(err, storage.ErrNotFound) == gone {
				t.Errorf("%s in term %d: %v", id, term, err)
			}
			log, err := store.Entries(t.Context(), key, 1, 10)
			if err != nil || len(log) == 1 != gone {
				t.Errorf("the log of %s in term %d has %d entries, %v", id, term, len(log), err)
			}
		}
	}
	if _, err := store.Setting(t.Context(), "external-sender"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a setting was copied: %v", err)
	}
}
