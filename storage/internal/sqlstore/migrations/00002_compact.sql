-- +goose Up

-- What a group is replayed from: its handshakes, however many other messages lie between them.
CREATE INDEX mimiport_entries_handshakes ON mimiport_entries (group_id, term, seq) WHERE kind IN ('proposal', 'commit');

-- The groups of a room.
CREATE INDEX mimiport_groups_room ON mimiport_groups (room_id);

-- What the retention of the log has passed over.
CREATE INDEX mimiport_entries_accepted ON mimiport_entries (accepted_at);
