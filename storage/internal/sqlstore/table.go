package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// table maps a struct to a table: the columns, and pointers to the fields, in the same order.
type table[T any] struct {
	name    string
	columns []string // the key first, then constant columns, then the rest
	key     int      // the number of columns in the key
	fixed   int      // the number of columns that never change, with the key
	counted []string // the columns that say in which counters a row counts
	fields  func(*T) []any
}

// copier is a table of any rows.
type copier interface {
	called() string
	copy(ctx context.Context, from *Store, to *tx, tail string) (Copied, error)
	sum(ctx context.Context, db querier) (Copied, error)
}

// tables lists all tables with rows of the module, in the order in which Copy fills them.
var tables = []copier{
	&groups, &snapshots, &entries, &receipts, &former, &migrations, &contents, &outbox, &queues, &fanOuts, &evidence,
	&volumes, &settings, &keyObjects, &nonces, &lastResorts, &audit, &drain, &counts,
}

func (t *table[T]) called() string { return t.name }

func columns(list string) []string { return strings.Split(list, ", ") }

var groups = table[storage.Group]{
	name: "mimiport_groups",
	columns: columns("group_id, term, created_at, version, state, server, room_id, creator, protocol, cipher_suite, " +
		"epoch, next_seq, migration_id, lineage, members"),
	key: 2, fixed: 3, counted: columns("state, room_id, creator"),
	fields: func(g *storage.Group) []any {
		return []any{(*blob)(&g.ID), &g.Term, (*millis)(&g.CreatedAt), &g.Version, &g.State, &g.Server, &g.RoomID, &g.Creator,
			&g.Protocol, &g.CipherSuite, &g.Epoch, &g.NextSeq, (*hash)(&g.Migration), (*blob)(&g.Lineage),
			&g.Members}
	},
}

var snapshots = table[storage.Snapshot]{
	name:    "mimiport_snapshots",
	columns: columns("group_id, term, epoch, seq, group_info, ratchet_tree"),
	fields: func(s *storage.Snapshot) []any {
		return []any{(*blob)(&s.GroupID), &s.Term, &s.Epoch, &s.Seq, (*blob)(&s.GroupInfo), (*blob)(&s.RatchetTree)}
	},
}

var entries = table[storage.Entry]{
	name: "mimiport_entries",
	columns: columns("group_id, term, seq, epoch, kind, sender, hash, message, group_info, recipients, migration_id, " +
		"accepted_at"),
	fields: func(e *storage.Entry) []any {
		return []any{(*blob)(&e.GroupID), &e.Term, &e.Seq, &e.Epoch, &e.Kind, &e.Sender, (*hash)(&e.Hash),
			(*blob)(&e.Message), (*blob)(&e.GroupInfo), (*identities)(&e.Recipients), optionalID{&e.Migration}, (*millis)(&e.At)}
	},
}

var receipts = table[storage.Receipt]{
	name:    "mimiport_receipts",
	columns: columns("group_id, term, epoch, seq, commit_hash, key_id, signature"),
	fields: func(r *storage.Receipt) []any {
		return []any{
			(*blob)(&r.GroupID), &r.Term, &r.Epoch, &r.Seq, (*hash)(&r.CommitHash), &r.KeyID, (*blob)(&r.Signature),
		}
	},
}

var former = table[storage.Former]{
	name:    "mimiport_former",
	columns: columns("group_id, term, data"),
	fields:  func(f *storage.Former) []any { return []any{(*blob)(&f.ID), &f.Term, (*blob)(&f.Data)} },
}

var migrations = table[migration.Migration]{
	name: "mimiport_migrations",
	columns: columns("migration_id, created_at, role, state, version, group_id, room_id, term, source, target, user_id, " +
		"by_admin, epoch, expires_at, decide_by, commit_hash, content_hash, content_key_id, " +
		"response, response_key_id, response_key_object, " +
		"complete, complete_key_id, complete_key_object, confirmation, confirmation_key_id, confirmation_key_object, " +
		"abort, abort_key_id, abort_key_object, reason, refused, vote, updated_at"),
	key: 1, fixed: 2, counted: columns("role, state, room_id, source, user_id"),
	fields: func(m *migration.Migration) []any {
		f := []any{(*hash)(&m.ID), (*millis)(&m.CreatedAt), &m.Role, &m.State, &m.Version, (*blob)(&m.GroupID), &m.RoomID,
			&m.Term, &m.Source, &m.Target, &m.User, &m.ByAdmin, &m.Epoch, (*millis)(&m.ExpiresAt), (*millis)(&m.DecideBy),
			(*blob)(&m.CommitHash), (*blob)(&m.ContentHash), &m.ContentKey}
		for _, s := range []*migration.Signed{&m.Response, &m.Complete, &m.Confirmation, &m.Abort} {
			f = append(f, (*blob)(&s.Message), &s.KeyID, (*blob)(&s.KeyObject))
		}
		return append(f, &m.Reason, &m.Refused, (*blob)(&m.Vote), (*millis)(&m.UpdatedAt))
	},
}

