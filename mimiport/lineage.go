package mimiport

import (
	"bytes"
	"errors"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// StepKind is the way in which a group came to its next Delivery Service (profile, section 3).
type StepKind uint8

// The kinds of steps. Decoding refuses any other kind.
const (
	StepMigration StepKind = 1 // the hand-over of profile, section 6
	StepReclaim   StepKind = 2 // a former host takes the group back from a lost target
	StepRecover   StepKind = 3 // a server continues a group whose host is lost, from the state that members hold
)

// Lineage lists the hosts of a group from its creation on (profile, section 3).
type Lineage struct {
	CreatingServer string           `json:"creating_server"`
	Preimage       *GroupIDPreimage `json:"preimage"` // nil for a foreign id
	RoomID         string           `json:"room_id"`  // the room that the group is bound to now
	Steps          []LineageStep    `json:"steps"`
}

// Term returns the number of steps, which is the term of the present host.
func (l *Lineage) Term() uint64 { return uint64(len(l.Steps)) }

// LineageStep is the proof of one step. The target's offer and the source's decision prove a migration. The target's
// vote supports them. The claim of the server that takes the group proves a reclaim or recover.
type LineageStep struct {
	Kind         StepKind      `json:"kind"`
	Response     SignedMessage `json:"migration_response,omitzero"`     // by the step's target
	Confirmation SignedMessage `json:"migration_confirmation,omitzero"` // by the step's source
	// Vote is by the step's target. It is empty if it is not known.
	Vote  SignedMessage  `json:"migration_vote,omitzero"`
	Claim *SignedMessage `json:"lineage_claim,omitzero"` // a LineageClaim; only for a reclaim or recover
}

// LineageClaim is a server's signed statement that it hosts the group in a term (profile, section 3).
type LineageClaim struct {
	Kind       StepKind `json:"kind"` // StepReclaim or StepRecover
	DomainName string   `json:"domain_name"`
	GroupID    []byte   `json:"group_id"`
	Term       uint64   `json:"term"`
	Epoch      uint64   `json:"epoch"` // the first epoch of the term
	Signature  []byte   `json:"signature"`
}

func (m *LineageClaim) name() string       { return "LineageClaim" }
func (m *LineageClaim) signature() *[]byte { return &m.Signature }
func (m *LineageClaim) encodeUnsigned(b *cryptobyte.Builder) {
	b.AddUint8(uint8(m.Kind))
	addString(b, m.DomainName)
	wire.AddOpaque(b, m.GroupID)
	b.AddUint64(m.Term)
	b.AddUint64(m.Epoch)
}
func (m *LineageClaim) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *LineageClaim) decode(s *cryptobyte.String) bool {
	return s.ReadUint8((*uint8)(&m.Kind)) && (m.Kind == StepReclaim || m.Kind == StepRecover) &&
		readString(s, &m.DomainName) &&
		wire.ReadOpaque(s, &m.GroupID) && readEpoch(s, &m.Term) && readEpoch(s, &m.Epoch) && wire.ReadOpaque(s, &m.Signature)
}

// Marshal encodes the claim.
func (m *LineageClaim) Marshal() ([]byte, error) { return marshal(m) }

// UnmarshalLineageClaim decodes data, or returns a KindBadMessage error.
func UnmarshalLineageClaim(data []byte) (*LineageClaim, error) { return unmarshal[LineageClaim](data) }

// SignedMessage is a message with everything that a later reader needs to verify it.
type SignedMessage struct {
	Message   []byte `json:"message"`
	KeyID     string `json:"key_id"`
	KeyObject []byte `json:"key_object"` // the signer's signed Matrix key object (JSON), as archived at the time
}

func (m *SignedMessage) encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, m.Message)
	addString(b, m.KeyID)
	wire.AddOpaque(b, m.KeyObject)
}

func (m *SignedMessage) decode(s *cryptobyte.String) bool {
	return readMessage(s, &m.Message) && readString(s, &m.KeyID) && m.KeyID != "" && wire.ReadOpaque(s, &m.KeyObject)
}

// decodeAbsent reads an absent message, which is three empty vectors.
func (m *SignedMessage) decodeAbsent(s *cryptobyte.String) bool {
	return bytes.HasPrefix(*s, []byte{0, 0, 0}) && s.Skip(3)
}

var errNoClaim = errors.New("mimiport: a step of this kind needs a claim")

func (m *LineageStep) encode(b *cryptobyte.Builder) {
	b.AddUint8(uint8(m.Kind))
	if m.Kind != StepMigration {
		if m.Claim == nil {
			b.SetError(errNoClaim)
			return
		}
		m.Claim.encode(b)
		return
	}
	m.Response.encode(b)
	m.Confirmation.encode(b)
	m.Vote.encode(b)
}

func (m *LineageStep) decode(s *cryptobyte.String) bool {
	if !s.ReadUint8((*uint8)(&m.Kind)) {
		return false
	}
	switch m.Kind {
	case StepMigration:
		return m.Response.decode(s) && m.Confirmation.decode(s) && (m.Vote.decodeAbsent(s) || m.Vote.decode(s))
	case StepReclaim, StepRecover:
		m.Claim = new(SignedMessage)
		return m.Claim.decode(s)
	}
	return false
}

// Marshal encodes the step.
func (m *LineageStep) Marshal() ([]byte, error) { return marshal(m) }

// UnmarshalLineageStep decodes data, or returns a KindBadMessage error.
func UnmarshalLineageStep(data []byte) (*LineageStep, error) { return unmarshal[LineageStep](data) }

func (l *Lineage) encode(b *cryptobyte.Builder) {
	addString(b, l.CreatingServer)
	if l.Preimage == nil {
		b.AddUint8(0)
	} else {
		b.AddUint8(1)
		l.Preimage.encode(b)
	}
	addString(b, l.RoomID)
	vectorOf[LineageStep](&l.Steps).encode(b)
}

func (l *Lineage) decode(s *cryptobyte.String) bool {
	var present uint8
	if !readString(s, &l.CreatingServer) || !s.ReadUint8(&present) || present > 1 {
		return false
	}
	if present == 1 {
		l.Preimage = new(GroupIDPreimage)
		if !l.Preimage.decode(s) || l.Preimage.CreatingServer != l.CreatingServer {
			return false
		}
	}
	return readString(s, &l.RoomID) && vectorOf[LineageStep](&l.Steps).decode(s)
}

// Marshal encodes the lineage.
func (l *Lineage) Marshal() ([]byte, error) { return marshal(l) }

// UnmarshalLineage decodes data, or returns a KindBadMessage error.
func UnmarshalLineage(data []byte) (*Lineage, error) { return unmarshal[Lineage](data) }

func (p *GroupIDPreimage) encode(b *cryptobyte.Builder) {
	addString(b, p.CreatingServer)
	addString(b, p.RoomID)
	wire.AddOpaque(b, p.Nonce[:])
}

func (p *GroupIDPreimage) decode(s *cryptobyte.String) bool {
	return readString(s, &p.CreatingServer) && readString(s, &p.RoomID) && readOpaque32(s, (*[32]byte)(&p.Nonce))
}
