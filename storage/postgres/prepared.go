package postgres

import (
	"context"
	"database/sql/driver"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxPrepared is the most statements that one connection keeps prepared. The module has about as many texts that it
// uses often. The others, such as insertions of many rows, come in any number.
const maxPrepared = 100

// pqConn is a connection of lib/pq.
type pqConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// preparing is a connection that prepares a statement when it runs the same text again. PostgreSQL then parses and
// plans the text once. The statements end with the connection, so a new connection starts without any.
type preparing struct {
	pqConn
	known *simplelru.LRU[string, prepared] // by text
}

// prepared is a statement of lib/pq. Nil is a text that has run once.
type prepared interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

func newPreparing(conn pqConn) *preparing {
	known, _ := simplelru.NewLRU(maxPrepared, func(_ string, st prepared) { // it fails only for a size below 1
		if st != nil {
			_ = st.Close() // a failure breaks the connection, and the next statement says so
		}
	})
	return &preparing{conn, known}
}

// ExecContext implements driver.ExecerContext.
func (p *preparing) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	st, err := p.statement(ctx, query, args)
	if err != nil {
		return nil, err
	}
	if st == nil {
		return p.pqConn.ExecContext(ctx, query, args)
	}
	return st.ExecContext(ctx, args)
}

// QueryContext implements driver.QueryerContext.
func (p *preparing) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	st, err := p.statement(ctx, query, args)
	if err != nil {
		return nil, err
	}
	if st == nil {
		return p.pqConn.QueryContext(ctx, query, args)
	}
	return st.QueryContext(ctx, args)
}

// statement returns the prepared statement of a text, or nil if the text should run as it is: for the first time, or
// without arguments. lib/pq sends the latter in a form that may have several statements.
func (p *preparing) statement(ctx context.Context, query string, args []driver.NamedValue) (prepared, error) {
	st, again := p.known.Get(query)
	switch {
	case st != nil, len(args) == 0:
		return st, nil
	case !again:
		p.known.Add(query, nil)
		return nil, nil
	}
	made, err := p.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	st = made.(prepared)
	p.known.Add(query, st)
	return st, nil
}
