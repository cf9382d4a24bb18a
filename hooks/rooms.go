package hooks

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/setup/config"
	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// rooms is delivery.Rooms over Dendrite's room server and accounts.
type rooms struct {
	config *config.Global
	api    rsapi.RoomserverInternalAPI
	users  userapi.UserInternalAPI
	now    func() time.Time
	sends  stripes
	acls   acls
}

var _ delivery.Rooms = (*rooms)(nil)

// Standing implements delivery.Rooms.
func (r *rooms) Standing(ctx context.Context, roomID, userID string) (delivery.Standing, error) {
	user, err := spec.NewUserID(userID, true)
	if err != nil {
		return delivery.Standing{}, nil // not a user id, so not a member
	}
	known, in, err := r.sees(ctx, roomID)
	if err != nil || !known {
		return delivery.Standing{}, err
	}
	var member rsapi.QueryMembershipForUserResponse
	err = r.api.QueryMembershipForUser(ctx, &rsapi.QueryMembershipForUserRequest{RoomID: roomID, UserID: *user}, &member)
	if err != nil {
		return delivery.Standing{}, err
	}
	levels, err := r.powerLevels(ctx, roomID)
	if err != nil {
		return delivery.Standing{}, err
	}
	st := delivery.Standing{
		Exists: true, Left: !in, Joined: member.IsInRoom,
		PointerLevel: levels.EventLevel(api.EventPointer, true), KickLevel: levels.Kick,
	}
	if member.SenderID != nil {
		st.Power = levels.of(*member.SenderID)
	}
	return st, nil
}

// sees reports whether this server knows a room, and whether it is in the room now. The room server keeps the state of
// a room that it has left. It has no state of a room to which a user was only invited.
func (r *rooms) sees(ctx context.Context, roomID string) (known, in bool, err error) {
	var answer rsapi.QueryServerJoinedToRoomResponse
	err = r.api.QueryServerJoinedToRoom(ctx, &rsapi.QueryServerJoinedToRoomRequest{RoomID: roomID}, &answer)
	return answer.RoomExists, answer.IsInRoom, err
}

// Powers implements delivery.Rooms.
func (r *rooms) Powers(ctx context.Context, roomID string, userIDs []string) ([]int64, error) {
	powers := make([]int64, len(userIDs))
	room, err := spec.NewRoomID(roomID)
	if err != nil {
		return powers, nil // there is no such room
	}
	if known, _, err := r.sees(ctx, roomID); err != nil || !known {
		return powers, err
	}
	levels, err := r.powerLevels(ctx, roomID)
	if err != nil {
		return nil, err
	}
	for i, id := range userIDs {
		user, err := spec.NewUserID(id, true)
		if err != nil {
			return nil, err
		}
		sender, err := r.api.QuerySenderIDForUser(ctx, *room, *user)
		if err != nil {
			return nil, err
		}
		if sender != nil {
			powers[i] = levels.of(*sender)
		}
	}
	return powers, nil
}

// roomLevels are a room's power levels, and the creators who stand above them.
type roomLevels struct {
	gomatrixserverlib.PowerLevelContent
	creators []string
}

// of returns the power of a user.
func (l *roomLevels) of(user spec.SenderID) int64 {
	if slices.Contains(l.creators, string(user)) {
		return math.MaxInt64
	}
	return l.UserLevel(user)
}

// creators lists the users who stand above all power levels, in rooms of version 12 or later. Of later versions, this
// code knows only that their names are numbers.
func creators(sender spec.SenderID, create json.RawMessage) []string {
	var content struct {
		Version    string   `json:"room_version"`
		Additional []string `json:"additional_creators"`
	}
	if json.Unmarshal(create, &content) != nil {
		return nil
	}
	if version, err := strconv.Atoi(content.Version); err != nil || version < 12 {
		return nil
	}
	return append(content.Additional, string(sender))
}

// powerLevels returns the room's levels, or the specification's defaults for a room without them.
func (r *rooms) powerLevels(ctx context.Context, roomID string) (*roomLevels, error) {
	create, err := r.stateEvent(ctx, roomID, spec.MRoomCreate)
	if err != nil {
		return nil, err
	}
	if create == nil {
		return nil, errors.New("the room has no create event")
	}
	event, err := r.stateEvent(ctx, roomID, spec.MRoomPowerLevels)
	if err != nil {
		return nil, err
	}
	levels, err := levelsOf(event, string(create.SenderID()))
	return &roomLevels{levels, creators(create.SenderID(), create.Content())}, err
}