var contents = table[storage.Content]{
	name:    "mimiport_contents",
	columns: columns("migration_id, data"),
	fields:  func(c *storage.Content) []any { return []any{(*hash)(&c.ID), (*blob)(&c.Data)} },
}

var outbox = table[storage.Row]{
	name: "mimiport_outbox",
	columns: columns("destination, queue, row_order, kind, group_id, term, seq, migration_id, due_at, attempts, " +
		"created_at, body"),
	fields: func(r *storage.Row) []any {
		return []any{&r.Destination, &r.Queue, &r.Order, &r.Kind, (*blob)(&r.GroupID), &r.Term, &r.Seq, (*hash)(&r.Migration),
			(*millis)(&r.Due), &r.Attempts, (*millis)(&r.Created), (*blob)(&r.Body)}
	},
}

var fanOuts = table[storage.FanOut]{
	name:    "mimiport_fan_outs",
	columns: columns("group_id, term, seq, accepted_at, servers"),
	fields: func(f *storage.FanOut) []any {
		return []any{(*blob)(&f.ID), &f.Term, &f.Seq, (*millis)(&f.At), (*names)(&f.Servers)}
	},
}

// queues has the first row of each queue.
var queues = table[storage.Row]{
	name:    "mimiport_queues",
	columns: columns("destination, queue, row_order, due_at"),
	fields: func(r *storage.Row) []any {
		return []any{&r.Destination, &r.Queue, &r.Order, (*millis)(&r.Due)}
	},
}

var evidence = table[storage.Evidence]{
	name:    "mimiport_evidence",
	columns: columns("group_id, kind, migration_id, data, key_id, found_at"),
	fields: func(e *storage.Evidence) []any {
		return []any{(*blob)(&e.GroupID), &e.Kind, (*hash)(&e.Migration), (*blob)(&e.Data), &e.KeyID, (*millis)(&e.At)}
	},
}

var keyObjects = table[storage.KeyObject]{
	name:    "mimiport_key_objects",
	columns: columns("server, key_id, object, fetched_at"),
	fields: func(k *storage.KeyObject) []any {
		return []any{&k.Server, &k.KeyID, (*blob)(&k.Object), (*millis)(&k.FetchedAt)}
	},
}

var nonces = table[storage.Nonce]{
	name:    "mimiport_nonces",
	columns: columns("user_id, device_id, nonce, used_at"),
	fields: func(n *storage.Nonce) []any {
		return []any{&n.UserID, &n.DeviceID, (*hash)(&n.Nonce), (*millis)(&n.UsedAt)}
	},
}

var lastResorts = table[storage.LastResort]{
	name:    "mimiport_last_resorts",
	columns: columns("user_id, device_id, value"),
	fields:  func(l *storage.LastResort) []any { return []any{&l.UserID, &l.DeviceID, (*blob)(&l.Value)} },
}

var audit = table[storage.AuditEntry]{
	name:    "mimiport_audit",
	columns: columns("audit_id, at, actor, action, group_id, migration_id, state_before, state_after"),
	fields: func(e *storage.AuditEntry) []any {
		return []any{(*auditID)(&e.ID), (*millis)(&e.At), &e.Actor, &e.Action, (*blob)(&e.GroupID), (*hash)(&e.Migration),
			(*blob)(&e.Before), (*blob)(&e.After)}
	},
}

var drain = table[storage.DrainGroup]{
	name:    "mimiport_drain",
	columns: columns("group_id, state, due_at, user_id, asked_at, tried, why"),
	fields: func(g *storage.DrainGroup) []any {
		return []any{(*blob)(&g.ID), &g.State, (*millis)(&g.Due), &g.User, (*millis)(&g.Asked), &g.Tried, (*blob)(&g.Why)}
	},
}

// volumes has one row for each user in a group and term: the last day on which the user added bytes.
var volumes = table[storage.Volume]{
	name:    "mimiport_volumes",
	columns: columns("group_id, term, user_id, day, bytes"),
	fields: func(v *storage.Volume) []any {
		return []any{(*blob)(&v.ID), &v.Term, &v.UserID, &v.Day, &v.Bytes}
	},
}

// addVolume adds the bytes of one day together.
const addVolume = ` ON CONFLICT (group_id, term, user_id) DO UPDATE SET day = excluded.day, bytes = excluded.bytes +
	CASE WHEN mimiport_volumes.day = excluded.day THEN mimiport_volumes.bytes ELSE 0 END`

// counts has the numbers that limits need.
var counts = table[storage.Count]{
	name:    "mimiport_counts",
	columns: columns("quota, user_id, room_id, source, number"),
	fields:  func(c *storage.Count) []any { return []any{&c.Quota, &c.User, &c.RoomID, &c.Source, &c.Number} },
}

