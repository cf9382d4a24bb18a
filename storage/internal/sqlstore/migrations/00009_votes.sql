-- +goose Up

-- The MigrationVote of a target. It is null or empty if the target speaks only the draft, or if an older version wrote
-- the row.
ALTER TABLE mimiport_migrations ADD COLUMN vote BYTEA;
