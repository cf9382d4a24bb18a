package draft09test

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"

	gomls "github.com/cisco/go-mls"
	syntax "github.com/cisco/go-tls-syntax"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// Add proposes to add the client of a key package message.
func (c *Client) Add(keyPackage []byte) ([]byte, error) {
	m, err := framing.Decode(keyPackage)
	if err != nil {
		return nil, err
	}
	if m.KeyPackage == nil {
		return nil, errors.New("draft09test: not a key package")
	}
	return c.propose(c.state.Add(*m.KeyPackage))
}

// Update proposes a new encryption key for the client's own leaf.
func (c *Client) Update() ([]byte, error) {
	secret := newSecret()
	k, err := c.newKeyPackage(c.state.CipherSuite, secret)
	if err != nil {
		return nil, err
	}
	return c.propose(c.state.Update(secret, nil, *k))
}

// Remove proposes to remove a member.
func (c *Client) Remove(leaf uint32) ([]byte, error) {
	return c.propose(c.state.Remove(gomls.LeafIndex(leaf)))
}

// propose encodes the client's own proposal and keeps it.
func (c *Client) propose(pt *gomls.MLSPlaintext, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	message, err := framing.Encode(pt)
	if err != nil {
		return nil, err
	}
	return message, c.Handle(message)
}

// Commit is a Commit with its GroupInfo and Welcome.
type Commit struct {
	Message   []byte
	GroupInfo []byte // of the next epoch
	Welcome   []byte // nil when the Commit adds no client
	next      *gomls.State
}

// Commit makes a Commit of some proposal messages of this epoch. It does not check whether a member may commit them.
// The client stays in its epoch until Merge, or until Handle gets the Commit.
func (c *Client) Commit(authenticatedData []byte, proposals ...[]byte) (*Commit, error) {
	s, err := branch(c.state)
	if err != nil {
		return nil, err
	}
	for _, message := range proposals {
		pt, err := decodePlaintext(message)
		if err != nil {
			return nil, err
		}
		s.PendingProposals = append(s.PendingProposals, *pt)
	}
	context, err := encodeContext(s)
	if err != nil {
		return nil, err
	}
	pt, welcome, next, err := s.Commit(newSecret())
	if err != nil {
		return nil, err
	}
	if err := authenticate(pt, authenticatedData, context, s, next); err != nil {
		return nil, err
	}
	c.pending, err = assemble(pt, welcome, next)
	return c.pending, err
}

// Merge moves the client to the epoch of its own Commit.
func (c *Client) Merge() { c.state, c.pending = c.pending.next, nil }

// branch copies a state without its proposals. State.Clone of go-mls would lose the transcript and share the
// extensions of the leaves, which a Commit changes.
func branch(s *gomls.State) (*gomls.State, error) {
	out := s.Clone()
	out.ConfirmedTranscriptHash = s.ConfirmedTranscriptHash
	out.PendingProposals = nil
	encoded, err := syntax.Marshal(s.Tree)
	if err != nil {
		return nil, err
	}
	if _, err := syntax.Unmarshal(encoded, &out.Tree); err != nil {
		return nil, err
	}
	return out, out.Tree.SetHashAll()
}

func encodeContext(s *gomls.State) ([]byte, error) {
	return syntax.Marshal(gomls.GroupContext{
		GroupID: s.GroupID, Epoch: s.Epoch, TreeHash: s.Tree.RootHash(), ConfirmedTranscriptHash: s.ConfirmedTranscriptHash,
	})
}

// authenticate sets the authenticated data of a Commit. It signs the Commit again and corrects the interim transcript
// hash, which covers the signature.
func authenticate(pt *gomls.MLSPlaintext, authenticatedData, context []byte, s, next *gomls.State) (err error) {
	pt.AuthenticatedData = authenticatedData
	if err := signPlaintext(s, context, pt); err != nil {
		return err
	}
	next.InterimTranscriptHash, err = framing.InterimTranscriptHash(s.CipherSuite, next.ConfirmedTranscriptHash, pt)
	return err
}

// assemble encodes a Commit and its GroupInfo, and puts the GroupInfo into the Welcome.
func assemble(pt *gomls.MLSPlaintext, welcome *gomls.Welcome, next *gomls.State) (c *Commit, err error) {
	c = &Commit{next: next}
	if c.Message, err = framing.Encode(pt); err != nil {
		return nil, err
	}
	if c.GroupInfo, err = groupInfo(next); err != nil || len(welcome.Secrets) == 0 {
		return c, err
	}
	if welcome.EncryptedGroupInfo, err = seal(next, c.GroupInfo[1:]); err != nil {
		return nil, err
	}
	c.Welcome, err = framing.Encode(welcome)
	return c, err
}

// seal encrypts a GroupInfo for a Welcome (draft-ietf-mls-protocol-09, section 11.2.2).
func seal(s *gomls.State, groupInfo []byte) ([]byte, error) {
	sizes := s.CipherSuite.Constants()
	secret, err := expandLabel(s.Keys.EpochSecret, "group info", sizes.SecretSize)
	if err != nil {
		return nil, err
	}
	key, err := expandLabel(secret, "key", sizes.KeySize)
	if err != nil {
		return nil, err
	}
	nonce, err := expandLabel(secret, "nonce", sizes.NonceSize)
	if err != nil {
		return nil, err
	}
	aead, err := s.CipherSuite.NewAEAD(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nonce, groupInfo, nil), nil
}

// expandLabel computes HKDF-Expand-Label with an empty context (draft-ietf-mls-protocol-09, section 8).
func expandLabel(secret []byte, label string, size int) ([]byte, error) {
	info, err := syntax.Marshal(struct {
		Length  uint16
		Label   []byte `tls:"head=1"`
		Context []byte `tls:"head=4"`
	}{uint16(size), []byte("mls10 " + label), nil})
	if err != nil {
		return nil, err
	}
	return hkdf.Expand(sha256.New, secret, string(info), size)
}
