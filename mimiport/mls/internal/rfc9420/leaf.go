package rfc9420

import (
	"iter"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// Credential types of RFC 9420, section 17.5.
const (
	CredentialBasic uint16 = 1
	CredentialX509  uint16 = 2
)

// Credential is a credential (RFC 9420, section 5.3). The codec assumes that the contents of an unknown type are one
// vector, as deployed implementations do. It could not skip contents of another form.
type Credential struct {
	Type     uint16
	Contents []byte // the identity of a basic credential
}

// Encode writes the credential.
func (c *Credential) Encode(b *cryptobyte.Builder) {
	b.AddUint16(c.Type)
	wire.AddOpaque(b, c.Contents)
}

// Decode reads the credential.
func (c *Credential) Decode(s *cryptobyte.String) bool {
	if !s.ReadUint16(&c.Type) || !wire.ReadOpaque(s, &c.Contents) {
		return false
	}
	return c.Type != CredentialX509 || checkList(c.Contents, func(s *cryptobyte.String) bool {
		var certificate []byte
		return wire.ReadOpaque(s, &certificate)
	})
}

// Identity returns the identity of a basic credential, nil for any other type.
func (c *Credential) Identity() []byte {
	if c.Type != CredentialBasic {
		return nil
	}
	return c.Contents
}

// Capabilities lists the types that a member supports (RFC 9420, section 7.2).
type Capabilities struct {
	Raw          []byte `json:"-"` // the whole encoding
	Versions     Uint16s
	CipherSuites Uint16s
	Extensions   Uint16s
	Proposals    Uint16s
	Credentials  Uint16s
}

// Encode writes the capabilities from their fields. It ignores Raw.
func (c *Capabilities) Encode(b *cryptobyte.Builder) {
	c.Versions.encode(b)
	c.CipherSuites.encode(b)
	c.Extensions.encode(b)
	c.Proposals.encode(b)
	c.Credentials.encode(b)
}

// Decode reads the capabilities.
func (c *Capabilities) Decode(s *cryptobyte.String) bool {
	start := *s
	ok := c.Versions.decode(s) && c.CipherSuites.decode(s) && c.Extensions.decode(s) &&
		c.Proposals.decode(s) && c.Credentials.decode(s)
	c.Raw = consumed(start, *s)
	return ok
}

// Extension types of RFC 9420, section 17.3.
const (
	ExtensionApplicationID        uint16 = 1
	ExtensionRatchetTree          uint16 = 2
	ExtensionRequiredCapabilities uint16 = 3
	ExtensionExternalPub          uint16 = 4
	ExtensionExternalSenders      uint16 = 5
)

// ExtensionAppDataDictionary holds data of application components, as a ComponentList (draft-ietf-mls-extensions-10).
const ExtensionAppDataDictionary uint16 = 6

// DefaultExtension reports whether every member supports an extension type without listing it (RFC 9420, section 7.2).
func DefaultExtension(typ uint16) bool {
	return typ >= ExtensionApplicationID && typ <= ExtensionExternalSenders
}

// Extensions is the encoded contents of a vector of extensions (RFC 9420, section 13.4).
type Extensions []byte

func (e Extensions) encode(b *cryptobyte.Builder) { wire.AddOpaque(b, e) }

func (e *Extensions) decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, (*[]byte)(e)) && checkList(*e, func(s *cryptobyte.String) bool {
		var typ uint16
		var data []byte
		return readExtension(s, &typ, &data)
	})
}

func readExtension(s *cryptobyte.String, typ *uint16, data *[]byte) bool {
	return s.ReadUint16(typ) && wire.ReadOpaque(s, data)
}

// List is the extensions in order. Tools show it.
func (e Extensions) List() any {
	type extension struct {
		Type uint16
		Data []byte
	}
	var list []extension
	for typ, data := range e.All() {
		list = append(list, extension{typ, data})
	}
	return list
}

