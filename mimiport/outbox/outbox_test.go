package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/outbox"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// own is the name of the worker's own server.
const own = "own"

// bench is a running worker in a synctest bubble.
type bench struct {
	t       *testing.T
	store   storage.Store
	worker  *outbox.Worker
	begin   time.Time
	ahead   atomic.Int64 // the number of nanoseconds by which the worker's clock is ahead
	stop    func()       // ends the run and waits for it
	mu      sync.Mutex
	events  []string // "destination/queue/order @seconds"
	running map[string]int
	most    map[string]int // by destination, at a time
}

// behavior is what happens to a row. If it is nil, the row is done.
type behavior func(ctx context.Context, row storage.Row) error

// handler behaves alike for tasks and for messages. It removes tasks from the store.
type handler struct {
	b      *bench
	behave behavior
}

func (h handler) Do(ctx context.Context, row storage.Row) error {
	if err := h.one(ctx, row); err != nil {
		return err
	}
	return h.b.store.Apply(ctx, &storage.Change{Done: []storage.RowKey{row.Key()}})
}

func (h handler) Deliver(ctx context.Context, rows []storage.Row) (done int, err error) {
	for i := range rows {
		if err := h.one(ctx, rows[i]); err != nil {
			return i, err
		}
	}
	return len(rows), nil
}

func (h handler) one(ctx context.Context, row storage.Row) error {
	h.b.enter(row)
	defer h.b.leave(row)
	return h.behave(ctx, row)
}

// newBench starts a worker. behave handles each row; when it returns nil, the row is removed.
func newBench(t *testing.T, behave behavior) *bench {
	return newBenchOn(t, memory.New(), behave)
}

func newBenchOn(t *testing.T, store storage.Store, behave behavior) *bench {
	b := &bench{t: t, store: store, begin: time.Now(), running: make(map[string]int), most: make(map[string]int)}
	log := slog.New(slog.DiscardHandler)
	b.worker = outbox.New(b.store, handler{b, behave}, []string{own}, b.now, func() float64 { return 0 }, log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.worker.Run(ctx)
	}()
	b.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(b.stop)
	return b
}

// now is the worker's clock. Expected events have the true time.
func (b *bench) now() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) }

func (b *bench) enter(row storage.Row) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := time.Since(b.begin).Round(time.Second)
	b.events = append(b.events, fmt.Sprintf("%s/%s/%d @%v", row.Destination, row.Queue, row.Order, at))
	b.running[row.Destination]++
	b.most[row.Destination] = max(b.most[row.Destination], b.running[row.Destination])
}

func (b *bench) leave(row storage.Row) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running[row.Destination]--
}

// atWork counts the rows at work.
func (b *bench) atWork() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, running := range b.running {
		n += running
	}
	return n
}

func (b *bench) handedOver(event string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.events, event)
}

// put stores rows and wakes the worker.
func (b *bench) put(rows ...storage.Row) {
	b.t.Helper()
	if err := b.store.Apply(b.t.Context(), &storage.Change{Rows: rows}); err != nil {
		b.t.Fatal(err)
	}
	b.worker.Wake()
}

// expect waits until nothing more can happen now, and compares the rows that the handler got.
func (b *bench) expect(want ...string) {
	b.t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.events, want) {
		b.t.Fatalf("the handler got:\n%s\nwant:\n%s", strings.Join(b.events, "\n"), strings.Join(want, "\n"))
	}
}

// after waits until the time d after the beginning.
func (b *bench) after(d time.Duration) { <-time.After(time.Until(b.begin.Add(d))) }

func row(destination, queue string, order uint64, due time.Time) storage.Row {
	return storage.Row{Destination: destination, Queue: queue, Order: order, Kind: storage.RowDevices, Due: due}
}

// keeper is a handler that keeps the rows in the store.
type keeper struct{ b *bench }

func (k keeper) Do(_ context.Context, row storage.Row) error {
	k.b.enter(row)
	return nil
}

func (k keeper) Deliver(_ context.Context, rows []storage.Row) (int, error) {
	k.b.enter(rows[0])
	return 0, nil
}

func succeed(context.Context, storage.Row) error { return nil }

func TestQueueInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(context.Context, storage.Row) error {
			<-time.After(time.Second)
			return nil
		})
		b.put(row("b", "q", 3, b.begin), row("b", "q", 1, b.begin), row("b", "q", 2, b.begin))
		b.after(10 * time.Second)
		b.expect("b/q/1 @0s", "b/q/2 @1s", "b/q/3 @2s")
	})
}

func TestNothingOvertakesAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := 3
		b := newBench(t, func(_ context.Context, row storage.Row) error {
			if row.Queue == "q" && row.Order == 1 && failures > 0 {
				failures--
				return errors.New("no")
			}
			return nil
		})
		b.put(row("b", "q", 1, b.begin), row("b", "q", 2, b.begin))
		b.after(time.Minute)
		b.expect("b/q/1 @0s", "b/q/1 @1s", "b/q/1 @3s", "b/q/1 @7s", "b/q/2 @7s")
	})
}

func TestQueuesKnowNoOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(_ context.Context, row storage.Row) error {
			if row.Queue == "stuck" {
				return errors.New("no")
			}
			return nil
		})
		b.put(row("b", "stuck", 1, b.begin))
		synctest.Wait()
		b.put(row("b", "free", 2, b.begin))
		b.expect("b/stuck/1 @0s", "b/free/2 @0s")
	})
}

func TestSleepsUntilDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, succeed)
		b.put(row("b", "q", 1, b.begin.Add(5*time.Second)), row("b", "r", 1, b.begin.Add(9*time.Second)))
		b.after(time.Minute)
		b.expect("b/q/1 @5s", "b/r/1 @9s")
		b.put(row("b", "q", 2, b.begin)) // woken, with nothing to wait for
		b.expect("b/q/1 @5s", "b/r/1 @9s", "b/q/2 @1m0s")
	})
}

// When the clock goes back, postponed rows and due rows run within a minute. Purges are due far ahead on purpose, so
// they wait.
func TestClockGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := 1
		b := newBench(t, func(_ context.Context, row storage.Row) error {
			if row.Queue == "q" && failures > 0 {
				failures--
				return errors.New("no")
			}
			return nil
		})
		purge := row("b", "purge", 1, b.begin.Add(24*time.Hour))
		purge.Kind = migration.RowPurge
		b.put(row("b", "q", 1, b.begin), row("b", "q", 2, b.begin), purge)
		b.expect("b/q/1 @0s")
		b.ahead.Store(int64(-time.Hour))
		b.after(2 * time.Minute)
		b.expect("b/q/1 @0s", "b/q/1 @1s", "b/q/2 @1s")
	})
}

// The worker notices at its start that the clock was set back before.
func TestClockWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New()
		ahead := row("b", "q", 1, time.Now().Add(time.Hour))
		if err := store.Apply(t.Context(), &storage.Change{Rows: []storage.Row{ahead}}); err != nil {
			t.Fatal(err)
		}
		b := newBenchOn(t, store, succeed)
		b.expect("b/q/1 @0s")
	})
}

// The worker notices within a minute that the clock goes forward, although the next row is due later.
func TestClockGoesForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, succeed)
		b.put(row("b", "q", 1, b.begin.Add(9*time.Minute)))
		b.after(time.Second)
		b.ahead.Store(int64(time.Hour))
		b.after(10 * time.Minute)
		b.expect("b/q/1 @1m0s")
	})
}

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := 1
		b := newBench(t, func(context.Context, storage.Row) error {
			failures--
			if failures < 0 {
				return nil
			}
			info := mimiport.Info{RetryAfter: 40 * time.Second}
			return fmt.Errorf("sending: %w", &mimiport.Error{Kind: mimiport.KindInProgress, Info: info})
		})
		b.put(row("b", "q", 1, b.begin))
		b.after(time.Hour)
		b.expect("b/q/1 @0s", "b/q/1 @40s")
	})
}

// A handler that leaves its row in the store does not get the row again at once.
func TestKeptRow(t *testing.T) {
	for _, kind := range []storage.RowKind{storage.RowDevices, storage.RowFanOut} {
		synctest.Test(t, func(t *testing.T) {
			b := &bench{t: t, store: memory.New(), begin: time.Now(), running: make(map[string]int), most: make(map[string]int)}
			log := slog.New(slog.DiscardHandler)
			b.worker = outbox.New(b.store, keeper{b}, []string{own}, b.now, func() float64 { return 0 }, log)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			kept := row("b", "q", 1, b.begin)
			kept.Kind = kind
			b.put(kept)
			b.worker.Run(ctx)
			b.expect("b/q/1 @0s", "b/q/1 @1s", "b/q/1 @3s")
		})
	}
}

func TestShutdownWaitsForHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(ctx context.Context, _ storage.Row) error {
			<-ctx.Done()
			<-time.After(time.Second) // cleaning up
			return ctx.Err()
		})
		b.put(row("b", "q", 1, b.begin), row("b", "q", 2, b.begin))
		b.expect("b/q/1 @0s")
		b.stop()
		if running := b.running["b"]; running != 0 {
			t.Fatalf("%d handlers still run", running)
		}
		rows, _, err := b.store.Due(t.Context(), time.Now(), 10)
		if err != nil || len(rows) != 1 || rows[0].Order != 1 || rows[0].Attempts != 0 {
			t.Fatalf("the interrupted row is %+v, %v; want it as it was", rows, err)
		}
	})
}

