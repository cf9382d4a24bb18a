// Package mimiport holds the seven messages of draft-kohbrok-mimi-portability-04, the structures that
// docs/profile.md adds to them, their signatures, identifiers and errors. It does no I/O, reads no clock and draws no
// randomness.
//
// Every Unmarshal function refuses trailing bytes, non-minimal lengths and all input that it would not encode
// identically. It returns slices of its input. Every Marshal method fails only if a field is too long for its vector.
// The json tags are the field names of the draft, for tools. On the wire the structures are binary.
package mimiport

//go:generate go run ./internal/vectors testdata

import (
	"reflect"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// NonceSize is the length in bytes of a MigrationResponse's nonce.
const NonceSize = 32

// MaxEpoch is the largest valid epoch, because databases store signed 64-bit integers (profile, section 1).
const MaxEpoch = 1<<63 - 1

// MaxGroupID is the length in bytes of the longest group id; the shortest is 1 (profile, section 3).
const MaxGroupID = 255

// Nonce names one offer of a target (draft, "Requesting a migration").
type Nonce [NonceSize]byte

// MigrationRequest is the client's request to the target (draft, "Requesting a migration").
type MigrationRequest struct {
	SourceDomain string `json:"source_domain_name"`
	TargetDomain string `json:"target_domain_name"`
	GroupID      []byte `json:"group_id"`
	Epoch        uint64 `json:"epoch"`
}

// MigrationResponse is the target's offer, signed by it (draft, "Requesting a migration").
type MigrationResponse struct {
	Request   MigrationRequest `json:"migration_request"`
	Nonce     Nonce            `json:"nonce"`
	Signature []byte           `json:"signature"`
}

// MigrationInit is the client's order to the source, signed with the client's leaf key (draft, "Initiating a
// migration").
type MigrationInit struct {
	Response  MigrationResponse `json:"migration_response"`
	Signature []byte            `json:"signature"`
}

// MigrationCommitAAD is the authenticated_data of a migration Commit (draft, "Initiating a migration").
type MigrationCommitAAD struct {
	TargetDomain string `json:"target_ds_domain"`
}

// MigrationComponent is the id of the application component that a MigrationCommitAAD has in a SafeAAD (profile,
// section 5). It is in the range for private use.
const MigrationComponent uint16 = 0xf1c4

// MigrationContent carries the group from source to target, signed by the source (draft, "Initiating a migration").
type MigrationContent struct {
	Response   MigrationResponse `json:"migration_response"`
	GroupState []byte            `json:"group_state"`
	Signature  []byte            `json:"signature"`
}

// TargetMigrationComplete is the target's vote, signed by it (draft, "Initiating a migration").
type TargetMigrationComplete struct {
	ContentHash []byte `json:"migration_content_hash"`
	Signature   []byte `json:"signature"`
}

// MigrationVote is the target's vote in one migration of one term, signed by it (profile, section 1). The
// TargetMigrationComplete beside it names only a content.
type MigrationVote struct {
	MigrationID MigrationID `json:"migration_id"`
	Term        uint64      `json:"term"` // the term that the migration begins
	ContentHash []byte      `json:"migration_content_hash"`
	Signature   []byte      `json:"signature"`
}

// MigrationConfirmation is the source's decision, signed by it (draft, "Initiating a migration"). DomainName is the
// name of the target, which now has the group (profile, section 1).
type MigrationConfirmation struct {
	DomainName string `json:"domain_name"`
	Nonce      Nonce  `json:"nonce"`
	GroupID    []byte `json:"group_id"`
	Signature  []byte `json:"signature"`
}

// MigrationAbort is the source's other decision, signed by it (profile, section 1).
type MigrationAbort struct {
	MigrationID  MigrationID `json:"migration_id"`
	SourceDomain string      `json:"source_domain"`
	Signature    []byte      `json:"signature"`
}

// ExternalSenderOffer is the target's external_senders entry, signed by the target (profile, section 5). The migration
// Commit replaces the source's entry with it. It travels beside the MigrationResponse.
type ExternalSenderOffer struct {
	MigrationID    MigrationID `json:"migration_id"`
	ExternalSender []byte      `json:"external_sender"` // in the encoding of the group's protocol
	Signature      []byte      `json:"signature"`
}

func (m *ExternalSenderOffer) name() string       { return "ExternalSenderOffer" }
func (m *ExternalSenderOffer) signature() *[]byte { return &m.Signature }
func (m *ExternalSenderOffer) encodeUnsigned(b *cryptobyte.Builder) {
	wire.AddOpaque(b, m.MigrationID[:])
	wire.AddOpaque(b, m.ExternalSender)
}
func (m *ExternalSenderOffer) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *ExternalSenderOffer) decode(s *cryptobyte.String) bool {
	return readOpaque32(s, (*[32]byte)(&m.MigrationID)) && readMessage(s, &m.ExternalSender) &&
		wire.ReadOpaque(s, &m.Signature)
}

