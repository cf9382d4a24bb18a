package framing

import (
	"crypto/ed25519"
	"crypto/sha256"

	gomls "github.com/cisco/go-mls"
	"golang.org/x/crypto/cryptobyte"
)

// MaxLeaves is the largest number of leaves in a tree. In a larger tree, the parent hashes of go-mls overflow their
// field and go-mls cannot commit.
const MaxLeaves = 128

// The largest lengths of lists. A legitimate message has no longer list.
const (
	maxNodes      = 2*MaxLeaves - 1
	maxExtensions = 64 // go-mls has five types
	maxProposals  = 2 * MaxLeaves
)

// The sizes of the two supported cipher suites, in bytes. Both have SHA-256, Ed25519 and X25519.
const (
	HashSize      = sha256.Size
	SignatureSize = ed25519.SignatureSize
	signatureKey  = ed25519.PublicKeySize
	hpkeKey       = 32
)

// reader reads the TLS presentation language with lengths of fixed size. After the first error it stops reading.
type reader struct {
	in  cryptobyte.String
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.in, r.err = nil, err
	}
}

// uint reads an integer of size bytes.
func (r *reader) uint(size int) (n uint64) {
	var b []byte
	if !r.in.ReadBytes(&b, size) {
		r.fail(ErrMessage)
	}
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// opaque reads a vector of bytes. Its length field has head bytes.
func (r *reader) opaque(head int) (b []byte) {
	if n := r.uint(head); n > uint64(len(r.in)) || !r.in.ReadBytes(&b, int(n)) {
		r.fail(ErrMessage)
	}
	return b
}

// exactly reads a vector that must have size bytes.
func (r *reader) exactly(head, size int) []byte {
	b := r.opaque(head)
	if len(b) != size {
		r.fail(ErrMessage)
	}
	return b
}

// optional reads the byte that says whether an optional value follows.
func (r *reader) optional() bool {
	flag := r.uint(1)
	if flag > 1 {
		r.fail(ErrMessage)
	}
	return flag == 1
}

// oneOf reads an integer of size bytes that must be from 1 to largest.
func (r *reader) oneOf(size int, largest uint64) uint64 {
	n := r.uint(size)
	if n == 0 || n > largest {
		r.fail(ErrMessage)
	}
	return n
}

// list reads a vector of at most limit elements. Its length field has head bytes.
func list[E any](r *reader, head, limit int, read func(*reader) E) (out []E) {
	elements := &reader{in: r.opaque(head)}
	for !elements.in.Empty() && elements.err == nil {
		if len(out) == limit {
			elements.fail(errCount)
			break
		}
		out = append(out, read(elements))
	}
	if elements.err != nil {
		r.fail(elements.err)
	}
	return out
}

func (r *reader) plaintext() gomls.MLSPlaintext {
	return gomls.MLSPlaintext{
		GroupID:           r.opaque(1),
		Epoch:             gomls.Epoch(r.uint(8)),
		Sender:            r.sender(),
		AuthenticatedData: r.opaque(4),
		Content:           r.content(),
		Signature:         r.signature(),
	}
}

func (r *reader) sender() gomls.Sender {
	typ := gomls.SenderType(r.oneOf(1, uint64(gomls.SenderTypeNewMember)))
	return gomls.Sender{Type: typ, Sender: uint32(r.uint(4))}
}

func (r *reader) content() (c gomls.MLSPlaintextContent) {
	switch gomls.ContentType(r.uint(1)) {
	case gomls.ContentTypeApplication:
		c.Application = &gomls.ApplicationData{Data: r.opaque(4)}
	case gomls.ContentTypeProposal:
		c.Proposal = r.proposal()
	case gomls.ContentTypeCommit:
		c.Commit = &gomls.CommitData{Commit: r.commit(), Confirmation: gomls.Confirmation{Data: r.exactly(1, HashSize)}}
	default:
		r.fail(ErrMessage)
	}
	return c
}

func (r *reader) proposal() *gomls.Proposal {
	switch gomls.ProposalType(r.uint(1)) {
	case gomls.ProposalTypeAdd:
		return &gomls.Proposal{Add: &gomls.AddProposal{KeyPackage: r.keyPackage()}}
	case gomls.ProposalTypeUpdate:
		return &gomls.Proposal{Update: &gomls.UpdateProposal{KeyPackage: r.keyPackage()}}
	case gomls.ProposalTypeRemove:
		return &gomls.Proposal{Remove: &gomls.RemoveProposal{Removed: gomls.LeafIndex(r.uint(4))}}
	}
	r.fail(ErrMessage)
	return nil
}

func (r *reader) commit() gomls.Commit {
	return gomls.Commit{
		Updates: list(r, 2, maxProposals, (*reader).proposalID),
		Removes: list(r, 2, maxProposals, (*reader).proposalID),
		Adds:    list(r, 2, maxProposals, (*reader).proposalID),
		Path:    r.path(),
	}
}

func (r *reader) proposalID() gomls.ProposalID {
	return gomls.ProposalID{Hash: r.exactly(1, HashSize)}
}

func (r *reader) path() *gomls.DirectPath {
	if !r.optional() {
		return nil
	}
	return &gomls.DirectPath{LeafKeyPackage: r.keyPackage(), Steps: list(r, 4, MaxLeaves, (*reader).step)}
}

func (r *reader) step() gomls.DirectPathNode {
	return gomls.DirectPathNode{
		PublicKey:            r.hpkeKey(),
		EncryptedPathSecrets: list(r, 4, MaxLeaves, (*reader).hpkeCiphertext),
	}
}

func (r *reader) ciphertext() gomls.MLSCiphertext {
	return gomls.MLSCiphertext{
		GroupID:             r.opaque(1),
		Epoch:               gomls.Epoch(r.uint(8)),
		ContentType:         gomls.ContentType(r.oneOf(1, uint64(gomls.ContentTypeCommit))),
		SenderDataNonce:     r.opaque(1),
		EncryptedSenderData: r.opaque(1),
		AuthenticatedData:   r.opaque(4),
		Ciphertext:          r.opaque(4),
	}
}

func (r *reader) welcome() gomls.Welcome {
	return gomls.Welcome{
		Version:            r.version(),
		CipherSuite:        r.cipherSuite(),
		Secrets:            list(r, 4, MaxLeaves, (*reader).secrets),
		EncryptedGroupInfo: r.opaque(4),
	}
}

func (r *reader) secrets() gomls.EncryptedGroupSecrets {
	return gomls.EncryptedGroupSecrets{KeyPackageHash: r.exactly(1, HashSize), EncryptedGroupSecrets: r.hpkeCiphertext()}
}

func (r *reader) groupInfo() gomls.GroupInfo {
	return gomls.GroupInfo{
		GroupID:                 r.opaque(1),
		Epoch:                   gomls.Epoch(r.uint(8)),
		Tree:                    gomls.TreeKEMPublicKey{Nodes: list(r, 4, maxNodes, (*reader).node)},
		ConfirmedTranscriptHash: r.opaque(1),
		InterimTranscriptHash:   r.opaque(1),
		Extensions:              r.extensions(),
		Confirmation:            r.exactly(1, HashSize),
		SignerIndex:             gomls.LeafIndex(r.uint(4)),
		Signature:               r.signature().Data,
	}
}

func (r *reader) node() gomls.OptionalNode {
	if !r.optional() {
		return gomls.OptionalNode{}
	}
	switch gomls.NodeType(r.uint(1)) {
	case gomls.NodeTypeLeaf:
		return gomls.OptionalNode{Node: &gomls.Node{Leaf: pointer(r.keyPackage())}}
	case gomls.NodeTypeParent:
		return gomls.OptionalNode{Node: &gomls.Node{Parent: r.parent()}}
	}
	r.fail(ErrMessage)
	return gomls.OptionalNode{}
}

// parent reads a parent node. go-mls never sets its parent hash.
func (r *reader) parent() *gomls.ParentNode {
	return &gomls.ParentNode{
		PublicKey:      r.hpkeKey(),
		UnmergedLeaves: list(r, 4, MaxLeaves, func(r *reader) gomls.LeafIndex { return gomls.LeafIndex(r.uint(4)) }),
		ParentHash:     r.exactly(1, 0),
	}
}

func (r *reader) keyPackage() gomls.KeyPackage {
	return gomls.KeyPackage{
		Version:     r.version(),
		CipherSuite: r.cipherSuite(),
		InitKey:     r.hpkeKey(),
		Credential:  r.credential(),
		Extensions:  r.extensions(),
		Signature:   r.signature(),
	}
}

func (r *reader) credential() gomls.Credential {
	if gomls.CredentialType(r.uint(1)) != gomls.CredentialTypeBasic {
		r.fail(errCredential)
	}
	c := &gomls.BasicCredential{
		Identity:        r.opaque(2),
		SignatureScheme: gomls.SignatureScheme(r.uint(2)),
		PublicKey:       gomls.SignaturePublicKey{Data: r.exactly(2, signatureKey)},
	}
	if c.SignatureScheme != gomls.Ed25519 {
		r.fail(errSuite)
	}
	return gomls.Credential{Basic: c}
}

func (r *reader) extensions() gomls.ExtensionList {
	return gomls.ExtensionList{Entries: list(r, 2, maxExtensions, func(r *reader) gomls.Extension {
		return gomls.Extension{ExtensionType: gomls.ExtensionType(r.uint(2)), ExtensionData: r.opaque(2)}
	})}
}

func (r *reader) version() gomls.ProtocolVersion {
	v := gomls.ProtocolVersion(r.uint(1))
	if v != gomls.ProtocolVersionMLS10 {
		r.fail(errSuite)
	}
	return v
}

// cipherSuite reads a cipher suite and refuses the suites with which go-mls clients cannot sign.
func (r *reader) cipherSuite() gomls.CipherSuite {
	suite := gomls.CipherSuite(r.uint(2))
	if suite != gomls.X25519_AES128GCM_SHA256_Ed25519 && suite != gomls.X25519_CHACHA20POLY1305_SHA256_Ed25519 {
		r.fail(errSuite)
	}
	return suite
}

func (r *reader) hpkeKey() gomls.HPKEPublicKey {
	return gomls.HPKEPublicKey{Data: r.exactly(2, hpkeKey)}
}

func (r *reader) hpkeCiphertext() gomls.HPKECiphertext {
	return gomls.HPKECiphertext{KEMOutput: r.exactly(2, hpkeKey), Ciphertext: r.opaque(4)}
}

func (r *reader) signature() gomls.Signature {
	return gomls.Signature{Data: r.exactly(2, SignatureSize)}
}
