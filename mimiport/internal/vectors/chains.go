package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
)

// thirdName is the server to which the group of the chains moves after the target.
const thirdName = "third.example"

// chainFile is the content of the file of whole chains.
type chainFile struct {
	Cases []*chainCase `json:"cases"`
}

// chainCase is one lineage, other facts that the verifier knows, and the expected outcome.
type chainCase struct {
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	GroupID string `json:"group_id"`
	Lineage string `json:"lineage"`

	Recorded string              `json:"recorded,omitempty"`
	Next     bool                `json:"next,omitempty"`
	Hashed   bool                `json:"hashed,omitempty"`
	Source   string              `json:"source,omitempty"`
	Named    *placeJSON          `json:"named,omitempty"`
	Own      []string            `json:"own,omitempty"`
	Known    map[string][]string `json:"known,omitempty"`
	Live     map[string]string   `json:"live,omitempty"`
	NotAsked []string            `json:"not_asked,omitempty"`

	End       *placeJSON `json:"end,omitempty"`
	Epoch     *uint64    `json:"epoch,omitempty"`
	Stored    string     `json:"stored,omitempty"`
	Presented []useJSON  `json:"presented,omitempty"`
}

type placeJSON struct {
	Server string `json:"server"`
	Term   uint64 `json:"term"`
}

type useJSON struct {
	Term   uint64 `json:"term"`
	Server string `json:"server"`
	KeyID  string `json:"key_id"`
}

// chain is a group that moves from host to host.
type chain = prooftest.Chain

// edit changes a case or its chain.
type edit = func(v *chainCase, c *chain)

// keyNames maps a server to the name from which its key is derived.
var keyNames = map[string]string{sourceName: "source", targetName: "target", thirdName: "third"}

func pairOf(server, id string) prooftest.Pair {
	name, ok := keyNames[server]
	if !ok {
		name = server
	}
	if id != "ed25519:a" {
		name += " " + id
	}
	return prooftest.Pair{ID: id, Key: keyOf(name), Until: time.UnixMilli(1_900_000_000_000)}
}

// objectOf makes a server's key object with one key.
func objectOf(server, id string) []byte { return prooftest.KeyObject(server, pairOf(server, id)) }

// signAs signs a message with the key of a server that has an id.
func signAs(server, id string, m prooftest.Message) mimiport.SignedMessage {
	if err := mimiport.Sign(m, pairOf(server, id).Key); err != nil {
		panic(err)
	}
	return mimiport.SignedMessage{Message: mustMarshal(m), KeyID: id, KeyObject: objectOf(server, id)}
}

// newChain makes the group of all vectors, at the server that created its id.
func newChain() *chain {
	pre := mimiport.GroupIDPreimage{CreatingServer: sourceName, RoomID: roomID, Nonce: derive("group nonce")}
	return prooftest.NewChain(pre, func(server string, m prooftest.Message) mimiport.SignedMessage {
		return signAs(server, "ed25519:a", m)
	})
}

// movedTwice makes a chain that moves from the source to the target at epoch 7, and to the third server at epoch 9.
func movedTwice() *chain {
	c := newChain()
	c.Migrate(targetName, 7)
	c.Migrate(thirdName, 9)
	return c
}

// online returns the key objects that servers publish.
func online(servers ...string) map[string]string {
	live := make(map[string]string)
	for _, server := range servers {
		live[server] = hex.EncodeToString(objectOf(server, "ed25519:a"))
	}
	return live
}

func stored(servers ...string) map[string][]string {
	known := make(map[string][]string)
	for server, object := range online(servers...) {
		known[server] = []string{object}
	}
	return known
}

// chains makes the cases. Each begins with a new chain and changes the chain or the other facts.
func chains() *chainFile {
	f := new(chainFile)
	add := func(outcome, name string, c *chain, change edit) *chainCase {
		v := &chainCase{
			Name: name, Outcome: outcome, GroupID: hex.EncodeToString(newChain().ID),
			Live: online(sourceName, targetName, thirdName),
		}
		if change != nil {
			change(v, c)
		}
		v.Lineage = hex.EncodeToString(mustMarshal(&c.Lineage))
		if outcome == "holds" {
			v.End, v.Epoch = &placeJSON{c.Host, c.Lineage.Term()}, &c.Epoch
		}
		f.Cases = append(f.Cases, v)
		return v
	}
	for _, part := range []func(adder){holding, brokenChains, badSignatures, recorded, origins} {
		part(add)
	}
	return f
}

type adder = func(outcome, name string, c *chain, change edit) *chainCase

