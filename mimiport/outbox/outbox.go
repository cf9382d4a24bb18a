// Package outbox works off what the Delivery Service has stored to be done: it hands each row that is due to a handler,
// in the order of its queue, and puts off what fails. What a crash interrupts is done again, so a handler must bear
// repetition. Of several processes on one database, one at a time works at a queue. A server that does not answer slows
// nobody else: see scheduler.
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

// maxRest bounds how long the store is left alone after it was asked: four times as long as the answer took. What is due where
// nobody answers can pile up, and makes answers slow; yet it must not take a processor for itself whenever something is done.
const maxRest = 50 * time.Millisecond

// lookAgain is how long the worker waits at most: a clock jumps without telling.
const lookAgain = time.Minute

// storePause is how long the worker waits when the store fails, and leaves a queue alone that another process is at.
const storePause = time.Second

// Store is what a Worker needs of storage.Store.
type Store interface {
	Due(ctx context.Context, now time.Time, limit int, lanes ...[]string) (rows []storage.Row, next time.Time, err error)
	Claim(ctx context.Context, key storage.RowKey) (release func(), err error)
	Retry(ctx context.Context, key storage.RowKey, attempts int, due time.Time) error
	Hasten(ctx context.Context, now time.Time) error
}

// Handler does what a row asks for, and removes the row from the store. When it fails, the row is put off by Backoff.
type Handler func(ctx context.Context, row storage.Row) error

// errKept is for a row that its handler left as it was: it must not be handed over again and again.
var errKept = errors.New("the handler neither failed nor removed the row")

// Worker hands rows to a Handler.
type Worker struct {
	store   Store
	handler Handler
	own     []string
	now     func() time.Time
	jitter  func() float64
	log     *slog.Logger
	wake    chan struct{}
}

// New makes a Worker. The rows for the server names own are this server's own work, and a row for any other server is
// filed under the one that its handler dials. What is due is so by the clock now; the jitter function gives random
// numbers from 0 to 1. Several goroutines may call either.
func New(
	store Store, handler Handler, own []string, now func() time.Time, jitter func() float64, log *slog.Logger,
) *Worker {
	return &Worker{
		store: store, handler: handler, own: own, now: now, jitter: jitter, log: log, wake: make(chan struct{}, 1),
	}
}

// Wake tells that rows may have become due. It never blocks.
func (w *Worker) Wake() {
	select {
	case w.wake <- struct{}{}:
	default: // the one before has not been heard yet
	}
}

// Run works until the context ends and what is at work has returned.
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

// result is a row that its handler is done with.
type result struct {
	row     storage.Row
	handled bool // without an error
	news    news
}

// run is the state of one Run; only its goroutine touches it, but for the channel.
type run struct {
	worker    *Worker
	scheduler *scheduler
	kept      map[storage.RowKey]storage.Row // handled since the store was last asked
	finished  chan result
	looked    time.Time // when the store was last asked
}

// start hands over what is due and has a place. It returns how long to wait when nothing happens before.
func (r *run) start(ctx context.Context, handlers *sync.WaitGroup) time.Duration {
	now := r.worker.now().Round(0) // without the monotonic clock, which shows no jumps
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
		return lookAgain // there is nothing, or the rest of what is due waits for a place
	}
	return min(next.Sub(now), lookAgain)
}

// due lists what is due. At first, and when the clock has gone back, it has what is too far ahead brought forward.
func (r *run) due(ctx context.Context, now time.Time) (rows []storage.Row, next time.Time, err error) {
	if r.looked.IsZero() || now.Before(r.looked) {
		if err := r.worker.store.Hasten(ctx, now); err != nil {
			return nil, time.Time{}, err
		}
	}
	r.looked = now
	return r.worker.store.Due(ctx, now, listed, r.scheduler.lanes()...)
}

// wait returns when there may be something to start.
func (r *run) wait(ctx context.Context, idle time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(idle):
	case <-r.worker.wake:
	case done := <-r.finished:
		r.finish(done)
	}
}

// gather makes all that has happened by now one reason to look.
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

// handle has one row handled, and puts it off when that fails.
func (w *Worker) handle(ctx context.Context, handler Handler, row storage.Row) result {
	untold := result{row: row}
	release, err := w.store.Claim(ctx, row.Key())
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return untold // another process was faster
	case errors.Is(err, storage.ErrConflict):
		pause(ctx, storePause) // nobody tells when that process is done with it
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
	if ctx.Err() != nil { // a row that the end of the Run interrupted is as good as new
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

// Backoff is how long a row waits after a failure. The first failure costs one to two seconds, and each further one
// twice as much, up to five minutes; attempts counts the failures before this one. The jitter, from 0 to 1, spreads the
// delay between its half and its whole. When the error names a later time (Info.RetryAfter of a mimiport.Error), the
// row waits that long, up to five minutes.
func Backoff(attempts int, err error, jitter float64) time.Duration {
	const enough = 10 // doublings; more would only overflow
	half := min(minDelay<<min(uint(attempts), enough), maxDelay/2)
	delay := half + time.Duration(float64(half)*jitter)
	if e, ok := errors.AsType[*mimiport.Error](err); ok {
		delay = max(delay, min(e.Info.RetryAfter, maxDelay))
	}
	return delay
}