// failing is a store whose methods Due and Retry fail for a while.
type failing struct {
	storage.Store
	until time.Time
}

var errDown = errors.New("the database is down")

func (f *failing) Due(
	ctx context.Context, now time.Time, limit int, lanes ...[]string,
) ([]storage.Row, time.Time, error) {
	if now.Before(f.until) {
		return nil, time.Time{}, errDown
	}
	return f.Store.Due(ctx, now, limit, lanes...)
}

func (f *failing) Retry(context.Context, storage.RowKey, int, time.Time) error { return errDown }

func TestStoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &failing{memory.New(), time.Now().Add(10 * time.Second)}
		b := newBenchOn(t, store, func(_ context.Context, row storage.Row) error {
			if row.Queue == "bad" {
				return errors.New("no")
			}
			return nil
		})
		b.put(row("b", "q", 1, b.begin))
		b.after(20 * time.Second)
		b.expect("b/q/1 @10s")
		b.put(row("b", "bad", 1, b.begin)) // cannot be postponed, but must not run in a loop
		b.after(22500 * time.Millisecond)
		b.expect("b/q/1 @10s", "b/bad/1 @20s", "b/bad/1 @21s", "b/bad/1 @22s")
	})
}

// claimed is a store that another process also uses. That process claims a queue for a while, or has removed a row.
type claimed struct {
	storage.Store
	until time.Time
}

func (c *claimed) Claim(ctx context.Context, key storage.RowKey) (func(), error) {
	switch {
	case key.Queue == "theirs" && time.Now().Before(c.until):
		return nil, storage.ErrConflict
	case key.Queue == "done" && time.Now().Before(c.until):
		return nil, errors.Join(storage.ErrNotFound, c.Apply(ctx, &storage.Change{Done: []storage.RowKey{key}}))
	case key.Queue == "broken" && time.Now().Before(c.until.Add(time.Second)):
		return nil, errDown
	}
	return c.Store.Claim(ctx, key)
}

func TestClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBenchOn(t, &claimed{memory.New(), time.Now().Add(2500 * time.Millisecond)}, succeed)
		b.put(row(own, "theirs", 1, b.begin), row(own, "done", 1, b.begin), row(own, "broken", 1, b.begin))
		b.put(row(own, "ours", 1, b.begin), row(own, "ours", 2, b.begin))
		b.after(2 * time.Second)
		b.expect("own/ours/1 @0s", "own/ours/2 @0s")
		b.after(time.Minute)
		b.expect("own/ours/1 @0s", "own/ours/2 @0s", "own/theirs/1 @3s", "own/broken/1 @4s")
	})
}

// When a handler does not learn whether its transaction committed, it gets the row again: a row is handled at least
// once.
func TestUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &storagetest.Faulty{Store: memory.New()}
		b := newBenchOn(t, store, succeed)
		store.FailBefore(2) // the first Apply puts the rows
		store.FailAfter(4)
		b.put(row("b", "q", 1, b.begin), row("b", "q", 2, b.begin))
		b.after(time.Minute)
		b.expect("b/q/1 @0s", "b/q/1 @1s", "b/q/2 @1s")
	})
}

func TestBackoff(t *testing.T) {
	quota := func(after time.Duration) error {
		return fmt.Errorf("x: %w", &mimiport.Error{Kind: mimiport.KindQuota, Info: mimiport.Info{RetryAfter: after}})
	}
	failure := errors.New("no")
	for _, test := range []struct {
		attempts int
		err      error
		jitter   float64
		want     time.Duration
	}{
		{0, failure, 0, time.Second},
		{0, failure, 0.5, 1500 * time.Millisecond},
		{1, failure, 0, 2 * time.Second},
		{7, failure, 0, 128 * time.Second},
		{8, failure, 0, 150 * time.Second},
		{8, failure, 1, 5 * time.Minute},
		{1 << 62, failure, 1, 5 * time.Minute},
		{-1, failure, 1, 5 * time.Minute},
		{0, quota(time.Minute), 0, time.Minute},
		{8, quota(time.Minute), 0, 150 * time.Second},
		{0, quota(24 * time.Hour), 1, 5 * time.Minute},
		{0, quota(-time.Hour), 0, time.Second},
	} {
		if got := outbox.Backoff(test.attempts, test.err, test.jitter); got != test.want {
			t.Errorf("Backoff(%d, %v, %v) = %v, want %v", test.attempts, test.err, test.jitter, got, test.want)
		}
	}
}
