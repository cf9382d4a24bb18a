package clientapi

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"strconv"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// requireAnnouncer fails unless the user can send the state events that name a group in the room. If the room's power
// levels do not name these events yet, the user must also be able to set their level to api.ReservedLevel.
func (h *Home) requireAnnouncer(ctx context.Context, userID, roomID string) error {
	const op = "announce group"
	st, err := h.joined(ctx, op, userID, roomID)
	if err != nil {
		return err
	}
	levels, err := h.reservingLevels(ctx, roomID)
	if err != nil {
		return err
	}
	need := st.PointerLevel
	if levels != nil {
		need = max(need, api.ReservedLevel)
	}
	return requirePower(op, userID, st, need)
}

// joined returns the user's place in the room, or a KindForbidden error if the user is not joined.
func (h *Home) joined(ctx context.Context, op, userID, roomID string) (delivery.Standing, error) {
	room, err := h.Rooms.Room(ctx, roomID)
	if err != nil {
		return delivery.Standing{}, err
	}
	st := room.Standing(userID)
	if !st.Joined {
		return st, mimiport.Errorf(op, mimiport.KindForbidden, "%s is not joined to the room", userID)
	}
	return st, nil
}

// requirePower fails unless the user has the power level.
func requirePower(op, userID string, st delivery.Standing, need int64) error {
	if st.Power < need {
		return mimiport.Errorf(op, mimiport.KindForbidden, "%s has power level %d and needs %d", userID, st.Power, need)
	}
	return nil
}

// announceGroup sends the events that name a group in the room, in the user's name. The group is at the Delivery
// Service that made its id. The binding comes last, so a room with a binding has had the other events.
func (h *Home) announceGroup(ctx context.Context, userID string, id []byte, g *api.GroupResponse) error {
	if err := h.requireAnnouncer(ctx, userID, g.RoomID); err != nil {
		return err
	}
	bound, err := stateOf[api.Binding](ctx, h, g.RoomID, api.EventGroup)
	if err != nil {
		return err
	}
	present, err := stateOf[api.Pointer](ctx, h, g.RoomID, api.EventPointer)
	if err != nil {
		return err
	}
	if err := h.reserve(ctx, userID, g.RoomID); err != nil {
		return err
	}
	named := bound != nil && bound.Names(g.RoomID, id)
	if !named || present == nil {
		p := api.Pointer{RoomID: g.RoomID, GroupID: id, Via: g.Preimage.CreatingServer, Term: g.Term, Epoch: g.Epoch}
		if err := h.Rooms.SendState(ctx, g.RoomID, userID, api.EventPointer, p); err != nil {
			return err
		}
	}
	if named {
		return nil
	}
	former, err := h.former(ctx, g.RoomID, bound)
	if err != nil {
		return err
	}
	return h.Rooms.SendState(ctx, g.RoomID, userID, api.EventGroup, api.Binding{
		RoomID: g.RoomID, GroupID: id, Protocol: g.Protocol, CipherSuite: g.CipherSuite,
		Preimage: g.Preimage, CreatingServer: g.Preimage.CreatingServer, Former: former,
	})
}

// former returns the group that a room had before: that of its binding, or else that of the room which it replaces. Nil
// is none. A room replaces its predecessor only if the predecessor says so too: anybody can name any predecessor.
func (h *Home) former(ctx context.Context, roomID string, bound *api.Binding) (*api.Former, error) {
	if bound != nil && bound.RoomID == roomID {
		return &api.Former{GroupID: bound.GroupID}, nil
	}
	create, err := stateOf[gomatrixserverlib.CreateContent](ctx, h, roomID, spec.MRoomCreate)
	if err != nil || create == nil || create.Predecessor == nil {
		return nil, err
	}
	before := create.Predecessor.RoomID
	tombstone, err := stateOf[struct {
		Replacement string `json:"replacement_room"`
	}](ctx, h, before, eventTombstone)
	if err != nil || tombstone == nil || tombstone.Replacement != roomID {
		return nil, err
	}
	old, err := stateOf[api.Binding](ctx, h, before, api.EventGroup)
	if err != nil || old == nil || old.RoomID != before {
		return nil, err
	}
	return &api.Former{GroupID: old.GroupID, RoomID: before}, nil
}

