package api

import "encoding/json"

// The answers below are for operators. Times are milliseconds since 1970, and durations are milliseconds.

// AdminGroup is a group that this server knows.
type AdminGroup struct {
	GroupID     GroupID `json:"group_id"`
	Term        uint64  `json:"term"`
	State       string  `json:"state"`
	Server      string  `json:"server"`
	RoomID      string  `json:"room_id"`
	Creator     string  `json:"creator"`
	Protocol    string  `json:"protocol,omitempty"`
	CipherSuite uint16  `json:"cipher_suite,omitempty"`
	Epoch       uint64  `json:"epoch"`
	NextSeq     uint64  `json:"next_seq"`
	MigrationID string  `json:"migration_id,omitempty"`
	CreatedAt   int64   `json:"created_at"`
	LastCommit  int64   `json:"last_commit_at,omitempty"` // absent if the log has no Commit

	MovedTo *MovedTo `json:"moved_to,omitempty"` // of a group that has moved
	Hosted  *Hosted  `json:"hosted,omitempty"`   // of a group that is active, frozen or stopped here
	Fault   string   `json:"fault,omitempty"`    // why this server could not find out about a hosted group
}

// MovedTo is the server to which a group has moved, with the term that began there.
type MovedTo struct {
	Server string `json:"server"`
	Term   uint64 `json:"term"`
}

// Hosted is the present epoch of a group that is here.
type Hosted struct {
	Members         int             `json:"members"`          // leaves
	Servers         []ServerMembers `json:"servers"`          // by server name
	PendingRemovals []PendingLeaf   `json:"pending_removals"` // leaves that the next Commit must remove
	Moves           *Moves          `json:"moves"`
}

// ServerMembers are a server's users in a group.
type ServerMembers struct {
	Server string `json:"server"`
	Users  int    `json:"users"`
	Leaves int    `json:"leaves"`
}

// PendingLeaf is a leaf that goes with the next Commit.
type PendingLeaf struct {
	Leaf     uint32 `json:"leaf"`
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
}

// Movable says whether somebody may move a group.
type Movable string

// The values of Movable.
const (
	MovableYes Movable = "yes" // a user of a target may move it, and a target takes it by default
	MovableAsk Movable = "ask" // somebody may move it, and it depends on the target's policy
	MovableNo  Movable = "no"
)

// MaxMovers is the largest number of users in Moves.
const MaxMovers = 20

// Moves says who may move a group where. Each of the users may move it to each of the targets, as far as this server
// decides.
type Moves struct {
	Movable  Movable  `json:"movable"`
	Users    []string `json:"users"`    // at most MaxMovers, users of targets first
	Total    int      `json:"total"`    // how many users may move it
	Targets  []string `json:"targets"`  // servers in the room
	Anywhere bool     `json:"anywhere"` // it may also move to servers without a user in the room
	Why      []Reason `json:"why"`      // why it is not yes; empty for yes
}

// Reason is an obstacle to a move, with its remedy.
type Reason struct {
	Rule   string `json:"rule"`
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

// About names the programs and the database of this server.
type About struct {
	Module   string `json:"module"` // version
	Host     string `json:"host"`   // program and version
	Database string `json:"database"`
	Schema   int64  `json:"schema"`
}

// Origin is the place where a value of the policy comes from.
type Origin string

// The origins, each over those before it.
const (
	OriginDefault       Origin = "default"
	OriginSection       Origin = "section"       // of the configuration file
	OriginAdministrator Origin = "administrator" // by the admin API
)

// PolicyValue is one field of the policy in force.
type PolicyValue struct {
	Value  any    `json:"value"`
	Origin Origin `json:"origin"`
}

// Status is the state of a server.
type Status struct {
	Server string `json:"server"`
	About
	Policy     map[string]PolicyValue    `json:"policy"` // by the field's path, such as quotas.members
	Groups     map[string]int            `json:"groups"` // by state; all states are there
	Members    int                       `json:"members"`
	Migrations map[string]map[string]int `json:"migrations"` // by role and state
	Evidence   map[string]int            `json:"evidence"`   // by kind
	Outbox     []Backlog                 `json:"outbox"`     // by destination
	Peers      []FailingPeer             `json:"peers"`
}

// Backlog is the work for one destination that is not done yet.
type Backlog struct {
	Destination string `json:"destination"`
	Rows        int    `json:"rows"`
	Oldest      int64  `json:"oldest_at,omitempty"` // absent if an older version made all rows
	Age         int64  `json:"age_ms,omitempty"`    // of the oldest row
	Attempts    int    `json:"attempts"`            // the most failures of a row
}

// FailingPeer is a server to which this process has not delivered since some time.
type FailingPeer struct {
	Server   string `json:"server"`
	Since    int64  `json:"since"`
	Attempts int    `json:"attempts"` // failures since then
	LastAt   int64  `json:"last_at"`
	Error    string `json:"error"`            // the last one
	Remedy   string `json:"remedy,omitempty"` // what permits it, where this server itself refuses
}

// AuditEntry is an act in the audit log. An act without an after has not ended, or its end is not known.
type AuditEntry struct {
	ID          string          `json:"id"`
	At          int64           `json:"at"`
	Actor       string          `json:"actor"`
	Action      string          `json:"action"`
	GroupID     GroupID         `json:"group_id,omitempty"`
	MigrationID string          `json:"migration_id,omitempty"`
	Before      json.RawMessage `json:"before,omitempty"`
	After       json.RawMessage `json:"after,omitempty"`
}

// Readers are the users who may read the groups of a room: the joined users whose servers the room's ACL lets in.
type Readers struct {
	RoomID string   `json:"room_id"`
	Known  bool     `json:"known"` // this server is in the room, or was
	Users  []string `json:"users"` // sorted
}

// MigrationMessages shows a migration as the draft's seven messages, with its state on both sides.
type MigrationMessages struct {
	Migration *MigrationStatus   `json:"migration"`
	Peer      MigrationPeer      `json:"peer"`
	Messages  []MigrationMessage `json:"messages"` // in the order of the draft
}

// MigrationPeer is the other server of a migration, as it answers now. Without a state and an error, it answers that it
// does not know the migration.
type MigrationPeer struct {
	Server    string `json:"server"`
	State     string `json:"state,omitempty"`
	UpdatedAt int64  `json:"updated_at,omitempty"`
	Error     string `json:"error,omitempty"` // why it could not be asked
}

// Progress says how far a message of a migration is.
type Progress string

// The values of Progress.
const (
	ProgressDone    Progress = "done"
	ProgressAwaited Progress = "awaited"
	ProgressNever   Progress = "never" // the migration has ended without it, or the record does not show it
)

// MigrationMessage is one message of a migration. Bytes in its fields are in base64url.
type MigrationMessage struct {
	Name     string            `json:"name"`
	From     string            `json:"from"` // a user or a server
	To       string            `json:"to"`   // likewise
	Progress Progress          `json:"progress"`
	Fields   map[string]string `json:"fields,omitempty"` // by the draft's names, as far as this server keeps them
	Note     string            `json:"note,omitempty"`   // for people
}
