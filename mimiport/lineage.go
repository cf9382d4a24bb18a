package mimiport

import (
	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// StepKind is how a group came to its next Delivery Service (profile, section 3).
type StepKind uint8

// StepMigration is a step by the hand-over of profile, section 6. No other kind decodes.
const StepMigration StepKind = 1

// Lineage is who hosted the group, from its creation on (profile, section 3).
type Lineage struct {
	CreatingServer string           `json:"creating_server"`
	Preimage       *GroupIDPreimage `json:"preimage"` // nil for a foreign id
	RoomID         string           `json:"room_id"`  // the room it is bound to now
	Steps          []LineageStep    `json:"steps"`
}

// Term is the number of steps: the term of the present host.
func (l *Lineage) Term() uint64 { return uint64(len(l.Steps)) }

// LineageStep is the proof of one step: the target's offer and the source's decision, supported by the target's vote.
type LineageStep struct {
	Kind         StepKind      `json:"kind"`
	Response     SignedMessage `json:"migration_response"`        // by the step's target
	Confirmation SignedMessage `json:"migration_confirmation"`    // by the step's source
	Complete     SignedMessage `json:"target_migration_complete"` // by the step's target
}

// SignedMessage is a message with what a later reader needs to verify it.
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

func (m *LineageStep) encode(b *cryptobyte.Builder) {
	b.AddUint8(uint8(m.Kind))
	m.Response.encode(b)
	m.Confirmation.encode(b)
	m.Complete.encode(b)
}

func (m *LineageStep) decode(s *cryptobyte.String) bool {
	return s.ReadUint8((*uint8)(&m.Kind)) && m.Kind == StepMigration &&
		m.Response.decode(s) && m.Confirmation.decode(s) && m.Complete.decode(s)
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
	var nonce []byte
	if !readString(s, &p.CreatingServer) || !readString(s, &p.RoomID) || !wire.ReadOpaque(s, &nonce) || len(nonce) != NonceSize {
		return false
	}
	copy(p.Nonce[:], nonce)
	return true
}
