package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
)

// handshake is the time in which a host must complete a connection. After that, the next host of the connection string
// gets its turn. The parameter connect_timeout of the connection string overrides it.
const handshake = 3 * time.Second

// connector makes connections with deadlines at both ends.
type connector struct {
	*pq.Connector
	settings string // the first statement of each connection; empty for none
}

// The names by which PostgreSQL lists connections in pg_stat_activity, unless the connection string has another one.
const (
	serverName = "mimiport"         // of servers of this module
	readerName = "mimiport, reader" // of those that only read
)

// newConnector reads a connection string. A patience of 0 sets no deadlines. If the string has several hosts, the
// connector takes one that accepts writes. name is one of the names above.
func newConnector(connection, name string, patience time.Duration) (*connector, error) {
	config, err := pq.NewConfig(connection)
	if err != nil {
		return nil, fmt.Errorf("postgres: connection string: %w", err)
	}
	config.BinaryParameters = true // one round trip for a statement, and raw bytes
	config.ApplicationName = cmp.Or(config.ApplicationName, name)
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

// settings returns a statement that makes the server enforce deadlines itself. The server stops to wait for a lock
// after half of patience. It ends its side of a lost connection, and so frees the locks of that connection. A statement
// has no deadline on the server: such a deadline would also interrupt a COMMIT that waits for a synchronous standby,
// and PostgreSQL reports that COMMIT as done.
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
	if err != nil {
		return nil, err
	}
	prepares := newPreparing(conn.(pqConn))
	if c.settings == "" {
		return prepares, nil
	}
	if _, err := prepares.ExecContext(ctx, c.settings, nil); err != nil {
		_ = conn.Close() // the first error is the important one
		return nil, err
	}
	return prepares, nil
}

// open makes a pool.
func (c *connector) open(pool Pool) *sql.DB {
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(pool.MaxOpen)
	db.SetMaxIdleConns(pool.MaxIdle)
	db.SetConnMaxLifetime(pool.MaxLifetime)
	return db
}
