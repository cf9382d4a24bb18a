-- +goose Up

-- The announcement of a move that waits to be sent to its room. It is null or empty in rows of other kinds.
ALTER TABLE mimiport_outbox ADD COLUMN body BYTEA;
