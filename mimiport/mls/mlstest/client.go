package mlstest

import (
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// Client is one device with a signature key: a member, an external sender, or a client that may join.
type Client struct {
	identity   []byte
	key        *rfc9420.SigningKey
	keyPackage *rfc9420.KeyPackage // nil for a member without one
}

// NewClient makes a client for a cipher suite from a seed.
func NewClient(seed uint64, cipherSuite uint16, identity []byte) *Client {
	return newClient(cipherSuite, newRandom(seed), identity)
}

func newClient(suite uint16, r random, identity []byte) *Client {
	c := newMember(suite, r, identity)
	c.keyPackage = c.newKeyPackage(suite, r)
	return c
}

// newMember makes a client without a key package.
func newMember(suite uint16, r random, identity []byte) *Client {
	return &Client{identity: identity, key: r.signingKey(suiteByID(suite))}
}

func (c *Client) newKeyPackage(suite uint16, r random) *rfc9420.KeyPackage {
	k := &rfc9420.KeyPackage{
		Version:     rfc9420.VersionMLS10,
		CipherSuite: suite,
		InitKey:     r.encryptionKey(suite),
		Leaf:        *c.signLeaf(c.unsignedLeaf(rfc9420.SourceKeyPackage, r.encryptionKey(suite)), nil, 0),
	}
	return c.signKeyPackage(k)
}

func (c *Client) signKeyPackage(k *rfc9420.KeyPackage) *rfc9420.KeyPackage {
	k.Signature = c.SignContent(reread(k).SignContent())
	return reread(k)
}

// unsignedLeaf makes a leaf without its signature and, for a Commit, its parent hash.
func (c *Client) unsignedLeaf(source rfc9420.LeafNodeSource, key []byte) *rfc9420.LeafNode {
	return &rfc9420.LeafNode{
		EncryptionKey: key,
		SignatureKey:  c.key.Public,
		Credential:    c.credential(),
		Capabilities:  capabilities(),
		Source:        source,
		Lifetime:      rfc9420.Lifetime{NotBefore: 1_700_000_000, NotAfter: 4_000_000_000},
	}
}

// signLeaf signs a leaf. For a leaf of source key_package, the signature covers neither context nor place.
func (c *Client) signLeaf(l *rfc9420.LeafNode, context *rfc9420.GroupContext, place uint32) *rfc9420.LeafNode {
	var groupID []byte
	if context != nil {
		groupID = context.GroupID
	}
	l.Signature = c.SignContent(reread(l).SignContent(groupID, place))
	return reread(l)
}

func (c *Client) credential() rfc9420.Credential {
	return rfc9420.Credential{Type: rfc9420.CredentialBasic, Contents: c.identity}
}

// greaseValue is one of the GREASE values, which every implementation must ignore (RFC 9420, section 13.5).
const greaseValue = 0x2a2a

// capabilities makes the capabilities of every client: all suites, basic credentials, GREASE values, and the proposals
// of draft-ietf-mls-extensions-10 and of mls-rs.
func capabilities() rfc9420.Capabilities {
	return rfc9420.Capabilities{
		Versions:     rfc9420.MakeUint16s(rfc9420.VersionMLS10),
		CipherSuites: rfc9420.MakeUint16s(1, 2, 3, 4, 5, 6, 7, greaseValue),
		Extensions:   rfc9420.MakeUint16s(rfc9420.ExtensionAppDataDictionary, greaseValue),
		Proposals:    rfc9420.MakeUint16s(8, 9, 10, greaseValue, 0xf002, 0xf003, 0xf004),
		Credentials:  rfc9420.MakeUint16s(rfc9420.CredentialBasic, greaseValue),
	}
}

// SignatureKey returns the client's public signature key.
func (c *Client) SignatureKey() []byte { return c.key.Public }

// Sign computes SignWithLabel (RFC 9420, section 5.1.2) with the client's key.
func (c *Client) Sign(label string, content []byte) []byte {
	return c.SignContent(rfc9420.SignContent(label, content))
}

// KeyPackage encodes the client's key package as a message.
func (c *Client) KeyPackage() []byte {
	return marshal(&rfc9420.Message{
		Version: rfc9420.VersionMLS10, WireFormat: rfc9420.WireKeyPackage, KeyPackage: c.keyPackage,
	})
}

// ExternalSender encodes the client's entry for an external_senders extension.
func (c *Client) ExternalSender() []byte {
	return marshal(&rfc9420.ExternalSender{SignatureKey: c.key.Public, Credential: c.credential()})
}

// SignContent signs content that already includes its label.
func (c *Client) SignContent(content []byte) []byte { return must(c.key.Sign(content)) }

// As makes a client with c's identity and the signature key of another. It has a new key package when c has one.
func (c *Client) As(other *Client) *Client {
	out := &Client{identity: c.identity, key: other.key}
	if c.keyPackage == nil {
		return out
	}
	k := *c.keyPackage
	k.Leaf.SignatureKey = other.key.Public
	k.Leaf = *out.signLeaf(&k.Leaf, nil, 0)
	out.keyPackage = out.signKeyPackage(&k)
	return out
}

// Lasting makes a copy of the client with a key package of another lifetime, in seconds since 1970.
func (c *Client) Lasting(notBefore, notAfter uint64) *Client {
	out, k := *c, *c.keyPackage
	k.Leaf.Lifetime = rfc9420.Lifetime{NotBefore: notBefore, NotAfter: notAfter}
	k.Leaf = *c.signLeaf(&k.Leaf, nil, 0)
	out.keyPackage = c.signKeyPackage(&k)
	return &out
}

// Identity returns the identity of the client's credential.
func (c *Client) Identity() []byte { return c.identity }
