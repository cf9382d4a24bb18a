package storagetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

func sampleDrainGroup(id string) storage.DrainGroup {
	return storage.DrainGroup{
		ID: []byte(id), State: storage.DrainAsked, Due: epoch.Add(time.Minute), User: "@alice:a.example", Asked: epoch,
		Tried: 2, Why: []byte(`[{"rule":"no_answer"}]`),
	}
}

// testDrain: a drain takes the groups that are here, each once, and keeps what became of them. The state of a group in
// its highest term counts.
func testDrain(t *testing.T, f *fixture) {
	ctx := t.Context()
	put := func(id string, term uint64, state migration.GroupState) {
		g := sampleGroup(id, term)
		g.State = state
		f.apply(&storage.Change{Group: &g})
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put("a", 0, migration.GroupMoved)
	put("a", 1, migration.GroupActive)
	put("b", 0, migration.GroupFrozen)
	put("c", 0, migration.GroupStopped)
	put("d", 0, migration.GroupActive)
	put("d", 1, migration.GroupDropped)
	for id, state := range map[string]migration.GroupState{
		"e": migration.GroupMoved, "f": migration.GroupClosed, "g": migration.GroupReserved, "h": migration.GroupStaged,
	} {
		put(id, 0, state)
	}
	waiting := func(id string, state storage.DrainState, due time.Time) storage.DrainGroup {
		return storage.DrainGroup{ID: []byte(id), State: state, Due: due}
	}
	do(f.FillDrain(ctx, epoch))
	got, err := f.DrainGroups(ctx, nil, nil, 10)
	expect(t, "filled", got, err, []storage.DrainGroup{
		waiting("a", storage.DrainWaiting, epoch), waiting("b", storage.DrainMoving, epoch),
		waiting("c", storage.DrainWaiting, epoch), waiting("d", storage.DrainWaiting, epoch),
	})
	asked := complete(t, sampleDrainGroup("a"))
	stuck := sampleDrainGroup("d")
	stuck.State, stuck.Due = storage.DrainStuck, epoch.Add(time.Hour)
	do(f.PutDrain(ctx, []storage.DrainGroup{asked, stuck}))
	put("z", 0, migration.GroupActive)
	do(f.FillDrain(ctx, epoch.Add(time.Second)))
	got, err = f.DrainGroups(ctx, nil, []byte("b"), 2)
	expect(t, "after b", got, err, []storage.DrainGroup{waiting("c", storage.DrainWaiting, epoch), stuck})
	got, err = f.DrainGroups(ctx, []storage.DrainState{storage.DrainAsked, storage.DrainMoving}, nil, 10)
	expect(t, "asked and moving", got, err, []storage.DrainGroup{asked, waiting("b", storage.DrainMoving, epoch)})
	due := func(now, next time.Time, limit int, want ...storage.DrainGroup) {
		t.Helper()
		got, at, err := f.DueDrain(ctx, now, limit)
		expect(t, fmt.Sprint("due at ", now), got, err, want)
		expect(t, "the next", at, nil, next)
	}
	later := waiting("z", storage.DrainWaiting, epoch.Add(time.Second))
	due(epoch, epoch.Add(time.Second), 10, waiting("c", storage.DrainWaiting, epoch))
	due(epoch.Add(time.Minute), epoch.Add(time.Hour), 2, waiting("c", storage.DrainWaiting, epoch), later)
	due(epoch.Add(time.Hour), time.Time{}, 10, waiting("c", storage.DrainWaiting, epoch), later, asked, stuck)
	n, err := f.CountAsked(ctx, "@alice:a.example")
	expect(t, "asked of alice", n, err, 1)
	do(f.HastenDrain(ctx, []byte("d"), epoch))
	do(f.HastenDrain(ctx, []byte("c"), epoch.Add(time.Hour)))
	stuck.Due = epoch
	due(epoch, epoch.Add(time.Second), 10, waiting("c", storage.DrainWaiting, epoch), stuck)
	do(f.HastenDrain(ctx, nil, epoch))
	later.Due = epoch
	due(epoch, asked.Due, 10, waiting("c", storage.DrainWaiting, epoch), stuck, later)
	put("a", 2, migration.GroupMoved)
	put("d", 2, migration.GroupClosed)
	n, err = f.CountAsked(ctx, "@alice:a.example")
	expect(t, "asked of alice after the move", n, err, 0)
	counted, err := f.CountDrain(ctx)
	expect(t, "counted", counted, err, map[storage.DrainState]int{
		storage.DrainMoved: 1, storage.DrainMoving: 1, storage.DrainWaiting: 2, storage.DrainGone: 1,
	})
	do(f.ClearDrain(ctx))
	counted, err = f.CountDrain(ctx)
	expect(t, "cleared", counted, err, map[storage.DrainState]int{})
}
