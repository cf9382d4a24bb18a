package storagetest

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// RunModel applies random changes to the stores that fresh makes and to a store in memory. The test fails when they
// differ.
func RunModel(t *testing.T, fresh func(testing.TB) Opener) {
	rapid.Check(t, func(rt *rapid.T) {
		store := newFixture(t, fresh)
		defer store.stop()
		model := memory.New()
		rt.Repeat(map[string]func(*rapid.T){
			"apply": func(rt *rapid.T) {
				c := drawChange(t, rt, model)
				got, want := store.Apply(t.Context(), c), model.Apply(t.Context(), c)
				if !errors.Is(got, want) {
					rt.Fatalf("apply: %v, want %v as from the model", got, want)
				}
			},
			"retry": func(rt *rapid.T) {
				row, at := drawRow(rt), drawTime(rt)
				err := errors.Join(store.Retry(t.Context(), row.Key(), 3, at), model.Retry(t.Context(), row.Key(), 3, at))
				if err != nil {
					rt.Fatal(err)
				}
			},
			"hasten": func(rt *rapid.T) {
				now := drawTime(rt)
				if err := errors.Join(store.Hasten(t.Context(), now), model.Hasten(t.Context(), now)); err != nil {
					rt.Fatal(err)
				}
			},
			"observe": func(rt *rapid.T) {
				now, limit, lane := drawTime(rt), rapid.IntRange(1, 4).Draw(rt, "limit"), []string{drawDestination(rt)}
				want, got := observe(t, model, now, limit, lane), observe(t, store, now, limit, lane)
				if !reflect.DeepEqual(want, got) { // DeepEqual is faster than cmp.Diff
					rt.Fatalf("the store differs from the model (-model +store):\n%s", cmp.Diff(want, got))
				}
				requireCounts(rt, store.Store)
			},
		})
	})
}

// observation is everything that a store tells, with the due rows.
type observation struct {
	State state
	Due   []storage.Row
	Next  time.Time
}

func observe(t testing.TB, s storage.Store, now time.Time, limit int, lane []string) observation {
	t.Helper()
	rows, next, err := s.Due(t.Context(), now, limit, lane)
	if err != nil {
		t.Fatal(err)
	}
	return observation{dump(t, s), rows, next}
}

// requireCounts fails if a store that can be inspected keeps wrong numbers.
func requireCounts(t interface{ Fatal(...any) }, s storage.Store) {
	inspected, ok := s.(interface {
		Loose(context.Context) ([]string, error)
	})
	if !ok {
		return
	}
	problems, err := inspected.Loose(context.Background())
	for _, p := range problems {
		if strings.Contains(p, "quota") {
			t.Fatal(p)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Each value is drawn from few, so that equal values are frequent.

func drawID(rt *rapid.T) string { return rapid.SampledFrom([]string{"group", "other"}).Draw(rt, "id") }

func drawSmall(rt *rapid.T) uint64 { return rapid.Uint64Range(0, 2).Draw(rt, "number") }

func drawTime(rt *rapid.T) time.Time {
	return epoch.Add(time.Duration(rapid.Int64Range(0, 5).Draw(rt, "ms")) * time.Millisecond)
}

func drawDestination(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"a.example", "b.example"}).Draw(rt, "destination")
}

func drawRow(rt *rapid.T) storage.Row {
	row := sampleRow(drawDestination(rt), drawID(rt), drawSmall(rt))
	row.Due = drawTime(rt)
	row.Kind = rapid.SampledFrom([]storage.RowKind{storage.RowFanOut, migration.RowPurge}).Draw(rt, "kind")
	if rapid.Bool().Draw(rt, "ahead") {
		row.Due = row.Due.Add(storage.MaxWait)
	}
	return row
}

// drawChange draws a change to the contents of the model. A few of its parts are stale.
func drawChange(t testing.TB, rt *rapid.T, model storage.Store) *storage.Change {
	c := new(storage.Change)
	term := drawSmall(rt)
	with := func(part string) bool { return rapid.Bool().Draw(rt, part) }
	if with("group") {
		g := sampleGroup(drawID(rt), term)
		g.Version = drawSmall(rt)
		g.Creator = rapid.SampledFrom([]string{"", "@a:a.example"}).Draw(rt, "creator")
		g.State = rapid.SampledFrom([]migration.GroupState{
			migration.GroupReserved, migration.GroupActive, migration.GroupFrozen, migration.GroupMoved,
		}).Draw(rt, "group state")
		if stored, err := model.GroupAt(t.Context(), storage.GroupKey{ID: g.ID, Term: term}); err == nil && with("current") {
			g.Version = stored.Version
		}
		c.Group = &g
	}
	if with("migration") {
		m := sampleMigration(drawSmall(rt))
		m.Role = rapid.SampledFrom([]migration.Role{migration.Source, migration.Target}).Draw(rt, "role")
		m.State = rapid.SampledFrom([]migration.State{
			migration.Frozen, migration.Aborted, migration.Offered, migration.Staged,
		}).Draw(rt, "state")
		m.Version = drawSmall(rt)
		if stored, err := model.Migration(t.Context(), m.ID); err == nil && with("current") {
			m.Version = stored.Version
		}
		c.Migration = &m
	}
	if with("content") {
		c.Content = &storage.Content{ID: migrationID(drawSmall(rt)), Data: bytesOf("content")}
	}
	if with("drop content") {
		dropped := migrationID(drawSmall(rt))
		c.DropContent = &dropped
	}
	if with("drop") {
		dropped := key(drawID(rt), term)
		c.Drop = &dropped
	}
	if with("drop before") {
		c.DropBefore = &storage.Epoch{GroupKey: key(drawID(rt), term), Epoch: drawSmall(rt)}
	}
	few := func(draw func()) {
		for range rapid.IntRange(0, 2).Draw(rt, "count") {
			draw()
		}
	}
	few(func() { c.Snapshots = append(c.Snapshots, sampleSnapshot(drawID(rt), term, drawSmall(rt))) })
	few(func() { c.Entries = append(c.Entries, sampleEntry(drawID(rt), term, drawSmall(rt))) })
	if with("former") {
		former := sampleFormer(drawID(rt), term, "former")
		c.Former = &former
	}
	if with("receipt") {
		r := sampleReceipt(drawID(rt), term, drawSmall(rt))
		c.Receipt = &r
	}
	few(func() {
		e := sampleEvidence(drawID(rt), drawSmall(rt))
		e.At = drawTime(rt)
		c.Evidence = append(c.Evidence, e)
	})
	few(func() { c.Rows = append(c.Rows, drawRow(rt)) })
	few(func() { c.FanOuts = append(c.FanOuts, sampleFanOut(drawID(rt), term, drawSmall(rt))) })
	few(func() {
		c.Settled = append(c.Settled, storage.Position{GroupKey: key(drawID(rt), term), Seq: drawSmall(rt)})
	})
	few(func() { row := drawRow(rt); c.Done = append(c.Done, row.Key()) })
	return c
}
