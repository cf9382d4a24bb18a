package main

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// partingFile is the file of lineages that part.
type partingFile struct {
	Cases []partingCase `json:"cases"`
}

// partingCase is two verified lineages of one group, the room's word, and which of the two everybody prefers.
type partingCase struct {
	Name       string   `json:"name"`
	First      string   `json:"first"`
	Second     string   `json:"second"`
	ClaimHash  string   `json:"claim_hash,omitempty"`
	Successors []string `json:"successors,omitempty"`
	At         int      `json:"at"` // how many steps they have in common
	Preferred  string   `json:"preferred"`
}

const fourthName = "fourth.example"

// branch is a way for a group to go on.
type branch func(c *chain)

// unvoted moves a group to the third at an epoch, without the target's vote.
func unvoted(epoch uint64) branch {
	return func(c *chain) {
		offer, decision := c.Offer(thirdName, epoch)
		c.Lineage.Steps = append(c.Lineage.Steps, mimiport.LineageStep{
			Kind: mimiport.StepMigration, Response: signAs(thirdName, "ed25519:a", offer),
			Confirmation: signAs(c.Host, "ed25519:a", decision),
		})
	}
}

func partings() *partingFile {
	f := new(partingFile)
	add := func(name, preferred string, first, second branch, word func(a, b *chain) (claim []byte, successors []string)) {
		a, b := upTo(movedTwice(), 1), upTo(movedTwice(), 1)
		first(a)
		second(b)
		v := partingCase{
			Name: name, Preferred: preferred, At: 1,
			First: hex.EncodeToString(mustMarshal(&a.Lineage)), Second: hex.EncodeToString(mustMarshal(&b.Lineage)),
		}
		if word != nil {
			claim, successors := word(a, b)
			v.ClaimHash, v.Successors = hex.EncodeToString(claim), successors
		}
		f.Cases = append(f.Cases, v)
	}
	move := func(c *chain) { c.Migrate(thirdName, 9) }
	claim := func(kind mimiport.StepKind, server string) branch {
		return func(c *chain) { c.Claim(kind, server, 10) }
	}
	reclaim := claim(mimiport.StepReclaim, sourceName)
	third, fourth := claim(mimiport.StepRecover, thirdName), claim(mimiport.StepRecover, fourthName)
	twice := func(c *chain) {
		fourth(c)
		c.Claim(mimiport.StepReclaim, fourthName, 12)
	}
	named := func(term int) func(a, b *chain) ([]byte, []string) {
		return func(_, b *chain) ([]byte, []string) { return claimHash(b, term), nil }
	}
	listed := func(servers ...string) func(a, b *chain) ([]byte, []string) {
		return func(_, _ *chain) ([]byte, []string) { return nil, servers }
	}
	add("a migration before a recover", "first", move, third, nil)
	add("a migration before a reclaim", "second", reclaim, move, nil)
	add("a migration without its target's vote", "neither", unvoted(9), third, nil)
	add("a reclaim before a recover", "second", third, reclaim, nil)
	add("recovers that the room does not order", "neither", third, fourth, nil)
	add("the recover of the successor listed first", "second", third, fourth, listed(fourthName, thirdName))
	add("the recover of a successor before another's", "first", third, fourth, listed(thirdName))
	add("the pointer before the list", "second", third, fourth, func(_, b *chain) ([]byte, []string) {
		return claimHash(b, 2), []string{thirdName}
	})
	add("the pointer before a migration", "second", move, fourth, named(2))
	add("the pointer names a later claim", "second", move, twice, named(3))
	return f
}

// claimHash is by what a room's pointer names the claim that begins a term.
func claimHash(c *chain, term int) []byte {
	sum := sha256.Sum256(c.Lineage.Steps[term-1].Claim.Message)
	return sum[:]
}
