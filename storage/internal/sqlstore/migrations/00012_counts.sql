-- +goose Up

-- The numbers that the operator's quotas bound. A transaction that changes a group or a migration changes them too.
-- Of user_id, room_id and source, those that a quota does not speak of are empty. No number is 0.
CREATE TABLE mimiport_counts (
	quota   TEXT   NOT NULL,
	user_id TEXT   NOT NULL,
	room_id TEXT   NOT NULL,
	source  TEXT   NOT NULL,
	number  BIGINT NOT NULL,
	PRIMARY KEY (quota, user_id, room_id, source)
);

INSERT INTO mimiport_counts SELECT quota, user_id, room_id, source, count(*) FROM (
	SELECT 'groups' AS quota, '' AS user_id, '' AS room_id, '' AS source FROM mimiport_groups
		WHERE state IN ('active', 'frozen', 'staged', 'stopped', 'closed')
	UNION ALL SELECT 'groups_per_user', creator, '', '' FROM mimiport_groups
		WHERE state IN ('active', 'frozen', 'staged', 'stopped', 'closed')
	UNION ALL SELECT 'groups_per_room', '', room_id, '' FROM mimiport_groups
		WHERE state IN ('active', 'frozen', 'staged', 'stopped', 'closed')
	UNION ALL SELECT 'groups_per_user_in_room', creator, room_id, '' FROM mimiport_groups
		WHERE state IN ('active', 'frozen', 'staged', 'stopped', 'closed')
	UNION ALL SELECT 'reserved_per_user', creator, '', '' FROM mimiport_groups
		WHERE state = 'reserved'
	UNION ALL SELECT 'reserved_per_room', '', room_id, '' FROM mimiport_groups
		WHERE state = 'reserved'
	UNION ALL SELECT 'offers', user_id, '', '' FROM mimiport_migrations
		WHERE role = 'target' AND state = 'offered'
	UNION ALL SELECT 'offers_per_room', '', room_id, '' FROM mimiport_migrations
		WHERE role = 'target' AND state = 'offered'
	UNION ALL SELECT 'staged', '', '', '' FROM mimiport_migrations
		WHERE role = 'target' AND state = 'staged'
	UNION ALL SELECT 'staged_per_user', user_id, '', '' FROM mimiport_migrations
		WHERE role = 'target' AND state = 'staged'
	UNION ALL SELECT 'staged_per_room', '', room_id, '' FROM mimiport_migrations
		WHERE role = 'target' AND state = 'staged'
	UNION ALL SELECT 'staged_per_user_in_room', user_id, room_id, '' FROM mimiport_migrations
		WHERE role = 'target' AND state = 'staged'
	UNION ALL SELECT 'staged_per_source', '', '', source FROM mimiport_migrations
		WHERE role = 'target' AND state = 'staged'
) AS counted GROUP BY quota, user_id, room_id, source;

-- Lists the groups of a room piece by piece.
DROP INDEX mimiport_groups_room;
CREATE INDEX mimiport_groups_room ON mimiport_groups (room_id, group_id);
