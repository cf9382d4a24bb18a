// Package api holds what users, servers and members say to a Delivery Service and hear from it: the calls, the JSON
// messages of the HTTP APIs, and the content of events. It knows neither HTTP nor how a call is served.
package api

import (
	"bytes"
	"context"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// API is what a user can ask of a Delivery Service. Service answers for this server; the federation client carries the
// same calls to another one. Every method returns a *mimiport.Error for what the caller can act on.
type API interface {
	Groups
	Migrations
}

// Groups is what concerns a group and its messages.
type Groups interface {
	// ReserveGroup hands out the id of a new group in a room (profile, section 3).
	ReserveGroup(ctx context.Context, c Caller, req *ReserveGroupRequest) (*ReserveGroupResponse, error)

	// RequireReserver fails, as BindGroup would, unless the id was given to the caller: it is asked before a large body
	// is read. Another server is not asked twice: it refuses when it is told to bind.
	RequireReserver(ctx context.Context, c Caller, groupID []byte) error

	// BindGroup binds a reserved id to the group that a client has created under it. Repeating it changes nothing.
	BindGroup(ctx context.Context, c Caller, groupID []byte, req *BindGroupRequest) (*GroupResponse, error)

	// Group describes the group at its current epoch.
	Group(ctx context.Context, c Caller, groupID []byte) (*GroupResponse, error)

	// Host says where the group is, also when that is not here.
	Host(ctx context.Context, c Caller, groupID []byte) (*HostResponse, error)

	// ShowLineage shows this server how the group went on elsewhere, or what it has signed itself and may have
	// forgotten: it stops when that is so, and says where the group is.
	ShowLineage(ctx context.Context, c Caller, groupID []byte, req *LineageRequest) (*HostResponse, error)

	// CloseGroup ends the group for good. Members read the log as before, and the server accepts nothing more.
	CloseGroup(ctx context.Context, c Caller, groupID []byte) (*GroupResponse, error)

	// Report tells the operator of a Commit that the caller cannot process.
	Report(ctx context.Context, c Caller, groupID []byte, req *ReportRequest) (*ReportResponse, error)

	// Drift tells how the group's leaves differ from its room and from the devices of its users. It is for members, and
	// for administrators of the server that hosts the group.
	Drift(ctx context.Context, c Caller, groupID []byte) (*Drift, error)

	// RatchetTree is the encoded ratchet tree of the current epoch or the one before.
	RatchetTree(ctx context.Context, c Caller, groupID []byte, epoch uint64) ([]byte, error)

	// Submit accepts a proposal, a Commit with its GroupInfo and Welcome, or an application message. A repeated submit
	// gets the first answer.
	Submit(ctx context.Context, c Caller, groupID []byte, req *SubmitRequest) (*SubmitResponse, error)

	// Messages reads the log.
	Messages(ctx context.Context, c Caller, groupID []byte, q MessagesQuery) (*MessagesResponse, error)
}

// Migrations is what concerns moving a group.
type Migrations interface {
	// RequestMigration asks this server, as the target, for an offer.
	RequestMigration(ctx context.Context, c Caller, req *MigrationRequestRequest) (*MigrationOffer, error)

	// InitMigration asks this server, as the source, to hand the group over. It answers when the migration has ended, or
	// after a while with the state it is in.
	InitMigration(ctx context.Context, c Caller, id mimiport.MigrationID, req *MigrationInitRequest) (
		*MigrationStatus, error)

	// Migration tells how a migration stands here.
	Migration(ctx context.Context, c Caller, id mimiport.MigrationID) (*MigrationStatus, error)

	// AbortMigration asks this server, as the source, to give up a migration that it has not decided.
	AbortMigration(ctx context.Context, c Caller, id mimiport.MigrationID) (*MigrationStatus, error)

	// ConfirmMigration shows this server, as the target, the source's decision.
	ConfirmMigration(ctx context.Context, c Caller, id mimiport.MigrationID, req *SignedRequest) (*MigrationStatus, error)
}

// Caller is who asks, as the edge verified it.
type Caller struct {
	UserID string // a full Matrix user id; empty for a server asking for itself
	Server string // the server that vouches for the user: this one, or the origin of a federation request
	Admin  bool   // a server administrator of this server

	// DeviceID is the device that signed a direct request. Server is then its homeserver. Else it is empty.
	DeviceID string
}

// ReserveGroupRequest names the room that the group will belong to.
type ReserveGroupRequest struct {
	RoomID string `json:"room_id"`
	SuiteRequest
}

// SuiteRequest names a group's protocol and cipher suite, to be given the server's external_senders entry for it.
// Without a suite none is given.
type SuiteRequest struct {
	Protocol    string `json:"protocol,omitempty"`
	CipherSuite uint16 `json:"cipher_suite,omitempty"`
}

// ReserveGroupResponse is the id and what it is the hash of.
type ReserveGroupResponse struct {
	GroupID  GroupID  `json:"group_id"`
	Preimage Preimage `json:"preimage"`
	// ExternalSender is the entry for external_senders with which this server can propose to remove members who leave the
	// room.
	ExternalSender spec.Base64Bytes `json:"external_sender,omitempty"`
}

// Preimage is mimiport.GroupIDPreimage for JSON.
type Preimage struct {
	CreatingServer string           `json:"creating_server"`
	RoomID         string           `json:"room_id"`
	Nonce          spec.Base64Bytes `json:"nonce"`
}

// HashesTo says whether a group's id is the hash of the preimage.
func (p *Preimage) HashesTo(groupID []byte) bool {
	if len(p.Nonce) != mimiport.NonceSize {
		return false
	}
	pre := mimiport.GroupIDPreimage{CreatingServer: p.CreatingServer, RoomID: p.RoomID, Nonce: mimiport.Nonce(p.Nonce)}
	return bytes.Equal(pre.GroupID(), groupID)
}

// BindGroupRequest is a new group's public state. RatchetTree may be empty where GroupInfo carries the tree.
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
	NextSeq                 uint64           `json:"next_seq"` // the number the next log message will have
	GroupInfo               spec.Base64Bytes `json:"group_info"`
	TreeHash                spec.Base64Bytes `json:"tree_hash"`
	ConfirmedTranscriptHash spec.Base64Bytes `json:"confirmed_transcript_hash"`
	Members                 int              `json:"members"`

	// SelfRemoves are the pending SelfRemoves, as they were received. An external Commit may cover these proposals alone.
	SelfRemoves []spec.Base64Bytes `json:"self_removes,omitempty"`

	Warnings []string `json:"warnings,omitempty"` // of a bind: WarnOneServer
}

