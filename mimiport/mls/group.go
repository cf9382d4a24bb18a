// Package mls follows MLS groups from the outside, as a Delivery Service must. It keeps the public state of a group and
// checks each message as far as it can without the group's secrets. It refuses a message that it cannot follow.
//
// The package holds the interface that every engine implements, and the engine for RFC 9420 groups.
package mls

import (
	"iter"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// Engine opens groups of one protocol. Every method is safe for concurrent use. The length of the input bounds its time
// and memory. It never panics on input.
//
// Methods of engines and groups return a *mimiport.Error. Its kind is one of these:
//   - KindBadMessage: the input does not decode, or would not encode identically;
//   - KindUnsupported: the version, the cipher suite or the message format is not supported;
//   - KindTooLarge: the input exceeds a limit;
//   - KindUnknownGroup: the message is of another group;
//   - KindWrongEpoch: the message is of another epoch; Info.Epoch is the group's epoch;
//   - KindBadSignature: a signature does not verify;
//   - KindInvalid: the input breaks another rule of the protocol.
//
// Info.Rule names the broken rule. A method that returns an error changes nothing.
type Engine interface {
	// Protocol is the name of the protocol in rooms, tables and messages: "mls10" for RFC 9420.
	Protocol() string

	// Parse reads the framing of one message of any kind. It does not validate the contents. It refuses trailing bytes
	// and a message that would not encode identically.
	Parse(message []byte) (*Message, error)

	// Open validates a whole group: tree, leaves, GroupInfo. groupInfo is a message of kind GroupInfo. tree is the
	// encoded ratchet tree, empty when groupInfo has the ratchet_tree extension. The group keeps slices of both.
	Open(groupInfo, tree []byte) (Group, error)

	// CheckWelcomes checks the Welcomes that were sent with a Commit. Together they must address each client that the
	// Commit adds, once, and no other client.
	CheckWelcomes(commit *Effects, welcomes [][]byte) error
}

// Engines maps the name of a protocol to its engine.
type Engines map[string]Engine

// Find returns the engine of a protocol, or a KindUnsupported error.
func (e Engines) Find(protocol string) (Engine, error) {
	found, ok := e[protocol]
	if !ok {
		return nil, mimiport.Errorf("find engine", mimiport.KindUnsupported, "protocol %q is not supported", protocol)
	}
	return found, nil
}

// Group is the public state of a group in one epoch, with the proposals received in that epoch. It is immutable: a
// method that changes the state returns a new Group, which shares structure with the old one. Callers must not change
// byte slices that they pass or receive: the Group shares them.
type Group interface {
	Context
	Tree

	// Proposals lists the proposals that a Commit of this epoch may reference, in the order they were received.
	Proposals() []Proposal

	// Propose checks a proposal message of this epoch and adds it. A repeated message changes nothing.
	Propose(message []byte) (Group, *Proposal, error)

	// Closed reports whether the Commit before this epoch had a ReInit, which ends the group (RFC 9420, section 12.1.5).
	// A closed group refuses all messages. Open cannot tell that a group is closed: the caller stores Effects.Closes.
	Closed() bool

	// Commit checks a Commit of this epoch and applies it. groupInfo is the GroupInfo of the next epoch. Its signature
	// must verify with the signer's leaf in that epoch. Its GroupContext must be the one that Commit computes, and its
	// confirmation tag must be the Commit's. If it holds a tree, that must be the tree of the next epoch. The returned
	// group has no proposals.
	Commit(message, groupInfo []byte) (Group, *Effects, error)

	// VerifyMember verifies a member's signature with the protocol's labelled scheme (SignWithLabel of RFC 9420).
	VerifyMember(leaf uint32, label string, content, signature []byte) error

	// VerifyGroupInfo verifies the signature of a GroupInfo of this group. The GroupInfo may be of any epoch: the key is
	// that of the signer's leaf in this epoch. VerifyGroupInfo does not compare the GroupInfo's context with the
	// group's. It returns the GroupInfo's epoch and the signer.
	VerifyGroupInfo(message []byte) (epoch uint64, signer Member, err error)

	// Size estimates how many bytes of memory the group holds on its own.
	Size() int
}

// lifetimeSkew is the largest difference between the clocks of a client and a server that RequireLifetime allows, in
// seconds.
const lifetimeSkew = uint64(time.Hour / time.Second)

// RequireLifetime fails for a member whose leaf comes from a key package that is not yet valid, or has expired, at a
// time. The error is KindInvalid of rule lifetime. RequireLifetime allows for clocks that differ by an hour. No engine
// calls it: the server calls it once when it receives an Add, so a log can be replayed at any time (RFC 9420, section
// 7.3).
func RequireLifetime(m Member, now time.Time) error {
	at := uint64(now.Unix())
	expired := at > m.NotAfter && at-m.NotAfter > lifetimeSkew
	if m.NotBefore == 0 && m.NotAfter == 0 || m.NotBefore <= at+lifetimeSkew && !expired {
		return nil
	}
	return failed("check lifetime", nil, refuse(ruleLifetime))
}

// RequireOpen fails for a closed group with a KindInvalid error of rule group-closed. The methods of a group check this
// themselves. The server calls it for application messages, which no method of a group takes.
func RequireOpen(g Group) error {
	if g.Closed() {
		return failed("receive message", g.ID(), refuse(ruleClosed))
	}
	return nil
}

// Context is the GroupContext and the GroupInfo of an epoch.
type Context interface {
	Protocol() string
	ID() []byte
	Epoch() uint64
	CipherSuite() uint16

	// TreeHash and ConfirmedTranscriptHash are those of this epoch's GroupContext, ConfirmationTag is its GroupInfo's.
	TreeHash() []byte
	ConfirmedTranscriptHash() []byte
	ConfirmationTag() []byte

	// GroupInfo is the GroupInfo message of this epoch, as its signer made it.
	GroupInfo() []byte

	// TreeInside reports whether GroupInfo has a ratchet_tree extension.
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

	// Member is the member at a leaf. It returns false when the leaf is blank or out of range.
	Member(leaf uint32) (Member, bool)

	// Duplicates lists, in order, each leaf that has the credential of a leaf with a lower index. The engine refuses a
	// Commit that would make a duplicate, but a group that Open takes may have some.
	Duplicates() []Member
}

// Follower is a Group that can apply a Commit without a GroupInfo, for tools that replay a log. A Delivery Service uses
// Group.Commit: clients that join need the GroupInfo.
type Follower interface {
	// Follow is Group.Commit without the GroupInfo of the next epoch. The group it returns has an empty GroupInfo.
	Follow(commit []byte) (Group, *Effects, error)
}

// Kind is the kind of a message.
type Kind uint8

// The kinds of message. KindApplication is a PrivateMessage. Proposals and Commits must be PublicMessages, which a
// Delivery Service can read.
const (
	KindProposal Kind = iota + 1
	KindCommit
	KindApplication
	KindWelcome
	KindGroupInfo
	KindKeyPackage
)

// Message is the framing of a message. A field that the kind does not have is zero.
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

// Sender names the sender of a handshake message. Index is a member's leaf, or an index into external_senders.
type Sender = rfc9420.Sender

// Member is one leaf of the tree.
type Member struct {
	Leaf         uint32
	Identity     []byte // the identity of a basic credential, nil for any other type
	SignatureKey []byte
	// NotBefore and NotAfter are the lifetime of a leaf of source key_package, in seconds since 1970. They are zero for
	// a leaf of any other source. The engine has no clock and does not enforce the lifetime.
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
	Ref     []byte // ProposalRef; nil for a proposal by value
	Message []byte // the message of the proposal; nil for a proposal by value
	Type    ProposalType
	Sender  Sender
	Add     *Member // of an Add: the new member; Leaf is 0, since only the Commit assigns a leaf
	Update  *Member // of an Update: the sender's new leaf
	Remove  *Member // of a Remove or a SelfRemove: the member that leaves
	// ExternalSenders are the external_senders entries of a GroupContextExtensions.
	ExternalSenders []ExternalSender
	// KeyPackageRef is the KeyPackageRef of an Add. A Welcome addresses the new member by it.
	KeyPackageRef []byte
}

// Effects is the result of a Commit.
type Effects struct {
	Sender            Sender
	Committer         Member // the sender's leaf in the new tree
	AuthenticatedData []byte
	HasPath           bool
	Proposals         []Proposal // in the order of the Commit
	Added             []Member   // of Add proposals, with their new leaves; not the sender of an external Commit
	Removed           []Member   // their leaves before the Commit
	Updated           []Member   // their leaves after the Commit
	// Renewed lists the new leaves (of Adds, Updates and the path) whose signature key is new for their credential: the
	// Commit takes away no leaf with the same credential and the same signature key.
	Renewed []Member
	// Closes reports whether the Commit has a ReInit: the group has no further epoch (RFC 9420, section 12.1.5).
	Closes bool
	// SameCredential reports whether the Commit leaves the committer's credential as it was, byte for byte. It is false
	// for an external Commit.
	SameCredential bool
	// ExtensionsBefore and ExtensionsAfter are the extensions of the GroupContext before and after the Commit, each as
	// one encoded vector. They are equal when the Commit does not change the extensions.
	ExtensionsBefore, ExtensionsAfter []byte
}
