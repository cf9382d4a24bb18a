package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// ErrNotFound and ErrConflict are what a Store returns besides its own failures. A conflict means that nothing was written
// because a row is not, or no longer, what the change expected: load again.
var (
	ErrNotFound = errors.New("delivery: not found")
	ErrConflict = errors.New("delivery: conflict")
)

// GroupState is where a group stands on this server in one term.
type GroupState string

// The states of a group. A group of a later term supersedes all earlier ones.
const (
	GroupReserved GroupState = "reserved" // the id is handed out, no group is bound to it
	GroupActive   GroupState = "active"
	GroupFrozen   GroupState = "frozen"  // a migration awaits its decision
	GroupStopped  GroupState = "stopped" // its members are in a later epoch: a backup was restored; an operator decides
	GroupMoved    GroupState = "moved"   // decided; the redirect is kept for good
	GroupStaged   GroupState = "staged"  // voted for: waits for the source's decision
	GroupDropped  GroupState = "dropped" // was staged and is not coming
)

// Group is one group in one term on this server. Rows are kept for good.
type Group struct {
	ID          []byte
	Term        uint64
	Version     uint64 // of the stored row; the store counts it
	State       GroupState
	Server      string // the local server name that hosts it
	RoomID      string
	Creator     string // who reserved or migrated it
	Protocol    string
	CipherSuite uint16
	Epoch       uint64
	NextSeq     uint64               // of the log; the first message is 1
	Migration   mimiport.MigrationID // the migration that froze or moved it
	Lineage     []byte               // mimiport.Lineage, encoded: how it came here
	CreatedAt   time.Time
}

// Snapshot is a group's public state at one epoch, to replay the log on.
type Snapshot struct {
	GroupID     []byte
	Term        uint64
	Epoch       uint64
	Seq         uint64 // the first log number not in it
	GroupInfo   []byte
	RatchetTree []byte
}

// EntriesBytes is how much of messages and GroupInfos, in bytes, a store reads of a log at a time, give or take one entry.
const EntriesBytes = 8 << 20

// Bytes is what of an entry counts towards EntriesBytes.
func (e *Entry) Bytes() int { return len(e.Message) + len(e.GroupInfo) }

// EntryKind is the kind of a log entry.
type EntryKind string

// The kinds of log entries.
const (
	EntryProposal    EntryKind = "proposal"
	EntryCommit      EntryKind = "commit"
	EntryApplication EntryKind = "application"
	EntryWelcome     EntryKind = "welcome"
)

// Entry is one accepted message in a group's log.
type Entry struct {
	GroupID    []byte
	Term       uint64
	Seq        uint64
	Epoch      uint64 // as LogMessage.Epoch
	Kind       EntryKind
	Sender     string
	Hash       [32]byte // SHA-256 of Message; unique in a term
	Message    []byte
	GroupInfo  []byte                  // of a Commit: the next epoch's
	Recipients []mimiport.LeafIdentity // of a Welcome: for whom; of a Commit: whom it removed
	Migration  *mimiport.MigrationID   // of a migration Commit
	At         time.Time
}

// MaxWait is the longest that a group may be frozen and an offer may last (profile, section 6), and the furthest ahead that a row
// is due, but for purges.
const MaxWait = 10 * time.Minute

// Row is one thing to do, once, not before its time: a message to deliver or a deadline to keep. Rows of one destination
// and queue are done in the order of their numbers; different queues know no order.
type Row struct {
	Destination string // a server name, this server's own included
	Queue       string
	Order       uint64
	Kind        RowKind
	GroupID     []byte
	Term        uint64
	Seq         uint64               // RowFanOut: the log entry
	Migration   mimiport.MigrationID // all other kinds
	Due         time.Time
	Attempts    int
}

// RowKind is what a row asks for.
type RowKind string

// The kinds of rows.
const (
	RowFanOut       RowKind = "fan-out"      // deliver a log entry to the members at the destination
	RowContent      RowKind = "content"      // hand the content to the target
	RowConfirmation RowKind = "confirmation" // hand the decision to the target
	RowAbort        RowKind = "abort"        // hand the signed abort to the target
	RowDeadline     RowKind = "deadline"     // the offer expires, or decide_by has come
	RowAsk          RowKind = "ask"          // ask the source how a staged migration ended
	RowPurge        RowKind = "purge"        // drop the state of a group that has moved
	RowCompact      RowKind = "compact"      // store a snapshot, so that the log before it need not be replayed
	RowExpel        RowKind = "expel"        // propose to remove members who are not in the room
	RowLineage      RowKind = "lineage"      // show a server from which the group was reclaimed that it was
)

// RowKey identifies a row.
type RowKey struct {
	Destination string
	Queue       string
	Order       uint64
}

// Key is the row's identity.
func (r *Row) Key() RowKey { return RowKey{r.Destination, r.Queue, r.Order} }

