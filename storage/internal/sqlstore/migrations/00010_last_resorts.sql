-- +goose Up

-- Of each device of this server that has published one: the KeyPackage for when its one-time KeyPackages are used up.
CREATE TABLE mimiport_last_resorts (
	user_id   TEXT  NOT NULL,
	device_id TEXT  NOT NULL,
	value     BYTEA NOT NULL,
	PRIMARY KEY (user_id, device_id)
);
