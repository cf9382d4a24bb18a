package storagetest

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

func testDropBefore(t *testing.T, f *fixture) {
	f.apply(&storage.Change{Snapshots: []storage.Snapshot{
		sampleSnapshot("group", 1, 1), sampleSnapshot("group", 1, 2), sampleSnapshot("group", 2, 1),
		sampleSnapshot("other", 1, 1),
	}})
	third := sampleSnapshot("group", 1, 3)
	f.apply(&storage.Change{DropBefore: &storage.Epoch{GroupKey: key("group", 1), Epoch: 2},
		Snapshots: []storage.Snapshot{third}})
	_, err := f.Snapshot(t.Context(), key("group", 1), 1)
	absent(t, "before", err)
	for _, kept := range []storage.Snapshot{
		sampleSnapshot("group", 1, 2), third, sampleSnapshot("group", 2, 1), sampleSnapshot("other", 1, 1),
	} {
		got, err := f.Snapshot(t.Context(), key(string(kept.GroupID), kept.Term), kept.Epoch)
		expect(t, "kept", got, err, &kept)
	}
}

// testForget: after Forget, a group can still be replayed from its oldest snapshot.
func testForget(t *testing.T, f *fixture) {
	ctx := t.Context()
	now, old := epoch, epoch.Add(-time.Hour)
	entry := func(seq uint64, kind storage.EntryKind, at time.Time) storage.Entry {
		e := sampleEntry("group", 1, seq)
		e.Kind, e.At = kind, at
		return e
	}
	// A replay from the snapshot of epoch 1 starts at number 3.
	log := []storage.Entry{
		entry(1, storage.EntryCommit, old), entry(2, storage.EntryApplication, old), entry(3, storage.EntryCommit, old),
		entry(4, storage.EntryApplication, old), entry(5, storage.EntryWelcome, old), entry(6, storage.EntryApplication, now),
	}
	unsnapped := sampleEntry("other", 1, 1)
	unsnapped.At = old
	offer := func(n uint64, state migration.State, expires time.Time) migration.Migration {
		m := sampleMigration(n)
		m.Role, m.State, m.ExpiresAt, m.Complete = migration.Target, state, expires, migration.Signed{}
		return m
	}
	voted := offer(4, migration.Dropped, old)
	voted.Complete = sampleMigration(1).Complete
	offers := []migration.Migration{
		offer(1, migration.Dropped, old), offer(2, migration.Dropped, now), offer(3, migration.Offered, old), voted,
		sampleMigration(5),
	}
	for i := range offers {
		f.apply(&storage.Change{Migration: &offers[i]})
	}
	past, present := sampleEvidence("group", 1), sampleEvidence("group", 2)
	past.At = old
	f.apply(&storage.Change{
		Snapshots: []storage.Snapshot{sampleSnapshot("group", 1, 1)}, Entries: append(log, unsnapped),
		Evidence: []storage.Evidence{past, present},
	})

	check := func(what string, entries []storage.Entry, migrations, pieces int) {
		t.Helper()
		got, err := f.Entries(ctx, key("group", 1), 0, 100)
		expect(t, what, got, err, entries)
		others, err := f.Entries(ctx, key("other", 1), 0, 100)
		expect(t, what+": a group without a snapshot", len(others), err, 1)
		kept, err := f.Migrations(ctx, storage.MigrationFilter{}, migrationID(0), 100)
		expect(t, what+": migrations", len(kept), err, migrations)
		found, err := f.Evidence(ctx, []byte("group"))
		expect(t, what+": evidence", len(found), err, pieces)
	}
	if err := f.Forget(ctx, storage.Horizon{}); err != nil {
		t.Fatal(err)
	}
	check("nothing", log, 5, 2)
	for range 2 {
		if err := f.Forget(ctx, storage.Horizon{Log: now, Offers: now, Evidence: now}); err != nil {
			t.Fatal(err)
		}
		check("what is old", []storage.Entry{log[2], log[5]}, 4, 1)
	}
	_, err := f.EntryByHash(ctx, key("group", 1), log[0].Hash)
	absent(t, "by hash", err)
}
