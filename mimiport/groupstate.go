package mimiport

import (
	"cmp"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// groupStateVersion is the only version of GroupState (profile, section 4).
const groupStateVersion = 1

// SectionType is the type of a section of the group state. If the high bit is set, an importer that does not know the
// section must refuse the whole GroupState.
type SectionType uint16

// The section types of profile, section 4.
const (
	SectionBase      SectionType = 0x8001
	SectionCommit    SectionType = 0x8002
	SectionProposals SectionType = 0x8003
	SectionLineage   SectionType = 0x8004
	SectionWelcomes  SectionType = 0x0005
	SectionLog       SectionType = 0x0006

	sectionCritical SectionType = 0x8000
)

// maxElements is the largest number of elements of every list in a group state. With this bound, decoding a group state
// takes memory of a small multiple of its size (profile, section 4).
const maxElements = 1<<16 - 1

// GroupState is the state that a migration moves (profile, section 4). An optional section is present if its list is
// not empty.
type GroupState struct {
	Base      BaseState   `json:"base"`
	Commit    CommitState `json:"commit"`
	Proposals [][]byte    `json:"proposals"` // messages, in the order received
	Lineage   Lineage     `json:"lineage"`
	Welcomes  []Joiners   `json:"welcomes"` // ascending epochs
	Log       []LogEntry  `json:"log"`      // ascending terms and numbers, in the order accepted
	// Unknown has the optional sections of later versions. Marshal encodes them identically, and no server passes them on.
	Unknown []Section `json:"unknown"`
}

// Section is a section as it stands on the wire.
type Section struct {
	Type SectionType `json:"type"`
	Data []byte      `json:"data"`
}

// BaseState is the group's state at the epoch of the MigrationRequest.
type BaseState struct {
	Protocol    string `json:"protocol"`
	GroupInfo   []byte `json:"group_info"` // MLSMessage
	RatchetTree []byte `json:"ratchet_tree"`
}

// CommitState is the migration Commit as the client sent it.
type CommitState struct {
	Commit    []byte `json:"commit"`     // MLSMessage
	GroupInfo []byte `json:"group_info"` // MLSMessage, of the next epoch
}

// Joiners has the data for members that one Commit has added and that have not joined yet. A Commit has one Welcome for
// all members that it adds.
type Joiners struct {
	Epoch       uint64         `json:"epoch"`        // the epoch the Welcome leads to
	RatchetTree []byte         `json:"ratchet_tree"` // empty if it is in the Welcome, or read from the source
	Welcome     []byte         `json:"welcome"`      // MLSMessage
	Identities  []LeafIdentity `json:"identities"`   // the recipients of the Welcome
}

// LogEntry is one handshake message of the log of the source or of a host before the source.
type LogEntry struct {
	Term         uint64 `json:"term"` // the term in which a host accepted the message
	Seq          uint64 `json:"seq"`  // the message's number in that term, at least 1
	Epoch        uint64 `json:"epoch"`
	Sender       string `json:"sender"`         // a user id; empty for the Delivery Service of the term
	Message      []byte `json:"message"`        // MLSMessage
	Receipt      []byte `json:"receipt"`        // of a Commit: the CommitReceipt; empty if it is not known
	ReceiptKeyID string `json:"receipt_key_id"` // the id of the key that signed the receipt
}

// maxSender is the length in bytes of the longest Matrix user id.
const maxSender = 255

// LeafIdentity is the identity in a member's basic credential (profile, section 7).
type LeafIdentity struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
}

func (i *LeafIdentity) encode(b *cryptobyte.Builder) {
	addString(b, i.UserID)
	addString(b, i.DeviceID)
}

func (i *LeafIdentity) decode(s *cryptobyte.String) bool {
	return readString(s, &i.UserID) && i.UserID != "" && readString(s, &i.DeviceID) && i.DeviceID != ""
}

// Marshal encodes the identity.
func (i *LeafIdentity) Marshal() ([]byte, error) { return marshal(i) }

// UnmarshalLeafIdentity decodes data, or returns a KindBadMessage error.
func UnmarshalLeafIdentity(data []byte) (*LeafIdentity, error) { return unmarshal[LeafIdentity](data) }

func (m *Section) encode(b *cryptobyte.Builder) {
	b.AddUint16(uint16(m.Type))
	wire.AddOpaque(b, m.Data)
}

func (m *Section) decode(s *cryptobyte.String) bool {
	return s.ReadUint16((*uint16)(&m.Type)) && wire.ReadOpaque(s, &m.Data)
}

// part is a section that this version knows: its type, its content, and whether the content is empty.
type part struct {
	typ SectionType
	message
	empty bool
}

func (g *GroupState) parts() []part {
	return []part{
		{SectionBase, &g.Base, false},
		{SectionCommit, &g.Commit, false},
		{SectionProposals, opaques{&g.Proposals}, false},
		{SectionLineage, &g.Lineage, false},
		{SectionWelcomes, vectorOf[Joiners](&g.Welcomes), len(g.Welcomes) == 0},
		{SectionLog, vectorOf[LogEntry](&g.Log), len(g.Log) == 0},
	}
}

