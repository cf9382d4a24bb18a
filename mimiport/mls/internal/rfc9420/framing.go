package rfc9420

import (
	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// WireFormat is a kind of MLSMessage (RFC 9420, section 6).
type WireFormat uint16

// The wire formats of RFC 9420.
const (
	WirePublicMessage  WireFormat = 1
	WirePrivateMessage WireFormat = 2
	WireWelcome        WireFormat = 3
	WireGroupInfo      WireFormat = 4
	WireKeyPackage     WireFormat = 5
)

// SenderType is the type of a sender (RFC 9420, section 6).
type SenderType uint8

// The sender types of RFC 9420.
const (
	SenderMember            SenderType = 1
	SenderExternal          SenderType = 2
	SenderNewMemberProposal SenderType = 3
	SenderNewMemberCommit   SenderType = 4
)

// Sender names the sender of a handshake message. Index is a member's leaf, or an index into external_senders.
type Sender struct {
	Type  SenderType
	Index uint32
}

// Encode writes the sender.
func (s *Sender) Encode(b *cryptobyte.Builder) {
	b.AddUint8(uint8(s.Type))
	if s.Type == SenderMember || s.Type == SenderExternal {
		b.AddUint32(s.Index)
	}
}

// Decode reads the sender.
func (s *Sender) Decode(in *cryptobyte.String) bool {
	if !in.ReadUint8((*uint8)(&s.Type)) {
		return false
	}
	switch s.Type {
	case SenderMember, SenderExternal:
		return in.ReadUint32(&s.Index)
	case SenderNewMemberProposal, SenderNewMemberCommit:
		return true
	}
	return false
}

// ContentType is a kind of framed content (RFC 9420, section 6).
type ContentType uint8

// The content types of RFC 9420.
const (
	ContentApplication ContentType = 1
	ContentProposal    ContentType = 2
	ContentCommit      ContentType = 3
)

// FramedContent is the signed part of a message (RFC 9420, section 6). Only the field of its content type is set.
type FramedContent struct {
	GroupID           []byte
	Epoch             uint64
	Sender            Sender
	AuthenticatedData []byte
	ContentType       ContentType
	Application       []byte    `json:",omitzero"`
	Proposal          *Proposal `json:",omitzero"`
	Commit            *Commit   `json:",omitzero"`
}

// Encode writes the content.
func (c *FramedContent) Encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, c.GroupID)
	b.AddUint64(c.Epoch)
	c.Sender.Encode(b)
	wire.AddOpaque(b, c.AuthenticatedData)
	b.AddUint8(uint8(c.ContentType))
	switch c.ContentType {
	case ContentApplication:
		wire.AddOpaque(b, c.Application)
	case ContentProposal:
		c.Proposal.Encode(b)
	case ContentCommit:
		c.Commit.Encode(b)
	}
}

// Decode reads the content.
func (c *FramedContent) Decode(s *cryptobyte.String) bool {
	if !wire.ReadOpaque(s, &c.GroupID) || !s.ReadUint64(&c.Epoch) || !c.Sender.Decode(s) ||
		!wire.ReadOpaque(s, &c.AuthenticatedData) || !s.ReadUint8((*uint8)(&c.ContentType)) {
		return false
	}
	switch c.ContentType {
	case ContentApplication:
		return wire.ReadOpaque(s, &c.Application)
	case ContentProposal:
		c.Proposal = new(Proposal)
		return c.Proposal.Decode(s)
	case ContentCommit:
		c.Commit = new(Commit)
		return c.Commit.Decode(s)
	}
	return false
}

// AuthenticatedContent is a message's content with its authentication (RFC 9420, section 6).
type AuthenticatedContent struct {
	Raw             []byte `json:"-"` // the whole encoding, beginning with the wire format
	WireFormat      WireFormat
	Content         FramedContent
	Signature       []byte
	ConfirmationTag []byte `json:",omitzero"` // of a Commit
	signed          int    // number of bytes of Raw that the signature covers
	transcript      int    // number of bytes of Raw that the confirmed transcript hash covers
}

// Encode writes the content from its fields. It ignores Raw.
func (a *AuthenticatedContent) Encode(b *cryptobyte.Builder) {
	b.AddUint16(uint16(a.WireFormat))
	a.Content.Encode(b)
	wire.AddOpaque(b, a.Signature)
	if a.Content.ContentType == ContentCommit {
		wire.AddOpaque(b, a.ConfirmationTag)
	}
}

// Decode reads the content.
func (a *AuthenticatedContent) Decode(s *cryptobyte.String) bool {
	start := *s
	if !s.ReadUint16((*uint16)(&a.WireFormat)) || !a.Content.Decode(s) {
		return false
	}
	a.signed = len(start) - len(*s)
	if !wire.ReadOpaque(s, &a.Signature) {
		return false
	}
	a.transcript = len(start) - len(*s)
	if a.Content.ContentType == ContentCommit && !wire.ReadOpaque(s, &a.ConfirmationTag) {
		return false
	}
	a.Raw = consumed(start, *s)
	return true
}

