package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Live is a group in memory: the engine's state after all log entries below seq. Only the holder of the group's lock
// may use it.
type Live struct {
	MLS     mls.Group
	Roster  Roster
	Alarmed bool // the operator was told that a member claims to be in a later epoch

	seq    uint64
	before mls.Group // the end of the previous epoch; nil until a Commit has been followed
	begin  mls.Group // the beginning of this epoch, before log entry beginSeq
	stored stored

	beginSeq uint64

	kept [sha256.Size]byte // the hash of the stored snapshot; of a group of Keep
}

// NewLive makes a group from its state before log entry seq. It returns a KindInvalid or KindBadMessage error for a
// group with a leaf that names no Matrix device.
func NewLive(state mls.Group, seq uint64) (*Live, error) {
	r, err := NewRoster(state)
	return &Live{MLS: state, seq: seq, Roster: r, begin: state, beginSeq: seq}, err
}

// Snapshot makes a snapshot of the group's present state. g is its row.
func (l *Live) Snapshot(g *storage.Group) storage.Snapshot { return SnapshotOf(g, l.MLS, l.seq) }

// SnapshotOf makes a snapshot of a state of the group in row g, before log entry seq. It leaves the tree out when the
// GroupInfo holds it.
func SnapshotOf(g *storage.Group, state mls.Group, seq uint64) storage.Snapshot {
	s := storage.Snapshot{
		GroupID: g.ID, Term: g.Term, Epoch: state.Epoch(), Seq: seq, GroupInfo: state.GroupInfo(),
	}
	if !state.TreeInside() {
		s.RatchetTree = state.RatchetTree()
	}
	return s
}

// LastSnapshot returns the epoch of the snapshot from which the group would load.
func (l *Live) LastSnapshot() uint64 { return l.stored.epoch }

// errNoInfo means that the log has a Commit without its GroupInfo: only a snapshot of the epoch that the Commit starts
// has it.
var errNoInfo = errors.New("registry: the log does not have the GroupInfo of a Commit")

// memberSize is the measured memory of the roster for each member, in bytes.
const memberSize = 400

// size estimates the memory of the group in bytes.
func (l *Live) size() int { return l.MLS.Size() + l.MLS.NumMembers()*memberSize }

// Keep keeps a verified group whose snapshot was just stored, until a request loads it or Drop drops it. Nothing else
// may use l afterwards. The group counts only while the store has the same snapshot.
func (r *Registry) Keep(l *Live, snap *storage.Snapshot) {
	l.stored, l.kept = storedAs(snap), hashOf(snap)
	r.kept.put(cacheKey{string(snap.GroupID), snap.Term}, l)
}

// hashOf hashes what a group is opened from.
func hashOf(s *storage.Snapshot) (sum [sha256.Size]byte) {
	h := sha256.New()
	fmt.Fprintln(h, s.Epoch, s.Seq, len(s.GroupInfo), len(s.RatchetTree))
	h.Write(s.GroupInfo)
	h.Write(s.RatchetTree)
	h.Sum(sum[:0])
	return sum
}

// open loads the latest snapshot at or before an epoch. It verifies the snapshot unless the group was kept with it.
func (r *Registry) open(ctx context.Context, g *storage.Group, epoch uint64) (*Live, error) {
	engine, err := r.engines.Find(g.Protocol)
	if err != nil {
		return nil, err
	}
	snap, err := r.store.Snapshot(ctx, g.Key(), epoch)
	if err != nil {
		return nil, err
	}
	if l := r.kept.take(keyOf(g)); l != nil && l.MLS.Protocol() == g.Protocol && l.kept == hashOf(snap) {
		return l, nil
	}
	state, err := engine.Open(snap.GroupInfo, snap.RatchetTree)
	if err != nil {
		return nil, err
	}
	l, err := NewLive(state, snap.Seq)
	l.stored = storedAs(snap)
	return l, err
}

// follow replays the handshakes up to an epoch. For the epoch of the group's row it replays all of them. For an earlier
// epoch it stops at the beginning of that epoch.
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

// replay applies one accepted handshake.
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

// commit moves the group to the epoch that a Commit starts. next is its state before log entry seq. For each leaf that
// the Commit has changed, commit takes the old device out of the roster and puts the new one in.
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

// touched returns the leaves that a Commit may have changed.
func touched(e *mls.Effects) map[uint32]bool {
	leaves := map[uint32]bool{e.Committer.Leaf: true}
	for _, members := range [][]mls.Member{e.Added, e.Removed, e.Updated} {
		for _, m := range members {
			leaves[m.Leaf] = true
		}
	}
	return leaves
}

// Accepted is the result of accepted messages: the group's next state, and the entries for the log.
type Accepted struct {
	Next    mls.Group       // nil for an application message
	Effects *mls.Effects    // of a Commit; nil for other messages
	Entries []storage.Entry // without group, term, number, hash and time: Extend adds them
}

// Snapshot makes a snapshot after a Commit whose GroupInfo holds the tree. It returns nil after any other message. The
// store keeps such a GroupInfo in a snapshot, and does not keep it in the log for good. next is the row after the
// Commit.
func (a *Accepted) Snapshot(next *storage.Group) *storage.Snapshot {
	if a.Effects == nil || !a.Next.TreeInside() {
		return nil
	}
	s := SnapshotOf(next, a.Next, next.NextSeq)
	return &s
}

// Advance brings the group in memory to the state of its row next, after the change was stored. When that fails, it
// drops the group from the cache, so the next request loads it again.
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

// Outgrown reports whether the log, with some more entries, is larger than the snapshot on which it is replayed. A new
// snapshot is then due.
func (l *Live) Outgrown(more []storage.Entry) bool {
	size := replayed(more)
	return size > 0 && l.stored.outgrown(size)
}

// Identities reads the Matrix user and device of each member. It returns the errors of Identity.
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
