-- +goose Up

-- When the row was made. 0 means that an older version made it.
ALTER TABLE mimiport_outbox ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0;

-- When this server stored the migration last. 0 means that an older version stored it.
ALTER TABLE mimiport_migrations ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;

-- How many leaves the group has. An older version did not count them: the next Commit or audit does.
ALTER TABLE mimiport_groups ADD COLUMN members BIGINT NOT NULL DEFAULT 0;

-- The acts of operators, and the ends of groups. The id begins with the time, so its order is the order in time. The
-- states before and after are JSON, and empty where there is none.
CREATE TABLE mimiport_audit (
	audit_id     BYTEA  NOT NULL PRIMARY KEY,
	at           BIGINT NOT NULL,
	actor        TEXT   NOT NULL,
	action       TEXT   NOT NULL,
	group_id     BYTEA  NOT NULL,
	migration_id BYTEA  NOT NULL,
	state_before BYTEA  NOT NULL,
	state_after  BYTEA  NOT NULL
);
