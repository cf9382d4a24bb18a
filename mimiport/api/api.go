// Package api defines the calls of a Delivery Service for users and servers, the JSON messages of the HTTP APIs, and
// the content of events. It knows neither HTTP nor how a server answers a call.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// API has the calls that a user can make to a Delivery Service. delivery.Service answers them for this server. The
// federation client sends the same calls to another server. If the caller can act on an error, it is a *mimiport.Error.
type API interface {
	Groups
	Migrations
	LastResorts
}

// Groups has the calls about a group and its messages.
type Groups interface {
	// ReserveGroup hands out the id of a new group in a room (profile, section 3).
	ReserveGroup(ctx context.Context, c Caller, req *ReserveGroupRequest) (*ReserveGroupResponse, error)

	// RequireReserver fails, as BindGroup would, unless the caller has reserved the id. The edge calls it before it reads
	// a large body. For a group at another server it checks nothing: that server's BindGroup refuses.
	RequireReserver(ctx context.Context, c Caller, groupID []byte) error

	// BindGroup binds a reserved id to the group that a client has created with this id. A repeated call changes nothing.
	BindGroup(ctx context.Context, c Caller, groupID []byte, req *BindGroupRequest) (*GroupResponse, error)

	// Group describes the group at its current epoch.
	Group(ctx context.Context, c Caller, groupID []byte) (*GroupResponse, error)

	// Host says which server has the group, also if this server does not have it.
	Host(ctx context.Context, c Caller, groupID []byte) (*HostResponse, error)

	// ShowLineage shows this server the steps by which the group moved on, or a receipt that this server has signed. If
	// this server has forgotten something that it signed, it stops the group. It returns where the group is.
	ShowLineage(ctx context.Context, c Caller, groupID []byte, req *LineageRequest) (*HostResponse, error)

	// CloseGroup ends the group for good. Members read the log as before, and the server accepts nothing more.
	CloseGroup(ctx context.Context, c Caller, groupID []byte) (*GroupResponse, error)

	// Report tells the operator about a Commit that the caller cannot process.
	Report(ctx context.Context, c Caller, groupID []byte, req *ReportRequest) (*ReportResponse, error)

	// Drift lists the differences of the group's leaves from its room and from the devices of its users. Members may call
	// it, and administrators of the server that hosts the group.
	Drift(ctx context.Context, c Caller, groupID []byte) (*Drift, error)

	// RatchetTree returns the encoded ratchet tree of the current epoch or the epoch before.
	RatchetTree(ctx context.Context, c Caller, groupID []byte, epoch uint64) ([]byte, error)

	// Submit accepts a proposal, a Commit with its GroupInfo and Welcome, or an application message. A repeated call gets
	// the first answer.
	Submit(ctx context.Context, c Caller, groupID []byte, req *SubmitRequest) (*SubmitResponse, error)

	// Messages reads the log.
	Messages(ctx context.Context, c Caller, groupID []byte, q MessagesQuery) (*MessagesResponse, error)
}

// Migrations has the calls about moving a group.
type Migrations interface {
	// RequestMigration asks this server, as the target, for an offer.
	RequestMigration(ctx context.Context, c Caller, req *MigrationRequestRequest) (*MigrationOffer, error)

	// InitMigration asks this server, as the source, to hand the group over. It answers with the migration's status when
	// the migration has ended, or after a while.
	InitMigration(ctx context.Context, c Caller, id mimiport.MigrationID, req *MigrationInitRequest) (
		*MigrationStatus, error)

	// Migration returns the status of a migration at this server.
	Migration(ctx context.Context, c Caller, id mimiport.MigrationID) (*MigrationStatus, error)

	// AbortMigration asks this server, as the source, to abort a migration that it has not decided yet.
	AbortMigration(ctx context.Context, c Caller, id mimiport.MigrationID) (*MigrationStatus, error)

	// ConfirmMigration shows the source's decision to this server, as the target.
	ConfirmMigration(ctx context.Context, c Caller, id mimiport.MigrationID, req *SignedRequest) (*MigrationStatus, error)
}

