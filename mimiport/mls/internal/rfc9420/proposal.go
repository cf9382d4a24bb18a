package rfc9420

import (
	"cmp"
	"iter"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// KeyPackage is a key package (RFC 9420, section 10).
type KeyPackage struct {
	Raw         []byte `json:"-"` // the whole encoding
	Version     uint16
	CipherSuite uint16
	InitKey     []byte
	Leaf        LeafNode
	Extensions  Extensions
	Signature   []byte
}

// Encode writes the key package from its fields. It ignores Raw.
func (k *KeyPackage) Encode(b *cryptobyte.Builder) {
	k.EncodeUnsigned(b)
	wire.AddOpaque(b, k.Signature)
}

// EncodeUnsigned writes the key package without its signature.
func (k *KeyPackage) EncodeUnsigned(b *cryptobyte.Builder) {
	b.AddUint16(k.Version)
	b.AddUint16(k.CipherSuite)
	wire.AddOpaque(b, k.InitKey)
	k.Leaf.Encode(b)
	k.Extensions.encode(b)
}

// Decode reads the key package.
func (k *KeyPackage) Decode(s *cryptobyte.String) bool {
	start := *s
	ok := s.ReadUint16(&k.Version) && s.ReadUint16(&k.CipherSuite) && wire.ReadOpaque(s, &k.InitKey) &&
		k.Leaf.Decode(s) && k.Extensions.decode(s) && wire.ReadOpaque(s, &k.Signature)
	k.Raw = consumed(start, *s)
	return ok
}

// SignContent returns the content that the signature covers.
func (k *KeyPackage) SignContent() []byte {
	return SignContent(LabelKeyPackage, without(k.Raw, k.Signature))
}

// PSKType is a kind of pre-shared key (RFC 9420, section 8.4).
type PSKType uint8

// The kinds of pre-shared key.
const (
	PSKExternal   PSKType = 1
	PSKResumption PSKType = 2
)

// ResumptionUsage is the purpose of a resumption PSK (RFC 9420, section 8.4).
type ResumptionUsage uint8

// The usages of a resumption PSK.
const (
	UsageApplication ResumptionUsage = 1
	UsageReInit      ResumptionUsage = 2
	UsageBranch      ResumptionUsage = 3
)

// PreSharedKeyID identifies a pre-shared key (RFC 9420, section 8.4).
type PreSharedKeyID struct {
	Raw     []byte `json:"-"` // the whole encoding
	Type    PSKType
	ID      []byte          `json:",omitzero"` // of PSKExternal
	Usage   ResumptionUsage // of PSKResumption
	GroupID []byte          `json:",omitzero"` // of PSKResumption
	Epoch   uint64          // of PSKResumption
	Nonce   []byte
}

// Encode writes the id from its fields. It ignores Raw.
func (p *PreSharedKeyID) Encode(b *cryptobyte.Builder) {
	b.AddUint8(uint8(p.Type))
	switch p.Type {
	case PSKExternal:
		wire.AddOpaque(b, p.ID)
	case PSKResumption:
		b.AddUint8(uint8(p.Usage))
		wire.AddOpaque(b, p.GroupID)
		b.AddUint64(p.Epoch)
	}
	wire.AddOpaque(b, p.Nonce)
}

// Decode reads the id.
func (p *PreSharedKeyID) Decode(s *cryptobyte.String) bool {
	start := *s
	ok := s.ReadUint8((*uint8)(&p.Type)) && p.decodeType(s) && wire.ReadOpaque(s, &p.Nonce)
	p.Raw = consumed(start, *s)
	return ok
}

func (p *PreSharedKeyID) decodeType(s *cryptobyte.String) bool {
	switch p.Type {
	case PSKExternal:
		return wire.ReadOpaque(s, &p.ID)
	case PSKResumption:
		return s.ReadUint8((*uint8)(&p.Usage)) && p.Usage >= UsageApplication && p.Usage <= UsageBranch &&
			wire.ReadOpaque(s, &p.GroupID) && s.ReadUint64(&p.Epoch)
	}
	return false
}

// ReInit is a ReInit proposal (RFC 9420, section 12.1.5).
type ReInit struct {
	GroupID     []byte
	Version     uint16
	CipherSuite uint16
	Extensions  Extensions
}

// Encode writes the proposal's contents.
func (r *ReInit) Encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, r.GroupID)
	b.AddUint16(r.Version)
	b.AddUint16(r.CipherSuite)
	r.Extensions.encode(b)
}

// Decode reads the proposal's contents.
func (r *ReInit) Decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, &r.GroupID) && s.ReadUint16(&r.Version) && s.ReadUint16(&r.CipherSuite) &&
		r.Extensions.decode(s)
}

// ProposalType is a proposal type (RFC 9420, section 17.4).
type ProposalType uint16

