package hooks

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/slots"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/setup/config"
	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// rooms is delivery.Rooms over Dendrite's room server and accounts.
type rooms struct {
	config  *config.Global
	api     rsapi.RoomserverInternalAPI
	users   userapi.UserInternalAPI
	store   settings
	now     func() time.Time
	sends   stripes
	facts   factCache
	loading *slots.Slots[string] // one request at a time loads the facts of a room
}

var _ delivery.Rooms = (*rooms)(nil)

func newRooms(
	config *config.Global, api rsapi.RoomserverInternalAPI, users userapi.UserInternalAPI, store settings,
) *rooms {
	return &rooms{
		config: config, api: api, users: users, store: store, now: clock,
		facts: newFactCache(maxFacts), loading: slots.New[string](1),
	}
}

// State implements delivery.Rooms. It returns nil if this server does not know the room, or if the room has no such
// event. For a room that this server has left, it returns the last event that this server saw. It asks Dendrite only
// for what the kept facts lack: Dendrite reads all of a room's state for one event.
func (r *rooms) State(ctx context.Context, roomID, eventType string) (json.RawMessage, error) {
	if slices.Contains(factEvents, eventType) {
		f, err := r.factsAbout(ctx, roomID)
		if err != nil {
			return nil, err
		}
		return f.state[eventType], nil
	}
	room, err := spec.NewRoomID(roomID)
	if err != nil {
		return nil, nil // there is no such room
	}
	if v, err := r.version(ctx, *room); err != nil || v == (roomVersion{}) {
		return nil, err // the room server returns an error for an unknown room
	}
	key := gomatrixserverlib.StateKeyTuple{EventType: eventType}
	var state rsapi.QueryCurrentStateResponse
	question := rsapi.QueryCurrentStateRequest{RoomID: roomID, StateTuples: []gomatrixserverlib.StateKeyTuple{key}}
	if err := r.api.QueryCurrentState(ctx, &question, &state); err != nil || state.StateEvents[key] == nil {
		return nil, err
	}
	return state.StateEvents[key].Content(), nil
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
