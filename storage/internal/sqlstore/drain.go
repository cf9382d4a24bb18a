package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// inTurn selects the group of each row of the drain, in its highest term that is not dropped.
const inTurn = " JOIN mimiport_groups AS g ON g.group_id = d.group_id AND " + highest

// drained is the table of the drain with the state of each group, as storage.DrainGroup.StateIn says it.
const drained = `(SELECT d.group_id, d.due_at, d.user_id, d.asked_at, d.tried, d.why, CASE
		WHEN g.state = 'moved' THEN 'moved' WHEN g.state = 'frozen' THEN 'moving'
		WHEN g.state IN ('active', 'stopped') THEN d.state ELSE 'gone' END AS state
	FROM mimiport_drain AS d
	LEFT JOIN (SELECT g.group_id, g.state FROM mimiport_groups AS g WHERE ` + highest + `) AS g ON g.group_id = d.group_id
	) AS drained`

// FillDrain implements storage.Store.
func (s *Store) FillDrain(ctx context.Context, due time.Time) error {
	return s.transact(ctx, "fill drain", func(tx *tx) error {
		w := new(where)
		w.and("g.state IN (?, ?, ?)", anys(storage.DrainedStates)...)
		w.and(highest)
		w.and("NOT EXISTS (SELECT 1 FROM mimiport_drain AS d WHERE d.group_id = g.group_id)")
		from := w.with("ON CONFLICT DO NOTHING")
		_, err := tx.exec(ctx, "INSERT INTO mimiport_drain (group_id, state, due_at, user_id, asked_at, tried) "+
			"SELECT g.group_id, 'waiting', "+w.number("CAST(? AS BIGINT)", []any{(*millis)(&due)})+
			", '', 0, 0 FROM mimiport_groups AS g "+from, w.args...)
		return err
	})
}

// HastenDrain implements storage.Store.
func (s *Store) HastenDrain(ctx context.Context, id []byte, due time.Time) error {
	return s.transact(ctx, "hasten drain", func(tx *tx) error {
		w := new(where)
		w.and("due_at > ?", (*millis)(&due))
		if id != nil {
			w.and("group_id = ?", id)
		} else {
			w.and("state <> ?", storage.DrainAsked)
		}
		set := w.number("?", []any{(*millis)(&due)})
		_, err := tx.exec(ctx, "UPDATE mimiport_drain SET due_at = "+set+" "+w.with(""), w.args...)
		return err
	})
}

// ClearDrain implements storage.Store.
func (s *Store) ClearDrain(ctx context.Context) error {
	return s.transact(ctx, "clear drain", func(tx *tx) error {
		_, err := tx.exec(ctx, "DELETE FROM mimiport_drain")
		return err
	})
}

// PutDrain implements storage.Store.
func (s *Store) PutDrain(ctx context.Context, groups []storage.DrainGroup) error {
	return s.transact(ctx, "put drain", func(tx *tx) error {
		return insert(ctx, tx, &drain, groups, ` ON CONFLICT (group_id) DO UPDATE SET state = excluded.state,
			due_at = excluded.due_at, user_id = excluded.user_id, asked_at = excluded.asked_at, tried = excluded.tried,
			why = excluded.why`)
	})
}

// DueDrain implements storage.Store.
func (s *Store) DueDrain(
	ctx context.Context, now time.Time, limit int,
) (groups []storage.DrainGroup, next time.Time, err error) {
	const due = "AS d JOIN (SELECT d.group_id AS due_id FROM mimiport_drain AS d" + inTurn +
		" WHERE g.state IN ('active', 'stopped') AND d.due_at "
	const whole = "ON due.due_id = d.group_id ORDER BY due_at, group_id"
	groups, err = list(ctx, s, &drain, due+"<= $1 ORDER BY d.due_at, d.group_id LIMIT $2) AS due "+whole,
		(*millis)(&now), limit)
	if err != nil {
		return nil, next, err
	}
	later, err := list(ctx, s, &drain, due+"> $1 ORDER BY d.due_at, d.group_id LIMIT 1) AS due "+whole, (*millis)(&now))
	if err == nil && len(later) > 0 {
		next = later[0].Due
	}
	return groups, next, err
}

// DrainGroups implements storage.Store.
func (s *Store) DrainGroups(
	ctx context.Context, states []storage.DrainState, after []byte, limit int,
) (groups []storage.DrainGroup, err error) {
	w := new(where)
	oneOf(w, "state", states)
	w.and("group_id > ?", notNull(after))
	all := drain
	all.name = drained
	return list(ctx, s, &all, w.with("ORDER BY group_id LIMIT ?", limit), w.args...)
}

// CountDrain implements storage.Store.
func (s *Store) CountDrain(ctx context.Context) (map[storage.DrainState]int, error) {
	counted := make(map[storage.DrainState]int)
	err := s.query(ctx, "SELECT state, count(*) FROM "+drained+" GROUP BY state", nil, func(rows *sql.Rows) error {
		var state storage.DrainState
		var n int
		err := rows.Scan(&state, &n)
		counted[state] = n
		return err
	})
	return counted, err
}

// CountAsked implements storage.Store.
func (s *Store) CountAsked(ctx context.Context, user string) (n int, err error) {
	err = s.answer(ctx, []any{&n}, "SELECT count(*) FROM mimiport_drain AS d"+inTurn+
		" WHERE d.user_id = $1 AND d.state = 'asked' AND g.state IN ('active', 'stopped')", user)
	return n, err
}
