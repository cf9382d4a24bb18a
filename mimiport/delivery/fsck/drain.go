package fsck

import (
	"context"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// checkDrain checks that each group of the drain is here, or was, and that the server can go on with it.
func (c *checker) checkDrain(ctx context.Context) error {
	for after := []byte(nil); ; {
		groups, err := c.store.DrainGroups(ctx, nil, after, page)
		if err != nil {
			return err
		}
		for i := range groups {
			what, err := c.drained(ctx, &groups[i])
			if err != nil {
				return err
			}
			if what != "" {
				c.found(Problem{Table: "mimiport_drain",
					What: fmt.Sprintf("group %s: %s", mimiport.IDText(groups[i].ID), what)})
			}
		}
		if len(groups) < page {
			return nil
		}
		after = groups[page-1].ID
	}
}

// drained returns the fault of a group of the drain, or nothing.
func (c *checker) drained(ctx context.Context, d *storage.DrainGroup) (what string, err error) {
	g, err := c.store.Group(ctx, d.ID)
	_, known := c.last[string(d.ID)]
	switch {
	case errors.Is(err, storage.ErrNotFound) && known: // it was dropped
		return "", nil
	case errors.Is(err, storage.ErrNotFound):
		return "the store does not have it", nil
	case err != nil:
		return "", err
	case g.State == migration.GroupReserved:
		return "nothing is bound to the id yet", nil
	}
	switch d.State {
	case storage.DrainAsked:
		if d.User == "" {
			return "a member is asked to move it, and the row does not name the member", nil
		}
	case storage.DrainStuck:
		if err := plainjson.Unmarshal(d.Why, new([]api.DrainReason)); d.Why != nil && err != nil {
			return fmt.Sprintf("why it is stuck does not parse: %v", err), nil
		}
	case storage.DrainWaiting, storage.DrainMoving, storage.DrainMoved, storage.DrainGone:
	default:
		return fmt.Sprintf("%q is no state of the drain", d.State), nil
	}
	return "", nil
}
