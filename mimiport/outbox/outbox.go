// Package outbox does the work that the Delivery Service has stored as rows and FanOuts. It gives each due row to a
// handler, in the order of the row's queue, and postpones a row that fails. Log entries for one server travel together:
// see MaxBatch. FanOuts go to their servers without rows: see spread. After a crash the worker gives a row to its
// handler again, so a handler must accept repetition. When several processes use one database, only one of them works
// on a queue at a time. A server that does not answer does not delay work for other servers: see scheduler.
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
	Rows(ctx context.Context, from storage.RowKey, limit int) ([]storage.Row, error)
	Claim(ctx context.Context, key storage.RowKey) (release func(), err error)
	Apply(ctx context.Context, c *storage.Change) error
	storage.FanOuts
	Retry(ctx context.Context, key storage.RowKey, attempts int, due time.Time) error
	Hasten(ctx context.Context, now time.Time) error
}

// Handler does the work of rows. When it fails, the Worker postpones the row by Backoff.
type Handler interface {
	// Do does the work of a row that is not of kind RowFanOut, and removes the row from the store.
	Do(ctx context.Context, row storage.Row) error
	// Deliver delivers the log entries of rows of kind RowFanOut. The rows are of one queue, in order. It removes none. It
	// returns how many of the rows, from the first, are done. The others have failed, or are to be delivered later.
	Deliver(ctx context.Context, rows []storage.Row) (done int, err error)
}

// MaxBatch is the most log entries that travel to a server at a time. A row that has failed before travels alone, so
// that a message that the server refuses keeps no other one back.
const MaxBatch = 100

// maxRefusals is the number of times that a server may refuse the very bytes of a message (KindInvalid) before the
// Worker gives the message up. Members read it from the log.
const maxRefusals = 8

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
	batch   int
	peers   peers
}

