-- +goose Up

-- The key objects of other servers: for each key, the object that this server fetched last.
CREATE TABLE mimiport_key_objects (
	server     TEXT   NOT NULL,
	key_id     TEXT   NOT NULL,
	object     BYTEA  NOT NULL,
	fetched_at BIGINT NOT NULL,
	PRIMARY KEY (server, key_id)
);

-- The oldest make room for new ones.
CREATE INDEX mimiport_key_objects_fetched ON mimiport_key_objects (fetched_at);
