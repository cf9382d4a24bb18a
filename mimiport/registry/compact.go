package registry

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// stored is how a live group lies in the store: the snapshot that it would be loaded from, and what would be replayed
// on it.
type stored struct {
	epoch    uint64 // of the snapshot
	snapshot int    // its bytes
	log      int    // bytes of the handshakes since
}

func storedAs(snap *storage.Snapshot) stored {
	return stored{epoch: snap.Epoch, snapshot: len(snap.GroupInfo) + len(snap.RatchetTree)}
}

// minLog keeps a small group from being written whole with every Commit, in bytes.
const minLog = 64 << 10

// outgrown says whether the log, with some more bytes, outweighs the snapshot before it. A group is then written whole
// as often as its size in handshakes has been written: at most as much again.
func (s *stored) outgrown(more int) bool { return s.log+more > max(s.snapshot, minLog) }

// grow counts what was appended to the log. A log that has outgrown its snapshot starts again: a new snapshot is due.
func (s *stored) grow(more int) {
	if s.log += more; s.outgrown(0) {
		s.log = 0
	}
}

// replayedBytes is how much of an entry is read when its group is loaded, in bytes.
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

// Compact returns a snapshot of the group's present epoch as it began, and the epoch of the last snapshot, which is
// kept for the epochs between. It returns no snapshot where the last one is of this epoch. Requests go on meanwhile: a
// state never changes.
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

// Compacted takes into account that a snapshot was stored.
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