// The proposal types of RFC 9420.
const (
	ProposalAdd                    ProposalType = 1
	ProposalUpdate                 ProposalType = 2
	ProposalRemove                 ProposalType = 3
	ProposalPSK                    ProposalType = 4
	ProposalReInit                 ProposalType = 5
	ProposalExternalInit           ProposalType = 6
	ProposalGroupContextExtensions ProposalType = 7
)

// The proposal types of draft-ietf-mls-extensions-10.
const (
	ProposalAppDataUpdate ProposalType = 8
	ProposalAppEphemeral  ProposalType = 9
	ProposalSelfRemove    ProposalType = 10
)

// Proposal types of mls-rs, in the range for private use. ProposalPrivateEmpty has no contents, ProposalPrivateNumber a
// 32-bit number.
const (
	ProposalPrivateEmpty      ProposalType = 0xf002
	ProposalPrivateSelfRemove ProposalType = 0xf003
	ProposalPrivateNumber     ProposalType = 0xf004
)

// IsSelfRemove reports whether a proposal of the type removes its sender (draft-ietf-mls-extensions-10, SelfRemove).
func (t ProposalType) IsSelfRemove() bool {
	return t == ProposalSelfRemove || t == ProposalPrivateSelfRemove
}

// IsKnown reports whether the codec knows the type's contents. It assumes that the contents of any other type are one
// vector.
func (t ProposalType) IsKnown() bool {
	return DefaultProposal(t) || t >= ProposalAppDataUpdate && t <= ProposalSelfRemove ||
		t >= ProposalPrivateEmpty && t <= ProposalPrivateNumber
}

// AppDataOperation is the effect of an AppDataUpdate on a component's data.
type AppDataOperation uint8

// The operations of an AppDataUpdate.
const (
	AppDataSet    AppDataOperation = 1
	AppDataRemove AppDataOperation = 2
)

// AppDataUpdate changes a component's data in the group's app_data_dictionary (draft-ietf-mls-extensions-10). Only the
// application can compute the new data from an update.
type AppDataUpdate struct {
	Component uint16
	Operation AppDataOperation
	Update    []byte `json:",omitzero"` // of AppDataSet
}

// Encode writes the proposal's contents.
func (u *AppDataUpdate) Encode(b *cryptobyte.Builder) {
	b.AddUint16(u.Component)
	b.AddUint8(uint8(u.Operation))
	if u.Operation == AppDataSet {
		wire.AddOpaque(b, u.Update)
	}
}

// Decode reads the proposal's contents.
func (u *AppDataUpdate) Decode(s *cryptobyte.String) bool {
	if !s.ReadUint16(&u.Component) || !s.ReadUint8((*uint8)(&u.Operation)) {
		return false
	}
	return u.Operation == AppDataRemove || u.Operation == AppDataSet && wire.ReadOpaque(s, &u.Update)
}

// ComponentData is the data of one application component (draft-ietf-mls-extensions-10). It is an AppEphemeral, an
// entry of an AppDataDictionary, or an item of a SafeAAD.
type ComponentData struct {
	Component uint16
	Data      []byte
}

// Encode writes the structure.
func (c *ComponentData) Encode(b *cryptobyte.Builder) {
	b.AddUint16(c.Component)
	wire.AddOpaque(b, c.Data)
}

// Decode reads the structure.
func (c *ComponentData) Decode(s *cryptobyte.String) bool {
	return s.ReadUint16(&c.Component) && wire.ReadOpaque(s, &c.Data)
}

// ComponentList is a vector of ComponentData: an AppDataDictionary or a SafeAAD (draft-ietf-mls-extensions-10). It is
// sorted by component and has at most one entry for each.
type ComponentList []ComponentData

// Encode writes the vector.
func (l *ComponentList) Encode(b *cryptobyte.Builder) {
	wire.AddVector(b, func(b *cryptobyte.Builder) {
		for i := range *l {
			(*l)[i].Encode(b)
		}
	})
}

// Decode reads the vector.
func (l *ComponentList) Decode(s *cryptobyte.String) bool {
	var list cryptobyte.String
	return wire.ReadVector(s, &list) && checkList(list, func(s *cryptobyte.String) bool {
		var c ComponentData
		if !c.Decode(s) || len(*l) > 0 && (*l)[len(*l)-1].Component >= c.Component {
			return false
		}
		*l = append(*l, c)
		return true
	})
}

// Find returns the data of a component.
func (l ComponentList) Find(component uint16) (data []byte, found bool) {
	compare := func(c ComponentData, id uint16) int { return cmp.Compare(c.Component, id) }
	i, found := slices.BinarySearchFunc(l, component, compare)
	if !found {
		return nil, false
	}
	return l[i].Data, true
}

