package fsck

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// checkLog replays a group from its oldest snapshot and compares it with each later one and with the group's row.
func (c *checker) checkLog(ctx context.Context, g *storage.Group) error {
	snapshots, err := c.snapshots(ctx, g)
	if err != nil {
		return err
	}
	purged := g.State == migration.GroupMoved || g.State == migration.GroupDropped ||
		g.State == migration.GroupReserved || g.State == migration.GroupEnded
	engine := c.engines[g.Protocol]
	switch {
	case len(snapshots) == 0 && !purged:
		c.group(g, "it is %s and has no snapshot", g.State)
		return nil
	case engine == nil && !purged:
		c.group(g, "it is of the protocol %q, which is unknown here", g.Protocol)
		return nil
	}
	if err := c.checkFormer(ctx, g); err != nil {
		return err
	}
	receipts, err := c.receipts(ctx, g)
	if err != nil {
		return err
	}
	r := &replay{checker: c, g: g, engine: engine, snapshots: snapshots, receipts: receipts}
	if len(snapshots) > 0 && engine != nil {
		r.open()
	}
	for from := uint64(0); ; {
		entries, err := c.store.Entries(ctx, storage.GroupKey{ID: g.ID, Term: g.Term}, from, page)
		if err != nil {
			return err
		}
		for i := range entries {
			r.entry(&entries[i])
		}
		if len(entries) == 0 {
			break
		}
		from = entries[len(entries)-1].Seq + 1
	}
	r.end()
	return r.content(ctx)
}

// checkFormer checks that the imported log is of terms before the group's term.
func (c *checker) checkFormer(ctx context.Context, g *storage.Group) error {
	stored, err := c.store.Former(ctx, storage.GroupKey{ID: g.ID, Term: g.Term})
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	log, err := mimiport.UnmarshalFormer(stored.Data)
	if err != nil {
		c.group(g, "the log of its former terms: %v", err)
		return nil
	}
	if n := len(log.Log); n > 0 && log.Log[n-1].Term >= g.Term {
		c.group(g, "the log of its former terms has a message of term %d", log.Log[n-1].Term)
	}
	return nil
}

// snapshots lists a group's snapshots, the oldest first.
func (c *checker) snapshots(ctx context.Context, g *storage.Group) (found []storage.Snapshot, err error) {
	for epoch := ^uint64(0); ; {
		s, err := c.store.Snapshot(ctx, storage.GroupKey{ID: g.ID, Term: g.Term}, epoch)
		if errors.Is(err, storage.ErrNotFound) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		found = append([]storage.Snapshot{*s}, found...)
		if s.Epoch == 0 {
			return found, nil
		}
		epoch = s.Epoch - 1
	}
}

// replay is the state of a group during the replay of its log.
type replay struct {
	*checker
	g         *storage.Group
	engine    mls.Engine
	snapshots []storage.Snapshot // the snapshots that follow
	receipts  *receipts
	begin     uint64    // the number of the next message to replay
	state     mls.Group // nil before the first snapshot, or after a failure

	last  uint64 // the number of the message before; 0 for none
	epoch uint64 // the epoch of that message
	whole bool   // from here on no message may be missing: the server forgets only the oldest messages
}

// open begins with the oldest snapshot.
func (r *replay) open() {
	s := &r.snapshots[0]
	r.snapshots = r.snapshots[1:]
	state, err := r.engine.Open(s.GroupInfo, s.RatchetTree)
	switch {
	case err != nil:
		r.group(r.g, "the snapshot of epoch %d: %v", s.Epoch, err)
	case state.Epoch() != s.Epoch || !bytes.Equal(state.ID(), r.g.ID):
		r.group(r.g, "the snapshot of epoch %d is of epoch %d of another group", s.Epoch, state.Epoch())
	default:
		r.state, r.begin = state, s.Seq
	}
}

