package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// announcements points rooms to the servers that their groups have moved to. A pointer waits in the store until it is
// in its room, so a move does not wait for the host, and a crash loses no pointer.
type announcements struct{ *core }

// announcement is the body of a row of kind RowAnnounce.
type announcement struct {
	UserID  string        `json:"user_id"`
	Pointer api.Pointer   `json:"pointer"`
	After   []proof.Place `json:"after"` // where the room's pointer may have the group until then
}

// announceFor is the time for which the outbox tries to send a pointer.
const announceFor = 24 * time.Hour

// announceKey is the key of the row that announces the term of a group.
func announceKey(groupID []byte, term uint64) storage.RowKey {
	return storage.RowKey{
		Destination: storage.Announcing, Queue: "announce/" + api.GroupID(groupID).String(), Order: term,
	}
}

// Announce stores a pointer, which the outbox sends to its room in the name of a local user (profile, section 7), if
// the room's pointer then has the group at one of the given places. It does nothing if a pointer to the same term of
// the group waits already. The caller has verified the pointer, and that its migration leads on from these places.
func (s announcements) Announce(ctx context.Context, userID string, p *api.Pointer, after ...proof.Place) error {
	body, err := json.Marshal(announcement{UserID: userID, Pointer: *p, After: after})
	if err != nil {
		return fmt.Errorf("delivery: encode announcement: %w", err)
	}
	key := announceKey(p.GroupID, p.Term)
	err = s.apply(ctx, &storage.Change{Rows: []storage.Row{{
		Destination: key.Destination, Queue: key.Queue, Order: key.Order, Kind: storage.RowAnnounce,
		GroupID: p.GroupID, Term: p.Term, Due: s.Now(), Body: body,
	}}})
	if errors.Is(err, storage.ErrConflict) {
		return nil
	}
	return err
}

// Announcing returns the pointer with the highest term of the first maxAnnouncing that wait to be sent for a group, or
// nil.
func (s announcements) Announcing(ctx context.Context, groupID []byte) (*api.Pointer, error) {
	rows, err := s.Store.Rows(ctx, announceKey(groupID, 0), maxAnnouncing)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	a, err := announcementOf(&rows[len(rows)-1])
	if err != nil {
		return nil, err
	}
	return &a.Pointer, nil
}

// maxAnnouncing is more than the pointers of one group that wait while the host takes events.
const maxAnnouncing = 1000

func announcementOf(row *storage.Row) (*announcement, error) {
	a := new(announcement)
	if err := plainjson.Unmarshal(row.Body, a); err != nil {
		return nil, fmt.Errorf("delivery: decode announcement: %w", err)
	}
	return a, nil
}

// announce sends a pointer to its room, unless the room has one of the same or a later term by now. It gives up if the
// room does not allow it, and after a day, because the pointer is advisory.
func (s announcements) announce(ctx context.Context, row *storage.Row) error {
	a, err := announcementOf(row)
	if err != nil {
		return err
	}
	err = s.point(ctx, a)
	if err != nil && mimiport.KindOf(err) == mimiport.KindInternal && s.Now().Sub(row.Created) < announceFor {
		return err
	}
	if err != nil {
		s.Log.WarnContext(ctx, "a migration was not announced in its room", "room_id", a.Pointer.RoomID,
			"group_id", a.Pointer.GroupID, "migration_id", a.Pointer.MigrationID, "error", err)
	}
	return s.done(ctx, row)
}

func (s announcements) point(ctx context.Context, a *announcement) error {
	p := a.Pointer
	_, present, err := Named(ctx, s.Rooms, p.RoomID, p.GroupID)
	switch {
	case err != nil:
		return err
	case present.Term >= p.Term:
		return nil
	case !slices.Contains(a.After, proof.Place{Server: present.Via, Term: present.Term}):
		return mimiport.Errorf("announce move", mimiport.KindInvalid,
			"the room's pointer has changed to %s in term %d", present.Via, present.Term)
	}
	p.ClaimHash = present.ClaimHash // a lost host that comes back after this move still yields to the claim
	return s.Rooms.SendState(ctx, p.RoomID, a.UserID, api.EventPointer, &p)
}