// levelsOf returns the levels in an m.room.power_levels event. Nil stands for a room without that event.
func levelsOf(event *types.HeaderedEvent, creator string) (gomatrixserverlib.PowerLevelContent, error) {
	if event != nil {
		return gomatrixserverlib.NewPowerLevelContentFromEvent(event.PDU)
	}
	none, err := newAuthEvents(nil)
	if err != nil {
		return gomatrixserverlib.PowerLevelContent{}, err
	}
	return gomatrixserverlib.NewPowerLevelContentFromAuthEvents(none, creator)
}

// atOnce is the most users in one query of the room server, since SQLite bounds its parameters.
const atOnce = 10_000

// NotJoined implements delivery.Rooms. It asks the room server's table of members and not for their events. The events
// of a large room are megabytes, and every delivery of a message asks.
func (r *rooms) NotJoined(ctx context.Context, roomID string, userIDs []string) ([]string, error) {
	joined := make(map[string]int, len(userIDs))
	for users := range slices.Chunk(userIDs, atOnce) {
		var shared rsapi.QuerySharedUsersResponse
		err := r.api.QuerySharedUsers(ctx, &rsapi.QuerySharedUsersRequest{
			// This sender is in no room, so the answer says which of the users are in the room below.
			UserID:         federation.SenderID(string(r.config.ServerName)),
			IncludeRoomIDs: []string{roomID},
			OtherUserIDs:   users,
		}, &shared)
		if err != nil {
			return nil, err
		}
		maps.Copy(joined, shared.UserIDsToCount)
	}
	return slices.DeleteFunc(slices.Clone(userIDs), func(u string) bool { return joined[u] > 0 }), nil
}

// ServerJoined implements delivery.Rooms. The empty name is this server.
func (r *rooms) ServerJoined(ctx context.Context, roomID, server string) (bool, error) {
	var answer rsapi.QueryServerJoinedToRoomResponse
	question := rsapi.QueryServerJoinedToRoomRequest{RoomID: roomID, ServerName: spec.ServerName(server)}
	err := r.api.QueryServerJoinedToRoom(ctx, &question, &answer)
	return answer.RoomExists && answer.IsInRoom, err
}

// Levels implements delivery.Rooms.
func (r *rooms) Levels(ctx context.Context, roomID string) (*policy.Levels, error) {
	known, in, err := r.sees(ctx, roomID)
	if err != nil || !known {
		return nil, err
	}
	levels, err := r.powerLevels(ctx, roomID)
	if err != nil {
		return nil, err
	}
	users := make(map[string]int64, len(levels.Users)+len(levels.creators))
	maps.Copy(users, levels.Users)
	for _, user := range levels.creators {
		users[user] = math.MaxInt64
	}
	_, explicit := levels.Events[api.EventPointer]
	return &policy.Levels{
		Users: users, Default: levels.UsersDefault, Pointer: levels.EventLevel(api.EventPointer, true), Explicit: explicit,
		Left: !in,
	}, nil
}

// Denied implements delivery.Rooms. It does not use the room server's own answer, which is wrong: that one matches
// parts of names, and is case-sensitive.
func (r *rooms) Denied(ctx context.Context, roomID string, servers []string) ([]string, error) {
	a, err := r.acl(ctx, roomID)
	if err != nil || a == nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(servers), a.Allows), nil
}

// State implements delivery.Rooms.
func (r *rooms) State(ctx context.Context, roomID, eventType string) (json.RawMessage, error) {
	event, err := r.stateEvent(ctx, roomID, eventType)
	if err != nil || event == nil {
		return nil, err
	}
	return json.RawMessage(event.Content()), nil
}

// StateInForce implements delivery.Rooms. A redaction removes all content of the module's events, and Dendrite does not
// mark redacted events. So an event without content counts as redacted.
func (r *rooms) StateInForce(ctx context.Context, roomID, eventType string) (json.RawMessage, error) {
	if _, in, err := r.sees(ctx, roomID); err != nil || !in {
		return nil, err
	}
	event, err := r.stateEvent(ctx, roomID, eventType)
	if err != nil || event == nil {
		return nil, err
	}
	levels, err := r.powerLevels(ctx, roomID)
	if err != nil {
		return nil, err
	}
	// A room that an earlier version bound has no level for the list of successors.
	need := max(levels.EventLevel(eventType, true), levels.EventLevel(api.EventPointer, true))
	if levels.of(event.SenderID()) < need {
		return nil, nil
	}
	return lastGood(ctx, r.acls.store, eventType+"/"+roomID, event.Content(), acl.Redacted(event.Content()))
}

