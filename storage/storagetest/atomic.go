package storagetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// everything returns a change with all parts. It replaces the given versions. Every inserted key contains the name.
func everything(name string, number, groupVersion, migrationVersion uint64) *storage.Change {
	g, m := sampleGroup("group", 1), sampleMigration(1)
	g.Version, g.RoomID = groupVersion, name
	m.Version, m.Reason = migrationVersion, name
	e, r := sampleEntry("group", 1, number), sampleReceipt("group", 1, number)
	former := sampleFormer("group", 1, name)
	return &storage.Change{
		Group: &g, Migration: &m, Content: &storage.Content{ID: migrationID(number), Data: bytesOf(name)},
		Snapshots: []storage.Snapshot{sampleSnapshot("group", 1, number)}, Entries: []storage.Entry{e}, Receipt: &r,
		Former: &former,
		Rows:   []storage.Row{sampleRow("b.example", name, 1)}, FanOuts: []storage.FanOut{sampleFanOut("group", 1, number)},
		Evidence: []storage.Evidence{sampleEvidence("group", number)},
		Setting:  &storage.Setting{Name: "changed", Value: []byte(`"` + name + `"`)},
	}
}

// state is everything that these tests can read from a store.
type state struct {
	Groups     []storage.Group
	Migrations []migration.Migration
	Contents   [][]byte
	Snapshots  []storage.Snapshot
	Entries    map[string][]storage.Entry
	Receipts   []storage.Receipt
	Former     []storage.Former
	Rows       []storage.Row
	Waiting    []storage.Position
	FanOuts    []storage.FanOut
	Evidence   []storage.Evidence
	KeyObjects []storage.KeyObject
	Resorts    []storage.LastResort
	Audit      []storage.AuditEntry
	Setting    json.RawMessage
	Drain      []storage.DrainGroup
}

// dump reads everything: groups and terms up to maxTerm, contents and snapshots up to maxNumber.
func dump(t testing.TB, s storage.Store) (all state) {
	const maxTerm, maxNumber, limit = 3, 3, 1000
	ctx := t.Context()
	check := func(err error) {
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			t.Fatal(err)
		}
	}
	latest, err := s.Groups(ctx, storage.GroupFilter{}, nil, limit)
	check(err)
	all.Migrations, err = s.Migrations(ctx, storage.MigrationFilter{}, mimiport.MigrationID{}, limit)
	check(err)
	all.Rows, _, err = s.Due(ctx, epoch.AddDate(1, 0, 0), limit)
	check(err)
	all.Waiting, err = s.Waiting(ctx)
	check(err)
	all.KeyObjects, err = s.KeyObjects(ctx, "a.example")
	check(err)
	all.Resorts, err = s.LastResorts(ctx, "@alice:a.example")
	check(err)
	all.Audit, err = s.AuditEntries(ctx, storage.AuditID{}, limit)
	check(err)
	all.Setting, err = s.Setting(ctx, "changed")
	check(err)
	all.Drain, err = s.DrainGroups(ctx, nil, nil, limit)
	check(err)
	all.Entries = make(map[string][]storage.Entry)
	for _, id := range []string{"group", "other"} {
		found, err := s.Evidence(ctx, []byte(id))
		check(err)
		all.Evidence = append(all.Evidence, found...)
		for term := range uint64(maxTerm) {
			k := key(id, term)
			if g, err := s.GroupAt(ctx, k); err == nil {
				all.Groups = append(all.Groups, *g)
			} else {
				check(err)
			}
			entries, err := s.Entries(ctx, k, 0, limit)
			check(err)
			all.Entries[fmt.Sprint(id, term)] = entries
			fanOuts, err := s.FanOuts(ctx, storage.Position{GroupKey: k}, limit)
			check(err)
			all.FanOuts = append(all.FanOuts, fanOuts...)
			receipts, err := s.Receipts(ctx, storage.Epoch{GroupKey: k}, limit)
			check(err)
			all.Receipts = append(all.Receipts, receipts...)
			if former, err := s.Former(ctx, k); err == nil {
				all.Former = append(all.Former, *former)
			} else {
				check(err)
			}
			for n := range uint64(maxNumber) {
				if snapshot, err := s.Snapshot(ctx, k, n); err == nil {
					all.Snapshots = append(all.Snapshots, *snapshot)
				} else {
					check(err)
				}
			}
		}
	}
	for n := range uint64(maxNumber) {
		content, err := s.Content(ctx, migrationID(n))
		check(err)
		all.Contents = append(all.Contents, content)
	}
	all.Groups = append(all.Groups, latest...)
	return all
}