// readOpaque32 reads 32 bytes in a vector: a nonce or a SHA-256.
func readOpaque32(s *cryptobyte.String, v *[32]byte) bool {
	var b []byte
	if !wire.ReadOpaque(s, &b) || len(b) != len(v) {
		return false
	}
	copy(v[:], b)
	return true
}

// Marshal encodes the message.
func (m *ExternalSenderOffer) Marshal() ([]byte, error) { return marshal(m) }

// UnmarshalExternalSenderOffer decodes data, or returns a KindBadMessage error.
func UnmarshalExternalSenderOffer(data []byte) (*ExternalSenderOffer, error) {
	return unmarshal[ExternalSenderOffer](data)
}

// message is one wire structure, with a function to write its fields and a function to read them. The two functions
// stand side by side so that nobody changes only one of them.
type message interface {
	encode(*cryptobyte.Builder)
	decode(*cryptobyte.String) bool
}

// signed is a message whose last field is a signature over all fields before it.
type signed interface {
	message
	name() string
	signature() *[]byte
	encodeUnsigned(*cryptobyte.Builder)
}

func encodeSigned(b *cryptobyte.Builder, m signed) {
	m.encodeUnsigned(b)
	wire.AddOpaque(b, *m.signature())
}

func marshal(m message) ([]byte, error) {
	var b cryptobyte.Builder
	m.encode(&b)
	return b.Bytes()
}

func unmarshal[M any, P interface {
	*M
	message
}](data []byte) (P, error) {
	m := P(new(M))
	if !decodeAll(m, data) {
		return nil, Errorf("decode", KindBadMessage, "not a well-formed %s", reflect.TypeFor[M]().Name())
	}
	return m, nil
}

// decodeAll decodes data into a zero m and reports whether m takes all of data.
func decodeAll(m message, data []byte) bool {
	s := cryptobyte.String(data)
	return m.decode(&s) && s.Empty()
}

// readString reads a text. It refuses bytes that are not UTF-8 (profile, section 10).
func readString(s *cryptobyte.String, v *string) bool {
	var b []byte
	if !wire.ReadOpaque(s, &b) || !utf8.Valid(b) {
		return false
	}
	*v = string(b)
	return true
}

func readEpoch(s *cryptobyte.String, v *uint64) bool { return s.ReadUint64(v) && *v <= MaxEpoch }

func addString(b *cryptobyte.Builder, v string) { wire.AddOpaque(b, []byte(v)) }

func (m *MigrationRequest) encode(b *cryptobyte.Builder) {
	addString(b, m.SourceDomain)
	addString(b, m.TargetDomain)
	wire.AddOpaque(b, m.GroupID)
	b.AddUint64(m.Epoch)
}

func (m *MigrationRequest) decode(s *cryptobyte.String) bool {
	return readString(s, &m.SourceDomain) && readString(s, &m.TargetDomain) &&
		wire.ReadOpaque(s, &m.GroupID) && readEpoch(s, &m.Epoch)
}

