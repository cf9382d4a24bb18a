// Package draft09test is a client of go-mls groups for tests: a real member with secrets. The engine of package
// draft09 must agree with it.
//
// go-mls can neither set the authenticated data of a Commit nor make a GroupInfo for a Delivery Service, so this
// package signs both itself. All randomness comes from crypto/rand: go-mls takes no other source.
package draft09test

import (
	"bytes"
	"crypto/rand"
	"errors"

	gomls "github.com/cisco/go-mls"
	syntax "github.com/cisco/go-tls-syntax"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// Client is one device. It has no group until Create or Join. It is not safe for concurrent use.
type Client struct {
	identity   []byte
	signer     gomls.SignaturePrivateKey
	initSecret []byte // of the key package
	keyPackage *gomls.KeyPackage
	state      *gomls.State
	pending    *Commit // the client's own, until the client merges it or handles another Commit
}

// NewClient makes a client with a new signature key and a new key package. It supports cipher suites 1 and 3.
func NewClient(cipherSuite uint16, identity []byte) (*Client, error) {
	suite := gomls.CipherSuite(cipherSuite)
	signer, err := suite.Scheme().Generate()
	if err != nil {
		return nil, err
	}
	c := &Client{identity: identity, signer: signer, initSecret: newSecret()}
	c.keyPackage, err = c.newKeyPackage(suite, c.initSecret)
	return c, err
}

// newSecret draws 32 random bytes.
func newSecret() []byte {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	return secret
}

func (c *Client) newKeyPackage(suite gomls.CipherSuite, initSecret []byte) (*gomls.KeyPackage, error) {
	credential := gomls.NewBasicCredential(c.identity, suite.Scheme(), c.signer.PublicKey)
	return gomls.NewKeyPackageWithSecret(suite, initSecret, credential, c.signer)
}

// KeyPackage encodes the client's key package.
func (c *Client) KeyPackage() ([]byte, error) { return framing.Encode(c.keyPackage) }

// Create makes a group with the client as its only member, in epoch 0.
func (c *Client) Create(groupID []byte) (err error) {
	c.state, err = gomls.NewEmptyState(groupID, c.initSecret, c.signer, *c.keyPackage)
	return err
}

// Join joins the group of a Welcome message.
func (c *Client) Join(welcome []byte) error {
	m, err := framing.Decode(welcome)
	if err != nil {
		return err
	}
	if m.Welcome == nil {
		return errors.New("draft09test: not a Welcome")
	}
	c.state, err = gomls.NewJoinedState(
		c.initSecret, []gomls.SignaturePrivateKey{c.signer}, []gomls.KeyPackage{*c.keyPackage}, *m.Welcome,
	)
	return err
}

// Epoch is the client's epoch.
func (c *Client) Epoch() uint64 { return uint64(c.state.Epoch) }

// Leaf is the client's leaf.
func (c *Client) Leaf() uint32 { return uint32(c.state.Index) }

// TreeHash is the hash of the client's tree.
func (c *Client) TreeHash() []byte { return c.state.Tree.RootHash() }

// ConfirmedTranscriptHash is the confirmed transcript hash of the client's epoch.
func (c *Client) ConfirmedTranscriptHash() []byte { return c.state.ConfirmedTranscriptHash }

// RatchetTree is the client's encoded tree.
func (c *Client) RatchetTree() ([]byte, error) { return syntax.Marshal(c.state.Tree) }

// Authenticator is a secret of the epoch, 32 bytes. Two clients with the same one are in the same state.
func (c *Client) Authenticator() []byte { return c.state.Keys.Export("authenticator", nil, 32) }

// GroupInfo makes the GroupInfo message of the client's epoch and signs it.
func (c *Client) GroupInfo() ([]byte, error) { return groupInfo(c.state) }

func groupInfo(s *gomls.State) ([]byte, error) {
	mac := s.CipherSuite.NewHMAC(s.Keys.ConfirmationKey)
	mac.Write(s.ConfirmedTranscriptHash)
	return signGroupInfo(s, &gomls.GroupInfo{
		GroupID: s.GroupID, Epoch: s.Epoch, Tree: s.Tree, ConfirmedTranscriptHash: s.ConfirmedTranscriptHash,
		InterimTranscriptHash: s.InterimTranscriptHash, Confirmation: mac.Sum(nil), SignerIndex: s.Index,
	})
}

// Sign signs the SignContent of RFC 9420, section 5.1.2, with the leaf's key. Group.VerifyMember verifies the
// signature.
func (c *Client) Sign(label string, content []byte) ([]byte, error) {
	return c.state.Scheme.Sign(&c.state.IdentityPriv, rfc9420.SignContent(label, content))
}

// Protect encrypts an application message.
func (c *Client) Protect(data []byte) ([]byte, error) {
	ct, err := c.state.Protect(data)
	if err != nil {
		return nil, err
	}
	return framing.Encode(ct)
}

// Unprotect decrypts an application message of another member.
func (c *Client) Unprotect(message []byte) ([]byte, error) {
	m, err := framing.Decode(message)
	if err != nil {
		return nil, err
	}
	if m.Ciphertext == nil {
		return nil, errors.New("draft09test: not an application message")
	}
	return c.state.Unprotect(m.Ciphertext)
}

// Handle processes a proposal or a Commit of any member or of the client itself.
func (c *Client) Handle(message []byte) error {
	if c.pending != nil && bytes.Equal(message, c.pending.Message) {
		c.Merge()
		return nil
	}
	pt, err := decodePlaintext(message)
	if err != nil {
		return err
	}
	if pt.Content.Proposal != nil && c.knows(pt) {
		return nil
	}
	next, err := c.state.Handle(pt)
	if next != nil {
		c.state, c.pending = next, nil
	}
	return err
}

// knows reports whether the client has a proposal already.
func (c *Client) knows(pt *gomls.MLSPlaintext) bool {
	for i := range c.state.PendingProposals {
		if bytes.Equal(c.state.PendingProposals[i].Signature.Data, pt.Signature.Data) {
			return true
		}
	}
	return false
}

func decodePlaintext(message []byte) (*gomls.MLSPlaintext, error) {
	m, err := framing.Decode(message)
	if err != nil {
		return nil, err
	}
	if m.Plaintext == nil {
		return nil, errors.New("draft09test: neither a proposal nor a Commit")
	}
	return m.Plaintext, nil
}