// stateEvent returns nil if this server does not know the room, or if the room has no such event. For a room that this
// server has left, it returns the last event that this server saw.
func (r *rooms) stateEvent(ctx context.Context, roomID, eventType string) (*types.HeaderedEvent, error) {
	if known, _, err := r.sees(ctx, roomID); err != nil || !known {
		return nil, err // the room server returns an error for an unknown room
	}
	key := gomatrixserverlib.StateKeyTuple{EventType: eventType}
	var state rsapi.QueryCurrentStateResponse
	question := rsapi.QueryCurrentStateRequest{RoomID: roomID, StateTuples: []gomatrixserverlib.StateKeyTuple{key}}
	err := r.api.QueryCurrentState(ctx, &question, &state)
	return state.StateEvents[key], err
}

// SendState implements delivery.Rooms. It does not send content that the room already has.
func (r *rooms) SendState(ctx context.Context, roomID, userID, eventType string, content any) error {
	const op = "send state event"
	user, err := spec.NewUserID(userID, true)
	if err != nil {
		return mimiport.Errorf(op, mimiport.KindForbidden, "%w", err)
	}
	room, err := spec.NewRoomID(roomID)
	if err != nil {
		return mimiport.Errorf(op, mimiport.KindForbidden, "%w", err)
	}
	if !r.config.IsLocalServerName(user.Domain()) {
		return mimiport.Errorf(op, mimiport.KindForbidden, "%s is not a user of this server", userID)
	}
	defer r.sends.lock(roomID)()
	if same, err := r.hasContent(ctx, roomID, eventType, content); err != nil || same {
		return err
	}
	event, err := r.buildState(ctx, room, user, eventType, content)
	if err != nil {
		return err
	}
	domain := user.Domain()
	// The end of the request must not stop an event that is on its way.
	events := []*types.HeaderedEvent{event}
	return rsapi.SendEvents(context.WithoutCancel(ctx), r.api, rsapi.KindNew, events, domain, domain, domain, nil, false)
}

func (r *rooms) hasContent(ctx context.Context, roomID, eventType string, content any) (bool, error) {
	present, err := r.State(ctx, roomID, eventType)
	if err != nil || present == nil {
		return false, err
	}
	wanted, err := json.Marshal(content)
	if err != nil {
		return false, err
	}
	return bytes.Equal(gomatrixserverlib.CanonicalJSONAssumeValid(present),
		gomatrixserverlib.CanonicalJSONAssumeValid(wanted)), nil
}

// buildState makes a state event that the room's rules allow. Otherwise the error is KindForbidden.
func (r *rooms) buildState(
	ctx context.Context, room *spec.RoomID, user *spec.UserID, eventType string, content any,
) (*types.HeaderedEvent, error) {
	const op = "send state event"
	sender, err := r.api.QuerySenderIDForUser(ctx, *room, *user)
	if err != nil {
		return nil, err
	}
	if sender == nil {
		return nil, mimiport.Errorf(op, mimiport.KindForbidden, "%s is not in the room", user)
	}
	identity, err := r.api.SigningIdentityFor(ctx, *room, *user)
	if err != nil {
		return nil, err
	}
	var noKey string
	proto := &gomatrixserverlib.ProtoEvent{SenderID: string(*sender), RoomID: room.String(), Type: eventType,
		StateKey: &noKey}
	if err := proto.SetContent(content); err != nil {
		return nil, err
	}
	event, err := r.build(ctx, proto, &identity)
	var invalid gomatrixserverlib.EventValidationError
	if errors.As(err, &invalid) && invalid.Code == gomatrixserverlib.EventValidationTooLarge {
		return nil, mimiport.Errorf(op, mimiport.KindTooLarge, "%w", err)
	}
	return event, err
}

// maxPrevEvents is the largest number of events that an event may follow (Matrix specification, room versions, "Event
// format").
const maxPrevEvents = 20