// GroupKey identifies a group in one term.
type GroupKey struct {
	ID   []byte
	Term uint64
}

// Epoch is one epoch of a group in one term.
type Epoch struct {
	GroupKey
	Epoch uint64
}

// Horizon says what a store may forget: what is older. A zero time is for nothing.
type Horizon struct {
	Log      time.Time // messages accepted before, but for the handshakes that a group is replayed from
	Offers   time.Time // this server's offers that expired before and that nobody took up
	Evidence time.Time // evidence found before
}

// Change is one atomic transition: all of it is written, durably, or none. A Group or Migration whose Version is 0 is
// inserted and must not exist; any other replaces the stored row of that version; either is stored with Version+1. Entries,
// Snapshots, Content and Rows are inserted and must not exist. Anything unmet is ErrConflict.
type Change struct {
	Group     *Group
	Migration *migration.Migration
	Content   *Content
	Snapshots []Snapshot // inserted; one that exists is left as it is
	Entries   []Entry
	Rows      []Row
	Evidence  []Evidence // inserted; of one kind and migration the first is kept

	// What is deleted; absent things are ignored. Deletions come before insertions.
	Done        []RowKey              // rows
	Drop        *GroupKey             // entries and snapshots
	DropBefore  *Epoch                // snapshots of earlier epochs than this one
	DropContent *mimiport.MigrationID // a content
}

// Evidence is something that another server has signed and should not have, or that this server has and does not remember. It is
// kept for people.
type Evidence struct {
	GroupID   []byte
	Migration mimiport.MigrationID
	Kind      EvidenceKind
	Data      []byte // the signed message or lineage
	KeyID     string
	At        time.Time
}

// EvidenceKind says what the evidence shows.
type EvidenceKind string

// The kinds of evidence.
const (
	EvidenceSecondContent EvidenceKind = "second-content" // a source sent two contents for one offer
	EvidenceBothOutcomes  EvidenceKind = "both-outcomes"  // a source signed the confirmation and the abort
	EvidenceOwnForgotten  EvidenceKind = "own-forgotten"  // this server signed what it does not remember
	EvidenceHigherTerm    EvidenceKind = "higher-term"    // the group is elsewhere in a later term
	EvidenceLaterEpoch    EvidenceKind = "later-epoch"    // a member is in a later epoch than this server
	EvidenceStopped       EvidenceKind = "stopped"        // so is another one: the group was stopped
)

// Content is the exact MigrationContent that a source sends or a target has voted for.
type Content struct {
	ID   mimiport.MigrationID
	Data []byte
}

// MigrationFilter selects migrations; zero fields select all.
type MigrationFilter struct {
	GroupID []byte
	Role    migration.Role
	States  []migration.State
	User    string
	Since   time.Time // created at or after
}

// Store keeps everything this module must not forget. Reads return ErrNotFound for a single thing that is not there.
// A failed Apply that is not ErrConflict may have been written or not: load again.
type Store interface {
	Apply(ctx context.Context, c *Change) error

	Group(ctx context.Context, id []byte) (*Group, error) // of the highest term that is not dropped
	GroupAt(ctx context.Context, key GroupKey) (*Group, error)
	Groups(ctx context.Context, after []byte, limit int) ([]Group, error) // highest terms, by id
	// GroupsInRoom lists the groups bound to a room, highest terms.
	GroupsInRoom(ctx context.Context, roomID string) ([]Group, error)
	// CountGroups counts the groups active or frozen here, and the ids that a user has reserved and not bound.
	CountGroups(ctx context.Context, creator string) (hosted, reserved int, err error)
	// Snapshot is the latest of the term at or before an epoch.
	Snapshot(ctx context.Context, key GroupKey, epoch uint64) (*Snapshot, error)
	// Entries are those numbered from and up, in order, at most limit, and none after those that have EntriesBytes together.
	Entries(ctx context.Context, key GroupKey, from uint64, limit int) ([]Entry, error)
	// Handshakes are Entries without all but the proposals and Commits.
	Handshakes(ctx context.Context, key GroupKey, from uint64, limit int) ([]Entry, error)
	EntryByHash(ctx context.Context, key GroupKey, hash [32]byte) (*Entry, error)

	Migration(ctx context.Context, id mimiport.MigrationID) (*migration.Migration, error)
	Migrations(ctx context.Context, f MigrationFilter, after mimiport.MigrationID, limit int) ([]migration.Migration, error) // by id
	// CommitAborted says whether a Commit with this SHA-256 belonged to an aborted migration of the group.
	CommitAborted(ctx context.Context, groupID []byte, hash []byte) (bool, error)
	Content(ctx context.Context, id mimiport.MigrationID) ([]byte, error)

	// Due lists the first row of every queue that has one due, at most limit; and when the next one is due after that, zero for never.
	Due(ctx context.Context, now time.Time, limit int) (rows []Row, next time.Time, err error)
	// Claim keeps a listed row, and its queue, from other processes on the same database until it is released or this process ends.
	// It returns ErrConflict while another process has the queue, and ErrNotFound when the row is no longer the first of it.
	Claim(ctx context.Context, key RowKey) (release func(), err error)
	// Retry puts a row off.
	Retry(ctx context.Context, key RowKey, attempts int, due time.Time) error

	// Hasten makes due now what is further ahead than MaxWait, but purges. It is for a clock that has gone back, and looks at all rows.
	Hasten(ctx context.Context, now time.Time) error

	// Evidence lists what is kept about a group, oldest first.
	Evidence(ctx context.Context, groupID []byte) ([]Evidence, error)

	// Settings are small named JSON values: the policy an operator has set, this server's keys. AddSetting stores a value unless
	// there is one, and returns what is stored.
	Setting(ctx context.Context, name string) (json.RawMessage, error)
	PutSetting(ctx context.Context, name string, value json.RawMessage) error
	AddSetting(ctx context.Context, name string, value json.RawMessage) (json.RawMessage, error)

	// Forget deletes what lies before a horizon. It holds nobody up for long.
	Forget(ctx context.Context, before Horizon) error

	Close() error
}

