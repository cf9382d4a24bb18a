-- +goose Up

-- How many bytes each user added to the log of a group on the last day on which the user added any. A day is a number
-- of days since 1970, in UTC.
CREATE TABLE mimiport_volumes (
	group_id BYTEA  NOT NULL,
	term     BIGINT NOT NULL,
	user_id  TEXT   NOT NULL,
	day      BIGINT NOT NULL,
	bytes    BIGINT NOT NULL,
	PRIMARY KEY (group_id, term, user_id)
);

-- For the counts of the quotas.
CREATE INDEX mimiport_migrations_state ON mimiport_migrations (role, state, source);
CREATE INDEX mimiport_migrations_room ON mimiport_migrations (room_id, state);
CREATE INDEX mimiport_groups_creator ON mimiport_groups (creator, state);
