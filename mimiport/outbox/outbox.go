// Package outbox does the work that the Delivery Service has stored as rows. It gives each due row to a handler, in
// the order of the row's queue, and postpones a row that fails. After a crash it gives a row to its handler again, so
// a handler must accept repetition. When several processes use one database, only one of them works on a queue at a
// time. A server that does not answer does not delay work for other servers: see scheduler.
package outbox

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// maxRest limits the pause after each question to the store. The pause is four times as long as the answer took. Due
// rows for silent servers can pile up and make answers slow. The pause keeps these questions from using a whole
// processor.
const maxRest = 50 * time.Millisecond

// lookAgain is the longest time between two looks at the store. The worker gets no signal when the clock is set.
const lookAgain = time.Minute

// storePause is the pause after a failure of the store, and the pause before another try at a queue on which another
// process works.
const storePause = time.Second

// Store is the part of storage.Store that a Worker needs.
type Store interface {
	Due(ctx context.Context, now time.Time, limit int, lanes ...[]string) (rows []storage.Row, next time.Time, err error)
	Claim(ctx context.Context, key storage.RowKey) (release func(), err error)
	Retry(ctx context.Context, key storage.RowKey, attempts int, due time.Time) error
	Hasten(ctx context.Context, now time.Time) error
}

// Handler does the work of a row and removes the row from the store. When it fails, the Worker postpones the row by
// Backoff.
type Handler func(ctx context.Context, row storage.Row) error

// errKept is the failure of a row that its handler left in the store without an error. The Worker postpones such a
// row, so that it does not get it at once again.
var errKept = errors.New("the handler neither failed nor removed the row")

// Worker gives rows to a Handler.
type Worker struct {
	store   Store
	handler Handler
	own     []string
	now     func() time.Time
	jitter  func() float64
	log     *slog.Logger
	wake    chan struct{}
}

// New makes a Worker. Rows whose destination is one of the server names own are this server's own work. The
// destination of any other row is the server that its handler calls. now is the clock that decides whether a row is
// due. jitter returns random numbers from 0 to 1. Both must be safe for concurrent use.
func New(
	store Store, handler Handler, own []string, now func() time.Time, jitter func() float64, log *slog.Logger,
) *Worker {
	return &Worker{
		store: store, handler: handler, own: own, now: now, jitter: jitter, log: log, wake: make(chan struct{}, 1),
	}
}

// Wake tells the Worker that rows may have become due. It never blocks.
func (w *Worker) Wake() {
	select {
	case w.wake <- struct{}{}:
	default: // the worker has not read the previous signal yet
	}
}

// Run works until the context ends. It then waits for the running handlers to return.
func (w *Worker) Run(ctx context.Context) {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	r := &run{
		worker: w, scheduler: newScheduler(w.own), kept: make(map[storage.RowKey]storage.Row),
		finished: make(chan result, places),
	}
	for ctx.Err() == nil {
		begin := time.Now()
		idle := r.start(ctx, &handlers)
		rest := min(4*time.Since(begin), maxRest)
		r.wait(ctx, idle)
		pause(ctx, rest)
		r.gather()
	}
}

// result is a row whose handler has returned.
type result struct {
	row     storage.Row
	handled bool // the handler returned no error
	news    news
}

// run is the state of one Run. Only its goroutine uses the fields, except for the channel.
type run struct {
	worker    *Worker
	scheduler *scheduler
	kept      map[storage.RowKey]storage.Row // handled since the last look at the store
	finished  chan result
	looked    time.Time // of the last look at the store
}

// start starts the due rows that have a place. It returns the time to wait when nothing else happens.
func (r *run) start(ctx context.Context, handlers *sync.WaitGroup) time.Duration {
	now := r.worker.now().Round(0) // strips the monotonic clock, which does not show that the clock was set
	rows, next, err := r.due(ctx, now)
	if err != nil {
		r.worker.log.ErrorContext(ctx, "outbox: cannot read what is due", "error", err)
		return storePause
	}
	for _, row := range r.scheduler.start(rows) {
		handle := r.worker.handler
		if before, ok := r.kept[row.Key()]; ok && before.Attempts == row.Attempts && before.Due.Equal(row.Due) {
			handle = func(context.Context, storage.Row) error { return errKept }
		}
		handlers.Go(func() { r.finished <- r.worker.handle(ctx, handle, row) })
	}
	clear(r.kept)
	if next.IsZero() {
		return lookAgain // there are no further rows, or the due ones wait for a place
	}
	return min(next.Sub(now), lookAgain)
}