// Caller is the user or server that makes a call, as verified by package edge.
type Caller struct {
	UserID string // a full Matrix user id; empty if a server calls for itself
	Server string // the server that vouches for the user: this server, or the origin of a federation request
	Admin  bool   // a server administrator of this server

	// DeviceID is the device that signed a direct request. Server is then the device's homeserver. DeviceID is empty for
	// any other request.
	DeviceID string

	// To is the name of this server to which the request of another server, or a direct request, is addressed. It is empty
	// for any other request.
	To string

	// OwnDevice is the device of this server whose access token came with the request. Else it is empty.
	OwnDevice string
}

// ReserveGroupRequest names the room that the group will belong to.
type ReserveGroupRequest struct {
	RoomID string `json:"room_id"`
	SuiteRequest
}

// SuiteRequest names a group's protocol and cipher suite. The answer then has the server's external_senders entry for
// this suite. Without a suite the answer has no entry.
type SuiteRequest struct {
	Protocol    string `json:"protocol,omitempty"`
	CipherSuite uint16 `json:"cipher_suite,omitempty"`
}

// ReserveGroupResponse has the id and its preimage.
type ReserveGroupResponse struct {
	GroupID  GroupID  `json:"group_id"`
	Preimage Preimage `json:"preimage"`
	// ExternalSender is this server's entry for external_senders. With it the server can propose to remove members who
	// leave the room.
	ExternalSender spec.Base64Bytes `json:"external_sender,omitempty"`
}

// Preimage is mimiport.GroupIDPreimage for JSON.
type Preimage struct {
	CreatingServer string           `json:"creating_server"`
	RoomID         string           `json:"room_id"`
	Nonce          spec.Base64Bytes `json:"nonce"`
}

// HashesTo reports whether a group's id is the hash of the preimage.
func (p *Preimage) HashesTo(groupID []byte) bool {
	if len(p.Nonce) != mimiport.NonceSize {
		return false
	}
	pre := mimiport.GroupIDPreimage{CreatingServer: p.CreatingServer, RoomID: p.RoomID, Nonce: mimiport.Nonce(p.Nonce)}
	return bytes.Equal(pre.GroupID(), groupID)
}

// BindGroupRequest is a new group's public state. RatchetTree may be empty if GroupInfo carries the tree.
type BindGroupRequest struct {
	Protocol    string           `json:"protocol"`
	GroupInfo   spec.Base64Bytes `json:"group_info"`
	RatchetTree spec.Base64Bytes `json:"ratchet_tree,omitempty"`
}

// GroupResponse describes a group at its current epoch.
type GroupResponse struct {
	GroupID                 GroupID          `json:"group_id"`
	RoomID                  string           `json:"room_id"`
	Protocol                string           `json:"protocol"`
	CipherSuite             uint16           `json:"cipher_suite"`
	Preimage                *Preimage        `json:"preimage,omitempty"` // absent for a foreign id
	CreatingServer          string           `json:"creating_server"`
	DeliveryService         string           `json:"delivery_service"`
	State                   string           `json:"state"` // active, frozen, closed
	Term                    uint64           `json:"term"`
	Epoch                   uint64           `json:"epoch"`
	NextSeq                 uint64           `json:"next_seq"` // the number of the next log message
	GroupInfo               spec.Base64Bytes `json:"group_info"`
	TreeHash                spec.Base64Bytes `json:"tree_hash"`
	ConfirmedTranscriptHash spec.Base64Bytes `json:"confirmed_transcript_hash"`
	Members                 int              `json:"members"`

	// SelfRemoves are the pending SelfRemoves, as received. An external Commit may cover no other pending proposals.
	SelfRemoves []spec.Base64Bytes `json:"self_removes,omitempty"`

	Warnings []string `json:"warnings,omitempty"` // of a bind: WarnOneServer
}

// WarnOneServer is the warning that all users who may move the group are on one server. If this server is lost, no user
// is left who can say which server has the group.
const WarnOneServer = "movers-on-one-server"

// HostResponse says where a group is and how it came there.
type HostResponse struct {
	GroupID         GroupID          `json:"group_id"`
	DeliveryService string           `json:"delivery_service"`
	Term            uint64           `json:"term"`
	Moved           *MovedInfo       `json:"moved,omitempty"`   // set if the group has moved away
	Lineage         spec.Base64Bytes `json:"lineage,omitempty"` // mimiport.Lineage, encoded
}

