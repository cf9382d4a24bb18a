-- +goose Up

-- The MigrationVote of a target. Null and empty: a target that speaks only the draft gives none, nor did older versions.
ALTER TABLE mimiport_migrations ADD COLUMN vote BYTEA;
