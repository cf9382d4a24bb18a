package postgres

import (
	"context"
	"database/sql"
	"sync"
)

// locks are advisory locks of one session. The server frees them when the session ends, however it ends: what a crashed process
// held is free as soon as its connection is closed, and no clock decides that.
type locks struct {
	db *sql.DB

	mu      sync.Mutex
	session *sql.Conn // nil until the first lock, and after a failure
}

// TryLock implements storage.Locks.
func (l *locks) TryLock(ctx context.Context, name string) (ok bool, err error) {
	err = l.ask(ctx, &ok, "SELECT pg_try_advisory_lock(hashtextextended($1, 0))", name)
	return ok, err
}

// Unlock implements storage.Locks.
func (l *locks) Unlock(ctx context.Context, name string) error {
	var was bool
	return l.ask(ctx, &was, "SELECT pg_advisory_unlock(hashtextextended($1, 0))", name)
}

// ask asks the session. When that fails the session is ended, so that nothing stays locked which nobody knows of.
func (l *locks) ask(ctx context.Context, answer *bool, query, name string) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx = context.WithoutCancel(ctx) // a question that is given up would end the session
	if l.session == nil {
		if l.session, err = l.db.Conn(ctx); err != nil {
			return err
		}
	}
	if err = l.session.QueryRowContext(ctx, query, name).Scan(answer); err != nil {
		_ = l.session.Raw(func(any) error { return sql.ErrConnDone }) // the pool must not keep it
		l.session = nil
	}
	return err
}

// Close frees all locks.
func (l *locks) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil {
		_ = l.session.Close() // into the pool, which ends it
		l.session = nil
	}
	return l.db.Close()
}
