package delivery

import (
	"context"
	"crypto/sha256"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// extend returns the change that appends accepted messages to a group's log: the group's next row, the entries, the
// receipt of a Commit, and a fan-out of each entry to the servers with recipients. If GroupInfos hold the tree,
// the change keeps those of this epoch and of the epoch before.
func (s *core) extend(
	ctx context.Context, g *storage.Group, l *registry.Live, a *registry.Accepted,
) (*storage.Group, *storage.Change, error) {
	next := *g
	if a.Effects != nil {
		next.Epoch++
		next.Members = a.Next.NumMembers()
	}
	now := s.Now()
	change := &storage.Change{Group: &next}
	for _, e := range a.Entries {
		e.GroupID, e.Term, e.Seq, e.At, e.Hash = g.ID, g.Term, next.NextSeq, now, hash(e.Message)
		next.NextSeq++
		if a.Effects != nil && a.Next.TreeInside() {
			e.GroupInfo = nil // the snapshot holds the GroupInfo
		}
		change.Entries = append(change.Entries, e)
		if e.Kind == storage.EntryCommit {
			var err error
			if change.Receipt, err = s.signReceipt(g.Server, &e); err != nil {
				return nil, nil, err
			}
		}
		if servers := destinations(l.Roster, &e); len(servers) > 0 {
			change.FanOuts = append(change.FanOuts, storage.FanOut{GroupKey: g.Key(), Seq: e.Seq, At: now, Servers: servers})
		}
	}
	if snap := a.Snapshot(&next); snap != nil {
		last, err := s.keptFor(ctx, g.Key(), l.LastSnapshot())
		if err != nil {
			return nil, nil, err
		}
		change.Snapshots = []storage.Snapshot{*snap}
		change.DropBefore = &storage.Epoch{GroupKey: g.Key(), Epoch: last}
	}
	if a.Effects != nil && a.Effects.Closes {
		next.State, next.Migration = migration.GroupClosed, mimiport.MigrationID{}
		change.Rows = append(change.Rows, s.endRow(g))
	}
	if l.Outgrown(change.Entries) {
		change.Rows = append(change.Rows, s.compaction(&change.Entries[0]))
	}
	return &next, change, nil
}

// destinations lists the servers that get an entry: the servers of the members of the entry's epoch, or of a Welcome's
// recipients.
func destinations(members registry.Roster, e *storage.Entry) []string {
	if e.Kind != storage.EntryWelcome {
		return members.Servers()
	}
	joiners := make(registry.Roster)
	add(joiners, e.Recipients)
	return joiners.Servers()
}

// compaction is the row that makes this server store a snapshot some time after a log entry.
func (s *core) compaction(e *storage.Entry) storage.Row {
	return storage.Row{
		Destination: s.Server, Order: e.Seq,
		Queue: "compact/" + storage.FanOutQueue(storage.GroupKey{ID: e.GroupID, Term: e.Term}),
		Kind:  storage.RowCompact, GroupID: e.GroupID, Term: e.Term, Seq: e.Seq, Due: e.At,
	}
}

func hash(message []byte) [32]byte { return sha256.Sum256(message) }