func holding(add adder) {
	claimed := func(kind mimiport.StepKind, server string) *chain {
		c := movedTwice()
		c.Claim(kind, server, 10)
		return c
	}
	first := newChain()
	first.Claim(mimiport.StepReclaim, sourceName, 3)
	add("holds", "never moved", newChain(), nil)
	add("holds", "moved twice", movedTwice(), nil)
	add("holds", "reclaimed by the host before", claimed(mimiport.StepReclaim, targetName), nil)
	add("holds", "reclaimed by the host itself", claimed(mimiport.StepReclaim, thirdName), nil)
	add("holds", "reclaimed in term 1 by the host itself", first, nil)
	long := claimed(mimiport.StepReclaim, targetName)
	long.Claim(mimiport.StepRecover, thirdName, 12)
	long.Migrate(sourceName, 14)
	long.Claim(mimiport.StepReclaim, thirdName, 15)
	add("holds", "moved twice, reclaimed, recovered, moved, reclaimed", long, nil)
	again := claimed(mimiport.StepRecover, targetName)
	again.Claim(mimiport.StepReclaim, sourceName, 12)
	add("refused", "reclaimed by a host from before the one before", again, nil)
	add("holds", "recovered by a server that never had it",
		claimed(mimiport.StepRecover, "fourth.example"), func(v *chainCase, _ *chain) {
			v.Live = online(sourceName, targetName, thirdName, "fourth.example")
		})
	add("holds", "key objects that are none give way to those that were fetched",
		movedTwice(), func(v *chainCase, c *chain) {
			v.Stored = hex.EncodeToString(mustMarshal(&c.Lineage))
			for i := range c.Lineage.Steps {
				step := &c.Lineage.Steps[i]
				step.Response.KeyObject, step.Confirmation.KeyObject, step.Vote.KeyObject = []byte(`{"a":1}`), nil, []byte(`{}`)
			}
		})
	votes(add)
}

// votes are chains with a vote that is none for their first step.
func votes(add adder) {
	offer, _ := newChain().Offer(targetName, 7)
	vote := func(change func(*mimiport.MigrationVote)) *mimiport.MigrationVote {
		v := newChain().Vote(offer)
		change(v)
		return v
	}
	whole := vote(func(*mimiport.MigrationVote) {})
	left := func(name string, signed mimiport.SignedMessage) {
		add("holds", name+" is left out", movedTwice(), func(v *chainCase, c *chain) {
			c.Lineage.Steps[0].Vote = mimiport.SignedMessage{}
			v.Stored = hex.EncodeToString(mustMarshal(&c.Lineage))
			c.Lineage.Steps[0].Vote = signed
		})
	}
	left("a vote by another", signAs(thirdName, "ed25519:a", whole))
	left("a vote in another migration",
		signAs(targetName, "ed25519:a", vote(func(v *mimiport.MigrationVote) { v.MigrationID[0] ^= 1 })))
	left("a vote in another term",
		signAs(targetName, "ed25519:a", vote(func(v *mimiport.MigrationVote) { v.Term++ })))
	left("a vote that names no migration",
		signAs(targetName, "ed25519:a", &mimiport.TargetMigrationComplete{ContentHash: whole.ContentHash}))
}