// DefaultProposal reports whether every member supports a proposal type without listing it (RFC 9420, section 7.2).
func DefaultProposal(t ProposalType) bool {
	return t >= ProposalAdd && t <= ProposalGroupContextExtensions
}

// Proposal is a proposal (RFC 9420, section 12.1). Only the field of its type is set. The codec assumes that the
// contents of an unknown type are one vector, as deployed implementations do.
type Proposal struct {
	Type       ProposalType
	Add        *KeyPackage `json:",omitzero"`
	Update     *LeafNode   `json:",omitzero"`
	Remove     uint32
	PSK        *PreSharedKeyID `json:",omitzero"`
	ReInit     *ReInit         `json:",omitzero"`
	KEMOutput  []byte          `json:",omitzero"` // of an ExternalInit
	Extensions Extensions      `json:",omitzero"`

	AppDataUpdate *AppDataUpdate `json:",omitzero"`
	AppEphemeral  *ComponentData `json:",omitzero"`
	Number        uint32         `json:",omitzero"` // of ProposalPrivateNumber
	Custom        []byte         `json:",omitzero"` // of an unknown type
}

// body returns the contents of a type whose contents are a structure, nil for other types.
func (p *Proposal) body() Value {
	switch p.Type {
	case ProposalAdd:
		return p.Add
	case ProposalUpdate:
		return p.Update
	case ProposalPSK:
		return p.PSK
	case ProposalReInit:
		return p.ReInit
	case ProposalAppDataUpdate:
		return p.AppDataUpdate
	case ProposalAppEphemeral:
		return p.AppEphemeral
	}
	return nil
}

// Encode writes the proposal.
func (p *Proposal) Encode(b *cryptobyte.Builder) {
	b.AddUint16(uint16(p.Type))
	switch p.Type {
	case ProposalAdd, ProposalUpdate, ProposalPSK, ProposalReInit, ProposalAppDataUpdate, ProposalAppEphemeral:
		p.body().Encode(b)
	case ProposalSelfRemove, ProposalPrivateSelfRemove, ProposalPrivateEmpty:
	case ProposalPrivateNumber:
		b.AddUint32(p.Number)
	case ProposalRemove:
		b.AddUint32(p.Remove)
	case ProposalExternalInit:
		wire.AddOpaque(b, p.KEMOutput)
	case ProposalGroupContextExtensions:
		p.Extensions.encode(b)
	default:
		wire.AddOpaque(b, p.Custom)
	}
}

// Decode reads the proposal.
func (p *Proposal) Decode(s *cryptobyte.String) bool {
	if !s.ReadUint16((*uint16)(&p.Type)) {
		return false
	}
	switch p.Type {
	case ProposalAdd:
		p.Add = new(KeyPackage)
	case ProposalUpdate:
		p.Update = new(LeafNode)
	case ProposalPSK:
		p.PSK = new(PreSharedKeyID)
	case ProposalReInit:
		p.ReInit = new(ReInit)
	case ProposalRemove:
		return s.ReadUint32(&p.Remove)
	case ProposalExternalInit:
		return wire.ReadOpaque(s, &p.KEMOutput)
	case ProposalGroupContextExtensions:
		return p.Extensions.decode(s)
	case ProposalAppDataUpdate:
		p.AppDataUpdate = new(AppDataUpdate)
	case ProposalAppEphemeral:
		p.AppEphemeral = new(ComponentData)
	case ProposalSelfRemove, ProposalPrivateSelfRemove, ProposalPrivateEmpty:
		return true
	case ProposalPrivateNumber:
		return s.ReadUint32(&p.Number)
	default:
		return wire.ReadOpaque(s, &p.Custom)
	}
	return p.body().Decode(s)
}

// ProposalOrRef is an element of a Commit's list of proposals (RFC 9420, section 12.4).
type ProposalOrRef struct {
	Proposal *Proposal `json:",omitzero"` // nil for a reference
	Ref      []byte    `json:",omitzero"` // nil for a proposal
}

// Encode writes the element.
func (p *ProposalOrRef) Encode(b *cryptobyte.Builder) {
	if p.Proposal != nil {
		b.AddUint8(1)
		p.Proposal.Encode(b)
	} else {
		b.AddUint8(2)
		wire.AddOpaque(b, p.Ref)
	}
}

// Decode reads the element.
func (p *ProposalOrRef) Decode(s *cryptobyte.String) bool {
	var kind uint8
	if !s.ReadUint8(&kind) {
		return false
	}
	switch kind {
	case 1:
		p.Proposal = new(Proposal)
		return p.Proposal.Decode(s)
	case 2:
		return wire.ReadOpaque(s, &p.Ref)
	}
	return false
}

// ProposalList is the encoded contents of the vector of a Commit's proposals.
type ProposalList []byte

