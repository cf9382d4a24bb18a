// Package mls follows MLS groups from the outside, as a Delivery Service must: it knows what is public about a group,
// checks what can be checked without the group's secrets, and refuses the rest.
//
// The package holds the interface that every engine satisfies and the engine for RFC 9420 groups.
package mls

import (
	"iter"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// Engine opens groups of one protocol. Every method is safe for concurrent use, bounded in time and memory by its
// input, and never panics on it.
//
// Methods of engines and groups return a *mimiport.Error: KindBadMessage for what does not decode or would not encode identically,
// KindUnsupported for another version, cipher suite or message format, KindTooLarge beyond a limit, KindUnknownGroup and
// KindWrongEpoch (with Info.Epoch) for a message of another group or epoch, KindBadSignature, and KindInvalid for any other rule of
// the protocol. Info.Rule names the rule that is broken. An error changes nothing.
type Engine interface {
	// Protocol is the name under which rooms, tables and messages refer to this engine: "mls10" for RFC 9420.
	Protocol() string

	// Parse reads the framing of one message, of any kind, without judging its contents. It refuses trailing bytes and
	// anything that would not be encoded identically.
	Parse(message []byte) (*Message, error)

	// Open validates a whole group: tree, leaves, GroupInfo. groupInfo is a message of kind GroupInfo; tree is the
	// encoded ratchet tree, which is empty when groupInfo carries it as an extension. The group keeps slices of both.
	Open(groupInfo, tree []byte) (Group, error)

	// CheckWelcomes checks that the Welcomes sent with a Commit are for the clients that it added: each for one of them, none
	// left out.
	CheckWelcomes(commit *Effects, welcomes [][]byte) error
}

// Engines are engines by the name of their protocol.
type Engines map[string]Engine

// Find is the engine of a protocol, or a KindUnsupported error.
func (e Engines) Find(protocol string) (Engine, error) {
	found, ok := e[protocol]
	if !ok {
		return nil, mimiport.Errorf("find engine", mimiport.KindUnsupported, "protocol %q is not spoken here", protocol)
	}
	return found, nil
}

// Group is the public state of a group at one epoch, with the proposals received in it. It is immutable: the methods that
// change something return a new Group that shares structure with the old one. Byte slices that it takes and returns are shared
// too, and must not be changed.
type Group interface {
	Context
	Tree

	// Proposals lists the proposals that a Commit of this epoch may reference, in the order they were received.
	Proposals() []Proposal

	// Propose checks a proposal message of this epoch and adds it. A repeated message changes nothing.
	Propose(message []byte) (Group, *Proposal, error)

	// Closed reports whether the group ended with the Commit before this epoch, a ReInit (RFC 9420, section 12.1.5). A
	// closed group refuses all messages. Open cannot know: who stores the group keeps Effects.Closes too.
	Closed() bool

	// Commit checks a Commit of this epoch and applies it. groupInfo describes the next epoch, without the tree; it is
	// verified with the signer's leaf there, and its GroupContext and confirmation tag must be the computed ones. The
	// returned group has no proposals.
	Commit(message, groupInfo []byte) (Group, *Effects, error)

	// VerifyMember checks a member's signature by the protocol's labelled scheme (SignWithLabel in RFC 9420).
	VerifyMember(leaf uint32, label string, content, signature []byte) error

	// VerifyGroupInfo checks the signature of a GroupInfo of this group, of any epoch, by the leaf that its signer has in this one, and
	// returns its epoch and the signer. What else it says is not checked.
	VerifyGroupInfo(message []byte) (epoch uint64, signer Member, err error)

	// Size is roughly how many bytes of memory the group holds on its own.
	Size() int
}

// lifetimeSkew is how wrong the clocks of clients and servers may be together.
const lifetimeSkew = uint64(time.Hour / time.Second)

// CheckLifetime fails for a member whose leaf is that of a key package which is not yet valid at a time, or no longer:
// a KindInvalid error of rule lifetime. It allows an hour for clocks that are wrong. No engine asks: who takes an Add
// asks once, so that a log can be replayed at any time (RFC 9420, section 7.3).
func CheckLifetime(m Member, now time.Time) error {
	at := uint64(now.Unix())
	expired := at > m.NotAfter && at-m.NotAfter > lifetimeSkew
	if m.NotBefore == 0 && m.NotAfter == 0 || m.NotBefore <= at+lifetimeSkew && !expired {
		return nil
	}
	return failed("check lifetime", nil, refuse(ruleLifetime))
}

// RequireOpen fails for a closed group: a KindInvalid error of rule group-closed. The methods of a group do so by
// themselves; who takes an application message asks here.
func RequireOpen(g Group) error {
	if g.Closed() {
		return failed("receive message", g.ID(), refuse(ruleClosed))
	}
	return nil
}

// Context is what the GroupContext and the GroupInfo of an epoch say.
type Context interface {
	Protocol() string
	ID() []byte
	Epoch() uint64
	CipherSuite() uint16

	// TreeHash, ConfirmedTranscriptHash and ConfirmationTag are those of the GroupContext and GroupInfo of this epoch.
	TreeHash() []byte
	ConfirmedTranscriptHash() []byte
	ConfirmationTag() []byte

	// GroupInfo is the message that describes this epoch, without a ratchet_tree extension where the signer left it out.
	GroupInfo() []byte

	// TreeInside reports whether GroupInfo holds the ratchet tree.
	TreeInside() bool

	// ExternalSenders lists the entries of the group's external_senders extension, nil without one.
	ExternalSenders() []ExternalSender

	// SafeAAD reports whether the authenticated data of every message begins with a SafeAAD
	// (draft-ietf-mls-extensions-10).
	SafeAAD() bool

	// Hash is the hash function of the group's cipher suite.
	Hash(data []byte) []byte
}

// Tree is the ratchet tree of an epoch and its leaves.
type Tree interface {
	// RatchetTree is the encoded tree of this epoch.
	RatchetTree() []byte

	// Members yields the members in the order of their leaves.
	Members() iter.Seq[Member]
	NumMembers() int

	// Member is the member at a leaf; false where the leaf is blank or out of range.
	Member(leaf uint32) (Member, bool)

	// Duplicates lists the leaves whose credential another leaf with a lower index has, in order. No Commit makes one, but
	// a group that is opened may have some.
	Duplicates() []Member
}

// Follower is a Group that can be followed by its Commits alone, as tools do with a log. A Delivery Service wants the
// GroupInfo too: joiners need it.
type Follower interface {
	// Follow is Group.Commit without the GroupInfo of the next epoch. The group it returns has an empty GroupInfo.
	Follow(commit []byte) (Group, *Effects, error)
}

// Kind is the kind of a message.
type Kind uint8

// The kinds of message. Application is an encrypted message: handshakes must not be encrypted for a Delivery Service.
const (
	KindProposal Kind = iota + 1
	KindCommit
	KindApplication
	KindWelcome
	KindGroupInfo
	KindKeyPackage
)

// Message is the readable framing of a message. Fields that the kind lacks are zero.
type Message struct {
	Kind              Kind
	GroupID           []byte
	Epoch             uint64
	Sender            Sender
	AuthenticatedData []byte
}

// SenderType is the type of a sender (RFC 9420, section 6).
type SenderType = rfc9420.SenderType

// The sender types of RFC 9420, with its values.
const (
	SenderMember            = rfc9420.SenderMember
	SenderExternal          = rfc9420.SenderExternal
	SenderNewMemberProposal = rfc9420.SenderNewMemberProposal
	SenderNewMemberCommit   = rfc9420.SenderNewMemberCommit
)

// Sender says who sent a handshake message. Index is the leaf of a member, or the index into external_senders.
type Sender = rfc9420.Sender

// Member is one leaf of the tree.
type Member struct {
	Leaf         uint32
	Identity     []byte // the identity of a basic credential, nil for any other type
	SignatureKey []byte
	// NotBefore and NotAfter are the lifetime of a leaf that still is the one of its key package, in seconds since 1970; zero
	// for any other leaf. The engine, which knows no time, reports it and enforces nothing.
	NotBefore, NotAfter uint64
}

// ExternalSender is an entry of the external_senders extension (RFC 9420, section 12.1.8.1).
type ExternalSender struct {
	SignatureKey []byte
	Identity     []byte // as in Member
}

// ProposalType is a proposal type (RFC 9420, section 17.4).
type ProposalType = rfc9420.ProposalType

// The proposal types of RFC 9420.
const (
	ProposalAdd                    = rfc9420.ProposalAdd
	ProposalUpdate                 = rfc9420.ProposalUpdate
	ProposalRemove                 = rfc9420.ProposalRemove
	ProposalPSK                    = rfc9420.ProposalPSK
	ProposalReInit                 = rfc9420.ProposalReInit
	ProposalExternalInit           = rfc9420.ProposalExternalInit
	ProposalGroupContextExtensions = rfc9420.ProposalGroupContextExtensions
)

// The proposal types of draft-ietf-mls-extensions-10.
const (
	ProposalAppDataUpdate = rfc9420.ProposalAppDataUpdate
	ProposalAppEphemeral  = rfc9420.ProposalAppEphemeral
	ProposalSelfRemove    = rfc9420.ProposalSelfRemove
)

// Proposal is a proposal, by reference or by value.
type Proposal struct {
	Ref     []byte // ProposalRef; nil for one by value
	Message []byte // the message it came in; nil for one by value
	Type    ProposalType
	Sender  Sender
	Add     *Member // an Add: who; Leaf is unset until committed
	Update  *Member // an Update: the sender's leaf as it will be
	Remove  *Member // a Remove or a SelfRemove: who
	// ExternalSenders are the entries that a GroupContextExtensions gives to the group.
	ExternalSenders []ExternalSender
	// KeyPackageRef is under which name a Welcome addresses whom an Add adds.
	KeyPackageRef []byte
}

// Effects says what a Commit did.
type Effects struct {
	Sender            Sender
	Committer         Member // the sender's leaf in the new tree
	AuthenticatedData []byte
	HasPath           bool
	Proposals         []Proposal // in the order of the Commit
	Added             []Member   // by Add proposals, with their new leaves; the sender of an external Commit is Committer only
	Removed           []Member   // as they were
	Updated           []Member   // as they are now
	// Renewed lists the leaves that the Commit brings with a signature key which no leaf of that credential had that the
	// Commit takes away: of Adds, Updates, the path, and the sender of an external Commit.
	Renewed []Member
	// Closes is whether the Commit is a ReInit: nothing may follow it (RFC 9420, section 12.1.5).
	Closes bool
	// SameCredential is whether the committer's credential is, byte for byte, what it was before.
	SameCredential bool
	// ExtensionsBefore and ExtensionsAfter are the group's GroupContext extensions as one encoded vector; equal when unchanged.
	ExtensionsBefore, ExtensionsAfter []byte
}