func brokenChains(add adder) {
	claim := func(kind mimiport.StepKind, server string, epoch uint64) edit {
		return func(_ *chainCase, c *chain) { c.Claim(kind, server, epoch) }
	}
	add("refused", "reclaimed in term 1 by nobody", newChain(), claim(mimiport.StepReclaim, "", 3))
	add("refused", "reclaimed in term 1 by another", newChain(), claim(mimiport.StepReclaim, targetName, 3))
	add("refused", "reclaimed by a third", movedTwice(), claim(mimiport.StepReclaim, sourceName, 10))
	add("refused", "recovered by nobody", movedTwice(), claim(mimiport.StepRecover, "", 10))
	add("refused", "recovered by what is no server name",
		movedTwice(), claim(mimiport.StepRecover, "user@third.example", 10))
	add("refused", "recovered at an earlier epoch", movedTwice(), claim(mimiport.StepRecover, targetName, 9))
	add("refused", "moved to nobody", newChain(), func(_ *chainCase, c *chain) { c.Migrate("", 7) })
	add("refused", "moved to the host itself",
		newChain(), func(_ *chainCase, c *chain) { c.Migrate(sourceName, 7) })
	add("refused", "moved at the epoch of the step before", newChain(), func(_ *chainCase, c *chain) {
		c.Migrate(targetName, 7)
		c.Migrate(thirdName, 7)
	})
	add("refused", "moved from another than the host", newChain(), func(_ *chainCase, c *chain) {
		c.Migrate(targetName, 7)
		c.Host = sourceName
		c.Migrate(thirdName, 9)
	})
	add("refused", "a step of another group", newChain(), func(_ *chainCase, c *chain) {
		c.ID = []byte("another group")
		c.Migrate(targetName, 7)
	})
	add("refused", "a claim on another group", newChain(), func(_ *chainCase, c *chain) {
		c.ID = []byte("another group")
		c.Claim(mimiport.StepRecover, targetName, 7)
	})
	add("refused", "a claim of another term", newChain(), func(_ *chainCase, c *chain) {
		c.Claim(mimiport.StepRecover, targetName, 7)
		c.Claim(mimiport.StepRecover, targetName, 7)
		c.Lineage.Steps = c.Lineage.Steps[1:]
	})
	add("refused", "a claim of another kind than the step", newChain(), func(_ *chainCase, c *chain) {
		c.Claim(mimiport.StepRecover, sourceName, 7)
		c.Lineage.Steps[0].Kind = mimiport.StepReclaim
	})
	add("refused", "the nonce of an earlier step", newChain(), func(_ *chainCase, c *chain) {
		c.Migrate(targetName, 7)
		c.Migrate(sourceName, 9)
		offer, decision := c.Offer(targetName, 11)
		first, err := mimiport.UnmarshalMigrationConfirmation(c.Lineage.Steps[0].Confirmation.Message)
		if err != nil {
			panic(err)
		}
		offer.Nonce, decision.Nonce = first.Nonce, first.Nonce
		c.Lineage.Steps = append(c.Lineage.Steps, mimiport.LineageStep{
			Kind: mimiport.StepMigration, Response: signAs(targetName, "ed25519:a", offer),
			Confirmation: signAs(sourceName, "ed25519:a", decision),
		})
	})
	add("refused", "another creating server", movedTwice(), func(_ *chainCase, c *chain) {
		c.Lineage.CreatingServer, c.Lineage.Preimage = thirdName, nil
	})
	add("refused", "a creating server that is none", newChain(), func(_ *chainCase, c *chain) {
		c.Lineage.CreatingServer, c.Lineage.Preimage = "", nil
	})
	add("refused", "the preimage of another id",
		newChain(), func(_ *chainCase, c *chain) { c.Lineage.Preimage.Nonce[0] ^= 1 })
	add("refused", "no preimage of an id that is known to have one", newChain(), func(v *chainCase, c *chain) {
		v.Hashed, c.Lineage.Preimage = true, nil
	})
}

// badSignatures makes chains with a part that the wrong server has signed, or that is about something else.
func badSignatures(add adder) {
	add("refused", "a decision for another target",
		newChain(), decided(func(c *mimiport.MigrationConfirmation) { c.DomainName = thirdName }))
	add("refused", "a decision on another offer",
		newChain(), decided(func(c *mimiport.MigrationConfirmation) { c.Nonce[0] ^= 1 }))
	add("refused", "a decision on another group",
		newChain(), decided(func(c *mimiport.MigrationConfirmation) { c.GroupID = []byte("another group") }))
	add("refused", "an offer that its target has not signed", movedTwice(), func(_ *chainCase, c *chain) {
		offer, _ := newChain().Offer(targetName, 7)
		c.Lineage.Steps[0].Response = signAs(thirdName, "ed25519:a", offer)
	})
	add("refused", "a decision that its source has not signed", movedTwice(), func(_ *chainCase, c *chain) {
		_, decision := newChain().Offer(targetName, 7)
		c.Lineage.Steps[0].Confirmation = signAs(targetName, "ed25519:a", decision)
	})
	add("refused", "a claim that its server has not signed", newChain(), func(_ *chainCase, c *chain) {
		c.Claim(mimiport.StepRecover, targetName, 7)
		claim := &mimiport.LineageClaim{Kind: mimiport.StepRecover, DomainName: targetName, GroupID: c.ID, Term: 1, Epoch: 7}
		*c.Lineage.Steps[0].Claim = signAs(thirdName, "ed25519:a", claim)
	})
	add("refused", "a key that the server does not publish", movedTwice(), resigned)
}

// decided moves a group with a decision that change alters before it is signed.
func decided(change func(*mimiport.MigrationConfirmation)) edit {
	return func(_ *chainCase, c *chain) {
		_, decision := c.Offer(targetName, 7)
		change(decision)
		c.Migrate(targetName, 7)
		c.Lineage.Steps[0].Confirmation = signAs(sourceName, "ed25519:a", decision)
	}
}