// entry takes the next message.
func (r *replay) entry(e *storage.Entry) {
	// The server keeps all handshakes from the oldest snapshot on. It forgets other messages by age, the oldest first.
	if gap := e.Seq != r.last+1; gap && r.whole {
		r.group(r.g, "messages %d to %d are missing", r.last+1, e.Seq-1)
	}
	if e.Kind == storage.EntryApplication || e.Kind == storage.EntryWelcome {
		r.whole = true
	}
	if sha256.Sum256(e.Message) != e.Hash {
		r.group(r.g, "message %d does not have its hash", e.Seq)
	}
	if e.Epoch < r.epoch || e.Epoch > r.g.Epoch {
		r.group(r.g, "message %d is of epoch %d after epoch %d", e.Seq, e.Epoch, r.epoch)
	}
	if e.Seq >= r.g.NextSeq {
		r.group(r.g, "message %d is there, and the next to come is %d", e.Seq, r.g.NextSeq)
	}
	if e.Kind == storage.EntryCommit {
		r.receipt(e)
	}
	r.last, r.epoch = e.Seq, e.Epoch
	if r.state != nil && e.Seq >= r.begin {
		r.handshake(e)
	}
}

// handshake replays a handshake.
func (r *replay) handshake(e *storage.Entry) {
	var next mls.Group
	var err error
	switch e.Kind {
	case storage.EntryProposal:
		next, _, err = r.state.Propose(e.Message)
	case storage.EntryCommit:
		next, _, err = r.state.Commit(e.Message, r.groupInfo(e))
	default:
		return
	}
	if err != nil {
		r.group(r.g, "message %d: %v", e.Seq, err)
		r.state = nil
		return
	}
	r.state = next
	for len(r.snapshots) > 0 && r.snapshots[0].Epoch <= next.Epoch() {
		s := &r.snapshots[0]
		r.snapshots = r.snapshots[1:]
		tree := next.RatchetTree()
		if next.TreeInside() && len(s.RatchetTree) == 0 {
			tree = nil
		}
		if s.Seq != e.Seq+1 || s.Epoch != next.Epoch() || !bytes.Equal(s.GroupInfo, next.GroupInfo()) ||
			!bytes.Equal(s.RatchetTree, tree) {
			r.group(r.g, "the snapshot of epoch %d is not what the log leads to", s.Epoch)
		}
	}
}

// groupInfo returns the GroupInfo of a Commit. If the GroupInfo holds the tree, it is in the snapshot after the Commit
// and not in the log.
func (r *replay) groupInfo(e *storage.Entry) []byte {
	if len(e.GroupInfo) == 0 && len(r.snapshots) > 0 && r.snapshots[0].Seq == e.Seq+1 {
		return r.snapshots[0].GroupInfo
	}
	return e.GroupInfo
}

// end compares the outcome with the group's row.
func (r *replay) end() {
	if r.whole && r.last+1 != r.g.NextSeq {
		r.group(r.g, "messages %d to %d are missing", r.last+1, r.g.NextSeq-1)
	}
	if r.state == nil {
		return
	}
	if r.state.Epoch() != r.g.Epoch || r.state.CipherSuite() != r.g.CipherSuite {
		r.group(r.g, "it is said to be at epoch %d with cipher suite %d, and the log ends at epoch %d with %d",
			r.g.Epoch, r.g.CipherSuite, r.state.Epoch(), r.state.CipherSuite())
	}
	for i := range r.snapshots {
		r.group(r.g, "a snapshot is of epoch %d, which the log does not reach", r.snapshots[i].Epoch)
	}
}

// content checks that the stored content of a frozen group is the content that the source has signed.
func (r *replay) content(ctx context.Context) error {
	m := r.records[r.g.Migration]
	if r.g.State != migration.GroupFrozen || m == nil || r.state == nil {
		return nil
	}
	data, err := r.store.Content(ctx, m.ID)
	if errors.Is(err, storage.ErrNotFound) {
		r.group(r.g, "it is frozen, and the content to send is not here")
		return nil
	}
	if err == nil && !bytes.Equal(r.state.Hash(data), m.ContentHash) {
		r.group(r.g, "the content to send does not have its hash")
	}
	return err
}
