package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// exceed applies a change that must break a limit.
func (f *fixture) exceed(c *storage.Change, quota string) {
	f.t.Helper()
	err := f.Apply(f.t.Context(), c)
	if broken, ok := errors.AsType[*storage.LimitError](err); !ok || broken.Quota != quota {
		f.t.Fatalf("apply: %v, want a *LimitError for %s", err, quota)
	}
}

// expectCount fails the test unless a Max of want allows a change and a smaller Max refuses it.
func (f *fixture) expectCount(name string, l storage.Limit, want int64) {
	f.t.Helper()
	l.Quota, l.Max = name, want
	f.apply(&storage.Change{Limits: []storage.Limit{l}})
	if l.Max--; want > 0 {
		f.exceed(&storage.Change{Limits: []storage.Limit{l}}, name)
	}
}

func testLimitGroups(t *testing.T, f *fixture) {
	for i, state := range []migration.GroupState{migration.GroupActive, migration.GroupFrozen, migration.GroupReserved} {
		for _, who := range []string{"a", "b"} {
			g := sampleGroup(fmt.Sprint(who, i), 0)
			g.State, g.Creator, g.RoomID = state, "@"+who+":a.example", fmt.Sprintf("!%d:a.example", i)
			f.apply(&storage.Change{Group: &g})
		}
	}
	const a, b, room = "@a:a.example", "@b:a.example", "!1:a.example"
	f.expectCounts(map[storage.Counter]int64{
		{Quota: storage.QuotaGroups}:                                         4,
		{Quota: storage.QuotaGroupsPerUser, User: a}:                         2,
		{Quota: storage.QuotaGroupsPerUser, User: "@c:a.example"}:            0,
		{Quota: storage.QuotaGroupsPerRoom, RoomID: room}:                    2,
		{Quota: storage.QuotaGroupsPerUserInRoom, User: b, RoomID: room}:     1,
		{Quota: storage.QuotaReservedPerUser, User: b}:                       1,
		{Quota: storage.QuotaReservedPerRoom, RoomID: room}:                  0,
		{Quota: storage.QuotaReservedPerRoom, RoomID: "!2:a.example"}:        2,
		{Quota: storage.QuotaGroupsPerRoom, RoomID: "!2:a.example"}:          0,
		{Quota: storage.QuotaGroupsPerUserInRoom, User: a, RoomID: "!2:..."}: 0,
	})
}

// expectCounts checks kept numbers.
func (f *fixture) expectCounts(want map[storage.Counter]int64) {
	f.t.Helper()
	for c, n := range want {
		f.expectCount(c.Quota, storage.Limit{Counter: &c}, n)
	}
}

// testCountsFollow: the kept numbers follow each change of a group and of a migration, and a refused change leaves them
// as they are.
func testCountsFollow(t *testing.T, f *fixture) {
	g := sampleGroup("group", 1)
	owned := func(n int64) {
		t.Helper()
		want := make(map[storage.Counter]int64)
		for _, c := range storage.GroupCounters(g.Creator, g.RoomID) {
			want[c] = n
		}
		for _, c := range storage.ReservedCounters(g.Creator, g.RoomID) {
			want[c] = 0
		}
		f.expectCounts(want)
	}
	apply := func() {
		t.Helper()
		f.apply(&storage.Change{Group: &g})
		g.Version++
	}
	g.State = migration.GroupReserved
	apply()
	f.expectCounts(map[storage.Counter]int64{{Quota: storage.QuotaReservedPerUser, User: g.Creator}: 1})
	for _, state := range []migration.GroupState{migration.GroupActive, migration.GroupFrozen, migration.GroupActive} {
		g.State = state
		apply()
		owned(1)
	}
	stale := g
	stale.Version, stale.State = g.Version-1, migration.GroupMoved
	f.refuse(&storage.Change{Group: &stale})
	owned(1)
	g.State = migration.GroupMoved
	apply()
	owned(0)
	g.State, g.Creator, g.RoomID = migration.GroupStaged, "@other:b.example", "!other:b.example" // it comes back
	apply()
	owned(1)

	m := sampleMigration(1)
	m.Role, m.State = migration.Target, migration.Offered
	for _, c := range []struct {
		state           migration.State
		offered, staged int64
	}{{migration.Offered, 1, 0}, {migration.Staged, 0, 1}, {migration.Active, 0, 0}} {
		m.State = c.state
		f.apply(&storage.Change{Migration: &m})
		m.Version++
		want := make(map[storage.Counter]int64)
		for _, counter := range storage.OfferCounters(&m) {
			want[counter] = c.offered
		}
		for _, counter := range storage.StagedCounters(&m) {
			want[counter] = c.staged
		}
		f.expectCounts(want)
	}
}

