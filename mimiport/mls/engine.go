package mls

import (
	"bytes"
	"errors"
	"io"
	"maps"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// ProtocolMLS10 is the protocol name of RFC 9420 groups.
const ProtocolMLS10 = "mls10"

// Limits bounds the input of the engine. The engine checks each limit before any work that grows with it.
type Limits struct {
	Leaves    map[uint16]int // leaves of a tree with its blank ones, by cipher suite; an absent suite is unsupported
	Message   int            // bytes of one message without its ratchet tree
	Tree      int            // bytes of an encoded ratchet tree
	Proposals int            // proposals received in one epoch, and proposals in one Commit

	suites map[uint16]*rfc9420.Suite // suites that RFC 9420 does not have
}

// CipherSuite describes a cipher suite that RFC 9420 does not have, such as one with a post-quantum KEM.
// Implementations disagree about the numbers of such suites.
type CipherSuite struct {
	ID            uint16
	Hash          string // SHA-256, SHA-384 or SHA-512
	Signature     string // Ed25519, Ed448, P-256, P-384 or P-521
	EncryptionKey int    // bytes of a public key of the KEM
	Leaves        int    // as in Limits
}

// WithSuite returns the limits of an engine that knows one more cipher suite. It returns a KindUnsupported error when
// RFC 9420 has a suite of that ID, and when the engine lacks the hash or the signature or does not take a size.
func (l Limits) WithSuite(s CipherSuite) (Limits, error) {
	suite := rfc9420.NewSuite(s.ID, s.Hash, s.Signature, s.EncryptionKey)
	fits := s.EncryptionKey > 0 && s.EncryptionKey <= maxEncryptionKey && s.Leaves > 0 && s.Leaves <= 1<<16
	if suite == nil || s.ID == 0 || rfc9420.SuiteByID(s.ID) != nil || !fits {
		return l, mimiport.Errorf("add cipher suite", mimiport.KindUnsupported, "cipher suite %+v", s)
	}
	l.Leaves, l.suites = maps.Clone(l.Leaves), maps.Clone(l.suites)
	if l.suites == nil {
		l.suites = make(map[uint16]*rfc9420.Suite)
	}
	l.Leaves[s.ID], l.suites[s.ID] = s.Leaves, suite
	return l, nil
}

// maxEncryptionKey is the largest size of a KEM's public key in bytes. The keys of ML-KEM-1024 and P-521 together have
// 1,701.
const maxEncryptionKey = 1 << 12

// suiteByID returns the cipher suite with an id, nil for an unknown id.
func (l *Limits) suiteByID(id uint16) *rfc9420.Suite {
	if s := l.suites[id]; s != nil {
		return s
	}
	return rfc9420.SuiteByID(id)
}

// DefaultLimits allows groups that one core verifies in some seconds. The limits of leaves differ because a P-521
// signature costs 35 times as much as an Ed25519 signature.
func DefaultLimits() Limits {
	return Limits{
		Leaves:    map[uint16]int{1: 1 << 16, 2: 1 << 16, 3: 1 << 16, 4: 1 << 14, 5: 1 << 11, 6: 1 << 14, 7: 1 << 12},
		Message:   8 << 20,
		Tree:      64 << 20,
		Proposals: 4096,
	}
}

// engine implements Engine for RFC 9420.
type engine struct {
	checker
	limits Limits
}

// RFC9420 makes the engine for RFC 9420 groups. It verifies each signature by itself.
func RFC9420(limits Limits) Engine { return &engine{limits: limits} }

// RFC9420Batched is RFC9420 with a faster Open: the engine verifies the Ed25519 signatures of large groups in batches.
// It takes and refuses the same groups, except with a probability of 2^-64 for each batch. It draws the coefficients of
// a batch from random, which must be safe for concurrent use and unknown to peers.
func RFC9420Batched(limits Limits, random io.Reader) Engine {
	return &engine{checker{random: random}, limits}
}

func (e *engine) Protocol() string { return ProtocolMLS10 }

// The errors of input that breaks none of the named rules.
var (
	errMessage = problem(mimiport.KindBadMessage, "not a well-formed MLSMessage of the expected kind")
	errVersion = problem(mimiport.KindUnsupported, "the protocol version or the wire format is not supported")
	errPrivate = problem(mimiport.KindUnsupported, "handshake messages must not be encrypted")
	errSuite   = problem(mimiport.KindUnsupported, "the cipher suite is not supported")
	errSize    = problem(mimiport.KindTooLarge, "the message or the tree is too long")
	errTree    = problem(mimiport.KindBadMessage, "not a well-formed ratchet tree")
	errLeaves  = problem(mimiport.KindTooLarge, "the tree has too many leaves for its cipher suite")
	errFollow  = problem(mimiport.KindUnsupported, "a Commit with an AppDataUpdate needs the GroupInfo of the next epoch")
	errMany    = problem(mimiport.KindTooLarge, "too many proposals")
)

func problem(kind mimiport.Kind, text string) *mimiport.Error {
	return &mimiport.Error{Kind: kind, Err: errors.New(text)}
}

// failed adds an operation and a group to the error that a step of the operation returned.
func failed(op string, group []byte, err error) error {
	out := mimiport.Error{Op: op, Group: group, Err: err}
	var cause *mimiport.Error
	if errors.As(err, &cause) {
		out.Kind, out.Info, out.Err = cause.Kind, cause.Info, cause.Err
	}
	return &out
}

// Decode decodes an MLSMessage (RFC 9420, section 6) of any kind and length, for tools that show messages. It returns
// the errors of Parse.
func Decode(message []byte) (*rfc9420.Message, error) {
	m, err := (&engine{}).decode(message, len(message))
	if err != nil {
		return nil, failed("decode message", nil, err)
	}
	return m, nil
}

// decode decodes one message of at most limit bytes.
func (e *engine) decode(message []byte, limit int) (*rfc9420.Message, error) {
	if len(message) > limit {
		return nil, errSize
	}
	m := new(rfc9420.Message)
	if rfc9420.Unmarshal(message, m) {
		return m, nil
	}
	s := cryptobyte.String(message)
	var version, format uint16
	if s.ReadUint16(&version) && s.ReadUint16(&format) &&
		(version != rfc9420.VersionMLS10 || format == 0 || format > uint16(rfc9420.WireKeyPackage)) {
		return nil, errVersion
	}
	if typ, found := m.UnknownProposal(); found {
		return nil, mimiport.Errorf("", mimiport.KindUnsupported, "proposals of type 0x%04x are not supported", uint16(typ))
	}
	return nil, errMessage
}

func (e *engine) Parse(message []byte) (*Message, error) {
	m, err := e.parse(message)
	if err != nil {
		return nil, failed("parse message", nil, err)
	}
	return m, nil
}

func (e *engine) parse(message []byte) (*Message, error) {
	m, err := e.decode(message, e.limits.Message+e.limits.Tree) // a GroupInfo may hold the tree
	if err != nil {
		return nil, err
	}
	switch m.WireFormat {
	case rfc9420.WirePublicMessage:
		c := &m.Public.Content
		out := &Message{GroupID: c.GroupID, Epoch: c.Epoch, Sender: c.Sender, AuthenticatedData: c.AuthenticatedData}
		switch c.ContentType {
		case rfc9420.ContentProposal:
			out.Kind = KindProposal
		case rfc9420.ContentCommit:
			out.Kind = KindCommit
		default:
			return nil, refuse(ruleApplication)
		}
		return out, nil
	case rfc9420.WirePrivateMessage:
		p := m.Private
		if p.ContentType != rfc9420.ContentApplication {
			return nil, errPrivate
		}
		out := &Message{Kind: KindApplication, GroupID: p.GroupID, Epoch: p.Epoch, AuthenticatedData: p.AuthenticatedData}
		return out, nil
	case rfc9420.WireGroupInfo:
		c := &m.GroupInfo.Context
		return &Message{Kind: KindGroupInfo, GroupID: c.GroupID, Epoch: c.Epoch}, nil
	case rfc9420.WireWelcome:
		return &Message{Kind: KindWelcome}, nil
	}
	return &Message{Kind: KindKeyPackage}, nil
}

func (e *engine) Open(groupInfo, tree []byte) (Group, error) {
	g, err := e.open(groupInfo, tree)
	if err != nil {
		return nil, failed("open group", nil, err)
	}
	return g, nil
}

func (e *engine) open(message, encodedTree []byte) (*group, error) {
	info, err := e.readInfo(message)
	if err != nil {
		return nil, err
	}
	suite, maxLeaves, err := e.suite(&info.Context)
	if err != nil {
		return nil, err
	}
	inside, isInside := info.RatchetTree()
	if len(encodedTree) == 0 {
		encodedTree = inside
	}
	if err := e.require(!isInside || bytes.Equal(inside, encodedTree), ruleInfoTree); err != nil {
		return nil, err
	}
	if len(encodedTree) > e.limits.Tree {
		return nil, errSize
	}
	contents, nodes, err := e.scanTree(encodedTree, maxLeaves)
	if err != nil {
		return nil, err
	}
	ed := newEdit(suite, nil)
	g := &group{engine: e, suite: suite, tree: ed.build(contents, nodes), treeInside: isInside}
	context := info.Context
	context.GroupID = bytes.Clone(context.GroupID) // a slice would keep the message, and its tree, in memory
	context.Extensions = bytes.Clone(context.Extensions)
	if err := g.setContext(&context, message, info.ConfirmationTag); err != nil {
		return nil, err
	}
	return g, g.checkAll(ed, info)
}

// readInfo decodes a GroupInfo, which may hold the tree.
func (e *engine) readInfo(message []byte) (*rfc9420.GroupInfo, error) {
	m, err := e.decode(message, e.limits.Message+e.limits.Tree)
	if err != nil {
		return nil, err
	}
	if m.GroupInfo == nil {
		return nil, errMessage
	}
	if tree, _ := m.GroupInfo.RatchetTree(); len(tree) > e.limits.Tree || len(message)-len(tree) > e.limits.Message {
		return nil, errSize
	}
	return m.GroupInfo, nil
}

// suite returns the context's cipher suite and the most leaves that a tree of it may have.
func (e *engine) suite(c *rfc9420.GroupContext) (*rfc9420.Suite, int, error) {
	suite, maxLeaves := e.limits.suiteByID(c.CipherSuite), e.limits.Leaves[c.CipherSuite]
	switch {
	case c.Version != rfc9420.VersionMLS10:
		return nil, 0, errVersion
	case suite == nil || maxLeaves == 0:
		return nil, 0, errSuite
	}
	return suite, maxLeaves, nil
}

func (e *engine) CheckWelcomes(commit *Effects, welcomes [][]byte) error {
	if err := e.checkWelcomes(commit, welcomes); err != nil {
		return failed("check welcomes", nil, err)
	}
	return nil
}

func (e *engine) checkWelcomes(commit *Effects, welcomes [][]byte) error {
	waiting := make(map[string]bool)
	for i := range commit.Proposals {
		if p := &commit.Proposals[i]; p.Type == ProposalAdd {
			waiting[string(p.KeyPackageRef)] = true
		}
	}
	for _, message := range welcomes {
		m, err := e.decode(message, e.limits.Message)
		if err != nil {
			return err
		}
		if m.Welcome == nil {
			return errMessage
		}
		for secrets := range m.Welcome.Secrets.All() {
			if err := e.require(waiting[string(secrets.NewMember)], ruleWelcomeMembers); err != nil {
				return err
			}
			delete(waiting, string(secrets.NewMember))
		}
	}
	return e.require(len(waiting) == 0, ruleWelcomeMembers)
}