// New makes a Worker. Rows whose destination is one of the server names own are this server's own work. The
// destination of any other row is the server that its handler calls. now is the clock that decides whether a row is
// due. jitter returns random numbers from 0 to 1. Both must be safe for concurrent use.
func New(
	store Store, handler Handler, own []string, now func() time.Time, jitter func() float64, log *slog.Logger,
) *Worker {
	return &Worker{
		store: store, handler: handler, own: own, now: now, jitter: jitter, log: log, wake: make(chan struct{}, 1),
		batch: MaxBatch,
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
	r := &run{
		worker: w, scheduler: newScheduler(w.own), spreads: newSpreads(w), kept: make(map[storage.RowKey]storage.Row),
		finished: make(chan result, places),
	}
	defer r.stop(ctx)
	for ctx.Err() == nil {
		begin := time.Now()
		idle := r.start(ctx)
		rest := min(4*time.Since(begin), maxRest)
		r.wait(ctx, idle)
		pause(ctx, rest)
		r.gather()
	}
}

// result is what a handler returned for the rows of one queue.
type result struct {
	row     storage.Row // the first
	handled bool        // the handler returned no error
	news    news

	parcel *parcel // for rows of a FanOut
	done   int     // of the parcel
	err    error
}

// run is the state of one Run. Only its goroutine uses the fields, except for the channel.
type run struct {
	worker    *Worker
	scheduler *scheduler
	spreads   *spreads
	handlers  sync.WaitGroup
	kept      map[storage.RowKey]storage.Row // handled since the last look at the store
	finished  chan result
	looked    time.Time // of the last look at the store
}

// start starts the due rows and the FanOuts that have a place. It returns the time to wait when nothing else happens.
func (r *run) start(ctx context.Context) time.Duration {
	now := r.worker.now().Round(0) // strips the monotonic clock, which does not show that the clock was set
	rows, next, err := r.look(ctx, now)
	if err != nil {
		r.worker.log.ErrorContext(ctx, "outbox: cannot read what is due", "error", err)
		return storePause
	}
	used := r.scheduler.usage()
	nextRow, nextParcel := r.rows(ctx, rows, &used), r.parcels(ctx, &used)
	for row, parcel := true, true; row || parcel; {
		row, parcel = row && nextRow(), parcel && nextParcel()
	}
	clear(r.kept)
	idle := lookAgain // there are no further rows, or the due ones wait for a place
	if !next.IsZero() {
		idle = min(next.Sub(now), lookAgain)
	}
	return min(idle, r.spreads.idle())
}

// look settles FanOuts, and reads what is due.
func (r *run) look(ctx context.Context, now time.Time) (rows []storage.Row, next time.Time, err error) {
	if err := r.spreads.settle(ctx, false); err != nil {
		return nil, time.Time{}, err
	}
	if err := r.spreads.load(ctx); err != nil {
		return nil, time.Time{}, err
	}
	return r.due(ctx, now)
}

// rows returns a function that starts the next of the due rows that may start. It returns false if there is none.
func (r *run) rows(ctx context.Context, rows []storage.Row, used *usage) func() bool {
	return func() bool {
		for len(rows) > 0 {
			row := rows[0]
			rows = rows[1:]
			if !r.scheduler.start(queueOf(&row), used) {
				continue
			}
			handle := r.worker.do
			before, ok := r.kept[row.Key()]
			if ok && before.Attempts == row.Attempts && before.Due.Equal(row.Due) {
				handle = func(context.Context, *storage.Row) error { return errKept }
			}
			r.handlers.Go(func() { r.finished <- r.worker.handle(ctx, handle, row) })
			return true
		}
		return false
	}
}

// parcels returns a function that starts the next parcel that may start. It returns false if there is none.
func (r *run) parcels(ctx context.Context, used *usage) func() bool {
	hasPlace := func(server string) bool { return r.scheduler.hasPlace(server, used) }
	start := func(server string, sp *spread) bool {
		if !r.scheduler.start(queue{server, sp.queue}, used) {
			return false
		}
		p := sp.pack(server, r.worker.batch)
		r.handlers.Go(func() { r.finished <- r.worker.send(ctx, p) })
		return true
	}
	return func() bool { return r.spreads.ready.next(hasPlace, start) }
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
	r.scheduler.finish(queueOf(&done.row), done.news)
	switch {
	case done.parcel != nil:
		r.spreads.finish(done.parcel, done.done, done.err)
	case done.handled:
		r.kept[done.row.Key()] = done.row
	}
}

// stop waits for the running handlers, and stores what the FanOuts have reached.
func (r *run) stop(ctx context.Context) {
	r.handlers.Wait()
	r.gather()
	ctx = context.WithoutCancel(ctx)
	if err := r.spreads.settle(ctx, true); err != nil {
		r.worker.log.ErrorContext(ctx, "outbox: cannot settle", "error", err)
	}
	r.spreads.forget()
}

// handle gives one row to a handler, and postpones the row when the handler fails.
func (w *Worker) handle(
	ctx context.Context, handle func(context.Context, *storage.Row) error, row storage.Row,
) result {
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
	failed := row // the row that fails, if one does
	err = handle(ctx, &failed)
	if err == nil {
		w.peers.worked(row.Destination)
		return result{row: row, handled: true, news: newsOf(nil)}
	}
	if ctx.Err() != nil { // the end of Run interrupted the handler, so the row stays as it was
		return untold
	}
	w.putOff(ctx, &failed, err)
	return result{row: row, news: newsOf(err)}
}

// do does a row. If it is of kind RowFanOut, do delivers the next rows of its queue with it, and sets row to the first
// one that failed.
func (w *Worker) do(ctx context.Context, row *storage.Row) error {
	if row.Kind != storage.RowFanOut {
		return w.handler.Do(ctx, *row)
	}
	rows, err := w.companions(ctx, row)
	if err != nil {
		return err
	}
	done, err := w.deliver(ctx, rows)
	if done > 0 {
		if err := w.store.Apply(context.WithoutCancel(ctx), &storage.Change{Done: keysOf(rows[:done])}); err != nil {
			return err
		}
	}
	if err != nil {
		*row = rows[done]
	}
	return err
}

// companions returns a row, and the rows that travel with it.
func (w *Worker) companions(ctx context.Context, row *storage.Row) ([]storage.Row, error) {
	if row.Attempts > 0 {
		return []storage.Row{*row}, nil
	}
	rows, err := w.store.Rows(ctx, row.Key(), w.batch)
	now := w.now()
	for i := range rows {
		if rows[i].Kind != storage.RowFanOut || rows[i].Attempts > 0 || rows[i].Due.After(now) {
			rows = rows[:i]
			break
		}
	}
	if err == nil && len(rows) == 0 {
		rows = []storage.Row{*row} // the row changed since it was listed
	}
	return rows, err
}

// deliver calls the handler. It returns an error if no row is done. With an error, it returns less than all rows: a
// row that arrives twice does no harm, and a row that is lost does.
func (w *Worker) deliver(ctx context.Context, rows []storage.Row) (done int, err error) {
	done, err = w.handler.Deliver(ctx, rows)
	if err != nil {
		return min(done, len(rows)-1), err
	}
	if done == 0 {
		err = errKept
	}
	return done, err
}

func keysOf(rows []storage.Row) (keys []storage.RowKey) {
	for i := range rows {
		keys = append(keys, rows[i].Key())
	}
	return keys
}

// send delivers a parcel.
func (w *Worker) send(ctx context.Context, p *parcel) result {
	done, err := w.deliver(ctx, p.rows)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // the end of Run interrupted the handler
	}
	if err == nil {
		w.peers.worked(p.server)
	}
	return result{row: p.rows[0], news: newsOf(err), parcel: p, done: done, err: err}
}

func (w *Worker) putOff(ctx context.Context, row *storage.Row, failure error) {
	delay := Backoff(row.Attempts, failure, w.jitter())
	log := w.log.With("kind", row.Kind, "server", row.Destination, "queue", row.Queue, "order", row.Order)
	if refusedForGood(row, failure) {
		log.WarnContext(ctx, "outbox: given up: members read the message from the log", "error", failure)
		if err := w.store.Apply(ctx, &storage.Change{Done: []storage.RowKey{row.Key()}}); err == nil {
			return
		}
	}
	log.InfoContext(ctx, "outbox: put off", "attempts", row.Attempts+1, "delay", delay, "error", failure)
	w.noteFailure(row.Destination, failure)
	if err := w.store.Retry(ctx, row.Key(), row.Attempts+1, w.now().Add(delay)); err != nil {
		log.ErrorContext(ctx, "outbox: cannot put off", "error", err)
		pause(ctx, storePause) // the row is still due
	}
}

// noteFailure records that work for a server has failed, and warns if it has failed for a while.
func (w *Worker) noteFailure(server string, failure error) {
	if peer, warn := w.peers.failed(server, failure, w.now()); warn {
		w.log.Warn("outbox: work for a server has failed for a while", "server", peer.Server,
			"attempts", peer.Attempts, "since", peer.Since.UTC(), "error", peer.Err, "remedy", Remedy(peer.Err))
	}
}

// refusedForGood reports whether a server has refused a message as often as it may.
func refusedForGood(row *storage.Row, failure error) bool {
	return row.Kind == storage.RowFanOut && row.Attempts+1 >= maxRefusals &&
		mimiport.KindOf(failure) == mimiport.KindInvalid
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
