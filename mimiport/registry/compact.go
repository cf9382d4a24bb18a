package registry

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// stored describes how the store has a live group: the snapshot from which it would load, and the handshakes that it
// would replay.
type stored struct {
	epoch    uint64 // of the snapshot
	snapshot int    // bytes of the snapshot
	log      int    // bytes of the handshakes after the snapshot
}

func storedAs(snap *storage.Snapshot) stored {
	return stored{epoch: snap.Epoch, snapshot: len(snap.GroupInfo) + len(snap.RatchetTree)}
}

// minLog is the least size of a log before a new snapshot, in bytes. Without it, every Commit would write a small group
// whole.
const minLog = 64 << 10

// outgrown reports whether the log, with some more bytes, is larger than the snapshot before it. A new snapshot is
// then due. By this rule, snapshots write at most as many bytes as the log does.
func (s *stored) outgrown(more int) bool { return s.log+more > max(s.snapshot, minLog) }

// grow counts bytes that were appended to the log. When the log has outgrown its snapshot, a new snapshot is due and
// the count starts again at 0.
func (s *stored) grow(more int) {
	if s.log += more; s.outgrown(0) {
		s.log = 0
	}
}

// replayedBytes returns how many bytes of an entry are read when its group is loaded.
func replayedBytes(e *storage.Entry) int {
	if e.Kind != storage.EntryProposal && e.Kind != storage.EntryCommit {
		return 0
	}
	return e.Bytes()
}

func replayed(entries []storage.Entry) (bytes int) {
	for i := range entries {
		bytes += replayedBytes(&entries[i])
	}
	return bytes
}

// Compact returns a snapshot of the beginning of the group's present epoch, and the epoch of the last snapshot, which
// the store keeps for the epochs between. It returns no snapshot when the last one is of the present epoch. It holds
// the group's lock only while it finds the state, which never changes, so requests go on while it encodes the
// snapshot.
func (r *Registry) Compact(ctx context.Context, key storage.GroupKey) (snap *storage.Snapshot, last uint64, err error) {
	var begin mls.Group
	var seq uint64
	var row *storage.Group
	err = r.WithLive(ctx, key, func(g *storage.Group, l *Live) error {
		row, begin, seq, last = g, l.begin, l.beginSeq, l.stored.epoch
		return nil
	})
	if err != nil || begin.Epoch() == last {
		return nil, last, err
	}
	s := SnapshotOf(row, begin, seq)
	return &s, last, nil
}

// Compacted notes that a snapshot was stored.
func (r *Registry) Compacted(ctx context.Context, snap *storage.Snapshot) error {
	return r.With(ctx, snap.GroupID, func(*Held) error {
		if l := r.cache.get(cacheKey{string(snap.GroupID), snap.Term}); l != nil {
			log := l.stored.log
			l.stored = storedAs(snap)
			l.stored.log = log
		}
		return nil
	})
}
