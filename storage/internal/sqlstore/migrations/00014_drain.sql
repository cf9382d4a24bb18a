-- +goose Up

-- The groups that a drain moves away. If nobody was asked, user_id is empty and asked_at is 0. why is JSON. Where
-- there is no obstacle, it is empty or null.
CREATE TABLE mimiport_drain (
	group_id BYTEA  NOT NULL PRIMARY KEY,
	state    TEXT   NOT NULL,
	due_at   BIGINT NOT NULL,
	user_id  TEXT   NOT NULL,
	asked_at BIGINT NOT NULL,
	tried    BIGINT NOT NULL,
	why      BYTEA
);
CREATE INDEX mimiport_drain_due ON mimiport_drain (due_at, group_id);
CREATE INDEX mimiport_drain_asked ON mimiport_drain (user_id) WHERE state = 'asked';
