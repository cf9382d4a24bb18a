package fsck

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// receipts are the receipts of a group in one term, by the epoch that the Commit leads to.
type receipts struct {
	by    map[uint64]storage.Receipt
	first uint64 // the lowest epoch; from there on every Commit has a receipt
}

// receipts reads the receipts that a group's host has signed. None may be beyond the group's epoch.
func (c *checker) receipts(ctx context.Context, g *storage.Group) (*receipts, error) {
	all := &receipts{by: make(map[uint64]storage.Receipt)}
	for from := uint64(0); ; {
		found, err := c.store.Receipts(ctx, storage.Epoch{GroupKey: g.Key(), Epoch: from}, page)
		if err != nil || len(found) == 0 {
			return all, err
		}
		for _, r := range found {
			if len(all.by) == 0 {
				all.first = r.Epoch
			}
			all.by[r.Epoch] = r
		}
		last := found[len(found)-1].Epoch
		if last > g.Epoch {
			c.group(g, "it has signed for a Commit that leads to epoch %d, and is at epoch %d", last, g.Epoch)
		}
		from = last + 1
	}
}

// receipt checks that a Commit is the Commit of its receipt.
func (r *replay) receipt(e *storage.Entry) {
	signed, ok := r.receipts.by[e.Epoch+1]
	switch {
	case !ok && len(r.receipts.by) > 0 && e.Epoch >= r.receipts.first:
		r.group(r.g, "message %d is a Commit without a receipt", e.Seq)
	case ok && (signed.Seq != e.Seq || signed.CommitHash != e.Hash):
		r.group(r.g, "message %d is not the Commit that was signed for, to lead to epoch %d", e.Seq, signed.Epoch)
	}
}
