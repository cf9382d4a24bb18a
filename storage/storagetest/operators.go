package storagetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// testGroupFilter: Groups and CountGroups select by the state, room, creator and server of a group's highest term.
func testGroupFilter(t *testing.T, f *fixture) {
	put := func(id string, term uint64, state migration.GroupState, room, server string) {
		g := sampleGroup(id, term)
		g.State, g.RoomID, g.Server = state, room, server
		f.apply(&storage.Change{Group: &g})
	}
	put("a", 0, migration.GroupMoved, "!one", "a.example")
	put("a", 1, migration.GroupActive, "!one", "a.example")
	put("b", 0, migration.GroupActive, "!two", "a.example")
	put("c", 0, migration.GroupFrozen, "!one", "also.example")
	put("d", 0, migration.GroupActive, "!one", "also.example")
	put("d", 1, migration.GroupDropped, "!one", "also.example")
	active, moved := []migration.GroupState{migration.GroupActive}, []migration.GroupState{migration.GroupMoved}
	for _, test := range []struct {
		filter storage.GroupFilter
		want   string
	}{
		{storage.GroupFilter{}, "abcd"},
		{storage.GroupFilter{States: active}, "abd"},
		{storage.GroupFilter{States: moved}, ""},
		{storage.GroupFilter{States: append(active, migration.GroupFrozen), RoomID: "!one"}, "acd"},
		{storage.GroupFilter{Server: "also.example"}, "cd"},
		{storage.GroupFilter{Server: "also.example", States: active}, "d"},
		{storage.GroupFilter{Creator: "@nobody:a.example"}, ""},
	} {
		groups, err := f.Groups(t.Context(), test.filter, nil, 10)
		got := ""
		for _, g := range groups {
			got += string(g.ID)
		}
		expect(t, fmt.Sprint(test.filter), got, err, test.want)
		n, err := f.CountGroups(t.Context(), test.filter)
		expect(t, fmt.Sprint("count of ", test.filter), n, err, len(test.want))
	}
	page, err := f.Groups(t.Context(), storage.GroupFilter{States: active}, []byte("a"), 1)
	expect(t, "after a", string(page[0].ID), err, "b")
}

// testLastCommit: LastCommit ignores other messages and other terms.
func testLastCommit(t *testing.T, f *fixture) {
	for seq, kind := range []storage.EntryKind{
		storage.EntryCommit, storage.EntryCommit, storage.EntryProposal, storage.EntryApplication,
	} {
		e := sampleEntry("group", 1, uint64(seq+1))
		e.Kind = kind
		f.apply(&storage.Change{Entries: []storage.Entry{e}})
	}
	f.apply(&storage.Change{Entries: []storage.Entry{sampleEntry("group", 2, 9), sampleEntry("other", 1, 9)}})
	at, err := f.LastCommit(t.Context(), key("group", 1))
	expect(t, "the last Commit", at, err, epoch.Add(2*time.Millisecond))
	at, err = f.LastCommit(t.Context(), key("group", 3))
	expect(t, "no Commit", at, err, time.Time{})
}

// testFigures: the figures count each group in its highest term, and leave out the rows of a retention.
func testFigures(t *testing.T, f *fixture) {
	f.expectFigures("of nothing", &storage.Figures{})
	put := func(id string, term uint64, state migration.GroupState, members int) {
		g := sampleGroup(id, term)
		g.State, g.Members = state, members
		f.apply(&storage.Change{Group: &g})
	}
	put("a", 0, migration.GroupMoved, 100)
	put("a", 1, migration.GroupActive, 3)
	put("a", 2, migration.GroupDropped, 100)
	put("b", 0, migration.GroupFrozen, 4)
	put("c", 0, migration.GroupMoved, 100)
	for n, state := range []migration.State{migration.Frozen, migration.Frozen, migration.Moved} {
		m := sampleMigration(uint64(n))
		m.State = state
		f.apply(&storage.Change{Migration: &m})
	}
	row := func(destination string, order uint64, kind storage.RowKind, created time.Time, attempts int) {
		r := sampleRow(destination, "queue", order)
		r.Kind, r.Created, r.Attempts = kind, created, attempts
		f.apply(&storage.Change{Rows: []storage.Row{r}})
	}
	row("b.example", 1, storage.RowFanOut, epoch.Add(time.Second), 2)
	row("b.example", 2, storage.RowFanOut, epoch, 7)
	row("b.example", 3, storage.RowFanOut, time.Time{}, 1)
	row("c.example", 1, storage.RowFanOut, time.Time{}, 0)
	row("c.example", 2, migration.RowPurge, epoch, 9)
	row("d.example", 1, migration.RowEnd, epoch, 9)
	f.apply(&storage.Change{Evidence: []storage.Evidence{sampleEvidence("a", 1), sampleEvidence("b", 1)}})
	f.expectFigures("of all", &storage.Figures{
		Groups: map[migration.GroupState]int{
			migration.GroupActive: 1, migration.GroupFrozen: 1, migration.GroupMoved: 1,
		},
		Members: 7,
		Migrations: map[storage.MigrationClass]int{
			{Role: migration.Source, State: migration.Frozen}: 2, {Role: migration.Source, State: migration.Moved}: 1,
		},
		Frozen:   epoch,
		Evidence: map[storage.EvidenceKind]int{migration.EvidenceHigherTerm: 2},
		Outbox: []storage.Backlog{
			{Destination: "b.example", Rows: 3, Oldest: epoch, Attempts: 7}, {Destination: "c.example", Rows: 1},
		},
	})
}

func (f *fixture) expectFigures(what string, want *storage.Figures) {
	f.t.Helper()
	if want.Groups == nil {
		want.Groups, want.Migrations = map[migration.GroupState]int{}, map[storage.MigrationClass]int{}
		want.Evidence = map[storage.EvidenceKind]int{}
	}
	got, err := f.Figures(f.t.Context())
	expect(f.t, what, got, err, want)
}

func sampleAudit(n int) storage.AuditEntry {
	at := epoch.Add(time.Duration(n) * time.Second)
	return storage.AuditEntry{
		ID: storage.NewAuditID(at, [8]byte{byte(n)}), At: at, Actor: "@admin:a.example", Action: storage.AuditReclaim,
		GroupID: []byte("group"), Migration: migrationID(1), Before: []byte(`{"a":1}`), After: []byte(`{"b":2}`),
	}
}

// testAudit: the audit log lists the latest entry first, and an entry gets its end later. Nothing else of it changes.
func testAudit(t *testing.T, f *fixture) {
	ctx := t.Context()
	put := func(e storage.AuditEntry) {
		t.Helper()
		if err := f.PutAudit(ctx, &e); err != nil {
			t.Fatal(err)
		}
	}
	first, second, third := complete(t, sampleAudit(1)), sampleAudit(2), sampleAudit(3)
	second.GroupID, second.Before = nil, nil
	begun := first
	begun.After = nil
	put(third)
	put(begun)
	put(second)
	got, err := f.AuditEntries(ctx, storage.AuditID{}, 10)
	expect(t, "all", got, err, []storage.AuditEntry{third, second, begun})
	forged := first
	forged.Actor, forged.Before = "@mallory:a.example", []byte("{}")
	put(forged)
	got, err = f.AuditEntries(ctx, storage.AuditID{}, 10)
	expect(t, "with the end of the first", got, err, []storage.AuditEntry{third, second, first})
	got, err = f.AuditEntries(ctx, third.ID, 1)
	expect(t, "the page after the third", got, err, []storage.AuditEntry{second})
	got, err = f.AuditEntries(ctx, first.ID, 10)
	expect(t, "the end", got, err, nil)
}