// WarnOneServer is the warning that all users who may move the group are on one server: when that one is lost, nobody
// is left to say who has the group.
const WarnOneServer = "movers-on-one-server"

// HostResponse says where a group is and how it came there.
type HostResponse struct {
	GroupID         GroupID          `json:"group_id"`
	DeliveryService string           `json:"delivery_service"`
	Term            uint64           `json:"term"`
	Moved           *MovedInfo       `json:"moved,omitempty"`   // when it is not here any more
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

// ReportRequest names a Commit of the present term by its number in the log. Of the reason 512 bytes are kept.
type ReportRequest struct {
	Seq    uint64 `json:"seq"`
	Reason string `json:"reason,omitempty"`
}

// Report is what a member has reported of a Commit, as operators see it.
type Report struct {
	Term   uint64 `json:"term"`
	Seq    uint64 `json:"seq"`
	Epoch  uint64 `json:"epoch"` // the one that the Commit ends
	UserID string `json:"user_id"`
	Reason string `json:"reason,omitempty"`
	At     int64  `json:"at"` // milliseconds since 1970
}

// ReportResponse says that the report was kept.
type ReportResponse struct{}

// LineageRequest carries a mimiport.Lineage, encoded, or the mimiport.CommitReceipt of the server that is asked, or
// both.
type LineageRequest struct {
	Lineage spec.Base64Bytes `json:"lineage,omitempty"`
	Receipt *SignedInfo      `json:"receipt,omitempty"`
}

// RecoverRequest is what a member holds of a group whose host is lost: the public state of an epoch, and the lineage.
type RecoverRequest struct {
	BindGroupRequest
	Lineage spec.Base64Bytes `json:"lineage"`
}

// SubmitRequest is one message for the group. GroupInfo and Welcome go with a Commit: the GroupInfo of the next epoch
// always, better without a ratchet_tree extension; the Welcome when the Commit adds.
type SubmitRequest struct {
	Message   spec.Base64Bytes `json:"message"`
	GroupInfo spec.Base64Bytes `json:"group_info,omitempty"`
	Welcome   spec.Base64Bytes `json:"welcome,omitempty"`
	Known     *KnownCommit     `json:"known,omitempty"`
}

// KnownCommit is what a client's latest receipt of the present term says, for the server to compare before it accepts.
type KnownCommit struct {
	Epoch      uint64           `json:"epoch"`
	CommitHash spec.Base64Bytes `json:"commit_hash"`
}

// SubmitResponse is where the message stands in the log. Epoch is the group's epoch after it.
type SubmitResponse struct {
	Term    uint64      `json:"term"`
	Seq     uint64      `json:"seq"`
	Epoch   uint64      `json:"epoch"`
	Receipt *SignedInfo `json:"receipt,omitempty"` // of a Commit: mimiport.CommitReceipt
}

// MessagesQuery asks for the messages of a term numbered From and up. Without a term, the current one.
type MessagesQuery struct {
	Term  *uint64
	From  uint64
	Limit int
}

// MessagesResponse is a piece of the log. Next is where to go on; End says that this was the last of it so far.
type MessagesResponse struct {
	Term     uint64       `json:"term"`
	Messages []LogMessage `json:"messages"`
	Next     uint64       `json:"next"`
	End      bool         `json:"end"`
	Moved    *MovedInfo   `json:"moved,omitempty"` // at the end of a term that is over
}

// LogMessage is a message of the log, in answers and in fan-out. In fan-out, Message is absent above 32 KiB and is
// fetched from the log by its number.
type LogMessage struct {
	Seq       uint64           `json:"seq"`
	Epoch     uint64           `json:"epoch"` // the epoch it was sent in; of a Welcome, the one it leads to
	Kind      string           `json:"kind"`  // proposal, commit, application, welcome
	Sender    string           `json:"sender"`
	Message   spec.Base64Bytes `json:"message,omitempty"`
	Migration *MovedInfo       `json:"migration,omitempty"` // with a migration Commit: the evidence for it
	Receipt   *SignedInfo      `json:"receipt,omitempty"`   // with a Commit: mimiport.CommitReceipt
}

// FanOut is the content of the to-device events by which messages reach members (profile, section 7).
type FanOut struct {
	GroupID  GroupID `json:"group_id"`
	RoomID   string  `json:"room_id"`
	Protocol string  `json:"protocol"`
	Term     uint64  `json:"term"`
	LogMessage
}

// Binding is the content of EventGroup: which group belongs to a room.
type Binding struct {
	RoomID         string    `json:"room_id"`
	GroupID        GroupID   `json:"group_id"`
	Protocol       string    `json:"protocol"`
	CipherSuite    uint16    `json:"cipher_suite"`
	Preimage       *Preimage `json:"preimage,omitempty"`
	CreatingServer string    `json:"creating_server"`
	Former         *Former   `json:"former,omitempty"` // of a group that comes after another
}

// Former names the group that a room had before.
type Former struct {
	GroupID GroupID `json:"group_id"`
}

// Names says whether the binding is of this room and group. One that a room upgrade has copied is void: it names the
// old room.
func (b *Binding) Names(roomID string, groupID []byte) bool {
	return b.RoomID == roomID && bytes.Equal(b.GroupID, groupID)
}

// Pointer is the content of EventPointer: where a room's group is, and the source's word for the step that brought it
// there.
type Pointer struct {
	RoomID      string           `json:"room_id,omitempty"`    // a pointer that a room upgrade has copied is void
	GroupID     GroupID          `json:"group_id,omitempty"`   // of the group that it is about
	ClaimHash   spec.Base64Bytes `json:"claim_hash,omitempty"` // SHA-256 of the last LineageClaim that the room supports
	Via         string           `json:"via"`
	Term        uint64           `json:"term"`
	Epoch       uint64           `json:"epoch"` // the first one at Via
	MigrationID string           `json:"migration_id,omitempty"`
	Evidence    *PointerEvidence `json:"evidence,omitempty"`
}

// Names says whether the pointer is of this room and group.
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

// MigrationRequestRequest carries the draft's MigrationRequest and the room, which the draft's message lacks.
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
	// ExternalSenderOffer is the target's signed entry for external_senders, where the request names a suite.
	ExternalSenderOffer spec.Base64Bytes `json:"external_sender_offer,omitempty"`
}