// SignContent returns the content that the signature covers (RFC 9420, section 6.1). context is the encoded
// GroupContext. Only the signatures of members and of external Commits cover it.
func (a *AuthenticatedContent) SignContent(context []byte) []byte {
	if t := a.Content.Sender.Type; t != SenderMember && t != SenderNewMemberCommit {
		context = nil
	}
	return SignContent(LabelFramedContent, encodedVersion, a.Raw[:a.signed], context)
}

// encodedVersion is VersionMLS10 on the wire.
var encodedVersion = []byte{0, byte(VersionMLS10)}

// TranscriptInput is the ConfirmedTranscriptHashInput of a Commit (RFC 9420, section 8.2).
func (a *AuthenticatedContent) TranscriptInput() []byte { return a.Raw[:a.transcript] }

// PublicMessage is a signed message in the clear (RFC 9420, section 6.2).
type PublicMessage struct {
	AuthenticatedContent
	MembershipTag []byte `json:",omitzero"` // of a member
}

func (m *PublicMessage) encode(b *cryptobyte.Builder) {
	m.AuthenticatedContent.Encode(b)
	if m.Content.Sender.Type == SenderMember {
		wire.AddOpaque(b, m.MembershipTag)
	}
}

func (m *PublicMessage) decode(s *cryptobyte.String) bool {
	return m.AuthenticatedContent.Decode(s) &&
		(m.Content.Sender.Type != SenderMember || wire.ReadOpaque(s, &m.MembershipTag))
}

// PrivateMessage is an encrypted message (RFC 9420, section 6.3).
type PrivateMessage struct {
	GroupID             []byte
	Epoch               uint64
	ContentType         ContentType
	AuthenticatedData   []byte
	EncryptedSenderData []byte
	Ciphertext          []byte
}

// Encode writes the message.
func (m *PrivateMessage) Encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, m.GroupID)
	b.AddUint64(m.Epoch)
	b.AddUint8(uint8(m.ContentType))
	wire.AddOpaque(b, m.AuthenticatedData)
	wire.AddOpaque(b, m.EncryptedSenderData)
	wire.AddOpaque(b, m.Ciphertext)
}

// Decode reads the message.
func (m *PrivateMessage) Decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, &m.GroupID) && s.ReadUint64(&m.Epoch) &&
		s.ReadUint8((*uint8)(&m.ContentType)) && m.ContentType >= ContentApplication && m.ContentType <= ContentCommit &&
		wire.ReadOpaque(s, &m.AuthenticatedData) && wire.ReadOpaque(s, &m.EncryptedSenderData) &&
		wire.ReadOpaque(s, &m.Ciphertext)
}

// UnknownProposal returns the first unknown proposal type in a message that does not decode. The reason may be that the
// contents of this proposal are not a vector.
func (m *Message) UnknownProposal() (typ ProposalType, found bool) {
	switch {
	case m.Public == nil:
		return 0, false
	case m.Public.Content.Proposal != nil:
		typ = m.Public.Content.Proposal.Type
		return typ, typ != 0 && !typ.IsKnown()
	case m.Public.Content.Commit != nil:
		return m.Public.Content.Commit.Proposals.unknown()
	}
	return 0, false
}

// Message is an MLSMessage (RFC 9420, section 6). Only the field of its wire format is set.
type Message struct {
	Version    uint16
	WireFormat WireFormat
	Public     *PublicMessage  `json:",omitzero"`
	Private    *PrivateMessage `json:",omitzero"`
	Welcome    *Welcome        `json:",omitzero"`
	GroupInfo  *GroupInfo      `json:",omitzero"`
	KeyPackage *KeyPackage     `json:",omitzero"`
}

// Encode writes the message.
func (m *Message) Encode(b *cryptobyte.Builder) {
	b.AddUint16(m.Version)
	if m.WireFormat == WirePublicMessage {
		m.Public.encode(b) // this writes the wire format too, since the signature covers it
		return
	}
	b.AddUint16(uint16(m.WireFormat))
	if body := m.body(); body != nil {
		body.Encode(b)
	}
}

// Decode reads the message. It refuses any version but VersionMLS10, and sets Version even then.
func (m *Message) Decode(s *cryptobyte.String) bool {
	if !s.ReadUint16(&m.Version) || m.Version != VersionMLS10 {
		return false
	}
	peek := *s
	if !peek.ReadUint16((*uint16)(&m.WireFormat)) {
		return false
	}
	switch m.WireFormat {
	case WirePublicMessage:
		m.Public = new(PublicMessage)
		return m.Public.decode(s)
	case WirePrivateMessage:
		m.Private = new(PrivateMessage)
	case WireWelcome:
		m.Welcome = new(Welcome)
	case WireGroupInfo:
		m.GroupInfo = new(GroupInfo)
	case WireKeyPackage:
		m.KeyPackage = new(KeyPackage)
	default:
		return false
	}
	*s = peek
	return m.body().Decode(s)
}

func (m *Message) body() Value {
	switch m.WireFormat {
	case WirePrivateMessage:
		return m.Private
	case WireWelcome:
		return m.Welcome
	case WireGroupInfo:
		return m.GroupInfo
	case WireKeyPackage:
		return m.KeyPackage
	}
	return nil
}