// testAtomic: a change leaves nothing behind if any part of it conflicts.
func testAtomic(t *testing.T, f *fixture) {
	f.apply(everything("before", 1, 0, 0))
	before := dump(t, f)
	conflicts := map[string]func(c *storage.Change){
		"group":       func(c *storage.Change) { c.Group.Version = 7 },
		"migration":   func(c *storage.Change) { c.Migration.Version = 7 },
		"content":     func(c *storage.Change) { c.Content.ID = migrationID(1) },
		"entry":       func(c *storage.Change) { c.Entries = append(c.Entries, sampleEntry("group", 1, 1)) },
		"entry twice": func(c *storage.Change) { c.Entries = append(c.Entries, c.Entries[0]) },
		"receipt":     func(c *storage.Change) { c.Receipt.Epoch = 1 },
		"row":         func(c *storage.Change) { c.Rows = append(c.Rows, sampleRow("b.example", "unfinished", 1)) },
		"fan-out":     func(c *storage.Change) { c.FanOuts = append(c.FanOuts, sampleFanOut("group", 1, 1)) },
		"row twice":   func(c *storage.Change) { c.Rows = append(c.Rows, c.Rows[0]) },
	}
	unfinished := sampleRow("b.example", "unfinished", 1)
	f.apply(&storage.Change{Rows: []storage.Row{unfinished}})
	before.Rows = append(before.Rows, unfinished)
	drop, dropped := key("group", 1), migrationID(1)
	for name, spoil := range conflicts {
		c := everything("after", 2, 1, 1)
		c.Done = []storage.RowKey{{Destination: "b.example", Queue: "before", Order: 1}}
		c.Drop, c.DropContent = &drop, &dropped
		if name == "entry" || name == "receipt" {
			c.Drop = nil // else there is no conflict
		}
		if name == "content" {
			c.DropContent = nil
		}
		spoil(c)
		f.refuse(c)
		expect(t, name, dump(t, f), nil, before)
	}
	c := everything("after", 2, 1, 1)
	c.Drop = &drop
	f.apply(c) // the change is valid again
}

func testRange(t *testing.T, f *fixture) {
	const tooLarge = math.MaxInt64 + 1
	for name, spoil := range map[string]func(c *storage.Change){
		"term":      func(c *storage.Change) { c.Group.Term = tooLarge },
		"epoch":     func(c *storage.Change) { c.Migration.Epoch = tooLarge },
		"entry":     func(c *storage.Change) { c.Entries[0].Epoch = tooLarge },
		"receipt":   func(c *storage.Change) { c.Receipt.Epoch = tooLarge },
		"snapshot":  func(c *storage.Change) { c.Snapshots[0].Seq = tooLarge },
		"row order": func(c *storage.Change) { c.Rows[0].Order = tooLarge },
	} {
		c := everything("change", 1, 0, 0)
		spoil(c)
		err := f.Apply(t.Context(), c)
		if e, ok := errors.AsType[*mimiport.Error](err); !ok || e.Kind != mimiport.KindInternal {
			t.Fatalf("%s: %v, want a mimiport.Error", name, err)
		}
		if got := dump(t, f); len(got.Groups)+len(got.Rows) > 0 {
			t.Fatalf("%s: wrote %v", name, got)
		}
	}
}

func testCanceled(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Apply(ctx, everything("change", 1, 0, 0)); !errors.Is(err, context.Canceled) {
		t.Fatalf("apply: %v, want context.Canceled", err)
	}
	if got := dump(t, f); len(got.Groups)+len(got.Rows) > 0 {
		t.Fatalf("wrote %v", got)
	}
}

// testRacingGroup: if several changes race for a version, exactly one wins.
func testRacingGroup(t *testing.T, f *fixture) {
	const racers, each = 8, 10
	ctx := t.Context()
	g := sampleGroup("group", 1)
	g.Epoch = 0
	f.apply(&storage.Change{Group: &g})
	race := func(racer int) error {
		for won := 0; won < each; {
			g, err := f.Group(ctx, []byte("group"))
			if err != nil {
				return err
			}
			g.Epoch++
			entry := sampleEntry("group", 1, g.Epoch)
			entry.Sender = fmt.Sprint(racer)
			row := sampleRow("b.example", "queue", g.Epoch)
			switch err := f.Apply(ctx, &storage.Change{Group: g, Entries: []storage.Entry{entry}, Rows: []storage.Row{row}}); {
			case err == nil:
				won++
			case !errors.Is(err, storage.ErrConflict):
				return err
			}
		}
		return nil
	}
	var wait sync.WaitGroup
	for racer := range racers {
		wait.Go(func() {
			if err := race(racer); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	got, err := f.Group(ctx, g.ID)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "epoch and version", []uint64{got.Epoch, got.Version}, nil, []uint64{racers * each, racers*each + 1})
	log, err := f.Entries(ctx, key("group", 1), 0, 1000)
	expect(t, "log", len(log), err, racers*each)
}

// testRacingQueue: a row that is added while another change removes the last row becomes due, and in order.
func testRacingQueue(t *testing.T, f *fixture) {
	const writers, each = 4, 25
	ctx := t.Context()
	var next, added atomic.Uint64
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			for range each {
				rows := []storage.Row{sampleRow("b.example", "queue", next.Add(1)), sampleRow("b.example", "other", next.Add(1))}
				if err := f.Apply(ctx, &storage.Change{Rows: rows}); err != nil {
					t.Error(err)
				}
				added.Add(uint64(len(rows)))
			}
		})
	}
	for removed := uint64(0); removed < 2*writers*each && !t.Failed(); {
		before := added.Load()
		rows, _, err := f.Due(ctx, epoch, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 0 && before == 2*writers*each {
			t.Fatalf("no row is due after the removal of %d of %d rows", removed, before)
		}
		for _, row := range rows {
			if err := f.Apply(ctx, &storage.Change{Done: []storage.RowKey{row.Key()}}); err != nil {
				t.Fatal(err)
			}
			removed++
		}
	}
	wait.Wait()
	f.expectDue(1, 10, -1)
}

func testReopen(t *testing.T, f *fixture) {
	f.apply(everything("before", 1, 0, 0))
	before := dump(t, f)
	f.stop()
	f.start()
	expect(t, "reopened", dump(t, f), nil, before)
	f.apply(everything("after", 2, 1, 1))
}