// MigrationInitRequest carries the MigrationInit with its Commit bundle. KeyID is the target's key of the
// MigrationResponse inside.
type MigrationInitRequest struct {
	MigrationInit spec.Base64Bytes `json:"migration_init"`
	KeyID         string           `json:"key_id"`
	// ExternalSenderOffer is the target's, needed where an entry of external_senders names the source.
	ExternalSenderOffer spec.Base64Bytes `json:"external_sender_offer,omitempty"`
	SubmitRequest
}

// SignedRequest carries a signed message: a MigrationConfirmation or a MigrationAbort, or the target's vote as an
// answer.
type SignedRequest struct {
	Message spec.Base64Bytes `json:"message"`
	KeyID   string           `json:"key_id"`
	// Receipt goes with a MigrationConfirmation: the source's CommitReceipt of the migration Commit, where it is known.
	Receipt *SignedInfo `json:"receipt,omitempty"`
	// Vote goes with a TargetMigrationComplete: the MigrationVote under the same key, nil from a target that speaks only
	// the draft.
	Vote spec.Base64Bytes `json:"migration_vote,omitempty"`
}

// MigrationStatus is how a migration stands on one side.
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
	ExpiresAt         int64       `json:"expires_at,omitempty"` // milliseconds since 1970
	DecideBy          int64       `json:"decide_by,omitempty"`  // milliseconds since 1970
	MigrationResponse *SignedInfo `json:"migration_response,omitempty"`
	Complete          *SignedInfo `json:"target_migration_complete,omitempty"`
	Confirmation      *SignedInfo `json:"migration_confirmation,omitempty"`
	Abort             *SignedInfo `json:"migration_abort,omitempty"`
	// of the migration Commit, at the source: mimiport.CommitReceipt
	Receipt *SignedInfo   `json:"receipt,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Limits  *TargetLimits `json:"limits,omitempty"` // of an offer: what the target takes
}

// TargetLimits is what a target takes, so that nothing freezes for what it would refuse.
type TargetLimits struct {
	GroupStateBytes int64    `json:"group_state_bytes"`
	Protocols       []string `json:"protocols"`
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

// The type of the events by which messages reach members, and of the state events by which a room tells of its group
// (profile, section 7).
const (
	EventMessage = "io.github.mimiport.message"
	EventGroup   = "io.github.mimiport.group"
	EventPointer = "io.github.mimiport.delivery_service"
)

// ReservedLevel is the power level that a room asks of whoever sends its state events, EventMessage apart, once a group
// is bound, where it has none of its own for them (profile, section 8).
const ReservedLevel = 100

// ContentUpload is the body of the content request and what its signed URI states.
type ContentUpload struct {
	ID       mimiport.MigrationID
	SHA256   [32]byte
	KeyID    string
	DecideBy time.Time
	Data     []byte
}