// Marshal encodes the state. It leaves out empty optional sections.
func (g *GroupState) Marshal() ([]byte, error) {
	sections := slices.Clone(g.Unknown)
	for _, p := range g.parts() {
		if p.empty {
			continue
		}
		data, err := marshal(p)
		if err != nil {
			return nil, err
		}
		sections = append(sections, Section{p.typ, data})
	}
	slices.SortFunc(sections, func(a, b Section) int { return cmp.Compare(a.Type, b.Type) })
	var b cryptobyte.Builder
	b.AddUint16(groupStateVersion)
	vectorOf[Section](&sections).encode(&b)
	return b.Bytes()
}

// UnmarshalGroupState decodes a group state. It returns a KindUnsupported error for another version or an unknown
// critical section. It returns a KindBadMessage error for any other fault: wrong order, a repetition, a missing
// section.
func UnmarshalGroupState(data []byte) (*GroupState, error) {
	sections, err := splitGroupState(data)
	if err != nil {
		return nil, err
	}
	g := new(GroupState)
	absent := make(map[SectionType]message)
	for _, p := range g.parts() {
		absent[p.typ] = p.message
	}
	for _, sec := range sections {
		m, known := absent[sec.Type]
		switch {
		case known && !decodeAll(m, sec.Data):
			return nil, Errorf(opGroupState, KindBadMessage, "malformed section %#04x", uint16(sec.Type))
		case !known && sec.Type&sectionCritical != 0:
			return nil, Errorf(opGroupState, KindUnsupported, "section %#04x", uint16(sec.Type))
		case !known:
			g.Unknown = append(g.Unknown, sec)
		}
		delete(absent, sec.Type)
	}
	for _, p := range g.parts() {
		if _, ok := absent[p.typ]; ok != p.empty {
			return nil, Errorf(opGroupState, KindBadMessage, "section %#04x is missing, or there and empty", uint16(p.typ))
		}
	}
	if former := (Former{g.Log, g.Welcomes}); !former.ordered() {
		return nil, Errorf(opGroupState, KindBadMessage, "epochs, terms or numbers out of order")
	}
	return g, nil
}

const opGroupState = "decode group_state"

// splitGroupState splits a group state into its sections, whose types must ascend.
func splitGroupState(data []byte) ([]Section, error) {
	s := cryptobyte.String(data)
	var version uint16
	if !s.ReadUint16(&version) {
		return nil, Errorf(opGroupState, KindBadMessage, "no version")
	}
	if version != groupStateVersion {
		return nil, Errorf(opGroupState, KindUnsupported, "version %d", version)
	}
	var sections []Section
	if !decodeAll(vectorOf[Section](&sections), s) {
		return nil, Errorf(opGroupState, KindBadMessage, "not a list of sections")
	}
	for i := 1; i < len(sections); i++ {
		if sections[i].Type <= sections[i-1].Type {
			return nil, Errorf(opGroupState, KindBadMessage, "section %#04x out of order", uint16(sections[i].Type))
		}
	}
	return sections, nil
}

func (m *BaseState) encode(b *cryptobyte.Builder) {
	addString(b, m.Protocol)
	wire.AddOpaque(b, m.GroupInfo)
	wire.AddOpaque(b, m.RatchetTree)
}

func (m *BaseState) decode(s *cryptobyte.String) bool {
	return readString(s, &m.Protocol) && readMessage(s, &m.GroupInfo) && wire.ReadOpaque(s, &m.RatchetTree)
}

func (m *CommitState) encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, m.Commit)
	wire.AddOpaque(b, m.GroupInfo)
}

func (m *CommitState) decode(s *cryptobyte.String) bool {
	return readMessage(s, &m.Commit) && readMessage(s, &m.GroupInfo)
}

func (m *Joiners) encode(b *cryptobyte.Builder) {
	b.AddUint64(m.Epoch)
	wire.AddOpaque(b, m.RatchetTree)
	wire.AddOpaque(b, m.Welcome)
	vectorOf[LeafIdentity](&m.Identities).encode(b)
}

func (m *Joiners) decode(s *cryptobyte.String) bool {
	return readEpoch(s, &m.Epoch) && wire.ReadOpaque(s, &m.RatchetTree) && readMessage(s, &m.Welcome) &&
		vectorOf[LeafIdentity](&m.Identities).decode(s)
}

func (m *LogEntry) encode(b *cryptobyte.Builder) {
	b.AddUint64(m.Term)
	b.AddUint64(m.Seq)
	b.AddUint64(m.Epoch)
	addString(b, m.Sender)
	wire.AddOpaque(b, m.Message)
	wire.AddOpaque(b, m.Receipt)
	addString(b, m.ReceiptKeyID)
}

func (m *LogEntry) decode(s *cryptobyte.String) bool {
	return readEpoch(s, &m.Term) && readEpoch(s, &m.Seq) && m.Seq > 0 && readEpoch(s, &m.Epoch) &&
		readString(s, &m.Sender) && len(m.Sender) <= maxSender && readMessage(s, &m.Message) &&
		wire.ReadOpaque(s, &m.Receipt) && readString(s, &m.ReceiptKeyID) &&
		(len(m.Receipt) == 0) == (m.ReceiptKeyID == "")
}

// readMessage reads a message, which must not be empty.
func readMessage(s *cryptobyte.String, v *[]byte) bool { return wire.ReadOpaque(s, v) && len(*v) > 0 }

// opaques is a list of messages, `opaque x<V> list<V>`.
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
		if len(*o.list) == maxElements || !readMessage(&list, &v) {
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
		if len(*v.list) == maxElements || !P(&m).decode(&list) {
			return false
		}
		*v.list = append(*v.list, m)
	}
	return true
}