// All yields the type and the contents of each extension in order.
func (e Extensions) All() iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		var typ uint16
		var data []byte
		for s := cryptobyte.String(e); readExtension(&s, &typ, &data); {
			if !yield(typ, data) {
				return
			}
		}
	}
}

// Find returns the contents of the first extension of a type.
func (e Extensions) Find(typ uint16) (data []byte, found bool) {
	for t, data := range e.All() {
		if t == typ {
			return data, true
		}
	}
	return nil, false
}

// With returns the list with one more extension at its end.
func (e Extensions) With(typ uint16, data []byte) (Extensions, error) {
	b := cryptobyte.NewBuilder(append(Extensions(nil), e...))
	b.AddUint16(typ)
	wire.AddOpaque(b, data)
	return b.Bytes()
}

// Replace returns the list with other contents for a type. It appends the extension when the list has none of the type.
func (e Extensions) Replace(typ uint16, data []byte) (Extensions, error) {
	var b cryptobyte.Builder
	replaced := false
	for t, old := range e.All() {
		if t == typ {
			old, replaced = data, true
		}
		b.AddUint16(t)
		wire.AddOpaque(&b, old)
	}
	if !replaced {
		b.AddUint16(typ)
		wire.AddOpaque(&b, data)
	}
	return b.Bytes()
}

// RequiredCapabilities is the extension of that name (RFC 9420, section 11.1).
type RequiredCapabilities struct {
	Extensions  Uint16s
	Proposals   Uint16s
	Credentials Uint16s
}

// Encode writes the extension's contents.
func (r *RequiredCapabilities) Encode(b *cryptobyte.Builder) {
	r.Extensions.encode(b)
	r.Proposals.encode(b)
	r.Credentials.encode(b)
}

// Decode reads the extension's contents.
func (r *RequiredCapabilities) Decode(s *cryptobyte.String) bool {
	return r.Extensions.decode(s) && r.Proposals.decode(s) && r.Credentials.decode(s)
}

// ExternalSender is one entry of the external_senders extension (RFC 9420, section 12.1.8.1).
type ExternalSender struct {
	SignatureKey []byte
	Credential   Credential
}

// Encode writes the entry.
func (e *ExternalSender) Encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, e.SignatureKey)
	e.Credential.Encode(b)
}

// Decode reads the entry.
func (e *ExternalSender) Decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, &e.SignatureKey) && e.Credential.Decode(s)
}

// ExternalSenders is the contents of the external_senders extension.
type ExternalSenders []ExternalSender

// Encode writes the extension's contents.
func (e *ExternalSenders) Encode(b *cryptobyte.Builder) {
	wire.AddVector(b, func(b *cryptobyte.Builder) {
		for i := range *e {
			(*e)[i].Encode(b)
		}
	})
}

// Decode reads the extension's contents.
func (e *ExternalSenders) Decode(s *cryptobyte.String) bool {
	var list cryptobyte.String
	return wire.ReadVector(s, &list) && checkList(list, func(s *cryptobyte.String) bool {
		var sender ExternalSender
		if !sender.Decode(s) {
			return false
		}
		*e = append(*e, sender)
		return true
	})
}

// LeafNodeSource tells how a leaf came into the tree (RFC 9420, section 7.2).
type LeafNodeSource uint8

// The sources of a leaf.
const (
	SourceKeyPackage LeafNodeSource = 1
	SourceUpdate     LeafNodeSource = 2
	SourceCommit     LeafNodeSource = 3
)

// Lifetime is the time in which a key package is valid, in seconds since 1970 (RFC 9420, section 7.2).
type Lifetime struct {
	NotBefore, NotAfter uint64
}

// LeafNode is a leaf of the ratchet tree (RFC 9420, section 7.2).
type LeafNode struct {
	Raw           []byte `json:"-"` // the whole encoding
	EncryptionKey []byte
	SignatureKey  []byte
	Credential    Credential
	Capabilities  Capabilities
	Source        LeafNodeSource
	Lifetime      Lifetime // of SourceKeyPackage
	ParentHash    []byte   `json:",omitzero"` // of SourceCommit
	Extensions    Extensions
	Signature     []byte
}

