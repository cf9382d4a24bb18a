package postgres_test

import (
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

func BenchmarkStore(b *testing.B) { storagetest.Benchmark(b, on(pgtest.Start(b))) }

// BenchmarkVanish measures how long a server that vanishes and is back for new connections keeps a store from writing.
// Without deadlines a store waits for as long as TCP, so the benchmark ends the wait.
func BenchmarkVanish(b *testing.B) {
	const longest = 20 * time.Second
	server := pgtest.Start(b)
	for _, patience := range []time.Duration{0, 5 * time.Second} {
		b.Run(fmt.Sprintf("deadlines=%t", patience > 0), func(b *testing.B) {
			for b.Loop() {
				proxy := pgtest.NewProxy(b, server)
				connection := pgtest.Through(b, server.Database(b), proxy)
				store := open(b, connection, postgres.Pool{MaxOpen: 10, MaxIdle: 10, Patience: patience})
				if err := store.PutSetting(b.Context(), "before", []byte("1")); err != nil {
					b.Fatal(err)
				}
				proxy.Swallow()
				proxy.Lead(server)
				begin := time.Now()
				select {
				case <-written(b, store):
				case <-time.After(longest):
				}
				b.ReportMetric(time.Since(begin).Seconds(), "s")
			}
		})
	}
}

// written tries to write until that succeeds. Then it closes the channel.
func written(b *testing.B, store storage.Store) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		for store.PutSetting(b.Context(), "after", []byte("1")) != nil && b.Context().Err() == nil {
		}
		close(done)
	}()
	return done
}

// BenchmarkPooler claims through a pooler that hands out connections by transaction, and counts the locks that stay.
// Then it opens a store through the same pooler, which refuses it before there is any claim.
func BenchmarkPooler(b *testing.B) {
	server := pgtest.Start(b)
	for _, test := range []struct {
		refused bool
		claim   func(b *testing.B, through string)
	}{{false, claimPooled}, {true, openPooled}} {
		b.Run(fmt.Sprintf("refused=%t", test.refused), func(b *testing.B) {
			for b.Loop() {
				database := server.Database(b)
				test.claim(b, pgtest.Bouncer(b, server, "transaction", database))
				b.ReportMetric(float64(advisoryLocks(b, connect(b, database))), "locks")
			}
		})
	}
}

// claimPooled takes 100 advisory locks and frees them, as claims do. Meanwhile, another client of the pooler begins a
// transaction, which gets the connection that has the lock.
func claimPooled(b *testing.B, through string) {
	claims, other := connect(b, through), connect(b, through)
	claims.SetMaxOpenConns(1)
	for i := range 100 {
		ask(b, claims, fmt.Sprintf("SELECT pg_try_advisory_lock(%d)", i))
		tx, err := other.Begin()
		if err != nil {
			b.Fatal(err)
		}
		ask(b, tx, "SELECT true")
		ask(b, claims, fmt.Sprintf("SELECT pg_advisory_unlock(%d)", i))
		if err := tx.Rollback(); err != nil {
			b.Fatal(err)
		}
	}
}

// ask asks a yes-no question. The answer does not matter: the module threw it away.
func ask(b *testing.B, asked interface {
	QueryRow(query string, args ...any) *sql.Row
}, question string) {
	b.Helper()
	var answer bool
	if err := asked.QueryRow(question).Scan(&answer); err != nil {
		b.Fatal(err)
	}
}

func openPooled(b *testing.B, through string) {
	if store, err := postgres.Open(b.Context(), through, hurried); err == nil {
		store.Close()
		b.Fatal("opened a store through a pooler by transaction")
	}
}

// BenchmarkStandby measures one transaction of one row, alone and with a synchronous standby.
func BenchmarkStandby(b *testing.B) {
	server := pgtest.Start(b)
	store := open(b, server.Database(b), pool)
	for _, standby := range []bool{false, true} {
		if standby {
			server.Standby(b)
			store = open(b, server.Database(b), pool)
		}
		b.Run(fmt.Sprintf("standby=%t", standby), func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				if err := store.PutSetting(b.Context(), "written", []byte("1")); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
		})
	}
}
