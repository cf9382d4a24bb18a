package mimiport

import (
	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// groupStateVersion is the only version of GroupState there is (profile, section 4).
const groupStateVersion = 1

// SectionType is the type of a section of the group state. With the high bit set, an importer that does not know the section
// must refuse the whole.
type SectionType uint16

// The sections of profile, section 4.
const (
	SectionBase      SectionType = 0x8001
	SectionCommit    SectionType = 0x8002
	SectionProposals SectionType = 0x8003
	SectionLineage   SectionType = 0x8004
	SectionWelcomes  SectionType = 0x0005
	SectionLog       SectionType = 0x0006

	sectionCritical SectionType = 0x8000
)

// GroupState is what moves (profile, section 4). Absent optional sections are empty slices.
type GroupState struct {
	Base      BaseState
	Commit    CommitState
	Proposals [][]byte // messages, in the order received
	Lineage   Lineage
	Welcomes  []Joiners  // ascending epochs
	Log       []LogEntry // ascending
}

// BaseState is the group at the epoch of the MigrationRequest.
type BaseState struct {
	Protocol    string
	GroupInfo   []byte // MLSMessage
	RatchetTree []byte
}

// CommitState is the migration Commit as the client sent it.
type CommitState struct {
	Commit    []byte // MLSMessage
	GroupInfo []byte // MLSMessage, of the next epoch
}

// Joiners is what those need who were added in one epoch's beginning and have not yet joined.
type Joiners struct {
	Epoch       uint64 // the epoch the Welcomes lead to
	RatchetTree []byte // empty for the last two epochs, which the base and commit sections hold
	Welcomes    []JoinerWelcome
}

// JoinerWelcome is a Welcome for one client.
type JoinerWelcome struct {
	Identity LeafIdentity
	Welcome  []byte // MLSMessage
}

// LogEntry is one message of the source's log.
type LogEntry struct {
	Epoch   uint64
	Message []byte // MLSMessage
}

// LeafIdentity is the identity in a member's basic credential (profile, section 7).
type LeafIdentity struct {
	UserID   string
	DeviceID string
}

func (i *LeafIdentity) encode(b *cryptobyte.Builder) {
	addString(b, i.UserID)
	addString(b, i.DeviceID)
}

func (i *LeafIdentity) decode(s *cryptobyte.String) bool {
	return readString(s, &i.UserID) && readString(s, &i.DeviceID)
}

// Marshal encodes the identity.
func (i *LeafIdentity) Marshal() ([]byte, error) { return marshal(i) }

// UnmarshalLeafIdentity decodes data, or returns a KindBadMessage error.
func UnmarshalLeafIdentity(data []byte) (*LeafIdentity, error) { return unmarshal[LeafIdentity](data) }

// section is one part of the group state: its type and its contents.
type section struct {
	typ SectionType
	message
}

// sections lists all sections in the order of their types. The optional ones come last, so that an empty one can be left out.
func (g *GroupState) sections() []section {
	return []section{
		{SectionWelcomes, vectorOf[Joiners](&g.Welcomes)},
		{SectionLog, vectorOf[LogEntry](&g.Log)},
		{SectionBase, &g.Base},
		{SectionCommit, &g.Commit},
		{SectionProposals, opaques{&g.Proposals}},
		{SectionLineage, &g.Lineage},
	}
}

func (g *GroupState) optional(t SectionType) (absent bool) {
	return t == SectionWelcomes && len(g.Welcomes) == 0 || t == SectionLog && len(g.Log) == 0
}

// Marshal encodes the state; empty optional sections are left out.
func (g *GroupState) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint16(groupStateVersion)
	wire.AddVector(&b, func(b *cryptobyte.Builder) {
		for _, sec := range g.sections() {
			if g.optional(sec.typ) {
				continue
			}
			b.AddUint16(uint16(sec.typ))
			wire.AddVector(b, sec.encode)
		}
	})
	return b.Bytes()
}

// UnmarshalGroupState decodes a group state. It returns a KindUnsupported error for another version or an unknown critical
// section, and a KindBadMessage error for anything else that is wrong: order, repetition, a missing section.
func UnmarshalGroupState(data []byte) (*GroupState, error) {
	const op = "decode group_state"
	s := cryptobyte.String(data)
	var version uint16
	var rest cryptobyte.String
	if !s.ReadUint16(&version) {
		return nil, Errorf(op, KindBadMessage, "no version")
	}
	if version != groupStateVersion {
		return nil, Errorf(op, KindUnsupported, "version %d", version)
	}
	if !wire.ReadVector(&s, &rest) || !s.Empty() {
		return nil, Errorf(op, KindBadMessage, "sections are not a vector")
	}
	g := new(GroupState)
	known := make(map[SectionType]message)
	for _, sec := range g.sections() {
		known[sec.typ] = sec.message
	}
	last := -1
	for !rest.Empty() {
		var typ uint16
		var body cryptobyte.String
		if !rest.ReadUint16(&typ) || !wire.ReadVector(&rest, &body) {
			return nil, Errorf(op, KindBadMessage, "truncated section")
		}
		if int(typ) <= last {
			return nil, Errorf(op, KindBadMessage, "section %#04x out of order", typ)
		}
		last = int(typ)
		m, ok := known[SectionType(typ)]
		if !ok {
			if SectionType(typ)&sectionCritical != 0 {
				return nil, Errorf(op, KindUnsupported, "section %#04x", typ)
			}
			continue
		}
		if !m.decode(&body) || !body.Empty() || g.optional(SectionType(typ)) {
			return nil, Errorf(op, KindBadMessage, "malformed section %#04x", typ)
		}
		delete(known, SectionType(typ))
	}
	for typ := range known {
		if typ&sectionCritical != 0 {
			return nil, Errorf(op, KindBadMessage, "section %#04x is missing", uint16(typ))
		}
	}
	return g, nil
}