func testLimitMigrations(t *testing.T, f *fixture) {
	for n := range uint64(5) {
		m := sampleMigration(n + 1)
		if n%2 == 1 {
			m.Source, m.RoomID = "c.example", "!other:a.example"
		}
		f.apply(&storage.Change{Migration: &m})
	}
	for name, c := range map[string]struct {
		filter storage.MigrationFilter
		want   int64
	}{
		"all":    {storage.MigrationFilter{}, 5},
		"source": {storage.MigrationFilter{Source: "c.example"}, 2},
		"room":   {storage.MigrationFilter{RoomID: "!room:a.example"}, 3},
		"times":  {storage.MigrationFilter{Since: sampleMigration(2).CreatedAt, Until: sampleMigration(4).CreatedAt}, 3},
		"none":   {storage.MigrationFilter{Role: migration.Target}, 0},
	} {
		f.expectCount(name, storage.Limit{Migrations: &c.filter}, c.want)
	}
}

// testLimitVolume: a store counts bytes for each user, term and day, and does not count a refused change.
func testLimitVolume(t *testing.T, f *fixture) {
	add := func(group string, term uint64, user string, day, bytes int64) *storage.Change {
		return &storage.Change{
			Volume: &storage.Volume{GroupKey: key(group, term), UserID: user, Day: day, Bytes: bytes},
			Limits: []storage.Limit{{Quota: "bytes", Max: 100, Volume: true}},
		}
	}
	const a, b = "@a:a.example", "@b:b.example"
	f.apply(add("group", 1, a, 7, 60))
	f.exceed(add("group", 1, a, 7, 41), "bytes")
	f.apply(add("group", 1, a, 7, 40))
	f.exceed(add("group", 1, a, 7, 1), "bytes")
	for _, other := range []*storage.Change{
		add("group", 1, b, 7, 100), add("group", 2, a, 7, 100), add("other", 1, a, 7, 100), add("group", 1, a, 8, 100),
	} {
		f.apply(other)
	}
	f.exceed(add("group", 1, a, 8, 1), "bytes")
	drop := key("group", 1)
	f.apply(&storage.Change{Drop: &drop})
	f.apply(add("group", 1, a, 8, 100))
	f.exceed(add("group", 2, a, 7, 1), "bytes")
}

// testLimitAtomic: a change that breaks a limit leaves nothing behind.
func testLimitAtomic(t *testing.T, f *fixture) {
	f.apply(everything("before", 1, 0, 0))
	before := dump(t, f)
	c := everything("after", 2, 1, 1)
	c.Limits = []storage.Limit{
		{Quota: "wide", Max: 1, Migrations: &storage.MigrationFilter{}},
		{Quota: "narrow", Max: 0, Migrations: &storage.MigrationFilter{}},
	}
	f.exceed(c, "narrow")
	expect(t, "refused", dump(t, f), nil, before)
}

// testRacingLimits: if several changes race for the places of several quotas, as many succeed as there are places.
func testRacingLimits(t *testing.T, f *fixture) {
	const rounds, racers, places = 20, 8, 2
	for round := range rounds {
		user, room := fmt.Sprintf("@%d:a.example", round), fmt.Sprintf("!%d:a.example", round)
		limits := []storage.Limit{
			{Quota: "user", Max: places, Migrations: &storage.MigrationFilter{User: user}},
			{Quota: "all", Max: rounds * racers, Migrations: &storage.MigrationFilter{}},
			{Quota: "room", Max: places, Counter: &storage.Counter{Quota: storage.QuotaGroupsPerRoom, RoomID: room}},
		}
		var stored atomic.Int64
		var wait sync.WaitGroup
		for racer := range racers {
			m, g := sampleMigration(uint64(round*racers+racer+1)), sampleGroup(fmt.Sprint(round, racer), 1)
			m.User, g.RoomID = user, room
			own := slices.Concat(limits[racer%3:], limits[:racer%3]) // in any order
			wait.Go(func() {
				switch err := f.Apply(t.Context(), &storage.Change{Migration: &m, Group: &g, Limits: own}); {
				case err == nil:
					stored.Add(1)
				case !isLimit(err):
					t.Error(err)
				}
			})
		}
		wait.Wait()
		expect(t, "stored", stored.Load(), nil, places)
		f.expectCount("user", limits[0], places)
		f.expectCount("room", limits[2], places)
	}
}

func isLimit(err error) bool {
	_, ok := errors.AsType[*storage.LimitError](err)
	return ok
}
