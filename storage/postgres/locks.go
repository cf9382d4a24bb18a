package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

// locks are advisory locks of one session. The server frees them when the session ends for any reason. So the locks of
// a crashed process are free as soon as its connection closes, and no clock decides that.
type locks struct {
	db *sql.DB

	turn    chan struct{} // holds a token while nobody uses the fields below
	session *sql.Conn     // nil until the first lock, and after a failure
	backend backend       // of the latest session
	held    map[string]bool
}

// backend is the server's side of a session.
type backend struct {
	pid     int64
	started time.Time // the system reuses pids
}

func newLocks(db *sql.DB) *locks {
	l := &locks{db: db, turn: make(chan struct{}, 1), held: make(map[string]bool)}
	l.turn <- struct{}{}
	return l
}

// errNotHeld means that this process counts on a lock that the server does not have.
var errNotHeld = errors.New("postgres: a claim was lost: a pooler may have given its connection to somebody else")

// TryLock implements storage.Locks.
func (l *locks) TryLock(ctx context.Context, name string) (ok bool, err error) {
	err = l.ask(ctx, func(ctx context.Context) error {
		if l.held[name] {
			return nil // else the session would take it twice
		}
		ok, err = l.bool(ctx, "SELECT pg_try_advisory_lock(hashtextextended($1, 0))", name)
		if ok {
			l.held[name] = true
		}
		return err
	})
	return ok, err
}

// Unlock implements storage.Locks. It ends the session when the server does not know of the lock.
func (l *locks) Unlock(ctx context.Context, name string) error {
	return l.ask(context.WithoutCancel(ctx), func(ctx context.Context) error {
		if !l.held[name] {
			return errNotHeld // the lock was lost with an earlier session
		}
		delete(l.held, name)
		was, err := l.bool(ctx, "SELECT pg_advisory_unlock(hashtextextended($1, 0))", name)
		if err == nil && !was {
			l.end()
			err = errNotHeld
		}
		return err
	})
}

// ask runs a question on the session. Callers take turns.
func (l *locks) ask(ctx context.Context, question func(context.Context) error) error {
	select {
	case <-l.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { l.turn <- struct{}{} }()
	ctx = context.WithoutCancel(ctx) // a canceled question would end the session
	if l.session == nil {
		if err := l.begin(ctx); err != nil {
			l.end()
			return err
		}
	}
	return question(ctx)
}

// bool runs a query with one boolean result. If the query fails, bool ends the session, so that no unknown lock stays.
func (l *locks) bool(ctx context.Context, query string, args ...any) (answer bool, err error) {
	if err = l.session.QueryRowContext(ctx, query, args...).Scan(&answer); err != nil {
		l.end()
	}
	return answer, err
}

// begin starts a session and takes the locks of the former session again. If the server has not noticed that the former
// connection was lost, its side still holds these locks, so begin ends that side first. A lock that another process
// took meanwhile is lost.
func (l *locks) begin(ctx context.Context) (err error) {
	if l.session, err = l.db.Conn(ctx); err != nil {
		return err
	}
	var b backend
	err = l.session.QueryRowContext(ctx, "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()").
		Scan(&b.pid, &b.started)
	if err != nil {
		return err
	}
	if err := l.requireEnded(ctx, l.backend); err != nil {
		return err
	}
	l.backend = b
	for name := range l.held {
		ok, err := l.bool(ctx, "SELECT pg_try_advisory_lock(hashtextextended($1, 0))", name)
		if err != nil {
			return err
		}
		if !ok {
			delete(l.held, name)
		}
	}
	return nil
}

// requireEnded terminates the server's side of a session. It fails until that side holds no lock.
func (l *locks) requireEnded(ctx context.Context, b backend) error {
	var ended, all int
	err := l.session.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM (
			SELECT DISTINCT pid FROM pg_locks JOIN pg_stat_activity AS a USING (pid)
			WHERE locktype = 'advisory' AND pid = $1 AND backend_start = $2 AND pid <> pg_backend_pid()
		) AS old`, b.pid, b.started).Scan(&all, &ended)
	if err == nil && all > 0 {
		err = fmt.Errorf("postgres: the session that held the claims still ends (%d of %d)", ended, all)
	}
	return err
}

func (l *locks) end() {
	if l.session != nil {
		_ = l.session.Raw(func(any) error { return driver.ErrBadConn }) // so the pool does not keep it
		l.session = nil
	}
}

// Close frees all locks.
func (l *locks) Close() error {
	<-l.turn
	defer func() { l.turn <- struct{}{} }()
	if l.session != nil {
		_ = l.session.Close() // returns it to the pool, which closes it
		l.session = nil
	}
	return l.db.Close()
}