// Validate checks a MigrationRequest alone: it must have two different, valid server names, a group id of 1 to
// MaxGroupID bytes, and an epoch of at most MaxEpoch. It returns a KindBadMessage error.
func (m *MigrationRequest) Validate() error {
	const op = "validate MigrationRequest"
	if err := ValidateServerName(m.SourceDomain); err != nil {
		return Errorf(op, KindBadMessage, "source_domain_name: %w", err)
	}
	if err := ValidateServerName(m.TargetDomain); err != nil {
		return Errorf(op, KindBadMessage, "target_domain_name: %w", err)
	}
	switch {
	case m.SourceDomain == m.TargetDomain:
		return Errorf(op, KindBadMessage, "the source is the target")
	case len(m.GroupID) == 0 || len(m.GroupID) > MaxGroupID:
		return Errorf(op, KindBadMessage, "a group id of %d bytes", len(m.GroupID))
	case m.Epoch > MaxEpoch:
		return Errorf(op, KindBadMessage, "epoch %d", m.Epoch)
	}
	return nil
}

func (m *MigrationResponse) name() string       { return "MigrationResponse" }
func (m *MigrationResponse) signature() *[]byte { return &m.Signature }
func (m *MigrationResponse) encodeUnsigned(b *cryptobyte.Builder) {
	m.Request.encode(b)
	b.AddBytes(m.Nonce[:])
}
func (m *MigrationResponse) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *MigrationResponse) decode(s *cryptobyte.String) bool {
	return m.Request.decode(s) && s.CopyBytes(m.Nonce[:]) && wire.ReadOpaque(s, &m.Signature)
}

func (m *MigrationInit) name() string                         { return "MigrationInit" }
func (m *MigrationInit) signature() *[]byte                   { return &m.Signature }
func (m *MigrationInit) encodeUnsigned(b *cryptobyte.Builder) { m.Response.encode(b) }
func (m *MigrationInit) encode(b *cryptobyte.Builder)         { encodeSigned(b, m) }
func (m *MigrationInit) decode(s *cryptobyte.String) bool {
	return m.Response.decode(s) && wire.ReadOpaque(s, &m.Signature)
}

func (m *MigrationCommitAAD) encode(b *cryptobyte.Builder)     { addString(b, m.TargetDomain) }
func (m *MigrationCommitAAD) decode(s *cryptobyte.String) bool { return readString(s, &m.TargetDomain) }

func (m *MigrationContent) name() string       { return "MigrationContent" }
func (m *MigrationContent) signature() *[]byte { return &m.Signature }
func (m *MigrationContent) encodeUnsigned(b *cryptobyte.Builder) {
	m.Response.encode(b)
	wire.AddOpaque(b, m.GroupState)
}
func (m *MigrationContent) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *MigrationContent) decode(s *cryptobyte.String) bool {
	return m.Response.decode(s) && wire.ReadOpaque(s, &m.GroupState) && wire.ReadOpaque(s, &m.Signature)
}

func (m *TargetMigrationComplete) name() string       { return "TargetMigrationComplete" }
func (m *TargetMigrationComplete) signature() *[]byte { return &m.Signature }
func (m *TargetMigrationComplete) encodeUnsigned(b *cryptobyte.Builder) {
	wire.AddOpaque(b, m.ContentHash)
}
func (m *TargetMigrationComplete) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *TargetMigrationComplete) decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, &m.ContentHash) && wire.ReadOpaque(s, &m.Signature)
}

func (m *MigrationVote) name() string       { return "MigrationVote" }
func (m *MigrationVote) signature() *[]byte { return &m.Signature }
func (m *MigrationVote) encodeUnsigned(b *cryptobyte.Builder) {
	wire.AddOpaque(b, m.MigrationID[:])
	b.AddUint64(m.Term)
	wire.AddOpaque(b, m.ContentHash)
}
func (m *MigrationVote) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *MigrationVote) decode(s *cryptobyte.String) bool {
	return readOpaque32(s, (*[32]byte)(&m.MigrationID)) && readEpoch(s, &m.Term) &&
		wire.ReadOpaque(s, &m.ContentHash) && wire.ReadOpaque(s, &m.Signature)
}

