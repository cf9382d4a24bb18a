-- Both engines run this file. BYTEA is binary in PostgreSQL, and SQLite stores values as they are. Times are
-- milliseconds since 1970, and 0 means none. The module chooses all keys: the database numbers nothing.

-- +goose Up

-- One row for each term of a group on this server. The module never deletes a row.
CREATE TABLE mimiport_groups (
	group_id     BYTEA  NOT NULL,
	term         BIGINT NOT NULL,
	created_at   BIGINT NOT NULL,
	version      BIGINT NOT NULL,
	state        TEXT   NOT NULL,
	server       TEXT   NOT NULL,
	room_id      TEXT   NOT NULL,
	creator      TEXT   NOT NULL,
	protocol     TEXT   NOT NULL,
	cipher_suite BIGINT NOT NULL,
	epoch        BIGINT NOT NULL,
	next_seq     BIGINT NOT NULL,
	migration_id BYTEA  NOT NULL,
	lineage      BYTEA  NOT NULL,
	PRIMARY KEY (group_id, term)
);
CREATE INDEX mimiport_groups_state ON mimiport_groups (state, creator);

-- Snapshots are apart from groups, so that an accepted message writes no tree.
CREATE TABLE mimiport_snapshots (
	group_id     BYTEA  NOT NULL,
	term         BIGINT NOT NULL,
	epoch        BIGINT NOT NULL,
	seq          BIGINT NOT NULL,
	group_info   BYTEA  NOT NULL,
	ratchet_tree BYTEA  NOT NULL,
	PRIMARY KEY (group_id, term, epoch)
);

CREATE TABLE mimiport_entries (
	group_id     BYTEA  NOT NULL,
	term         BIGINT NOT NULL,
	seq          BIGINT NOT NULL,
	epoch        BIGINT NOT NULL,
	kind         TEXT   NOT NULL,
	sender       TEXT   NOT NULL,
	hash         BYTEA  NOT NULL,
	message      BYTEA  NOT NULL,
	group_info   BYTEA  NOT NULL,
	recipients   BYTEA  NOT NULL, -- for each, the user id and the device id, as vectors
	migration_id BYTEA,           -- not null only for a migration Commit
	accepted_at  BIGINT NOT NULL,
	PRIMARY KEY (group_id, term, seq),
	UNIQUE (group_id, term, hash)
);

CREATE TABLE mimiport_migrations (
	migration_id            BYTEA   NOT NULL PRIMARY KEY,
	created_at              BIGINT  NOT NULL,
	role                    TEXT    NOT NULL,
	state                   TEXT    NOT NULL,
	version                 BIGINT  NOT NULL,
	group_id                BYTEA   NOT NULL,
	room_id                 TEXT    NOT NULL,
	term                    BIGINT  NOT NULL,
	source                  TEXT    NOT NULL,
	target                  TEXT    NOT NULL,
	user_id                 TEXT    NOT NULL,
	by_admin                BOOLEAN NOT NULL,
	epoch                   BIGINT  NOT NULL,
	expires_at              BIGINT  NOT NULL,
	decide_by               BIGINT  NOT NULL,
	commit_hash             BYTEA   NOT NULL,
	content_hash            BYTEA   NOT NULL,
	content_key_id          TEXT    NOT NULL,
	response                BYTEA   NOT NULL,
	response_key_id         TEXT    NOT NULL,
	response_key_object     BYTEA   NOT NULL,
	complete                BYTEA   NOT NULL,
	complete_key_id         TEXT    NOT NULL,
	complete_key_object     BYTEA   NOT NULL,
	confirmation            BYTEA   NOT NULL,
	confirmation_key_id     TEXT    NOT NULL,
	confirmation_key_object BYTEA   NOT NULL,
	abort                   BYTEA   NOT NULL,
	abort_key_id            TEXT    NOT NULL,
	abort_key_object        BYTEA   NOT NULL,
	reason                  TEXT    NOT NULL
);
CREATE INDEX mimiport_migrations_group ON mimiport_migrations (group_id, commit_hash);
CREATE INDEX mimiport_migrations_user ON mimiport_migrations (user_id, created_at);

CREATE TABLE mimiport_contents (
	migration_id BYTEA NOT NULL PRIMARY KEY,
	data         BYTEA NOT NULL
);

CREATE TABLE mimiport_outbox (
	destination  TEXT   NOT NULL,
	queue        TEXT   NOT NULL,
	row_order    BIGINT NOT NULL,
	kind         TEXT   NOT NULL,
	group_id     BYTEA  NOT NULL,
	term         BIGINT NOT NULL,
	seq          BIGINT NOT NULL,
	migration_id BYTEA  NOT NULL,
	due_at       BIGINT NOT NULL,
	attempts     BIGINT NOT NULL,
	PRIMARY KEY (destination, queue, row_order)
);

-- The first row of each queue. It lets a query find due rows without reading the rows behind them.
CREATE TABLE mimiport_queues (
	destination TEXT   NOT NULL,
	queue       TEXT   NOT NULL,
	row_order   BIGINT NOT NULL,
	due_at      BIGINT NOT NULL,
	PRIMARY KEY (destination, queue)
);
CREATE INDEX mimiport_queues_due ON mimiport_queues (due_at, destination, queue, row_order);

CREATE TABLE mimiport_evidence (
	group_id     BYTEA  NOT NULL,
	kind         TEXT   NOT NULL,
	migration_id BYTEA  NOT NULL,
	data         BYTEA  NOT NULL,
	key_id       TEXT   NOT NULL,
	found_at     BIGINT NOT NULL,
	PRIMARY KEY (group_id, kind, migration_id)
);

CREATE TABLE mimiport_settings (
	name  TEXT  NOT NULL PRIMARY KEY,
	value BYTEA NOT NULL
);
