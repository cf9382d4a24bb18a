package delivery

import (
	"context"
	"encoding/json"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// Keys signs as this server, and knows the keys of others (profile, section 2).
type Keys interface {
	proof.Keys

	// Sign signs m with the current federation key of a local server name and returns the key's id.
	Sign(server string, m mimiport.Signed) (keyID string, err error)

	// VerifyOwn checks m's signature by a key that a local server name signs with or has signed with, but for those
	// that an operator has marked as stolen. Any other key is KindBadSignature.
	VerifyOwn(server, keyID string, m mimiport.Signed) error

	// KeyObject is the server's signed key object (JSON) that publishes the key, for the archive.
	KeyObject(ctx context.Context, server, keyID string) ([]byte, error)
}

// Rooms answers from the current resolved state of Matrix rooms and sends state events as local users. Of a room that
// this server has left it answers from the last state that this server saw.
type Rooms interface {
	// Standing is a user's place in a room. A room that this server has never been in gives the zero value.
	Standing(ctx context.Context, roomID, userID string) (Standing, error)

	// Powers are the power levels of users in a room, in their order, as Standing tells them.
	Powers(ctx context.Context, roomID string, userIDs []string) ([]int64, error)

	// NotJoined returns those of the users that are not joined to the room.
	NotJoined(ctx context.Context, roomID string, userIDs []string) ([]string, error)

	// ServerJoined says whether a server has a joined user in the room.
	ServerJoined(ctx context.Context, roomID, server string) (bool, error)

	// Movers returns the servers of the joined users who may send the room's pointer event once a group is bound, or of
	// all joined users where anybody may move the group: each once.
	Movers(ctx context.Context, roomID string, anybody bool) (servers []string, err error)

	// Denied returns those of the servers that the room's server ACL denies. An ACL that was redacted counts as it was
	// before.
	Denied(ctx context.Context, roomID string, servers []string) ([]string, error)

	// State is the content of a state event with an empty state key, nil where there is none.
	State(ctx context.Context, roomID, eventType string) (json.RawMessage, error)

	// StateInForce is State, of an event whose sender may send such an event and the pointer now; else nil. Of an event
	// that was redacted the last good content counts. In a room that this server has left nothing is in force.
	StateInForce(ctx context.Context, roomID, eventType string) (json.RawMessage, error)

	// SendState sends a state event with an empty state key as a local user; KindForbidden when the room does not let
	// them.
	SendState(ctx context.Context, roomID, userID, eventType string, content any) error

	// RoomsOf lists the rooms that a user is joined to, of those that this server is in.
	RoomsOf(ctx context.Context, userID string) ([]string, error)

	// Joined lists the users that are joined to a room.
	Joined(ctx context.Context, roomID string) ([]string, error)

	// LocalAccount says whether the user has an account here that is no guest and not deactivated.
	LocalAccount(ctx context.Context, userID string) (bool, error)
}

// Standing is a user's place in a room.
type Standing struct {
	Exists       bool  // this server is in the room, or was
	Left         bool  // this server has left the room
	Joined       bool  // the user is joined
	Power        int64 // the user's power level; creators of room version 12 have math.MaxInt64
	PointerLevel int64 // what sending the pointer event needs
	KickLevel    int64 // what kicking needs, besides more power than the other
}

// Devices knows what users' homeservers say about their devices.
type Devices interface {
	// Look compares the keys of leaves, all of users of one server, with those that their devices publish, and gives one
	// finding for each. It asks that server as the local server from. Only KeyPublished may rest on an earlier answer,
	// of at most a minute. A server that cannot be asked is KindPeer.
	Look(ctx context.Context, from, server string, leaves []LeafKey) ([]Finding, error)
}

// LeafKey is the signature key of a device's leaf.
type LeafKey struct {
	UserID, DeviceID string
	Scheme           string // as mls.SignatureScheme has it
	Key              string // bytes
}

// Finding is how a leaf's key stands to its device.
type Finding int

// The findings.
const (
	DeviceUnlisted Finding = iota // the homeserver lists no such device: at another server, also one without any keys
	KeyMissing                    // the device publishes no key of the scheme
	KeyOther                      // the device publishes another one
	KeyPublished
)

// Sender delivers to other servers, and to this one's own users.
type Sender interface {
	// ToDevice delivers one event to devices, user id → device ids, of one server. The sender is the reserved user of
	// from.
	ToDevice(ctx context.Context, from, to, txnID string, devices map[string][]string, content json.RawMessage) error

	// PutContent hands the content to the target. Zero Vote means: at work, ask again.
	PutContent(ctx context.Context, from, to string, c *api.ContentUpload) (vote *api.SignedRequest, err error)

	// PutConfirmation and PutAbort hand the target the source's decision.
	PutConfirmation(ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest) error
	PutAbort(ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest) error

	// PutLineage shows another server how a group went on.
	PutLineage(ctx context.Context, from, to string, groupID []byte, req *api.LineageRequest) error

	// AskStatus asks another server, as this one, how a migration stands there.
	AskStatus(ctx context.Context, from, to string, id mimiport.MigrationID) (*api.MigrationStatus, error)
}