// MakeProposalList encodes a list.
func MakeProposalList(list ...ProposalOrRef) (ProposalList, error) {
	var b cryptobyte.Builder
	for i := range list {
		list[i].Encode(&b)
	}
	return b.Bytes()
}

// List is the elements in order. Tools show it.
func (l ProposalList) List() any { return slices.Collect(l.All()) }

// All yields the elements in order.
func (l ProposalList) All() iter.Seq[ProposalOrRef] {
	return func(yield func(ProposalOrRef) bool) {
		for s := cryptobyte.String(l); !s.Empty(); {
			var p ProposalOrRef
			if !p.Decode(&s) || !yield(p) {
				return
			}
		}
	}
}

// unknown returns the first unknown type in a list that does not decode.
func (l ProposalList) unknown() (first ProposalType, found bool) {
	for s := cryptobyte.String(l); !s.Empty(); {
		var p ProposalOrRef
		ok := p.Decode(&s)
		if !found && p.Proposal != nil && p.Proposal.Type != 0 && !p.Proposal.Type.IsKnown() {
			first, found = p.Proposal.Type, true
		}
		if !ok {
			return first, found
		}
	}
	return 0, false
}

// UpdatePathNode is one node of an UpdatePath (RFC 9420, section 7.6). The ciphertexts stay encoded: a server can
// check only their number.
type UpdatePathNode struct {
	EncryptionKey []byte
	Ciphertexts   []byte `json:"-"` // the contents of the vector of HPKECiphertext
	Count         int    // the number of ciphertexts
}

// Encode writes the node. It ignores Count.
func (n *UpdatePathNode) Encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, n.EncryptionKey)
	wire.AddOpaque(b, n.Ciphertexts)
}

// Decode reads the node.
func (n *UpdatePathNode) Decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, &n.EncryptionKey) && wire.ReadOpaque(s, &n.Ciphertexts) &&
		checkList(n.Ciphertexts, func(s *cryptobyte.String) bool {
			n.Count++
			var c HPKECiphertext
			return c.Decode(s)
		})
}

// HPKECiphertext is a ciphertext for one public key (RFC 9420, section 7.6).
type HPKECiphertext struct {
	KEMOutput  []byte
	Ciphertext []byte
}

// Encode writes the ciphertext.
func (c *HPKECiphertext) Encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, c.KEMOutput)
	wire.AddOpaque(b, c.Ciphertext)
}

// Decode reads the ciphertext.
func (c *HPKECiphertext) Decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, &c.KEMOutput) && wire.ReadOpaque(s, &c.Ciphertext)
}

// maxPath is the length of the longest possible direct path: leaf indices have 32 bits.
const maxPath = 32

// UpdatePath is the new leaf and the new direct path of a committer (RFC 9420, section 7.6).
type UpdatePath struct {
	Leaf  LeafNode
	Nodes []UpdatePathNode // from the leaf's parent up
}

// Encode writes the path.
func (p *UpdatePath) Encode(b *cryptobyte.Builder) {
	p.Leaf.Encode(b)
	wire.AddVector(b, func(b *cryptobyte.Builder) {
		for i := range p.Nodes {
			p.Nodes[i].Encode(b)
		}
	})
}

// Decode reads the path.
func (p *UpdatePath) Decode(s *cryptobyte.String) bool {
	var nodes cryptobyte.String
	return p.Leaf.Decode(s) && wire.ReadVector(s, &nodes) && checkList(nodes, func(s *cryptobyte.String) bool {
		var n UpdatePathNode
		if len(p.Nodes) == maxPath || !n.Decode(s) {
			return false
		}
		p.Nodes = append(p.Nodes, n)
		return true
	})
}

// Commit is a Commit (RFC 9420, section 12.4).
type Commit struct {
	Proposals    ProposalList
	NumProposals int         `json:"-"`
	Path         *UpdatePath `json:",omitzero"` // nil when the Commit has no path
}

// Encode writes the Commit. It ignores NumProposals.
func (c *Commit) Encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, c.Proposals)
	addOptional(b, c.Path != nil)
	if c.Path != nil {
		c.Path.Encode(b)
	}
}

// Decode reads the Commit.
func (c *Commit) Decode(s *cryptobyte.String) bool {
	if !wire.ReadOpaque(s, (*[]byte)(&c.Proposals)) {
		return false
	}
	var p ProposalOrRef
	for list := cryptobyte.String(c.Proposals); !list.Empty(); c.NumProposals++ {
		if !p.Decode(&list) {
			return false
		}
	}
	var hasPath bool
	if !readOptional(s, &hasPath) {
		return false
	}
	if !hasPath {
		return true
	}
	c.Path = new(UpdatePath)
	return c.Path.Decode(s)
}