// MovedInfo is mimiport.Moved for JSON. It also stands in every M_GROUP_MOVED error.
type MovedInfo struct {
	DeliveryService       string           `json:"delivery_service"`
	Term                  uint64           `json:"term"`
	MigrationResponse     spec.Base64Bytes `json:"migration_response,omitempty"`
	MigrationConfirmation spec.Base64Bytes `json:"migration_confirmation,omitempty"`
	LineageClaim          spec.Base64Bytes `json:"lineage_claim,omitempty"` // instead of both, after a reclaim or recover
	KeyID                 string           `json:"key_id"`
}

// ReportRequest names a Commit of the present term by its number in the log. The server keeps the first 512 bytes of
// the reason.
type ReportRequest struct {
	Seq    uint64 `json:"seq"`
	Reason string `json:"reason,omitempty"`
}

// Report is a member's report about a Commit, as operators see it.
type Report struct {
	Term   uint64 `json:"term"`
	Seq    uint64 `json:"seq"`
	Epoch  uint64 `json:"epoch"` // the epoch that the Commit ends
	UserID string `json:"user_id"`
	Reason string `json:"reason,omitempty"`
	At     int64  `json:"at"` // milliseconds since 1970
}

// ReportResponse says that the server has stored the report.
type ReportResponse struct{}

// LineageRequest carries an encoded mimiport.Lineage, or a mimiport.CommitReceipt of the called server, or both.
type LineageRequest struct {
	Lineage spec.Base64Bytes `json:"lineage,omitempty"`
	Receipt *SignedInfo      `json:"receipt,omitempty"`
}

// RecoverRequest carries a member's copy of a group whose host is lost: the public state of an epoch, and the lineage.
type RecoverRequest struct {
	BindGroupRequest
	Lineage spec.Base64Bytes `json:"lineage"`
}

// SubmitRequest is one message for the group. A Commit needs the GroupInfo of the next epoch, preferably without a
// ratchet_tree extension. A Commit that adds members also needs the Welcome.
type SubmitRequest struct {
	Message   spec.Base64Bytes `json:"message"`
	GroupInfo spec.Base64Bytes `json:"group_info,omitempty"`
	Welcome   spec.Base64Bytes `json:"welcome,omitempty"`
	Known     *KnownCommit     `json:"known,omitempty"`
}

// KnownCommit has the fields of the client's latest receipt of the present term. The server compares them with its
// record before it accepts a message.
type KnownCommit struct {
	Epoch      uint64           `json:"epoch"`
	CommitHash spec.Base64Bytes `json:"commit_hash"`
}

// SubmitResponse is the place of the message in the log. Epoch is the group's epoch after the message.
type SubmitResponse struct {
	Term    uint64      `json:"term"`
	Seq     uint64      `json:"seq"`
	Epoch   uint64      `json:"epoch"`
	Receipt *SignedInfo `json:"receipt,omitempty"` // of a Commit: mimiport.CommitReceipt
}

// MessagesQuery asks for the messages of a term from number From on. Without Term it asks for the current term.
type MessagesQuery struct {
	Term  *uint64
	From  uint64
	Limit int
}

// MessagesResponse is a piece of the log. Next is the From of the next query. End says that the log has no further
// message yet.
type MessagesResponse struct {
	Term     uint64       `json:"term"`
	Messages []LogMessage `json:"messages"`
	Next     uint64       `json:"next"`
	End      bool         `json:"end"`
	Moved    *MovedInfo   `json:"moved,omitempty"` // at the end of a former term
}

// LogMessage is a message of the log, in answers and in fan-out. In fan-out, a Message of more than 32 KiB is absent:
// clients fetch it from the log by its number.
type LogMessage struct {
	Seq       uint64           `json:"seq"`
	Epoch     uint64           `json:"epoch"` // the epoch of the message; of a Welcome, the epoch that it leads to
	Kind      string           `json:"kind"`  // proposal, commit, application, welcome
	Sender    string           `json:"sender"`
	Message   spec.Base64Bytes `json:"message,omitempty"`
	Migration *MovedInfo       `json:"migration,omitempty"` // with a migration Commit: the evidence for it
	Receipt   *SignedInfo      `json:"receipt,omitempty"`   // with a Commit: mimiport.CommitReceipt
}

