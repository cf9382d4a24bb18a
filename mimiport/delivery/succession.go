package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// word returns the room's word on the server that has a group. If the policy lets nobody or only administrators move
// groups away, the room's word does not count: only the operator's counts.
func (s *core) word(ctx context.Context, g *storage.Group) (*proof.Word, error) {
	w := new(proof.Word)
	p, err := s.Policy(ctx)
	if err != nil || p.Source == policy.SourceNobody || p.Source == policy.SourceServerAdmin {
		return w, err
	}
	room, err := s.Rooms.Room(ctx, g.RoomID)
	if err != nil {
		return nil, err
	}
	if p := pointer(room, g); p != nil {
		w.Claim = p.ClaimHash
	}
	w.Successors = successors(room, g)
	return w, nil
}

// successors returns the servers of the room's list of successors, in the order of the list. It leaves out servers
// without a joined user, and servers that the room's server ACL denies.
func successors(room Room, g *storage.Group) []string {
	content := room.InForce(api.EventSuccessors)
	if content == nil {
		return nil
	}
	list, err := api.UnmarshalSuccessors(content)
	if err != nil || !list.Names(g.RoomID, g.ID) {
		return nil // any user with the power can put any JSON there
	}
	denied := room.Denied(list.Servers)
	return slices.DeleteFunc(list.Servers, func(server string) bool {
		return !room.ServerJoined(server) || slices.Contains(denied, server)
	})
}

// outOfService is the time that a host must have been out of service before it yields to a successor that the pointer
// does not name. It is also the time after its return in which it does so.
const outOfService = 24 * time.Hour

// HeartbeatEvery is the time between two calls of Beat.
const HeartbeatEvery = time.Minute

// heartbeatSetting is the name under which the heartbeat is stored.
const heartbeatSetting = "heartbeat"

// heartbeat records when this server was in service, in milliseconds since 1970.
type heartbeat struct {
	At   int64 `json:"at"`             // the last beat
	From int64 `json:"from,omitempty"` // the last beat before the latest time of outOfService or more without one
	To   int64 `json:"to,omitempty"`   // the first beat after it, 0 for none
}

// Started records that this server is in service again, and how long it was out of service. Call it before the server
// serves the first request.
func (s *core) Started(ctx context.Context) error {
	return s.beat(ctx, func(h *heartbeat, now int64) {
		if h.At > 0 && now-h.At >= outOfService.Milliseconds() {
			h.From, h.To = h.At, now
		}
	})
}

// Beat records that this server is in service. If the clock jumps ahead while the server is in service, the jump does
// not count as time out of service.
func (s *core) Beat(ctx context.Context) error { return s.beat(ctx, func(*heartbeat, int64) {}) }

func (s *core) beat(ctx context.Context, note func(h *heartbeat, now int64)) error {
	h, err := s.heartbeat(ctx)
	if err != nil {
		return err
	}
	now := s.Now().UnixMilli()
	if h.At > now { // the clock has gone back: the recorded times are not plausible
		*h = heartbeat{}
	}
	note(h, now)
	h.At = now
	raw, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return s.Store.PutSetting(ctx, heartbeatSetting, raw)
}

func (s *core) heartbeat(ctx context.Context) (*heartbeat, error) {
	h := new(heartbeat)
	raw, err := s.Store.Setting(ctx, heartbeatSetting)
	if errors.Is(err, storage.ErrNotFound) {
		return h, nil
	}
	if err != nil {
		return nil, err
	}
	return h, plainjson.Unmarshal(raw, h)
}

// ends reports whether this server's last time out of service ended less than outOfService ago, by a clock that has not
// gone back since. Only then may a successor have a group.
func (h *heartbeat) ends(now time.Time) bool {
	to := time.UnixMilli(h.To)
	return h.To > 0 && h.At <= now.UnixMilli() && !now.Before(to) && now.Sub(to) < outOfService
}

// mayFollow reports whether this server yields a group to the claim of a successor that the pointer does not name. The
// members must have lost the group: this server was out of service for a day, has accepted no Commit since, and the
// claim continues from exactly the epoch that this server has. A claim of a later epoch means that this server has
// forgotten a Commit that it accepted: its database was restored, and the heartbeat in this database proves nothing.
func (s *core) mayFollow(
	ctx context.Context, g *storage.Group, w *proof.Word, step *mimiport.LineageStep,
) (bool, error) {
	if g.State != migration.GroupActive && g.State != migration.GroupFrozen || !w.Lists(step) {
		return false, nil
	}
	claim, err := mimiport.UnmarshalLineageClaim(step.Claim.Message)
	if err != nil || claim.Epoch != g.Epoch {
		return false, err
	}
	h, err := s.heartbeat(ctx)
	if err != nil || !h.ends(s.Now()) {
		return false, err
	}
	if forgot, err := s.hasForgotten(ctx, g.ID); err != nil || forgot {
		return false, err
	}
	since, err := s.epochBegan(ctx, g)
	// The last beat comes up to HeartbeatEvery before the end of service. A second HeartbeatEvery allows for a slow
	// database.
	return err == nil && !since.IsZero() && !since.After(time.UnixMilli(h.From).Add(2*HeartbeatEvery)), err
}

// hasForgotten reports whether this server has evidence that it has forgotten something that it signed about a group.
func (s *core) hasForgotten(ctx context.Context, id []byte) (bool, error) {
	kept, err := s.Store.Evidence(ctx, id)
	return slices.ContainsFunc(kept, func(e storage.Evidence) bool {
		return e.Kind == migration.EvidenceOwnForgotten || e.Kind == storage.EvidenceFork
	}), err
}

// epochBegan returns the time at which this server accepted the Commit that led to the group's epoch. If no Commit of
// this term did, it returns the time at which the term began here. It returns zero if the log no longer has the Commit.
func (s *core) epochBegan(ctx context.Context, g *storage.Group) (time.Time, error) {
	receipts, err := s.Store.Receipts(ctx, storage.Epoch{GroupKey: g.Key(), Epoch: g.Epoch}, 1)
	if err != nil || len(receipts) == 0 {
		return g.CreatedAt, err
	}
	seq := receipts[0].Seq
	entries, err := s.Store.Entries(ctx, g.Key(), seq, 1)
	if err != nil || len(entries) == 0 || entries[0].Seq != seq {
		return time.Time{}, err
	}
	return entries[0].At, nil
}
