package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Live is a group in memory: the engine's state after all log entries below seq. It belongs to who holds the group.
type Live struct {
	MLS     mls.Group
	Roster  Roster
	Alarmed bool // the operator has been told that a member says to be in a later epoch

	seq    uint64
	before mls.Group // the epoch before, as it ended; nil until a Commit has been followed
	begin  mls.Group // this epoch as it began, which was before the log entry beginSeq
	stored stored

	beginSeq uint64
}

// NewLive is a group that begins with a state, before log entry seq. It returns a KindInvalid or KindBadMessage error
// for a group with a leaf that names no Matrix device.
func NewLive(state mls.Group, seq uint64) (*Live, error) {
	r, err := NewRoster(state)
	return &Live{MLS: state, seq: seq, Roster: r, begin: state, beginSeq: seq}, err
}

// Snapshot is the group's state as its row g and its log have it.
func (l *Live) Snapshot(g *storage.Group) storage.Snapshot { return SnapshotOf(g, l.MLS, l.seq) }

// SnapshotOf is a state of the group in row g, before log entry seq. It holds the tree once.
func SnapshotOf(g *storage.Group, state mls.Group, seq uint64) storage.Snapshot {
	s := storage.Snapshot{
		GroupID: g.ID, Term: g.Term, Epoch: state.Epoch(), Seq: seq, GroupInfo: state.GroupInfo(),
	}
	if !state.TreeInside() {
		s.RatchetTree = state.RatchetTree()
	}
	return s
}

// LastSnapshot is the epoch of the snapshot that the group would be loaded from.
func (l *Live) LastSnapshot() uint64 { return l.stored.epoch }

// errNoInfo means that a Commit has its GroupInfo in a snapshot of the epoch that it leads to, and not in the log.
var errNoInfo = errors.New("registry: the log does not have the GroupInfo of a Commit")

// memberSize is how much memory the roster takes for each member, in bytes, as measured.
const memberSize = 400

// size is roughly how many bytes of memory the group takes.
func (l *Live) size() int { return l.MLS.Size() + l.MLS.NumMembers()*memberSize }

// open loads the latest snapshot at or before an epoch.
func (r *Registry) open(ctx context.Context, g *storage.Group, epoch uint64) (*Live, error) {
	engine, err := r.engines.Find(g.Protocol)
	if err != nil {
		return nil, err
	}
	snap, err := r.store.Snapshot(ctx, g.Key(), epoch)
	if err != nil {
		return nil, err
	}
	state, err := engine.Open(snap.GroupInfo, snap.RatchetTree)
	if err != nil {
		return nil, err
	}
	l, err := NewLive(state, snap.Seq)
	l.stored = storedAs(snap)
	return l, err
}

// follow replays the handshakes up to an epoch: all of them to the epoch of the group's row, else to where that epoch
// begins.
func (r *Registry) follow(ctx context.Context, g *storage.Group, l *Live, epoch uint64) error {
	const batch = 256
	for more := true; more && l.seq < g.NextSeq; {
		entries, err := r.store.Handshakes(ctx, g.Key(), l.seq, batch)
		if err != nil {
			return err
		}
		for i := range entries {
			if entries[i].Seq >= g.NextSeq || l.MLS.Epoch() == epoch && epoch < g.Epoch {
				return nil
			}
			if err := l.replay(&entries[i]); err != nil {
				return err
			}
		}
		more = len(entries) > 0
	}
	if l.MLS.Epoch() != epoch {
		return fmt.Errorf("registry: the log ends at epoch %d before epoch %d", l.MLS.Epoch(), epoch)
	}
	return nil
}

// replay takes one accepted handshake into account.
func (l *Live) replay(e *storage.Entry) error {
	if e.Kind == storage.EntryProposal {
		next, _, err := l.MLS.Propose(e.Message)
		if err != nil {
			return err
		}
		l.MLS = next
	} else {
		if len(e.GroupInfo) == 0 {
			return errNoInfo
		}
		next, effects, err := l.MLS.Commit(e.Message, e.GroupInfo)
		if err != nil {
			return err
		}
		if err := l.commit(next, effects, e.Seq+1); err != nil {
			return err
		}
	}
	l.seq = e.Seq + 1
	l.stored.log += replayedBytes(e)
	return nil
}

// commit takes a Commit's outcome into account: the group as it is before a log entry. Of each leaf that the Commit
// has touched, the roster loses what the tree had before and gains what it has now.
func (l *Live) commit(next mls.Group, effects *mls.Effects, seq uint64) error {
	for leaf := range touched(effects) {
		if m, ok := l.MLS.Member(leaf); ok {
			id, err := Identity(m)
			if err != nil {
				return err
			}
			l.Roster.Remove(id)
		}
		if m, ok := next.Member(leaf); ok {
			id, err := Identity(m)
			if err != nil {
				return err
			}
			l.Roster.Add(id)
		}
	}
	l.before, l.MLS, l.begin, l.beginSeq = l.MLS, next, next, seq
	return nil
}

// touched are the leaves that a Commit may have changed.
func touched(e *mls.Effects) map[uint32]bool {
	leaves := map[uint32]bool{e.Committer.Leaf: true}
	for _, members := range [][]mls.Member{e.Added, e.Removed, e.Updated} {
		for _, m := range members {
			leaves[m.Leaf] = true
		}
	}
	return leaves
}

// Accepted is what accepting messages makes of a group: the state after them, and what goes into the log.
type Accepted struct {
	Next    mls.Group       // nil for an application message
	Effects *mls.Effects    // of a Commit
	Entries []storage.Entry // without group, term, number, hash and time: Extend adds them
}

// Snapshot is the state after a Commit whose GroupInfo holds the tree, nil for any other: it is kept in a snapshot, and
// not in the log for good. next is the row after it.
func (a *Accepted) Snapshot(next *storage.Group) *storage.Snapshot {
	if a.Effects == nil || !a.Next.TreeInside() {
		return nil
	}
	s := SnapshotOf(next, a.Next, next.NextSeq)
	return &s
}

// Advance brings the group in memory to where a stored change has brought its row, next. Where that fails the group is
// loaded again next time.
func (h *Held) Advance(next *storage.Group, l *Live, a *Accepted) {
	var err error
	switch {
	case a.Effects != nil:
		err = l.commit(a.Next, a.Effects, next.NextSeq)
	case a.Next != nil:
		l.MLS = a.Next
	}
	l.seq = next.NextSeq
	if snap := a.Snapshot(next); snap != nil {
		l.stored = storedAs(snap)
	} else {
		l.stored.grow(replayed(a.Entries))
	}
	if err != nil {
		h.Drop(next.Term)
		return
	}
	h.registry.cache.put(keyOf(next), l)
}

// Outgrown says whether the log, with some more entries, outweighs the snapshot that it is replayed on, so that a new
// one is due.
func (l *Live) Outgrown(more []storage.Entry) bool {
	size := replayed(more)
	return size > 0 && l.stored.outgrown(size)
}

// Identities reads the Matrix user and device of each member. See Identity.
func Identities(members []mls.Member) ([]mimiport.LeafIdentity, error) {
	ids := make([]mimiport.LeafIdentity, len(members))
	for i, m := range members {
		id, err := Identity(m)
		if err != nil {
			return nil, err
		}
		ids[i] = *id
	}
	return ids, nil
}
