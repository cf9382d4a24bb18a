-- +goose Up

-- Receipts for accepted Commits, by the epoch to which each Commit leads. They outlive the messages.
CREATE TABLE mimiport_receipts (
	group_id    BYTEA  NOT NULL,
	term        BIGINT NOT NULL,
	epoch       BIGINT NOT NULL,
	seq         BIGINT NOT NULL,
	commit_hash BYTEA  NOT NULL,
	key_id      TEXT   NOT NULL,
	signature   BYTEA  NOT NULL,
	PRIMARY KEY (group_id, term, epoch)
);