func (m *MigrationConfirmation) name() string       { return "MigrationConfirmation" }
func (m *MigrationConfirmation) signature() *[]byte { return &m.Signature }
func (m *MigrationConfirmation) encodeUnsigned(b *cryptobyte.Builder) {
	addString(b, m.DomainName)
	b.AddBytes(m.Nonce[:])
	wire.AddOpaque(b, m.GroupID)
}
func (m *MigrationConfirmation) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *MigrationConfirmation) decode(s *cryptobyte.String) bool {
	return readString(s, &m.DomainName) && s.CopyBytes(m.Nonce[:]) &&
		wire.ReadOpaque(s, &m.GroupID) && wire.ReadOpaque(s, &m.Signature)
}

func (m *MigrationAbort) name() string       { return "MigrationAbort" }
func (m *MigrationAbort) signature() *[]byte { return &m.Signature }
func (m *MigrationAbort) encodeUnsigned(b *cryptobyte.Builder) {
	wire.AddOpaque(b, m.MigrationID[:])
	addString(b, m.SourceDomain)
}
func (m *MigrationAbort) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *MigrationAbort) decode(s *cryptobyte.String) bool {
	return readOpaque32(s, (*[32]byte)(&m.MigrationID)) && readString(s, &m.SourceDomain) &&
		wire.ReadOpaque(s, &m.Signature)
}

// Marshal encodes the message.
func (m *MigrationRequest) Marshal() ([]byte, error) { return marshal(m) }

// Marshal encodes the message.
func (m *MigrationResponse) Marshal() ([]byte, error) { return marshal(m) }

// Marshal encodes the message.
func (m *MigrationInit) Marshal() ([]byte, error) { return marshal(m) }

// Marshal encodes the message.
func (m *MigrationCommitAAD) Marshal() ([]byte, error) { return marshal(m) }

// Marshal encodes the message.
func (m *MigrationContent) Marshal() ([]byte, error) { return marshal(m) }

// Marshal encodes the message.
func (m *TargetMigrationComplete) Marshal() ([]byte, error) { return marshal(m) }

// Marshal encodes the message.
func (m *MigrationVote) Marshal() ([]byte, error) { return marshal(m) }

// Marshal encodes the message.
func (m *MigrationConfirmation) Marshal() ([]byte, error) { return marshal(m) }

// Marshal encodes the message.
func (m *MigrationAbort) Marshal() ([]byte, error) { return marshal(m) }

// UnmarshalMigrationRequest decodes data, or returns a KindBadMessage error.
func UnmarshalMigrationRequest(data []byte) (*MigrationRequest, error) {
	return unmarshal[MigrationRequest](data)
}

// UnmarshalMigrationResponse decodes data, or returns a KindBadMessage error.
func UnmarshalMigrationResponse(data []byte) (*MigrationResponse, error) {
	return unmarshal[MigrationResponse](data)
}

// UnmarshalMigrationInit decodes data, or returns a KindBadMessage error.
func UnmarshalMigrationInit(data []byte) (*MigrationInit, error) {
	return unmarshal[MigrationInit](data)
}

// UnmarshalMigrationCommitAAD decodes data, or returns a KindBadMessage error.
func UnmarshalMigrationCommitAAD(data []byte) (*MigrationCommitAAD, error) {
	return unmarshal[MigrationCommitAAD](data)
}

// UnmarshalMigrationContent decodes data, or returns a KindBadMessage error.
func UnmarshalMigrationContent(data []byte) (*MigrationContent, error) {
	return unmarshal[MigrationContent](data)
}

// UnmarshalTargetMigrationComplete decodes data, or returns a KindBadMessage error.
func UnmarshalTargetMigrationComplete(data []byte) (*TargetMigrationComplete, error) {
	return unmarshal[TargetMigrationComplete](data)
}

// UnmarshalMigrationVote decodes data, or returns a KindBadMessage error.
func UnmarshalMigrationVote(data []byte) (*MigrationVote, error) {
	return unmarshal[MigrationVote](data)
}

// UnmarshalMigrationConfirmation decodes data, or returns a KindBadMessage error.
func UnmarshalMigrationConfirmation(data []byte) (*MigrationConfirmation, error) {
	return unmarshal[MigrationConfirmation](data)
}

// UnmarshalMigrationAbort decodes data, or returns a KindBadMessage error.
func UnmarshalMigrationAbort(data []byte) (*MigrationAbort, error) {
	return unmarshal[MigrationAbort](data)
}
