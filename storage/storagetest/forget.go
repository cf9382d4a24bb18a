package storagetest

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

func testDropBefore(t *testing.T, f *fixture) {
	f.apply(&delivery.Change{Snapshots: []delivery.Snapshot{
		sampleSnapshot("group", 1, 1), sampleSnapshot("group", 1, 2), sampleSnapshot("group", 2, 1), sampleSnapshot("other", 1, 1),
	}})
	third := sampleSnapshot("group", 1, 3)
	f.apply(&delivery.Change{DropBefore: &delivery.Epoch{GroupKey: key("group", 1), Epoch: 2}, Snapshots: []delivery.Snapshot{third}})
	_, err := f.Snapshot(t.Context(), key("group", 1), 1)
	absent(t, "before", err)
	for _, kept := range []delivery.Snapshot{
		sampleSnapshot("group", 1, 2), third, sampleSnapshot("group", 2, 1), sampleSnapshot("other", 1, 1),
	} {
		got, err := f.Snapshot(t.Context(), key(string(kept.GroupID), kept.Term), kept.Epoch)
		expect(t, "kept", got, err, &kept)
	}
}

// testForget demands that a group can be replayed from its oldest snapshot whatever is forgotten.
func testForget(t *testing.T, f *fixture) {
	ctx := t.Context()
	now, old := epoch, epoch.Add(-time.Hour)
	entry := func(seq uint64, kind delivery.EntryKind, at time.Time) delivery.Entry {
		e := sampleEntry("group", 1, seq)
		e.Kind, e.At = kind, at
		return e
	}
	// The snapshot of epoch 1 leaves number 3 and up to be replayed.
	log := []delivery.Entry{
		entry(1, delivery.EntryCommit, old), entry(2, delivery.EntryApplication, old), entry(3, delivery.EntryCommit, old),
		entry(4, delivery.EntryApplication, old), entry(5, delivery.EntryWelcome, old), entry(6, delivery.EntryApplication, now),
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
		offer(1, migration.Dropped, old), offer(2, migration.Dropped, now), offer(3, migration.Offered, old), voted, sampleMigration(5),
	}
	for i := range offers {
		f.apply(&delivery.Change{Migration: &offers[i]})
	}
	past, present := sampleEvidence("group", 1), sampleEvidence("group", 2)
	past.At = old
	f.apply(&delivery.Change{
		Snapshots: []delivery.Snapshot{sampleSnapshot("group", 1, 1)}, Entries: append(log, unsnapped), Evidence: []delivery.Evidence{past, present},
	})

	check := func(what string, entries []delivery.Entry, migrations, pieces int) {
		t.Helper()
		got, err := f.Entries(ctx, key("group", 1), 0, 100)
		expect(t, what, got, err, entries)
		others, err := f.Entries(ctx, key("other", 1), 0, 100)
		expect(t, what+": a group without a snapshot", len(others), err, 1)
		kept, err := f.Migrations(ctx, delivery.MigrationFilter{}, migrationID(0), 100)
		expect(t, what+": migrations", len(kept), err, migrations)
		found, err := f.Evidence(ctx, []byte("group"))
		expect(t, what+": evidence", len(found), err, pieces)
	}
	if err := f.Forget(ctx, delivery.Horizon{}); err != nil {
		t.Fatal(err)
	}
	check("nothing", log, 5, 2)
	for range 2 {
		if err := f.Forget(ctx, delivery.Horizon{Log: now, Offers: now, Evidence: now}); err != nil {
			t.Fatal(err)
		}
		check("what is old", []delivery.Entry{log[2], log[5]}, 4, 1)
	}
	_, err := f.EntryByHash(ctx, key("group", 1), log[0].Hash)
	absent(t, "by hash", err)
}
