package hooks

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// How long this module waits for other parts. It asks some of them while it holds a group's lock, and a question
// without an answer would block the group for good.
const (
	databasePatience = 5 * time.Second  // for each answer of the module's database
	hostPatience     = 5 * time.Second  // for each answer of the homeserver
	sendPatience     = 30 * time.Second // for the homeserver to accept an event into a room
)

// within asks the homeserver, and waits for at most patience. The homeserver's database connections have no deadlines,
// and ignore the context while a server is silent. After the wait the question continues in the background, and its
// answer is lost. within returns a panic as an error, since an HTTP handler would recover from it too.
func within[T any](ctx context.Context, patience time.Duration, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the homeserver did not answer within %s", patience))
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		defer cancel()
		a := answer{}
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("the homeserver panicked: %v\n%s", p, debug.Stack())
			}
			answered <- a
		}()
		a.value, a.err = ask(ctx)
	}()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-answered: // the answer and the end came together
		return a.value, a.err
	default:
		return *new(T), context.Cause(ctx)
	}
}

// fill is within for a question that fills in its answer.
func fill[Q, A any](ctx context.Context, ask func(context.Context, *Q, *A) error, question *Q, into *A) error {
	a, err := within(ctx, hostPatience, func(ctx context.Context) (*A, error) {
		a := new(A) // after the wait, into belongs to the caller again
		return a, ask(ctx, question, a)
	})
	if err == nil {
		*into = *a
	}
	return err
}

// patientRooms is Dendrite's room server with a time limit for each question of this package.
type patientRooms struct{ rsapi.RoomserverInternalAPI }

func (p patientRooms) QueryRoomInfo(ctx context.Context, room spec.RoomID) (*types.RoomInfo, error) {
	return within(ctx, hostPatience, func(ctx context.Context) (*types.RoomInfo, error) {
		return p.RoomserverInternalAPI.QueryRoomInfo(ctx, room)
	})
}

func (p patientRooms) QuerySharedUsers(
	ctx context.Context, q *rsapi.QuerySharedUsersRequest, a *rsapi.QuerySharedUsersResponse,
) error {
	return fill(ctx, p.RoomserverInternalAPI.QuerySharedUsers, q, a)
}

func (p patientRooms) QueryCurrentState(
	ctx context.Context, q *rsapi.QueryCurrentStateRequest, a *rsapi.QueryCurrentStateResponse,
) error {
	return fill(ctx, p.RoomserverInternalAPI.QueryCurrentState, q, a)
}

func (p patientRooms) QueryLatestEventsAndState(
	ctx context.Context, q *rsapi.QueryLatestEventsAndStateRequest, a *rsapi.QueryLatestEventsAndStateResponse,
) error {
	return fill(ctx, p.RoomserverInternalAPI.QueryLatestEventsAndState, q, a)
}

func (p patientRooms) QuerySenderIDForUser(
	ctx context.Context, room spec.RoomID, user spec.UserID,
) (*spec.SenderID, error) {
	return within(ctx, hostPatience, func(ctx context.Context) (*spec.SenderID, error) {
		return p.RoomserverInternalAPI.QuerySenderIDForUser(ctx, room, user)
	})
}

func (p patientRooms) QueryUserIDForSender(
	ctx context.Context, room spec.RoomID, sender spec.SenderID,
) (*spec.UserID, error) {
	return within(ctx, hostPatience, func(ctx context.Context) (*spec.UserID, error) {
		return p.RoomserverInternalAPI.QueryUserIDForSender(ctx, room, sender)
	})
}

func (p patientRooms) SigningIdentityFor(
	ctx context.Context, room spec.RoomID, user spec.UserID,
) (fclient.SigningIdentity, error) {
	return within(ctx, hostPatience, func(ctx context.Context) (fclient.SigningIdentity, error) {
		return p.RoomserverInternalAPI.SigningIdentityFor(ctx, room, user)
	})
}

func (p patientRooms) QueryRoomsForUser(
	ctx context.Context, user spec.UserID, membership string,
) ([]spec.RoomID, error) {
	return within(ctx, hostPatience, func(ctx context.Context) ([]spec.RoomID, error) {
		return p.RoomserverInternalAPI.QueryRoomsForUser(ctx, user, membership)
	})
}

// InputRoomEvents sends events. If it fails after sendPatience, the events may or may not be in the room.
func (p patientRooms) InputRoomEvents(
	ctx context.Context, q *rsapi.InputRoomEventsRequest, a *rsapi.InputRoomEventsResponse,
) {
	answer, err := within(ctx, sendPatience, func(ctx context.Context) (*rsapi.InputRoomEventsResponse, error) {
		answer := new(rsapi.InputRoomEventsResponse)
		p.RoomserverInternalAPI.InputRoomEvents(ctx, q, answer)
		return answer, nil
	})
	if err != nil {
		answer = &rsapi.InputRoomEventsResponse{ErrMsg: err.Error()}
	}
	*a = *answer
}

// patientUsers is Dendrite's user API with the same limit.
type patientUsers struct{ userapi.UserInternalAPI }

func (p patientUsers) QueryAccessToken(
	ctx context.Context, q *userapi.QueryAccessTokenRequest, a *userapi.QueryAccessTokenResponse,
) error {
	return fill(ctx, p.UserInternalAPI.QueryAccessToken, q, a)
}

func (p patientUsers) QueryAccountByLocalpart(
	ctx context.Context, q *userapi.QueryAccountByLocalpartRequest, a *userapi.QueryAccountByLocalpartResponse,
) error {
	return fill(ctx, p.UserInternalAPI.QueryAccountByLocalpart, q, a)
}

func (p patientUsers) QueryDevices(
	ctx context.Context, q *userapi.QueryDevicesRequest, a *userapi.QueryDevicesResponse,
) error {
	return fill(ctx, p.UserInternalAPI.QueryDevices, q, a)
}

func (p patientUsers) QueryDeviceMessages(
	ctx context.Context, q *userapi.QueryDeviceMessagesRequest, a *userapi.QueryDeviceMessagesResponse,
) error {
	return fill(ctx, p.UserInternalAPI.QueryDeviceMessages, q, a)
}

// patientKeys is Dendrite's database of other servers' keys with the same limit.
type patientKeys struct{ gomatrixserverlib.KeyDatabase }

// keyResults are keys in the form of a key database.
type keyResults = map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult

func (p patientKeys) FetchKeys(
	ctx context.Context, asked map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp,
) (keyResults, error) {
	return within(ctx, hostPatience, func(ctx context.Context) (keyResults, error) {
		return p.KeyDatabase.FetchKeys(ctx, asked)
	})
}

func (p patientKeys) StoreKeys(ctx context.Context, results keyResults) error {
	_, err := within(ctx, hostPatience, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, p.KeyDatabase.StoreKeys(ctx, results)
	})
	return err
}