// FanOut is the content of the to-device events that carry messages to members (profile, section 7).
type FanOut struct {
	GroupID  GroupID `json:"group_id"`
	RoomID   string  `json:"room_id"`
	Protocol string  `json:"protocol"`
	Term     uint64  `json:"term"`
	LogMessage
}

// DeviceEvent is an event from one server to devices of another one.
type DeviceEvent struct {
	ID      string              // the same when the event is sent again, and of no other event
	Type    string              // EventMessage or EventMoveRequest
	Seq     uint64              // EventMessage: of the log entry in it
	Devices map[string][]string // device ids by user id
	Content json.RawMessage     // a FanOut or a SignedInfo
}

// Binding is the content of EventGroup. It names the group of a room.
type Binding struct {
	RoomID         string    `json:"room_id"`
	GroupID        GroupID   `json:"group_id"`
	Protocol       string    `json:"protocol"`
	CipherSuite    uint16    `json:"cipher_suite"`
	Preimage       *Preimage `json:"preimage,omitempty"`
	CreatingServer string    `json:"creating_server"`
	Former         *Former   `json:"former,omitempty"` // set if the room, or the one that it replaces, had a group before
}

// Former names the group that a room had before. RoomID is set if that group is of the room which this one replaces.
type Former struct {
	GroupID GroupID `json:"group_id"`
	RoomID  string  `json:"room_id,omitempty"`
}

// Names reports whether the binding is of this room and group. A binding that a room upgrade has copied is void: it
// names the old room.
func (b *Binding) Names(roomID string, groupID []byte) bool {
	return b.RoomID == roomID && bytes.Equal(b.GroupID, groupID)
}

// Pointer is the content of EventPointer: the server that has the room's group, and the source's signed evidence for
// the step that brought the group there.
type Pointer struct {
	RoomID      string           `json:"room_id,omitempty"`    // a pointer that a room upgrade has copied is void
	GroupID     GroupID          `json:"group_id,omitempty"`   // the group that the pointer is about
	ClaimHash   spec.Base64Bytes `json:"claim_hash,omitempty"` // SHA-256 of the last LineageClaim that the room supports
	Via         string           `json:"via"`
	Term        uint64           `json:"term"`
	Epoch       uint64           `json:"epoch"` // the group's first epoch at Via
	MigrationID string           `json:"migration_id,omitempty"`
	Evidence    *PointerEvidence `json:"evidence,omitempty"`
}

// Names reports whether the pointer is of this room and group.
func (p *Pointer) Names(roomID string, groupID []byte) bool {
	return p.RoomID == roomID && bytes.Equal(p.GroupID, groupID)
}

// PointerEvidence is the proof of a step without its archive.
type PointerEvidence struct {
	MigrationResponse     spec.Base64Bytes `json:"migration_response"`
	ResponseKeyID         string           `json:"response_key_id"`
	MigrationConfirmation spec.Base64Bytes `json:"migration_confirmation"`
	ConfirmationKeyID     string           `json:"confirmation_key_id"`
}

// MigrationRequestRequest carries the draft's MigrationRequest and the room. The draft's message does not name the
// room.
type MigrationRequestRequest struct {
	MigrationRequest spec.Base64Bytes `json:"migration_request"`
	RoomID           string           `json:"room_id"`
	SuiteRequest
}

// MigrationOffer carries the target's MigrationResponse.
type MigrationOffer struct {
	MigrationID       string           `json:"migration_id"`
	MigrationResponse spec.Base64Bytes `json:"migration_response"`
	KeyID             string           `json:"key_id"`
	ExpiresAt         int64            `json:"expires_at"` // milliseconds since 1970
	// ExternalSenderOffer is the target's signed entry for external_senders. It is set if the request names a suite.
	ExternalSenderOffer spec.Base64Bytes `json:"external_sender_offer,omitempty"`
}

// MigrationInitRequest carries the MigrationInit with its Commit bundle. KeyID is the id of the target's key that
// signed the MigrationResponse inside.
type MigrationInitRequest struct {
	MigrationInit spec.Base64Bytes `json:"migration_init"`
	KeyID         string           `json:"key_id"`
	// ExternalSenderOffer is the target's. It is required if an entry of external_senders names the source.
	ExternalSenderOffer spec.Base64Bytes `json:"external_sender_offer,omitempty"`
	SubmitRequest
}

