package storagetest

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Benchmark measures the stores that fresh makes.
func Benchmark(b *testing.B, fresh func(testing.TB) Opener) {
	b.Run("Commit", func(b *testing.B) { benchmarkCommit(b, newFixture(b, fresh)) })
	b.Run("Due", func(b *testing.B) { benchmarkDue(b, newFixture(b, fresh)) })
	b.Run("DueSilent", func(b *testing.B) { benchmarkDueSilent(b, newFixture(b, fresh)) })
	b.Run("Reserve", func(b *testing.B) { benchmarkReserve(b, newFixture(b, fresh)) })
}

// benchmarkReserve reserves ids under the quotas while the server has few groups, and again while it has 10,000.
func benchmarkReserve(b *testing.B, f *fixture) {
	groups := 0
	put := func(state migration.GroupState, limits ...storage.Limit) {
		g := sampleGroup(fmt.Sprint(groups), 0)
		g.State = state
		f.apply(&storage.Change{Group: &g, Limits: limits})
		groups++
	}
	var limits []storage.Limit
	g := sampleGroup("", 0)
	counters := slices.Concat(storage.GroupCounters(g.Creator, g.RoomID), storage.ReservedCounters(g.Creator, g.RoomID))
	for _, c := range counters {
		limits = append(limits, storage.Limit{Quota: c.Quota, Max: 1 << 30, Counter: &c})
	}
	measure := func() time.Duration {
		begin := time.Now()
		for range b.N {
			put(migration.GroupReserved, limits...)
		}
		return time.Since(begin)
	}
	put(migration.GroupActive)
	few := measure()
	for range 10_000 {
		put(migration.GroupActive)
	}
	many := measure()
	b.ReportMetric(float64(few.Microseconds())/float64(b.N), "µs-at-1")
	b.ReportMetric(float64(many.Microseconds())/float64(b.N), "µs-at-10000")
	b.ReportMetric(0, "ns/op")
}

// benchmarkCommit accepts Commits of 2 KiB with a GroupInfo of 1 KiB, and fans them out to ten servers.
func benchmarkCommit(b *testing.B, f *fixture) {
	const servers = 10
	g := sampleGroup("group", 1)
	f.apply(&storage.Change{Group: &g})
	g.Version = 1
	message := make([]byte, 2<<10)
	b.ReportAllocs()
	for seq := uint64(1); b.Loop(); seq++ {
		copy(message, fmt.Sprint(seq))
		e := storage.Entry{GroupID: g.ID, Term: 1, Seq: seq, Epoch: seq, Kind: storage.EntryCommit, Sender: g.Creator,
			Hash: sha256.Sum256(message), Message: message, GroupInfo: message[:1<<10], At: epoch}
		c := &storage.Change{Group: &g, Entries: []storage.Entry{e}}
		for i := range servers {
			c.Rows = append(c.Rows, sampleRow(fmt.Sprintf("%d.example", i), "group", seq))
		}
		f.apply(c)
		g.Version++
	}
}

// benchmarkDueSilent lists due rows of 8,000 queues of 1,000 servers. The lanes name as many other servers.
func benchmarkDueSilent(b *testing.B, f *fixture) {
	const servers, queues = 1000, 8
	c, answered := new(storage.Change), make([]string, servers)
	for i := range servers {
		answered[i] = fmt.Sprintf("answered%d.example", i)
		for q := range queues {
			c.Rows = append(c.Rows, sampleRow(fmt.Sprintf("silent%d.example", i), fmt.Sprint(q), 1))
		}
	}
	f.apply(c)
	b.ReportAllocs()
	for b.Loop() {
		if due, _, err := f.Due(b.Context(), epoch, 64, []string{"a.example"}, answered); err != nil || len(due) != 64 {
			b.Fatal(len(due), err)
		}
	}
}

// benchmarkDue lists due rows among 100,000 rows in 1,000 queues of 100 servers. All but one of the servers are dead.
func benchmarkDue(b *testing.B, f *fixture) {
	const queues, rows = 1000, 100
	for order := range uint64(rows) {
		c := new(storage.Change)
		for q := range queues {
			row := sampleRow(fmt.Sprintf("%d.example", q%100), fmt.Sprint(q), order)
			if order == 0 && q%100 != 0 {
				row.Due = epoch.Add(time.Hour)
			}
			c.Rows = append(c.Rows, row)
		}
		f.apply(c)
	}
	b.ReportAllocs()
	for b.Loop() {
		if due, _, err := f.Due(b.Context(), epoch, 128); err != nil || len(due) != queues/100 {
			b.Fatal(len(due), err)
		}
	}
}
