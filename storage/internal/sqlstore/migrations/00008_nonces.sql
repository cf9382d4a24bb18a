-- +goose Up

-- The nonces of accepted direct requests. This server accepts no nonce twice.
CREATE TABLE mimiport_nonces (
	user_id   TEXT   NOT NULL,
	device_id TEXT   NOT NULL,
	nonce     BYTEA  NOT NULL,
	used_at   BIGINT NOT NULL,
	PRIMARY KEY (user_id, device_id, nonce)
);

CREATE INDEX mimiport_nonces_used ON mimiport_nonces (used_at);
