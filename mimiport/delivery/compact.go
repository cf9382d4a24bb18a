package delivery

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// stored is how a live group lies in the store: the snapshot that it would be loaded from, and what would be replayed on it.
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

// outgrown says whether the log, with some more bytes, outweighs the snapshot before it. A group is then written whole as often
// as its size in handshakes has been written: at most as much again.
func (s *stored) outgrown(more int) bool { return s.log+more > max(s.snapshot, minLog) }

// grow counts what was appended to the log. A log that has outgrown its snapshot starts again: extend has asked for a new one.
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

// compaction is the row by which this server stores a snapshot some time after a log entry.
func (s *Service) compaction(e *storage.Entry) storage.Row {
	g := &storage.Group{ID: e.GroupID, Term: e.Term}
	return storage.Row{
		Destination: s.Server, Queue: "compact/" + fanOutQueue(g), Order: e.Seq, Kind: storage.RowCompact,
		GroupID: e.GroupID, Term: e.Term, Seq: e.Seq, Due: e.At,
	}
}

// compact stores a snapshot of the present epoch as it began. Of the older ones the last stays, for the epochs between. Requests
// go on meanwhile: a state never changes.
func (s *Service) compact(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	change := &storage.Change{Done: []storage.RowKey{row.Key()}}
	if g.State != migration.GroupActive && g.State != migration.GroupFrozen {
		return s.apply(ctx, change) // it is on its way to be purged
	}
	state, seq, last, err := s.begun(ctx, g)
	if err != nil {
		return err
	}
	if state.Epoch() == last {
		return s.apply(ctx, change)
	}
	snap := storage.Snapshot{
		GroupID: g.ID, Term: g.Term, Epoch: state.Epoch(), Seq: seq, GroupInfo: state.GroupInfo(), RatchetTree: state.RatchetTree(),
	}
	change.Snapshots, change.DropBefore = []storage.Snapshot{snap}, &storage.Epoch{GroupKey: g.Key(), Epoch: last}
	if err := s.apply(ctx, change); err != nil {
		return err
	}
	defer s.locks.lock(g.ID)()
	if l := s.cache.get(cacheKey{string(g.ID), g.Term}); l != nil {
		log := l.stored.log
		l.stored = storedAs(&snap)
		l.stored.log = log
	}
	return nil
}

// begun is the present epoch as it began, the number of the log entry to replay on it first, and the epoch of the last snapshot.
func (s *Service) begun(ctx context.Context, g *storage.Group) (state mls.Group, seq, last uint64, err error) {
	err = s.locked(ctx, g.Key(), func(_ *storage.Group, l *live) error {
		state, seq, last = l.begun, l.begunSeq, l.stored.epoch
		return nil
	})
	return state, seq, last, err
}
