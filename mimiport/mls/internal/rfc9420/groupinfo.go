package rfc9420

import (
	"iter"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// GroupContext is the state of a group on which all members agree (RFC 9420, section 8.1).
type GroupContext struct {
	Version                 uint16
	CipherSuite             uint16
	GroupID                 []byte
	Epoch                   uint64
	TreeHash                []byte
	ConfirmedTranscriptHash []byte
	Extensions              Extensions
}

// Encode writes the context.
func (c *GroupContext) Encode(b *cryptobyte.Builder) {
	b.AddUint16(c.Version)
	b.AddUint16(c.CipherSuite)
	wire.AddOpaque(b, c.GroupID)
	b.AddUint64(c.Epoch)
	wire.AddOpaque(b, c.TreeHash)
	wire.AddOpaque(b, c.ConfirmedTranscriptHash)
	c.Extensions.encode(b)
}

// Decode reads the context.
func (c *GroupContext) Decode(s *cryptobyte.String) bool {
	return s.ReadUint16(&c.Version) && s.ReadUint16(&c.CipherSuite) && wire.ReadOpaque(s, &c.GroupID) &&
		s.ReadUint64(&c.Epoch) && wire.ReadOpaque(s, &c.TreeHash) &&
		wire.ReadOpaque(s, &c.ConfirmedTranscriptHash) && c.Extensions.decode(s)
}

// GroupInfo describes an epoch to clients that join (RFC 9420, section 12.4.3).
type GroupInfo struct {
	Raw             []byte `json:"-"` // the whole encoding
	Context         GroupContext
	Extensions      Extensions
	ConfirmationTag []byte
	Signer          uint32
	Signature       []byte
}

// RatchetTree returns the contents of the ratchet_tree extension (RFC 9420, section 12.4.3.3).
func (g *GroupInfo) RatchetTree() (tree []byte, found bool) {
	return g.Extensions.Find(ExtensionRatchetTree)
}

// ExternalPub returns the key of the external_pub extension (RFC 9420, section 12.4.3.2). It is not ok when the
// extension is there and does not hold one vector.
func (g *GroupInfo) ExternalPub() (key []byte, found, ok bool) {
	data, found := g.Extensions.Find(ExtensionExternalPub)
	s := cryptobyte.String(data)
	ok = !found || wire.ReadOpaque(&s, &key) && s.Empty()
	return key, found, ok
}

// Encode writes the GroupInfo from its fields. It ignores Raw.
func (g *GroupInfo) Encode(b *cryptobyte.Builder) {
	g.EncodeUnsigned(b)
	wire.AddOpaque(b, g.Signature)
}

// EncodeUnsigned writes the GroupInfo without its signature.
func (g *GroupInfo) EncodeUnsigned(b *cryptobyte.Builder) {
	g.Context.Encode(b)
	g.Extensions.encode(b)
	wire.AddOpaque(b, g.ConfirmationTag)
	b.AddUint32(g.Signer)
}

// Decode reads the GroupInfo.
func (g *GroupInfo) Decode(s *cryptobyte.String) bool {
	start := *s
	ok := g.Context.Decode(s) && g.Extensions.decode(s) && wire.ReadOpaque(s, &g.ConfirmationTag) &&
		s.ReadUint32(&g.Signer) && wire.ReadOpaque(s, &g.Signature)
	g.Raw = consumed(start, *s)
	return ok
}

// SignContent returns the content that the signature covers.
func (g *GroupInfo) SignContent() []byte {
	return SignContent(LabelGroupInfo, without(g.Raw, g.Signature))
}

// Welcome gives new members the secrets of an epoch (RFC 9420, section 12.4.3.1).
type Welcome struct {
	CipherSuite        uint16
	Secrets            EncryptedSecrets
	EncryptedGroupInfo []byte
}

// Encode writes the Welcome.
func (w *Welcome) Encode(b *cryptobyte.Builder) {
	b.AddUint16(w.CipherSuite)
	wire.AddOpaque(b, w.Secrets)
	wire.AddOpaque(b, w.EncryptedGroupInfo)
}

// Decode reads the Welcome.
func (w *Welcome) Decode(s *cryptobyte.String) bool {
	return s.ReadUint16(&w.CipherSuite) && wire.ReadOpaque(s, (*[]byte)(&w.Secrets)) &&
		checkList(w.Secrets, func(s *cryptobyte.String) bool {
			var secret EncryptedGroupSecrets
			return secret.Decode(s)
		}) &&
		wire.ReadOpaque(s, &w.EncryptedGroupInfo)
}

// EncryptedGroupSecrets is the part of a Welcome for one new member (RFC 9420, section 12.4.3.1).
type EncryptedGroupSecrets struct {
	NewMember []byte // KeyPackageRef
	Secrets   HPKECiphertext
}

// Encode writes the part.
func (e *EncryptedGroupSecrets) Encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, e.NewMember)
	e.Secrets.Encode(b)
}

// Decode reads the part.
func (e *EncryptedGroupSecrets) Decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, &e.NewMember) && e.Secrets.Decode(s)
}

// EncryptedSecrets is the encoded contents of the vector of a Welcome's parts.
type EncryptedSecrets []byte

// List is the parts in order. Tools show it.
func (e EncryptedSecrets) List() any { return slices.Collect(e.All()) }

// All yields the parts in order.
func (e EncryptedSecrets) All() iter.Seq[EncryptedGroupSecrets] {
	return func(yield func(EncryptedGroupSecrets) bool) {
		for s := cryptobyte.String(e); !s.Empty(); {
			var secret EncryptedGroupSecrets
			if !secret.Decode(&s) || !yield(secret) {
				return
			}
		}
	}
}
