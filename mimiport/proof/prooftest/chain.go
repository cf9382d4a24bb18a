package prooftest

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Message is a message of a lineage that servers sign.
type Message interface {
	mimiport.Signed
	Marshal() ([]byte, error)
}

// Chain is a group that moves from host to host. A test may change its lineage in any way.
type Chain struct {
	ID           []byte
	Host, Before string // the present host, and the host of the term before
	Epoch        uint64 // the first epoch of the present term
	Lineage      mimiport.Lineage

	sign func(server string, m Message) mimiport.SignedMessage
}

// NewChain makes a group at the server that made its id. sign signs for every server.
func NewChain(p mimiport.GroupIDPreimage, sign func(server string, m Message) mimiport.SignedMessage) *Chain {
	return &Chain{
		ID: p.GroupID(), Host: p.CreatingServer, sign: sign,
		Lineage: mimiport.Lineage{CreatingServer: p.CreatingServer, Preimage: &p, RoomID: p.RoomID},
	}
}

// Offer returns an offer of a target to the host at an epoch, and the decision on it. Neither is signed.
func (c *Chain) Offer(target string, epoch uint64) (*mimiport.MigrationResponse, *mimiport.MigrationConfirmation) {
	offer := &mimiport.MigrationResponse{
		Request: mimiport.MigrationRequest{SourceDomain: c.Host, TargetDomain: target, GroupID: c.ID, Epoch: epoch},
		Nonce:   sha256.Sum256(binary.BigEndian.AppendUint64([]byte(target), c.Lineage.Term())),
	}
	return offer, &mimiport.MigrationConfirmation{DomainName: target, Nonce: offer.Nonce, GroupID: c.ID}
}

// Migrate adds a migration at an epoch, with the target's vote.
func (c *Chain) Migrate(target string, epoch uint64) {
	offer, decision := c.Offer(target, epoch)
	c.add(target, epoch+1, mimiport.LineageStep{
		Kind: mimiport.StepMigration, Response: c.sign(target, offer), Confirmation: c.sign(c.Host, decision),
		Vote: c.sign(target, c.Vote(offer)),
	})
}

// Vote returns a target's unsigned vote on its offer to the host.
func (c *Chain) Vote(offer *mimiport.MigrationResponse) *mimiport.MigrationVote {
	hash := sha256.Sum256([]byte("a stand-in for a MigrationContent"))
	return &mimiport.MigrationVote{MigrationID: offer.ID(), Term: c.Lineage.Term() + 1, ContentHash: hash[:]}
}

// Claim adds a reclaim or a recover by a server.
func (c *Chain) Claim(kind mimiport.StepKind, server string, epoch uint64) {
	claim := c.sign(server, &mimiport.LineageClaim{
		Kind: kind, DomainName: server, GroupID: c.ID, Term: c.Lineage.Term() + 1, Epoch: epoch,
	})
	c.add(server, epoch, mimiport.LineageStep{Kind: kind, Claim: &claim})
}

func (c *Chain) add(host string, epoch uint64, step mimiport.LineageStep) {
	c.Host, c.Before, c.Epoch = host, c.Host, epoch
	c.Lineage.Steps = append(c.Lineage.Steps, step)
}
