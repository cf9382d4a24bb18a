-- +goose Up

-- Log entries on their way to servers: one row for an entry and all servers that get it. mimiport_outbox has rows for
-- the servers that did not get an entry soon.
CREATE TABLE mimiport_fan_outs (
	group_id    BYTEA  NOT NULL,
	term        BIGINT NOT NULL,
	seq         BIGINT NOT NULL,
	accepted_at BIGINT NOT NULL,
	servers     BYTEA  NOT NULL, -- names, one a line
	PRIMARY KEY (group_id, term, seq)
);

-- The servers that are behind in a group.
CREATE INDEX mimiport_queues_name ON mimiport_queues (queue, destination);