// SignedRequest carries a signed message: a MigrationConfirmation or a MigrationAbort, or the target's vote as an
// answer.
type SignedRequest struct {
	Message spec.Base64Bytes `json:"message"`
	KeyID   string           `json:"key_id"`
	// Receipt goes with a MigrationConfirmation: the source's CommitReceipt for the migration Commit, if the sender has
	// it.
	Receipt *SignedInfo `json:"receipt,omitempty"`
	// Vote goes with a TargetMigrationComplete: the MigrationVote, signed with the same key. It is nil from a target that
	// speaks only the draft.
	Vote spec.Base64Bytes `json:"migration_vote,omitempty"`
}

// MigrationStatus is the state of a migration on one side.
type MigrationStatus struct {
	MigrationID       string      `json:"migration_id"`
	Role              string      `json:"role"`
	State             string      `json:"state"`
	GroupID           GroupID     `json:"group_id"`
	RoomID            string      `json:"room_id"`
	Source            string      `json:"source"`
	Target            string      `json:"target"`
	User              string      `json:"user"`
	Term              uint64      `json:"term"` // the term that begins at the target
	Epoch             uint64      `json:"epoch"`
	CreatedAt         int64       `json:"created_at,omitempty"` // milliseconds since 1970, as the next three
	UpdatedAt         int64       `json:"updated_at,omitempty"` // the last change; absent if an older version made it
	ExpiresAt         int64       `json:"expires_at,omitempty"`
	DecideBy          int64       `json:"decide_by,omitempty"`
	MigrationResponse *SignedInfo `json:"migration_response,omitempty"`
	Complete          *SignedInfo `json:"target_migration_complete,omitempty"`
	Confirmation      *SignedInfo `json:"migration_confirmation,omitempty"`
	Abort             *SignedInfo `json:"migration_abort,omitempty"`
	// Receipt is the source's mimiport.CommitReceipt for the migration Commit.
	Receipt *SignedInfo   `json:"receipt,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Limits  *TargetLimits `json:"limits,omitempty"` // of an offer: the limits of the target
}

// TargetLimits are the limits of a target. The source reads them before the freeze, so that no group freezes for a
// content that the target would refuse.
type TargetLimits struct {
	GroupStateBytes int64    `json:"group_state_bytes"`
	Protocols       []string `json:"protocols"`
	Members         int      `json:"members,omitempty"` // only in an Intake: the most leaves of a group; 0 means no limit
}

// SignedInfo is mimiport.SignedMessage for JSON, without the key object.
type SignedInfo struct {
	Message spec.Base64Bytes `json:"message"`
	KeyID   string           `json:"key_id"`
}

// RedirectInfo is a redirect for JSON, nil for none.
func RedirectInfo(m *mimiport.Moved) *MovedInfo {
	if m == nil {
		return nil
	}
	return &MovedInfo{
		DeliveryService: m.Server, Term: m.Term, MigrationResponse: m.Response,
		MigrationConfirmation: m.Confirmation, LineageClaim: m.Claim, KeyID: m.KeyID,
	}
}

// Redirect is the inverse of RedirectInfo.
func (m *MovedInfo) Redirect() *mimiport.Moved {
	if m == nil {
		return nil
	}
	return &mimiport.Moved{
		Server: m.DeliveryService, Term: m.Term, Response: m.MigrationResponse,
		Confirmation: m.MigrationConfirmation, Claim: m.LineageClaim, KeyID: m.KeyID,
	}
}

// The types of the events that carry messages and requests to members, and of the state events about a room's group
// (profile, section 7).
const (
	EventMessage     = "io.github.mimiport.message"
	EventMoveRequest = "io.github.mimiport.move_request" // a SignedInfo with a mimiport.MoveRequest
	EventGroup       = "io.github.mimiport.group"
	EventPointer     = "io.github.mimiport.delivery_service"
)

// ReservedLevel is the power level that a user needs to send the room's state events of this package once a group is
// bound, unless the room sets a level of its own for them. It does not hold for EventMessage (profile, section 8).
const ReservedLevel = 100

// ContentUpload is the body of the content request, with the values that the request's signed URI states.
type ContentUpload struct {
	ID       mimiport.MigrationID
	SHA256   [32]byte
	KeyID    string
	DecideBy time.Time
	Data     []byte
}
