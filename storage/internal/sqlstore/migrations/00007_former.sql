-- +goose Up

-- The data of a group's former terms at other servers, by the term in which the group came here.
CREATE TABLE mimiport_former (
	group_id BYTEA  NOT NULL,
	term     BIGINT NOT NULL,
	data     BYTEA  NOT NULL,
	PRIMARY KEY (group_id, term)
);

-- For the end of a log without its application messages.
CREATE INDEX mimiport_entries_latest ON mimiport_entries (group_id, term, seq) WHERE kind <> 'application';
