-- +goose Up

-- A replay reads the handshakes of a group. The index skips the other messages between them.
CREATE INDEX mimiport_entries_handshakes ON mimiport_entries (group_id, term, seq) WHERE kind IN ('proposal', 'commit');

-- The groups of a room.
CREATE INDEX mimiport_groups_room ON mimiport_groups (room_id);

-- For the retention of the log.
CREATE INDEX mimiport_entries_accepted ON mimiport_entries (accepted_at);