// Encode writes the leaf from its fields. It ignores Raw.
func (l *LeafNode) Encode(b *cryptobyte.Builder) {
	l.EncodeUnsigned(b)
	wire.AddOpaque(b, l.Signature)
}

// EncodeUnsigned writes the leaf without its signature.
func (l *LeafNode) EncodeUnsigned(b *cryptobyte.Builder) {
	wire.AddOpaque(b, l.EncryptionKey)
	wire.AddOpaque(b, l.SignatureKey)
	l.Credential.Encode(b)
	l.Capabilities.Encode(b)
	b.AddUint8(uint8(l.Source))
	switch l.Source {
	case SourceKeyPackage:
		b.AddUint64(l.Lifetime.NotBefore)
		b.AddUint64(l.Lifetime.NotAfter)
	case SourceCommit:
		wire.AddOpaque(b, l.ParentHash)
	}
	l.Extensions.encode(b)
}

// Decode reads the leaf.
func (l *LeafNode) Decode(s *cryptobyte.String) bool {
	start := *s
	ok := wire.ReadOpaque(s, &l.EncryptionKey) && wire.ReadOpaque(s, &l.SignatureKey) &&
		l.Credential.Decode(s) && l.Capabilities.Decode(s) &&
		s.ReadUint8((*uint8)(&l.Source)) && l.decodeSource(s) &&
		l.Extensions.decode(s) && wire.ReadOpaque(s, &l.Signature)
	l.Raw = consumed(start, *s)
	return ok
}

func (l *LeafNode) decodeSource(s *cryptobyte.String) bool {
	switch l.Source {
	case SourceKeyPackage:
		return s.ReadUint64(&l.Lifetime.NotBefore) && s.ReadUint64(&l.Lifetime.NotAfter)
	case SourceUpdate:
		return true
	case SourceCommit:
		return wire.ReadOpaque(s, &l.ParentHash)
	}
	return false
}

// SignContent returns the content that the signature covers (RFC 9420, section 7.2). It includes the group ID and the
// leaf index, except for a leaf of source key_package.
func (l *LeafNode) SignContent(groupID []byte, leaf uint32) []byte {
	unsigned := without(l.Raw, l.Signature)
	if l.Source == SourceKeyPackage {
		return SignContent(LabelLeafNode, unsigned)
	}
	place := cryptobyte.NewBuilder(make([]byte, 0, len(groupID)+8))
	wire.AddOpaque(place, groupID)
	place.AddUint32(leaf)
	// BytesOrPanic does not panic: the group ID came in a vector.
	return SignContent(LabelLeafNode, unsigned, place.BytesOrPanic())
}

// ParentNode is an inner node of the ratchet tree (RFC 9420, section 7.1).
type ParentNode struct {
	Raw            []byte `json:"-"` // the whole encoding
	EncryptionKey  []byte
	ParentHash     []byte
	UnmergedLeaves Uint32s
}

// Encode writes the node from its fields. It ignores Raw.
func (p *ParentNode) Encode(b *cryptobyte.Builder) {
	wire.AddOpaque(b, p.EncryptionKey)
	wire.AddOpaque(b, p.ParentHash)
	p.UnmergedLeaves.encode(b)
}

// Decode reads the node.
func (p *ParentNode) Decode(s *cryptobyte.String) bool {
	start := *s
	ok := wire.ReadOpaque(s, &p.EncryptionKey) && wire.ReadOpaque(s, &p.ParentHash) && p.UnmergedLeaves.decode(s)
	p.Raw = consumed(start, *s)
	return ok
}

// Node types of RFC 9420, section 7.8.
const (
	NodeTypeLeaf   uint8 = 1
	NodeTypeParent uint8 = 2
)