// due lists the due rows. On the first look, and when the clock has gone back, it first has the store bring forward the
// rows that are due too late.
func (r *run) due(ctx context.Context, now time.Time) (rows []storage.Row, next time.Time, err error) {
	if r.looked.IsZero() || now.Before(r.looked) {
		if err := r.worker.store.Hasten(ctx, now); err != nil {
			return nil, time.Time{}, err
		}
	}
	r.looked = now
	return r.worker.store.Due(ctx, now, listed, r.scheduler.lanes()...)
}

// wait returns when a row may be able to start.
func (r *run) wait(ctx context.Context, idle time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(idle):
	case <-r.worker.wake:
	case done := <-r.finished:
		r.finish(done)
	}
}

// gather reads all signals and results so far, so that one look at the store answers all of them.
func (r *run) gather() {
	for {
		select {
		case <-r.worker.wake:
		case done := <-r.finished:
			r.finish(done)
		default:
			return
		}
	}
}

func (r *run) finish(done result) {
	r.scheduler.finish(&done.row, done.news)
	if done.handled {
		r.kept[done.row.Key()] = done.row
	}
}

// handle gives one row to a handler, and postpones the row when the handler fails.
func (w *Worker) handle(ctx context.Context, handler Handler, row storage.Row) result {
	untold := result{row: row}
	release, err := w.store.Claim(ctx, row.Key())
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return untold // another process was faster
	case errors.Is(err, storage.ErrConflict):
		pause(ctx, storePause) // another process works on the queue, and sends no signal when it has finished
		return untold
	case err != nil:
		w.log.ErrorContext(ctx, "outbox: cannot claim", "error", err)
		pause(ctx, storePause)
		return untold
	}
	defer release()
	err = handler(ctx, row)
	if err == nil {
		return result{row, true, newsOf(nil)}
	}
	if ctx.Err() != nil { // the end of Run interrupted the handler, so the row stays as it was
		return untold
	}
	w.putOff(ctx, &row, err)
	return result{row, false, newsOf(err)}
}

func (w *Worker) putOff(ctx context.Context, row *storage.Row, failure error) {
	delay := Backoff(row.Attempts, failure, w.jitter())
	log := w.log.With("kind", row.Kind, "server", row.Destination, "queue", row.Queue, "order", row.Order)
	log.InfoContext(ctx, "outbox: put off", "attempts", row.Attempts+1, "delay", delay, "error", failure)
	if err := w.store.Retry(ctx, row.Key(), row.Attempts+1, w.now().Add(delay)); err != nil {
		log.ErrorContext(ctx, "outbox: cannot put off", "error", err)
		pause(ctx, storePause) // the row is still due
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// The bounds of Backoff.
const (
	minDelay = time.Second
	maxDelay = 5 * time.Minute
)

// Backoff returns the delay of a row after a failure. attempts is the number of failures before this one. The largest
// delay is two seconds after the first failure. It doubles with each failure, up to five minutes. jitter, from 0 to 1,
// chooses the delay between half of the largest and the largest. When the error asks for a longer time
// (Info.RetryAfter of a mimiport.Error), the row waits that long, up to five minutes.
func Backoff(attempts int, err error, jitter float64) time.Duration {
	const enough = 10 // doublings reach maxDelay; more could overflow
	half := min(minDelay<<min(uint(attempts), enough), maxDelay/2)
	delay := half + time.Duration(float64(half)*jitter)
	if e, ok := errors.AsType[*mimiport.Error](err); ok {
		delay = max(delay, min(e.Info.RetryAfter, maxDelay))
	}
	return delay
}
