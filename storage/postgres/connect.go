package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
)

// handshake is how long a host may take to let somebody in, unless the connection string says so with connect_timeout.
// The next host of the string is asked then.
const handshake = 3 * time.Second

// connector makes connections with deadlines at both ends.
type connector struct {
	*pq.Connector
	settings string // a statement that each connection begins with; empty for none
}

// newConnector reads a connection string. With a patience of 0 nothing has a deadline. Of several hosts it takes one
// that can be written to.
func newConnector(connection string, patience time.Duration) (*connector, error) {
	config, err := pq.NewConfig(connection)
	if err != nil {
		return nil, fmt.Errorf("postgres: connection string: %w", err)
	}
	config.BinaryParameters = true // one round trip for a statement, and bytes are sent as they are
	if config.TargetSessionAttrs == "" {
		config.TargetSessionAttrs = pq.TargetSessionAttrsReadWrite
	}
	if config.ConnectTimeout == 0 && patience > 0 {
		config.ConnectTimeout = handshake
	}
	c, err := pq.NewConnectorConfig(config)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if patience <= 0 {
		return &connector{Connector: c}, nil
	}
	c.Dialer(newDialer(patience))
	return &connector{c, settings(patience)}, nil
}

// settings are what the server is to do by itself: give up waiting for a lock in half the time after which it would
// count as gone, and end what is left of a connection that this end has lost, with all its locks. A statement has no
// deadline of its own there: it would end the wait for a synchronous standby as well, and PostgreSQL reports that
// COMMIT as done.
func settings(patience time.Duration) string {
	var values []string
	for name, value := range map[string]time.Duration{
		"lock_timeout":                        patience / 2,
		"idle_in_transaction_session_timeout": 2 * patience,
		"client_connection_check_interval":    time.Second, // since PostgreSQL 14
	} {
		values = append(values, fmt.Sprintf("('%s', '%dms')", name, value.Milliseconds()))
	}
	for name, value := range map[string]int{"idle": 5, "interval": 2, "count": 3} {
		values = append(values, fmt.Sprintf("('tcp_keepalives_%s', '%d')", name, value))
	}
	return "SELECT set_config(s.name, s.value, false) FROM (VALUES " + strings.Join(values, ", ") +
		") AS s (name, value) JOIN pg_settings AS known USING (name)"
}

// Connect implements driver.Connector.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil || c.settings == "" {
		return conn, err
	}
	if _, err := conn.(driver.ExecerContext).ExecContext(ctx, c.settings, nil); err != nil {
		_ = conn.Close() // what counts is why
		return nil, err
	}
	return conn, nil
}

// open makes a pool.
func (c *connector) open(pool Pool) *sql.DB {
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(pool.MaxOpen)
	db.SetMaxIdleConns(pool.MaxIdle)
	db.SetConnMaxLifetime(pool.MaxLifetime)
	return db
}
