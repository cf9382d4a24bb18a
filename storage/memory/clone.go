package memory

import (
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// A clone shares no memory with its original. It has the form that a database returns: empty bytes are nil, times are
// as storage.Millis keeps them, and texts for people are as storage.Text returns them.

func clone[B ~[]byte](b B) B {
	if len(b) == 0 {
		return nil
	}
	return slices.Clone(b)
}

func stamp(t time.Time) time.Time { return storage.Time(storage.Millis(t)) }

func cloneGroup(g *storage.Group, version uint64) *storage.Group {
	c := *g
	c.Version = version
	c.ID, c.Lineage, c.CreatedAt = clone(g.ID), clone(g.Lineage), stamp(g.CreatedAt)
	return &c
}

func cloneMigration(m *migration.Migration, version uint64) *migration.Migration {
	c := *m
	c.Version = version
	c.Reason = storage.Text(m.Reason)
	c.GroupID, c.CommitHash, c.ContentHash = clone(m.GroupID), clone(m.CommitHash), clone(m.ContentHash)
	c.Vote = clone(m.Vote)
	c.UpdatedAt = stamp(m.UpdatedAt)
	c.CreatedAt, c.ExpiresAt, c.DecideBy = stamp(m.CreatedAt), stamp(m.ExpiresAt), stamp(m.DecideBy)
	for _, s := range []*migration.Signed{&c.Response, &c.Complete, &c.Confirmation, &c.Abort} {
		s.Message, s.KeyObject = clone(s.Message), clone(s.KeyObject)
	}
	return &c
}

func cloneSnapshot(s *storage.Snapshot) *storage.Snapshot {
	c := *s
	c.GroupID, c.GroupInfo, c.RatchetTree = clone(s.GroupID), clone(s.GroupInfo), clone(s.RatchetTree)
	return &c
}

func cloneEntry(e *storage.Entry) *storage.Entry {
	c := *e
	c.GroupID, c.Message, c.GroupInfo = clone(e.GroupID), clone(e.Message), clone(e.GroupInfo)
	c.Recipients = append(c.Recipients[:0:0], e.Recipients...)
	if e.Migration != nil {
		id := *e.Migration
		c.Migration = &id
	}
	c.At = stamp(e.At)
	return &c
}

func cloneReceipt(r *storage.Receipt) *storage.Receipt {
	c := *r
	c.GroupID, c.Signature = clone(r.GroupID), clone(r.Signature)
	return &c
}

func cloneFormer(f *storage.Former) *storage.Former {
	return &storage.Former{GroupKey: storage.GroupKey{ID: clone(f.ID), Term: f.Term}, Data: clone(f.Data)}
}

func cloneRow(r *storage.Row) *storage.Row {
	c := *r
	c.GroupID, c.Due, c.Created, c.Body = clone(r.GroupID), stamp(r.Due), stamp(r.Created), clone(r.Body)
	return &c
}