// resigned signs the first decision with another key of its source.
func resigned(_ *chainCase, c *chain) {
	_, decision := newChain().Offer(targetName, 7)
	c.Lineage.Steps[0].Confirmation = signAs(sourceName, "ed25519:b", decision)
}

// recorded makes chains of which the verifier already has a part.
func recorded(add adder) {
	beginning := hex.EncodeToString(mustMarshal(&upTo(movedTwice(), 1).Lineage))
	add("holds", "only the steps beyond what is recorded are verified",
		movedTwice(), func(v *chainCase, _ *chain) {
			v.Recorded, v.Live = beginning, online(targetName, thirdName)
		})
	add("holds", "less than what is recorded", upTo(movedTwice(), 1), func(v *chainCase, _ *chain) {
		v.Recorded, v.Live = hex.EncodeToString(mustMarshal(&movedTwice().Lineage)), nil
	})
	add("holds", "a decision that was signed again is the same, and the recorded one is kept",
		upTo(movedTwice(), 1), func(v *chainCase, c *chain) {
			resigned(v, c)
			v.Recorded, v.Stored = beginning, beginning
			newer, older := pairOf(sourceName, "ed25519:b"), pairOf(sourceName, "ed25519:a")
			v.Live[sourceName] = hex.EncodeToString(prooftest.KeyObject(sourceName, newer, older))
		})
	add("refused", "a decision that was signed again by nobody",
		upTo(movedTwice(), 1), func(v *chainCase, c *chain) {
			resigned(v, c)
			v.Recorded = beginning
		})
	add("refused", "a chain that parts from the recorded one", newChain(), func(v *chainCase, c *chain) {
		c.Migrate(thirdName, 7)
		v.Recorded = beginning
	})
	add("refused", "a chain without the recorded preimage", movedTwice(), func(v *chainCase, c *chain) {
		c.Lineage.Preimage = nil
		v.Recorded = beginning
	})
	foreign := upTo(movedTwice(), 1)
	foreign.Lineage.Preimage = nil
	add("holds", "a chain with a preimage that is not recorded", movedTwice(), func(v *chainCase, _ *chain) {
		v.Recorded = hex.EncodeToString(mustMarshal(&foreign.Lineage))
	})
	one := upTo(movedTwice(), 1)
	next := add("holds", "only the next step counts", movedTwice(), func(v *chainCase, _ *chain) {
		v.Next, v.Live, v.Stored = true, online(sourceName, targetName), beginning
	})
	next.End, next.Epoch = &placeJSON{one.Host, 1}, &one.Epoch
	add("refused", "steps after the next one must lead on", movedTwice(), func(v *chainCase, c *chain) {
		v.Next, c.ID = true, []byte("another group")
		c.Claim(mimiport.StepRecover, targetName, 10)
	})
}

// upTo returns the beginning of a chain of migrations, up to a term.
func upTo(c *chain, term int) *chain {
	c.Lineage.Steps = c.Lineage.Steps[:term]
	offer, err := mimiport.UnmarshalMigrationResponse(c.Lineage.Steps[term-1].Response.Message)
	if err != nil {
		panic(err)
	}
	c.Host, c.Epoch = offer.Request.TargetDomain, offer.Request.Epoch+1
	return c
}