func (m *BaseState) encode(b *cryptobyte.Builder) {
	addString(b, m.Protocol)
	wire.AddOpaque(b, m.GroupInfo)
	wire.AddOpaque(b, m.RatchetTree)
}

func (m *BaseState) decode(s *cryptobyte.String) bool {
	return readString(s, &m.Protocol) && wire.ReadOpaque(s, &m.GroupInfo) && wire.ReadOpaque(s, &m.RatchetTree)
}

func (m *CommitState) encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, m.Commit)
	wire.AddOpaque(b, m.GroupInfo)
}

func (m *CommitState) decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, &m.Commit) && wire.ReadOpaque(s, &m.GroupInfo)
}

func (m *Joiners) encode(b *cryptobyte.Builder) {
	b.AddUint64(m.Epoch)
	wire.AddOpaque(b, m.RatchetTree)
	vectorOf[JoinerWelcome](&m.Welcomes).encode(b)
}

func (m *Joiners) decode(s *cryptobyte.String) bool {
	return s.ReadUint64(&m.Epoch) && wire.ReadOpaque(s, &m.RatchetTree) && vectorOf[JoinerWelcome](&m.Welcomes).decode(s)
}

func (m *JoinerWelcome) encode(b *cryptobyte.Builder) {
	m.Identity.encode(b)
	wire.AddOpaque(b, m.Welcome)
}

func (m *JoinerWelcome) decode(s *cryptobyte.String) bool {
	return m.Identity.decode(s) && wire.ReadOpaque(s, &m.Welcome)
}

func (m *LogEntry) encode(b *cryptobyte.Builder) {
	b.AddUint64(m.Epoch)
	wire.AddOpaque(b, m.Message)
}

func (m *LogEntry) decode(s *cryptobyte.String) bool {
	return s.ReadUint64(&m.Epoch) && wire.ReadOpaque(s, &m.Message)
}

// opaques is `opaque x<V> list<V>`.
type opaques struct{ list *[][]byte }

func (o opaques) encode(b *cryptobyte.Builder) {
	wire.AddVector(b, func(b *cryptobyte.Builder) {
		for _, v := range *o.list {
			wire.AddOpaque(b, v)
		}
	})
}

func (o opaques) decode(s *cryptobyte.String) bool {
	var list cryptobyte.String
	if !wire.ReadVector(s, &list) {
		return false
	}
	for !list.Empty() {
		var v []byte
		if !wire.ReadOpaque(&list, &v) {
			return false
		}
		*o.list = append(*o.list, v)
	}
	return true
}

// vector is `M list<V>`.
type vector[M any, P interface {
	*M
	message
}] struct{ list *[]M }

func vectorOf[M any, P interface {
	*M
	message
}](list *[]M) vector[M, P] {
	return vector[M, P]{list}
}

func (v vector[M, P]) encode(b *cryptobyte.Builder) {
	wire.AddVector(b, func(b *cryptobyte.Builder) {
		for i := range *v.list {
			P(&(*v.list)[i]).encode(b)
		}
	})
}

func (v vector[M, P]) decode(s *cryptobyte.String) bool {
	var list cryptobyte.String
	if !wire.ReadVector(s, &list) {
		return false
	}
	for !list.Empty() {
		var m M
		if !P(&m).decode(&list) {
			return false
		}
		*v.list = append(*v.list, m)
	}
	return true
}

// StepKind is how a group came to its next Delivery Service (profile, section 3).
type StepKind uint8

// StepMigration is a step by the hand-over of profile, section 6.
const StepMigration StepKind = 1

// Lineage is who hosted the group, from its creation on (profile, section 3).
type Lineage struct {
	CreatingServer string
	Preimage       *GroupIDPreimage // nil for a foreign id
	RoomID         string           // the room it is bound to now
	Steps          []LineageStep
}

// Term is the number of steps: the term of the present host.
func (l *Lineage) Term() uint64 { return uint64(len(l.Steps)) }

// LineageStep is the proof of one step: the target's offer and the source's decision, supported by the target's vote.
type LineageStep struct {
	Kind         StepKind
	Response     SignedMessage // MigrationResponse, by the step's target
	Confirmation SignedMessage // MigrationConfirmation, by the step's source
	Complete     SignedMessage // TargetMigrationComplete, by the step's target
}

// SignedMessage is a message with what a later reader needs to verify it.
type SignedMessage struct {
	Message   []byte
	KeyID     string
	KeyObject []byte // the signer's signed Matrix key object (JSON), as archived at the time
}

func (m *SignedMessage) encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, m.Message)
	addString(b, m.KeyID)
	wire.AddOpaque(b, m.KeyObject)
}

func (m *SignedMessage) decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, &m.Message) && readString(s, &m.KeyID) && wire.ReadOpaque(s, &m.KeyObject)
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
		if !l.Preimage.decode(s) {
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