// eventTombstone says that another room replaces the room (Matrix client-server API, "Room Upgrades").
const eventTombstone = "m.room.tombstone"

// announceMove announces the target of a migration in the room, in the name of the migrating user. The room must name
// the group, and the term must rise above that of the present pointer, which is the last one on its way, if any. A
// status of another server needs proof: signatures and lineage must verify, and the lineage must lead on from the
// present pointer by migrations. No signature covers the user in a status, so the user must have the power.
func (a *announcer) announceMove(
	ctx context.Context, c api.Caller, id mimiport.MigrationID, st *api.MigrationStatus,
) error {
	const op = "announce move"
	bound, present, err := a.present(ctx, st)
	if err != nil || present.Term >= st.Term {
		return err
	}
	user, err := a.home.joined(ctx, op, c.UserID, st.RoomID)
	if err != nil {
		return err
	}
	if err := requirePower(op, c.UserID, user, user.PointerLevel); err != nil {
		return err
	}
	term := st.Term
	if !a.local {
		if err := a.home.verify(ctx, id, st); err != nil {
			return err
		}
		if term, err = a.provenTerm(ctx, c, st, bound, present); err != nil || present.Term >= term {
			return err
		}
	}
	return a.home.Moves.Announce(ctx, c.UserID, &api.Pointer{
		RoomID: st.RoomID, GroupID: st.GroupID,
		Via: st.Target, Term: term, Epoch: st.Epoch + 1, MigrationID: id.String(),
		Evidence: &api.PointerEvidence{
			MigrationResponse:     st.MigrationResponse.Message,
			ResponseKeyID:         st.MigrationResponse.KeyID,
			MigrationConfirmation: st.Confirmation.Message,
			ConfirmationKeyID:     st.Confirmation.KeyID,
		},
	}, proof.Place{Server: present.Via, Term: present.Term}, proof.Place{Server: st.Source, Term: term - 1})
}

// present returns the room's binding of a group, and the room's pointer or the one on its way.
func (a *announcer) present(ctx context.Context, st *api.MigrationStatus) (*api.Binding, *api.Pointer, error) {
	bound, present, err := delivery.Named(ctx, a.home.Rooms, st.RoomID, st.GroupID)
	if err != nil {
		return nil, nil, err
	}
	waiting, err := a.home.Moves.Announcing(ctx, st.GroupID)
	if waiting != nil && waiting.Names(st.RoomID, st.GroupID) && waiting.Term > present.Term {
		present = waiting
	}
	return bound, present, err
}

// provenTerm returns the term that a verified migration begins. It takes the term from the lineage that the Delivery
// Service shows, because no signature covers the term in a status. A pointer with too high a term would hide every
// later move. The lineage may be of a branch that the room does not follow: so it must have the server of the present
// pointer in the pointer's term, and no claim after that. A claim counts once the pointer names it.
func (a *announcer) provenTerm(
	ctx context.Context, c api.Caller, st *api.MigrationStatus, bound *api.Binding, present *api.Pointer,
) (uint64, error) {
	host, err := a.API.Host(ctx, c, st.GroupID)
	if err != nil {
		return 0, err
	}
	l, err := mimiport.UnmarshalLineage(host.Lineage)
	if err != nil {
		return 0, err
	}
	l = proof.Before(l, st.MigrationResponse.Message) // the target's lineage already includes the migration
	rules := proof.Rules{
		Hashed: bound.Preimage != nil && bound.Preimage.HashesTo(st.GroupID),
		Named:  &proof.Place{Server: present.Via, Term: present.Term},
	}
	chain, err := proof.Lineage(ctx, a.home.Keys, st.GroupID, l, rules)
	if err != nil {
		return 0, err
	}
	if l.CreatingServer != bound.CreatingServer || chain.Server != st.Source {
		return 0, proof.Errorf(st.GroupID, "the chain does not lead from %s to %s", bound.CreatingServer, st.Source)
	}
	hosts, err := proof.Hosts(l)
	if err != nil {
		return 0, err
	}
	if present.Term < uint64(len(hosts)) && hosts[present.Term] != present.Via {
		return 0, proof.Errorf(st.GroupID, "%s has the group in term %d, and the pointer names %s",
			hosts[present.Term], present.Term, present.Via)
	}
	for i := present.Term; i < l.Term(); i++ {
		if l.Steps[i].Kind != mimiport.StepMigration {
			return 0, proof.Errorf(st.GroupID, "the room's pointer does not name the claim that begins term %d", i+1)
		}
	}
	return chain.Term + 1, nil
}

