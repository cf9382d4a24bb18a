package delivery

import (
	"context"
	"encoding/json"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// Keys signs as this server, and knows the keys of others (profile, section 2).
type Keys interface {
	proof.Keys

	// Sign signs m with the current federation key of a local server name and returns the key's id.
	Sign(server string, m mimiport.Signed) (keyID string, err error)

	// VerifyOwn checks m's signature by a present or former key of a local server name. A key that an operator has marked
	// as stolen, or any unknown key, is a KindBadSignature error.
	VerifyOwn(server, keyID string, m mimiport.Signed) error

	// KeyObject is the server's signed key object (JSON) that publishes the key, for the archive.
	KeyObject(ctx context.Context, server, keyID string) ([]byte, error)
}

// Rooms knows the Matrix rooms of this server, and sends state events as local users. Its methods ask the host. So
// nobody calls them who holds a group.
type Rooms interface {
	// Room returns the facts about a room. Everything counts that the host has accepted before the call.
	Room(ctx context.Context, roomID string) (Room, error)

	// State returns the content of a state event with an empty state key, or nil.
	State(ctx context.Context, roomID, eventType string) (json.RawMessage, error)

	// SendState sends a state event with an empty state key as a local user. It returns a KindForbidden error if the room
	// does not allow it.
	SendState(ctx context.Context, roomID, userID, eventType string, content any) error

	// RoomsOf lists the rooms of this server that a user is joined to.
	RoomsOf(ctx context.Context, userID string) ([]string, error)

	Accounts
}

// Accounts answers about accounts of this homeserver.
type Accounts interface {
	// LocalAccount reports whether the user has an account here that is neither a guest account nor deactivated.
	LocalAccount(ctx context.Context, userID string) (bool, error)

	// Administers reports whether the user is an administrator of this homeserver.
	Administers(ctx context.Context, userID string) (bool, error)
}

// Room has the facts about one room at one time, by its resolved state. Its methods ask nobody. If this server has left
// the room, the facts are those of the last state that this server saw. If this server was never in the room, no user
// is joined.
type Room interface {
	// Standing returns a user's place in the room, or the zero value if this server was never in the room.
	Standing(userID string) Standing

	// NotJoined returns the given users that are not joined to the room.
	NotJoined(userIDs []string) []string

	// Joined lists the users that are joined to the room, sorted.
	Joined() []string

	// ServerJoined reports whether a server has a joined user in the room.
	ServerJoined(server string) bool

	// Levels returns the room's power levels, or nil if this server was never in the room. The caller may change them.
	Levels() *policy.Levels

	// Denied returns the given servers that the room's server ACL denies. Of a redacted ACL the content before the
	// redaction counts.
	Denied(servers []string) []string

	// InForce returns the content of a state event with an empty state key. Its sender may now send both such an event and
	// the pointer. For any other event InForce returns nil. Of a redacted event the content before the redaction counts.
	// In a room that this server has left no event is in force.
	InForce(eventType string) json.RawMessage

	// Current reports whether the host has told of no change of the room since this server asked for the facts.
	Current() bool
}

// Standing is a user's place in a room.
type Standing struct {
	Exists       bool  // this server is in the room, or was
	Left         bool  // this server has left the room
	Joined       bool  // the user is joined
	Power        int64 // the user's power level; creators of room version 12 have math.MaxInt64
	PointerLevel int64 // the power level that sending the pointer event needs
	KickLevel    int64 // the power level that kicking needs, besides more power than the kicked user
}

// Devices asks homeservers about the devices of their users.
type Devices interface {
	// Look compares the key of each leaf with the key that the leaf's device publishes, and returns one finding for each
	// leaf. All leaves are of users of one server. Look asks this server in the name of the local server from. Only
	// KeyPublished may rest on an earlier answer, which is at most a minute old. If the server does not answer, Look
	// returns a KindPeer error.
	Look(ctx context.Context, from, server string, leaves []LeafKey) ([]Finding, error)
}

// LeafKey is the signature key of a device's leaf.
type LeafKey struct {
	UserID, DeviceID string
	Scheme           string // a value of mls.SignatureScheme
	Key              string // bytes
}

// Finding is the result of comparing a leaf's key with the key that its device publishes.
type Finding int

// The findings.
const (
	DeviceUnlisted Finding = iota // the homeserver lists no such device: at another server, also one without any keys
	KeyMissing                    // the device publishes no key of the scheme
	KeyOther                      // the device publishes another one
	KeyPublished
)

// Sender delivers to other servers, and to the users of this server.
type Sender interface {
	// ToDevice delivers events to devices of one server, in order. Their sender is the reserved user of from. It returns
	// the number of events that arrived before the first one that did not. If the server refuses the very bytes of that
	// event, the error is KindInvalid.
	ToDevice(ctx context.Context, from, to string, events []api.DeviceEvent) (arrived int, err error)

	// PutContent sends the content to the target. A nil vote without an error means that the target still works on the
	// content: ask again.
	PutContent(ctx context.Context, from, to string, c *api.ContentUpload) (vote *api.SignedRequest, err error)

	// PutConfirmation and PutAbort send the source's decision to the target.
	PutConfirmation(ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest) error
	PutAbort(ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest) error

	// PutLineage shows another server how a group went on.
	PutLineage(ctx context.Context, from, to string, groupID []byte, req *api.LineageRequest) error

	// AskStatus asks the server to, in the name of from, how a migration stands there.
	AskStatus(ctx context.Context, from, to string, id mimiport.MigrationID) (*api.MigrationStatus, error)

	// AskIntake asks a target, in the name of from, what it would take of a room's groups. servers are the homeservers of
	// users who could move them.
	AskIntake(ctx context.Context, from, to, roomID string, servers []string) (*api.Intake, error)
}