// build makes an event that follows the latest events of its room. The error is KindForbidden if there is no such room,
// or if the rules of the room do not allow the event.
func (r *rooms) build(
	ctx context.Context, proto *gomatrixserverlib.ProtoEvent, as *fclient.SigningIdentity,
) (*types.HeaderedEvent, error) {
	const op = "send state event"
	needed, err := gomatrixserverlib.StateNeededForProtoEvent(proto)
	if err != nil {
		return nil, err
	}
	question := &rsapi.QueryLatestEventsAndStateRequest{RoomID: proto.RoomID, StateToFetch: needed.Tuples()}
	var state rsapi.QueryLatestEventsAndStateResponse
	if err := r.api.QueryLatestEventsAndState(ctx, question, &state); err != nil {
		return nil, err
	}
	if !state.RoomExists {
		return nil, mimiport.Errorf(op, mimiport.KindForbidden, "this server does not know the room")
	}
	version, err := gomatrixserverlib.GetRoomVersion(state.RoomVersion)
	if err != nil {
		return nil, err
	}
	auth, err := newAuthEvents(gomatrixserverlib.ToPDUs(state.StateEvents))
	if err != nil {
		return nil, err
	}
	proto.Depth, proto.PrevEvents = state.Depth, state.LatestEvents[:min(len(state.LatestEvents), maxPrevEvents)]
	builder := version.NewEventBuilderFromProtoEvent(proto)
	if err := builder.AddAuthEvents(auth); err != nil {
		return nil, err
	}
	event, err := builder.Build(r.now(), as.ServerName, as.KeyID, as.PrivateKey)
	if err != nil {
		return nil, err
	}
	allowed := gomatrixserverlib.Allowed(event, auth, func(room spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
		return r.api.QueryUserIDForSender(ctx, room, sender)
	})
	if allowed != nil {
		return nil, mimiport.Errorf(op, mimiport.KindForbidden, "%w", allowed)
	}
	return &types.HeaderedEvent{PDU: event}, nil
}

// RoomsOf implements delivery.Rooms. The room server also knows rooms that this server has left.
func (r *rooms) RoomsOf(ctx context.Context, userID string) ([]string, error) {
	user, err := spec.NewUserID(userID, true)
	if err != nil {
		return nil, nil // not a user id, so in no room
	}
	found, err := r.api.QueryRoomsForUser(ctx, *user, spec.Join)
	rooms := make([]string, len(found))
	for i := range found {
		rooms[i] = found[i].String()
	}
	return rooms, err
}

// Joined implements delivery.Rooms.
func (r *rooms) Joined(ctx context.Context, roomID string) ([]string, error) {
	var shared rsapi.QuerySharedUsersResponse
	err := r.api.QuerySharedUsers(ctx, &rsapi.QuerySharedUsersRequest{
		UserID:         federation.SenderID(string(r.config.ServerName)), // in no room
		IncludeRoomIDs: []string{roomID},
	}, &shared)
	return slices.Sorted(maps.Keys(shared.UserIDsToCount)), err
}

// LocalAccount implements delivery.Rooms. Dendrite sends no event when an account is deactivated; it only deletes the
// account's devices. A user of an application service may never have devices.
func (r *rooms) LocalAccount(ctx context.Context, userID string) (bool, error) {
	user, err := spec.NewUserID(userID, true)
	if err != nil || !r.config.IsLocalServerName(user.Domain()) {
		return false, nil // not a local user
	}
	var found userapi.QueryAccountByLocalpartResponse
	err = r.users.QueryAccountByLocalpart(ctx,
		&userapi.QueryAccountByLocalpartRequest{Localpart: user.Local(), ServerName: user.Domain()}, &found)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	case found.Account.AccountType == userapi.AccountTypeGuest:
		return false, nil
	case found.Account.AccountType == userapi.AccountTypeAppService:
		return true, nil
	}
	var devices userapi.QueryDevicesResponse
	err = r.users.QueryDevices(ctx, &userapi.QueryDevicesRequest{UserID: userID}, &devices)
	return len(devices.Devices) > 0, err
}

// Administers implements delivery.Rooms.
func (r *rooms) Administers(ctx context.Context, userID string) (bool, error) {
	user, err := spec.NewUserID(userID, true)
	if err != nil || !r.config.IsLocalServerName(user.Domain()) {
		return false, nil // not a local user
	}
	var found userapi.QueryAccountByLocalpartResponse
	err = r.users.QueryAccountByLocalpart(ctx,
		&userapi.QueryAccountByLocalpartRequest{Localpart: user.Local(), ServerName: user.Domain()}, &found)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil && found.Account.AccountType == userapi.AccountTypeAdmin, err
}

// stripes is a fixed number of locks for any number of names.
type stripes struct {
	locks [64]sync.Mutex
}

var stripeSeed = maphash.MakeSeed()

func (s *stripes) lock(name string) (unlock func()) {
	m := &s.locks[maphash.String(stripeSeed, name)%uint64(len(s.locks))]
	m.Lock()
	return m.Unlock
}
