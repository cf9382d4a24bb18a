-- +goose Up

-- How many contents of its source a target has refused for an offer.
ALTER TABLE mimiport_migrations ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;