// origins makes chains that differ in what the verifier knows of the keys.
func origins(add adder) {
	here := &placeJSON{thirdName, 2}
	// imported makes the third server the source of an import, and the only server that answers.
	imported := func(more edit) edit {
		return func(v *chainCase, c *chain) {
			v.Source, v.Live, v.Named = thirdName, online(thirdName), here
			if more != nil {
				more(v, c)
			}
		}
	}
	older := []useJSON{{1, targetName, "ed25519:a"}, {1, sourceName, "ed25519:a"}, {2, targetName, "ed25519:a"}}
	add("holds", "former hosts that are gone, and the room names the source and the term",
		movedTwice(), imported(func(v *chainCase, _ *chain) {
			v.Presented = older
		}))
	add("holds", "a former host that has not its old key any more",
		movedTwice(), imported(func(v *chainCase, _ *chain) {
			v.Live[sourceName], v.Presented = hex.EncodeToString(objectOf(sourceName, "ed25519:b")), older
		}))
	add("holds", "a former host that has another key of the same id",
		movedTwice(), imported(func(v *chainCase, _ *chain) {
			other := prooftest.Pair{ID: "ed25519:a", Key: keyOf("stranger"), Until: pairOf(sourceName, "ed25519:a").Until}
			v.Live[sourceName], v.Presented = hex.EncodeToString(prooftest.KeyObject(sourceName, other)), older
		}))
	add("holds", "former hosts whose keys are known", movedTwice(), imported(func(v *chainCase, _ *chain) {
		v.Named, v.Known = nil, stored(sourceName, targetName)
	}))
	add("unreachable", "former hosts that are gone, and the room names nothing",
		movedTwice(), imported(func(v *chainCase, _ *chain) { v.Named = nil }))
	add("unreachable", "former hosts that are gone, and the room names another term",
		movedTwice(), imported(func(v *chainCase, _ *chain) {
			v.Named = &placeJSON{thirdName, 1}
		}))
	add("unreachable", "former hosts that are gone, and the room names another server",
		movedTwice(), imported(func(v *chainCase, _ *chain) {
			v.Named = &placeJSON{targetName, 2}
		}))
	add("unreachable", "a key object that is none", movedTwice(), imported(func(_ *chainCase, c *chain) {
		c.Lineage.Steps[0].Confirmation.KeyObject = []byte(`{"a":1}`)
	}))
	add("unreachable", "a key object of another server", movedTwice(), imported(func(_ *chainCase, c *chain) {
		c.Lineage.Steps[0].Confirmation.KeyObject = objectOf(thirdName, "ed25519:a")
	}))
	add("unreachable", "a key object that its key has not signed",
		movedTwice(), imported(func(_ *chainCase, c *chain) {
			object := &c.Lineage.Steps[0].Confirmation.KeyObject
			*object = bytes.Replace(*object, []byte("1900000000000"), []byte("1900000000001"), 1)
		}))
	spaced := func(spaces int) edit {
		return imported(func(v *chainCase, c *chain) {
			object := &c.Lineage.Steps[0].Confirmation.KeyObject
			*object = bytes.Replace(*object, []byte("{"), append([]byte("{"), bytes.Repeat([]byte(" "), spaces)...), 1)
			v.Presented = older
		})
	}
	add("holds", "a key object that is no Canonical JSON stays as it is", movedTwice(), spaced(1))
	add("unreachable", "a key object of more than 16 KiB", movedTwice(), spaced(16<<10)).Presented = nil
	add("holds", "a key that its server signs with no more", movedTwice(), func(v *chainCase, _ *chain) {
		newer, older := pairOf(sourceName, "ed25519:b"), pairOf(sourceName, "ed25519:a")
		v.Live[sourceName] = hex.EncodeToString(prooftest.KeyObject(sourceName, newer, older))
	})
	add("unreachable", "a presented key against the known one of its id",
		movedTwice(), imported(func(v *chainCase, _ *chain) {
			other := prooftest.Pair{ID: "ed25519:a", Key: keyOf("stranger"), Until: pairOf(sourceName, "ed25519:a").Until}
			v.Known = map[string][]string{sourceName: {hex.EncodeToString(prooftest.KeyObject(sourceName, other))}}
		}))
	add("unreachable", "the source's key is known and not live",
		movedTwice(), imported(func(v *chainCase, _ *chain) {
			v.Live, v.Known = nil, stored(sourceName, targetName, thirdName)
		}))
	add("refused", "the source does not publish its key", movedTwice(), imported(func(v *chainCase, _ *chain) {
		v.Live[thirdName] = hex.EncodeToString(objectOf(thirdName, "ed25519:b"))
	}))
	add("refused", "a former host that is not asked by this server's own rules",
		movedTwice(), imported(func(v *chainCase, _ *chain) {
			v.NotAsked = []string{sourceName}
		}))
	add("holds", "this server's own decision, and the target is gone",
		upTo(movedTwice(), 1), func(v *chainCase, _ *chain) {
			v.Own, v.Live, v.Presented = []string{sourceName}, online(sourceName), []useJSON{{1, targetName, "ed25519:a"}}
		})
	add("unreachable", "a claim by a server that is gone", newChain(), func(v *chainCase, c *chain) {
		c.Claim(mimiport.StepRecover, targetName, 7)
		v.Own, v.Live = []string{sourceName}, online(sourceName)
	})
	for _, known := range []int{2, 1} { // the verifier asks at most eight servers
		outcome := map[int]string{2: "holds", 1: "unreachable"}[known]
		add(outcome, fmt.Sprintf("ten servers, the keys of %d are known", known),
			newChain(), func(v *chainCase, c *chain) {
				names := []string{sourceName}
				for i := range 9 {
					names = append(names, fmt.Sprintf("s%d.example", i))
					c.Migrate(names[i+1], uint64(10+i))
				}
				v.Live, v.Known = online(names...), stored(names[:known]...)
			})
	}
}
