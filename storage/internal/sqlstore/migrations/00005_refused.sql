-- +goose Up

-- How many contents of the source a target refused for an offer.
ALTER TABLE mimiport_migrations ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;