// setting is one named value.
type setting struct {
	name  string
	value []byte
}

var settings = table[setting]{
	name:    "mimiport_settings",
	columns: columns("name, value"),
	fields:  func(s *setting) []any { return []any{&s.name, (*blob)(&s.value)} },
}

// maxParameters is the most parameters of one statement. SQLite allows 32,766, and PostgreSQL 65,535.
const maxParameters = 4096

// insert writes rows, in as many statements as it needs. onConflict is a clause for rows that exist. Without a clause,
// such a row is a conflict.
func insert[T any](ctx context.Context, tx *tx, t *table[T], rows []T, onConflict string) error {
	for atOnce := maxParameters / len(t.columns); len(rows) > 0; {
		chunk := rows[:min(atOnce, len(rows))]
		rows = rows[len(chunk):]
		var args []any
		for i := range chunk {
			args = append(args, t.fields(&chunk[i])...)
		}
		if _, err := tx.exec(ctx, t.insertion(len(chunk))+onConflict, args...); err != nil {
			return err
		}
	}
	return nil
}

// insertion returns the statement that inserts n rows.
func (t *table[T]) insertion(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (%s) VALUES ", t.name, strings.Join(t.columns, ", "))
	for i := range n * len(t.columns) {
		switch {
		case i == 0:
			b.WriteString("(")
		case i%len(t.columns) == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", i+1)
	}
	b.WriteString(")")
	return b.String()
}

// replace writes the next version of a row, and returns the row before. The stored row must have the given version; for
// version 0 there must be no row. If both rows have the same values in the counted columns, replace returns row itself:
// most changes are of this kind, and then the database need not read the row before.
func replace[T any](ctx context.Context, tx *tx, t *table[T], row *T, version uint64) (before *T, err error) {
	if version == 0 {
		return new(T), insert(ctx, tx, t, []T{*row}, "")
	}
	if err := update(ctx, tx, t, row, version, t.counted); !errors.Is(err, storage.ErrConflict) {
		return row, err
	}
	if before, err = stored(ctx, tx, t, row, version); err != nil {
		return nil, err
	}
	return before, update(ctx, tx, t, row, version, nil)
}

// stored reads the row that has the key of row and a version. If there is no such row, the error is ErrConflict.
func stored[T any](ctx context.Context, tx *tx, t *table[T], row *T, version uint64) (*T, error) {
	args, tail := []any{version}, "WHERE version = $1"
	for i, field := range t.fields(row)[:t.key] {
		args = append(args, field)
		tail += fmt.Sprintf(" AND %s = $%d", t.columns[i], i+2)
	}
	found := new(T)
	err := tx.QueryRowContext(ctx, tx.store.bind(t.selection(tail)), args...).Scan(t.fields(found)...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, storage.ErrConflict
	}
	return found, err
}

// update replaces a row that has the given version, and the same values as row in the columns same. If there is no such
// row, the error is ErrConflict.
func update[T any](ctx context.Context, tx *tx, t *table[T], row *T, version uint64, same []string) error {
	var b strings.Builder
	var args []any
	assign := func(separator, column string, value any) {
		args = append(args, value)
		fmt.Fprintf(&b, "%s%s = $%d", separator, column, len(args))
	}
	fields := t.fields(row)
	fmt.Fprintf(&b, "UPDATE %s", t.name)
	separator := " SET "
	for i := t.fixed; i < len(fields); i++ {
		assign(separator, t.columns[i], fields[i])
		separator = ", "
	}
	assign(" WHERE ", "version", version)
	for i, column := range t.columns {
		if i < t.key || slices.Contains(same, column) {
			assign(" AND ", column, fields[i])
		}
	}
	result, err := tx.exec(ctx, b.String(), args...)
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n != 1 {
		return storage.ErrConflict
	}
	return err
}

// selection returns the statement that reads whole rows. tail follows the name of the table.
func (t *table[T]) selection(tail string) string {
	return "SELECT " + strings.Join(t.columns, ", ") + " FROM " + t.name + " " + tail
}

// list reads the rows that the tail of the SELECT selects.
func list[T any](ctx context.Context, s *Store, t *table[T], tail string, args ...any) ([]T, error) {
	var found []T
	err := s.query(ctx, t.selection(tail), args, func(rows *sql.Rows) error {
		var row T
		err := rows.Scan(t.fields(&row)...)
		found = append(found, row)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// one reads the first row that the tail of the SELECT selects, or returns ErrNotFound.
func one[T any](ctx context.Context, s *Store, t *table[T], tail string, args ...any) (*T, error) {
	rows, err := list(ctx, s, t, tail+" LIMIT 1", args...)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, storage.ErrNotFound
	}
	return &rows[0], nil
}
