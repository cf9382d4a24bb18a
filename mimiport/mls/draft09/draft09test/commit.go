package draft09test

import (
	"crypto/hkdf"
	"errors"
	"slices"

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

// propose takes note of the client's own proposal.
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

// Commit is a Commit with all that goes with it.
type Commit struct {
	Message   []byte
	GroupInfo []byte // of the next epoch
	Welcome   []byte // nil if nobody is added
	next      *gomls.State
}

// Commit commits all proposals of this epoch that the client knows, except its own Updates. The client stays where it is until Merge,
// or until Handle gets the Commit; Discard drops it.
func (c *Client) Commit(authenticatedData []byte) (*Commit, error) {
	s, err := branch(c.state)
	if err != nil {
		return nil, err
	}
	s.PendingProposals = slices.DeleteFunc(slices.Clone(s.PendingProposals), func(pt gomls.MLSPlaintext) bool {
		return pt.Content.Proposal.Update != nil && pt.Sender.Sender == uint32(s.Index)
	})
	return commit(s, authenticatedData, newSecret())
}

// CommitProposals is Commit of just these proposal messages, also such as no client should commit. It is not pending: the client
// never merges it.
func (c *Client) CommitProposals(proposals [][]byte, authenticatedData []byte) (*Commit, error) {
	s, err := branch(c.state)
	if err != nil {
		return nil, err
	}
	s.PendingProposals = nil
	for _, message := range proposals {
		pt, err := decodePlaintext(message)
		if err != nil {
			return nil, err
		}
		s.PendingProposals = append(s.PendingProposals, *pt)
	}
	return commit(s, authenticatedData, newSecret())
}
