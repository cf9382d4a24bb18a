package sqlstore

import (
	"context"
	"database/sql"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Outbox lists at most limit rows that follow a key, in the order of their keys, whether due or not.
func (s *Store) Outbox(ctx context.Context, after storage.RowKey, limit int) ([]storage.Row, error) {
	return list(ctx, s, &outbox, `WHERE (destination, queue, row_order) > ($1, $2, $3)
		ORDER BY destination, queue, row_order LIMIT $4`, after.Destination, after.Queue, clamp(after.Order), limit)
}

// AllKeyObjects lists the key objects of all servers.
func (s *Store) AllKeyObjects(ctx context.Context) ([]storage.KeyObject, error) {
	return list(ctx, s, &keyObjects, "ORDER BY server, key_id")
}

// loose are queries for errors that the constraints of the tables allow. This package never writes such rows. Each
// query returns one text for each problem.
var loose = []string{
	`SELECT 'the queue ' || queue || ' to ' || destination || ' does not begin with its first row'
		FROM mimiport_queues AS q WHERE row_order <> coalesce((SELECT min(row_order) FROM mimiport_outbox
			WHERE destination = q.destination AND queue = q.queue), -1)`,
	`SELECT DISTINCT 'the queue ' || queue || ' to ' || destination || ' is never due' FROM mimiport_outbox AS o
		WHERE NOT EXISTS (SELECT 1 FROM mimiport_queues WHERE destination = o.destination AND queue = o.queue)`,
	`SELECT count(*) || ' messages are of no group' FROM mimiport_entries AS e WHERE NOT EXISTS (
		SELECT 1 FROM mimiport_groups WHERE group_id = e.group_id AND term = e.term) HAVING count(*) > 0`,
	`SELECT count(*) || ' fan-outs are of no group' FROM mimiport_fan_outs AS f WHERE NOT EXISTS (
		SELECT 1 FROM mimiport_groups WHERE group_id = f.group_id AND term = f.term) HAVING count(*) > 0`,
	`SELECT count(*) || ' receipts are of no group' FROM mimiport_receipts AS r WHERE NOT EXISTS (
		SELECT 1 FROM mimiport_groups WHERE group_id = r.group_id AND term = r.term) HAVING count(*) > 0`,
	`SELECT count(*) || ' logs of former terms are of no group' FROM mimiport_former AS f WHERE NOT EXISTS (
		SELECT 1 FROM mimiport_groups WHERE group_id = f.group_id AND term = f.term) HAVING count(*) > 0`,
	`SELECT count(*) || ' snapshots are of no group' FROM mimiport_snapshots AS s WHERE NOT EXISTS (
		SELECT 1 FROM mimiport_groups WHERE group_id = s.group_id AND term = s.term) HAVING count(*) > 0`,
	`SELECT count(*) || ' contents are of no frozen migration' FROM mimiport_contents AS c WHERE NOT EXISTS (
		SELECT 1 FROM mimiport_migrations WHERE migration_id = c.migration_id AND state = 'frozen') HAVING count(*) > 0`,
	`SELECT DISTINCT 'the number for the quota ' || quota || ' is wrong' FROM (
		SELECT quota FROM (
			` + things + ` UNION ALL SELECT quota, user_id, room_id, source, -number FROM mimiport_counts
		) AS counted GROUP BY quota, user_id, room_id, source HAVING sum(number) <> 0
	) AS wrong`,
}

// things has a row for each group and migration in each number in which it counts: see storage.Counter.
var things = strings.Join([]string{
	`SELECT 'groups' AS quota, '' AS user_id, '' AS room_id, '' AS source, 1 AS number FROM ` + keptGroups,
	`SELECT 'groups_per_user', creator, '', '', 1 FROM ` + keptGroups,
	`SELECT 'groups_per_room', '', room_id, '', 1 FROM ` + keptGroups,
	`SELECT 'groups_per_user_in_room', creator, room_id, '', 1 FROM ` + keptGroups,
	`SELECT 'reserved_per_user', creator, '', '', 1 FROM ` + reservedGroups,
	`SELECT 'reserved_per_room', '', room_id, '', 1 FROM ` + reservedGroups,
	`SELECT 'offers', user_id, '', '', 1 FROM ` + offers,
	`SELECT 'offers_per_room', '', room_id, '', 1 FROM ` + offers,
	`SELECT 'staged', '', '', '', 1 FROM ` + staged,
	`SELECT 'staged_per_user', user_id, '', '', 1 FROM ` + staged,
	`SELECT 'staged_per_room', '', room_id, '', 1 FROM ` + staged,
	`SELECT 'staged_per_user_in_room', user_id, room_id, '', 1 FROM ` + staged,
	`SELECT 'staged_per_source', '', '', source, 1 FROM ` + staged,
}, " UNION ALL ")

// The rows that count.
const (
	keptGroups     = `mimiport_groups WHERE state IN ('active', 'frozen', 'staged', 'stopped', 'closed')`
	reservedGroups = `mimiport_groups WHERE state = 'reserved'`
	offers         = `mimiport_migrations WHERE role = 'target' AND state = 'offered'`
	staged         = `mimiport_migrations WHERE role = 'target' AND state = 'staged'`
)

// Loose describes, for people, rows that belong to nothing and rows that no query finds.
func (s *Store) Loose(ctx context.Context) (problems []string, err error) {
	for _, query := range loose {
		err := s.query(ctx, query, nil, func(rows *sql.Rows) error {
			var problem string
			err := rows.Scan(&problem)
			problems = append(problems, problem)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return problems, nil
}
