package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// word is the room's word on who has a group. Where the policy lets nobody or only administrators move groups away, the
// room's word does not count: the operator's does.
func (s *core) word(ctx context.Context, g *storage.Group) (*proof.Word, error) {
	w := new(proof.Word)
	p, err := s.Policy(ctx)
	if err != nil || p.Source == policy.SourceNobody || p.Source == policy.SourceServerAdmin {
		return w, err
	}
	pointer, err := s.pointer(ctx, g)
	if err != nil {
		return nil, err
	}
	if pointer != nil {
		w.Claim = pointer.ClaimHash
	}
	w.Successors, err = s.successors(ctx, g)
	return w, err
}

// successors are the servers that the room has agreed on, in the order of its list: those with a joined user that its
// server ACL lets in.
func (s *core) successors(ctx context.Context, g *storage.Group) ([]string, error) {
	content, err := s.Rooms.StateInForce(ctx, g.RoomID, api.EventSuccessors)
	if err != nil || content == nil {
		return nil, err
	}
	list, err := api.UnmarshalSuccessors(content)
	if err != nil || !list.Names(g.RoomID, g.ID) {
		return nil, nil // anybody with the power can put anything there
	}
	denied, err := s.Rooms.Denied(ctx, g.RoomID, list.Servers)
	if err != nil {
		return nil, err
	}
	var in []string
	for _, server := range list.Servers {
		joined, err := s.Rooms.ServerJoined(ctx, g.RoomID, server)
		if err != nil {
			return nil, err
		}
		if joined && !slices.Contains(denied, server) {
			in = append(in, server)
		}
	}
	return in, nil
}

// outOfService is for how long a host was out of service when it yields to a successor that the pointer does not name,
// and for how long after that.
const outOfService = 24 * time.Hour

// HeartbeatEvery is how often Beat is to be called.
const HeartbeatEvery = time.Minute

// heartbeatSetting is the name under which the heartbeat is stored.
const heartbeatSetting = "heartbeat"

// heartbeat is when this server was in service, in milliseconds since 1970.
type heartbeat struct {
	At   int64 `json:"at"`             // last
	From int64 `json:"from,omitempty"` // the last beat before the latest time of outOfService or more without one
	To   int64 `json:"to,omitempty"`   // the first beat after it, 0 for none
}

// Started notes that this server is in service again, and for how long it was not. It must be called before the first
// request is served.
func (s *core) Started(ctx context.Context) error {
	return s.beat(ctx, func(h *heartbeat, now int64) {
		if h.At > 0 && now-h.At >= outOfService.Milliseconds() {
			h.From, h.To = h.At, now
		}
	})
}

// Beat notes that this server is in service. While it is, a clock that jumps ahead is no time out of service.
func (s *core) Beat(ctx context.Context) error { return s.beat(ctx, func(*heartbeat, int64) {}) }

func (s *core) beat(ctx context.Context, note func(h *heartbeat, now int64)) error {
	h, err := s.heartbeat(ctx)
	if err != nil {
		return err
	}
	now := s.Now().UnixMilli()
	if h.At > now { // the clock has gone back: nothing that was noted is plausible
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
	return h, json.Unmarshal(raw, h)
}

// ends says whether this server's time out of service is one after which a successor may have a group: it ended less
// than outOfService ago, by a clock that has not gone back since.
func (h *heartbeat) ends(now time.Time) bool {
	to := time.UnixMilli(h.To)
	return h.To > 0 && h.At <= now.UnixMilli() && !now.Before(to) && now.Sub(to) < outOfService
}

// mayFollow says whether this server yields a group to the claim of a successor that the pointer does not name. The
// group must have been lost to its members: this server was out of service for a day, has accepted no Commit since, and
// the claim goes on from the very epoch that is here. By a claim of a later epoch this server has forgotten a Commit
// that it accepted: its database was restored, and the heartbeat in it is no proof.
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
	// The last beat is up to HeartbeatEvery before the end of service. One more is for a slow database.
	return err == nil && !since.IsZero() && !since.After(time.UnixMilli(h.From).Add(2*HeartbeatEvery)), err
}

// hasForgotten says whether this server has evidence that its database was older than its word about a group.
func (s *core) hasForgotten(ctx context.Context, id []byte) (bool, error) {
	kept, err := s.Store.Evidence(ctx, id)
	return slices.ContainsFunc(kept, func(e storage.Evidence) bool {
		return e.Kind == migration.EvidenceOwnForgotten || e.Kind == storage.EvidenceFork
	}), err
}

// epochBegan is when the Commit was accepted that led to a group's epoch, or when its term began here where none did.
// It is zero where the log has it no more.
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