// verify checks that the evidence in the status is of this migration, and that source and target have signed it.
func (h *Home) verify(ctx context.Context, id mimiport.MigrationID, st *api.MigrationStatus) error {
	offer, err := mimiport.UnmarshalMigrationResponse(st.MigrationResponse.Message)
	if err != nil {
		return err
	}
	decision, err := proof.Decision(offer, st.Confirmation.Message)
	if err != nil {
		return err
	}
	q := offer.Request
	if offer.ID() != id || q.SourceDomain != st.Source || q.TargetDomain != st.Target ||
		q.Epoch != st.Epoch || !bytes.Equal(q.GroupID, st.GroupID) {
		return mimiport.Errorf("announce move", mimiport.KindInvalid, "the evidence is of another migration")
	}
	now := h.Now()
	if _, err := proof.Verify(ctx, h.Keys, st.Target, st.MigrationResponse.KeyID, offer, now, proof.Known); err != nil {
		return err
	}
	_, err = proof.Verify(ctx, h.Keys, st.Source, st.Confirmation.KeyID, decision, now, proof.Known)
	return err
}

// reserve sets the power levels of the module's state events that have none of their own.
func (h *Home) reserve(ctx context.Context, userID, roomID string) error {
	levels, err := h.reservingLevels(ctx, roomID)
	if err != nil || levels == nil {
		return err
	}
	return h.Rooms.SendState(ctx, roomID, userID, spec.MRoomPowerLevels, levels)
}

// reservingLevels returns the room's m.room.power_levels with api.ReservedLevel for the module's state events that
// have no level of their own. Without it, any user who may send state events could move the room's group. It returns
// nil when binding and pointer have a level. All other levels stay as they are.
func (h *Home) reservingLevels(ctx context.Context, roomID string) (map[string]json.RawMessage, error) {
	levels, err := stateOf[map[string]json.RawMessage](ctx, h, roomID, spec.MRoomPowerLevels)
	if err != nil {
		return nil, err
	}
	if levels == nil || *levels == nil {
		return nil, mimiport.Errorf("announce group", mimiport.KindInvalid, "the room has no power levels")
	}
	var events map[string]json.RawMessage
	if raw, ok := (*levels)["events"]; ok {
		if err := plainjson.Unmarshal(raw, &events); err != nil {
			return nil, mimiport.Errorf("announce group", mimiport.KindInvalid, "the room's power levels: %w", err)
		}
	}
	if events[api.EventGroup] != nil && events[api.EventPointer] != nil {
		return nil, nil // a list of successors needs the pointer's level anyway
	}
	level := json.RawMessage(strconv.Itoa(api.ReservedLevel))
	own := map[string]json.RawMessage{api.EventGroup: level, api.EventPointer: level, api.EventSuccessors: level}
	maps.Copy(own, events)
	(*levels)["events"], err = json.Marshal(own)
	return *levels, err
}

// stateOf decodes a state event of the room. It returns nil when there is none or it does not decode.
func stateOf[T any](ctx context.Context, h *Home, roomID, eventType string) (*T, error) {
	raw, err := h.Rooms.State(ctx, roomID, eventType)
	if err != nil || raw == nil {
		return nil, err
	}
	v := new(T)
	if json.Unmarshal(raw, v) != nil {
		return nil, nil // users with enough power can send any content
	}
	return v, nil
}