// Keys signs as this server and verifies what others signed (profile, section 2).
type Keys interface {
	// Sign signs m with the current federation key of a local server name and returns the key's id.
	Sign(server string, m mimiport.Signed) (keyID string, err error)

	// Verify checks m's signature by a server's key, which must be current and valid now. Unknown, expired or unreachable keys
	// are KindBadSignature; a server that cannot be asked is KindPeer.
	Verify(ctx context.Context, server, keyID string, m mimiport.Signed) error

	// VerifySince does the same for a key that may have been rotated away since a time, but was current then or later.
	VerifySince(ctx context.Context, server, keyID string, m mimiport.Signed, since time.Time) error

	// VerifyArchived does the same for a key that may since have been rotated away: asked of the server, else a notary, else taken from the
	// archived key object.
	VerifyArchived(ctx context.Context, server, keyID string, keyObject []byte, m mimiport.Signed) error

	// KeyObject is the server's signed key object (JSON) that publishes the key now, for the archive.
	KeyObject(ctx context.Context, server, keyID string) ([]byte, error)
}

// Rooms answers from the current resolved state of Matrix rooms and sends state events as local users.
type Rooms interface {
	// Standing is a user's place in a room. An unknown room gives the zero value.
	Standing(ctx context.Context, roomID, userID string) (Standing, error)

	// NotJoined returns those of the users that are not joined to the room.
	NotJoined(ctx context.Context, roomID string, userIDs []string) ([]string, error)

	// ServerJoined says whether a server has a joined user in the room.
	ServerJoined(ctx context.Context, roomID, server string) (bool, error)

	// ServerAllowed says whether the room's server ACL lets a server in.
	ServerAllowed(ctx context.Context, roomID, server string) (bool, error)

	// State is the content of a state event with an empty state key, nil where there is none.
	State(ctx context.Context, roomID, eventType string) (json.RawMessage, error)

	// SendState sends a state event with an empty state key as a local user; KindForbidden when the room does not let them.
	SendState(ctx context.Context, roomID, userID, eventType string, content any) error

	// LocalAccount says whether the user has an account here that is no guest and not deactivated.
	LocalAccount(ctx context.Context, userID string) (bool, error)
}

// Standing is a user's place in a room.
type Standing struct {
	Exists       bool  // the room is known here and this server is in it
	Joined       bool  // the user is joined
	Power        int64 // the user's power level; creators of room version 12 have math.MaxInt64
	PointerLevel int64 // what sending the pointer event needs
}

// Sender delivers to other servers, and to this one's own users.
type Sender interface {
	// ToDevice delivers one event to devices, user id → device ids, of one server. The sender is the reserved user of from.
	ToDevice(ctx context.Context, from, to, txnID string, devices map[string][]string, content json.RawMessage) error

	// PutContent hands the content to the target. Zero Vote means: at work, ask again.
	PutContent(ctx context.Context, from, to string, c *ContentUpload) (vote *SignedRequest, err error)

	// PutConfirmation and PutAbort hand the target the source's decision.
	PutConfirmation(ctx context.Context, from, to string, id mimiport.MigrationID, m *SignedRequest) error
	PutAbort(ctx context.Context, from, to string, id mimiport.MigrationID, m *SignedRequest) error

	// PutLineage shows another server how a group went on.
	PutLineage(ctx context.Context, from, to string, groupID []byte, req *LineageRequest) error

	// AskStatus asks another server, as this one, how a migration stands there.
	AskStatus(ctx context.Context, from, to string, id mimiport.MigrationID) (*MigrationStatus, error)
}

// ContentUpload is the body of the content request and what its signed URI states.
type ContentUpload struct {
	ID       mimiport.MigrationID
	SHA256   [32]byte
	KeyID    string
	DecideBy time.Time
	Data     []byte
}
