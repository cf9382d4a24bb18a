package main

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// suites lists the structures of the draft in its order, then those of the profile.
func suites(s *samples) []*suite {
	return []*suite{
		requestSuite(s),
		serverSuite("migration_response.json", "MigrationResponse", "target", &s.response, "MigrationConfirmation"),
		initSuite(s),
		{
			fileName: "migration_commit_aad.json", name: "MigrationCommitAAD", valid: []named{{"valid", &s.aad}},
			more: []testCase{notText("target", &mimiport.MigrationCommitAAD{TargetDomain: notUTF8})},
		},
		serverSuite("migration_content.json", "MigrationContent", "source", &s.content, "MigrationResponse"),
		serverSuite("target_migration_complete.json", "TargetMigrationComplete", "target", &s.complete, "MigrationContent"),
		confirmationSuite(s),
		abortSuite(s),
		voteSuite(s),
		identitySuite(s),
		groupStateSuite(s),
		lineageSuite(s),
		stepSuite(s),
		claimSuite(s),
		receiptSuite(s),
		serverSuite("external_sender_offer.json", "ExternalSenderOffer", "target", &s.senderOffer, "MigrationResponse"),
		moveRequestSuite(s),
		directSuite(s),
	}
}

func serverSuite(fileName, name, signer string, valid structure, otherStruct string) *suite {
	label := portabilityPrefix + name
	return &suite{
		fileName: fileName, name: name, valid: []named{{"valid", valid}}, signer: signer, label: label,
		wrongLabels: []string{portabilityPrefix + otherStruct, name, mlsPrefix + name},
	}
}

func requestSuite(s *samples) *suite {
	with := func(change func(*mimiport.MigrationRequest)) *mimiport.MigrationRequest {
		r := s.request
		change(&r)
		return &r
	}
	longest := with(func(r *mimiport.MigrationRequest) {
		r.GroupID, r.Epoch = bytes.Repeat([]byte{0xff}, mimiport.MaxGroupID), mimiport.MaxEpoch
	})
	shortest := with(func(r *mimiport.MigrationRequest) { r.GroupID, r.Epoch = []byte{0}, 0 })
	invalid := func(name string, change func(*mimiport.MigrationRequest)) testCase {
		return newCase(name, "invalid-request", mustMarshal(with(change)))
	}
	return &suite{
		fileName: "migration_request.json", name: "MigrationRequest",
		valid: []named{{"valid", &s.request}, {"largest id and epoch", longest}, {"smallest id and epoch", shortest}},
		more: []testCase{
			newCase("epoch 2^63", "epoch-too-large", replaced(&s.request, epochBytes(7), epochBytes(1<<63))),
			notText("source", with(func(r *mimiport.MigrationRequest) { r.SourceDomain = notUTF8 })),
			notText("target", with(func(r *mimiport.MigrationRequest) { r.TargetDomain = notUTF8 })),
			invalid("source is target", func(r *mimiport.MigrationRequest) { r.TargetDomain = r.SourceDomain }),
			invalid("no source", func(r *mimiport.MigrationRequest) { r.SourceDomain = "" }),
			invalid("no target", func(r *mimiport.MigrationRequest) { r.TargetDomain = "" }),
			invalid("source is no server name", func(r *mimiport.MigrationRequest) { r.SourceDomain = "source example" }),
			invalid("target is no server name", func(r *mimiport.MigrationRequest) {
				r.TargetDomain = "https://target.example"
			}),
			invalid("no group id", func(r *mimiport.MigrationRequest) { r.GroupID = nil }),
			invalid("group id of 256 bytes", func(r *mimiport.MigrationRequest) { r.GroupID = make([]byte, 256) }),
		},
	}
}

// notUTF8 begins a character of two bytes and lacks the second.
const notUTF8 = "source\xc3.example"

// notText is an encoding with a text that is not UTF-8.
func notText(field string, v structure) testCase {
	return newCase(field+" is not UTF-8", "not-utf8", mustMarshal(v))
}

func epochBytes(epoch uint64) []byte { return binary.BigEndian.AppendUint64(nil, epoch) }

func initSuite(s *samples) *suite {
	return &suite{
		fileName: "migration_init.json", name: "MigrationInit", valid: []named{{"valid", &s.init}},
		signer: "client", label: mlsPrefix + mimiport.MigrationInitLabel,
		wrongLabels: []string{portabilityPrefix + "MigrationInit", mimiport.MigrationInitLabel, mlsPrefix + "LeafNodeTBS"},
	}
}

func confirmationSuite(s *samples) *suite {
	suite := serverSuite(
		"migration_confirmation.json", "MigrationConfirmation", "source", &s.confirmation, "MigrationResponse",
	)
	other := s.confirmation
	other.DomainName = notUTF8
	suite.more = []testCase{notText("domain", &other)}
	return suite
}

func abortSuite(s *samples) *suite {
	suite := serverSuite("migration_abort.json", "MigrationAbort", "source", &s.abort, "MigrationConfirmation")
	other := s.abort
	other.SourceDomain = notUTF8
	suite.more = append(wrongLengths("id", &s.abort, s.abort.MigrationID), notText("source", &other))
	return suite
}

func voteSuite(s *samples) *suite {
	suite := serverSuite("migration_vote.json", "MigrationVote", "target", &s.vote, "TargetMigrationComplete")
	late := s.vote
	late.Term = 1 << 63
	suite.more = append(wrongLengths("id", &s.vote, s.vote.MigrationID),
		newCase("term 2^63", "epoch-too-large", mustMarshal(&late)))
	return suite
}

// wrongLengths makes encodings of v in which a vector of 32 bytes has one byte less and one byte more.
func wrongLengths(name string, v structure, of [32]byte) []testCase {
	whole := append([]byte{32}, of[:]...)
	short := append([]byte{31}, of[:31]...)
	long := append(append([]byte{33}, of[:]...), 0)
	return []testCase{
		newCase(name+" of 31 bytes", "wrong-length", replaced(v, whole, short)),
		newCase(name+" of 33 bytes", "wrong-length", replaced(v, whole, long)),
	}
}

func identitySuite(s *samples) *suite {
	return &suite{
		fileName: "leaf_identity.json", name: "LeafIdentity", valid: []named{{"valid", &s.identity}},
		more: []testCase{
			newCase("no user", "empty", mustMarshal(&mimiport.LeafIdentity{DeviceID: "A"})),
			newCase("no device", "empty", mustMarshal(&mimiport.LeafIdentity{UserID: "@a:a.example"})),
			notText("user", &mimiport.LeafIdentity{UserID: notUTF8, DeviceID: "A"}),
			notText("device", &mimiport.LeafIdentity{UserID: "@a:a.example", DeviceID: notUTF8}),
		},
	}
}

func stepSuite(s *samples) *suite {
	other := s.step
	other.Kind = 4
	other.Claim = s.reclaim.Claim
	unsaid := s.step
	unsaid.Confirmation.Message = nil
	unvoted := s.step
	unvoted.Vote = mimiport.SignedMessage{}
	nobodys := s.step
	nobodys.Response.KeyID = notUTF8
	half := func(name string, vote mimiport.SignedMessage) testCase {
		step := s.step
		step.Vote = vote
		return newCase(name, "empty", mustMarshal(&step))
	}
	vote := s.step.Vote
	return &suite{
		fileName: "lineage_step.json", name: "LineageStep", firstLength: 1,
		valid: []named{
			{"valid", &s.step}, {"no vote", &unvoted}, {"reclaim", &s.reclaim}, {"recover", &s.recover},
		},
		more: []testCase{
			newCase("kind 0", "unknown-kind", append([]byte{0}, mustMarshal(&s.step)[1:]...)),
			newCase("kind 4", "unknown-kind", mustMarshal(&other)),
			newCase("no confirmation", "empty", mustMarshal(&unsaid)),
			half("a vote without its key id", mimiport.SignedMessage{Message: vote.Message, KeyObject: vote.KeyObject}),
			half("a vote without its message", mimiport.SignedMessage{KeyID: vote.KeyID, KeyObject: vote.KeyObject}),
			half("the message of a vote alone", mimiport.SignedMessage{Message: vote.Message}),
			half("the key id of a vote alone", mimiport.SignedMessage{KeyID: vote.KeyID}),
			half("the key object of a vote alone", mimiport.SignedMessage{KeyObject: vote.KeyObject}),
			notText("key id", &nobodys),
		},
	}
}

func claimSuite(s *samples) *suite {
	suite := serverSuite("lineage_claim.json", "LineageClaim", "source", &s.claim, "MigrationConfirmation")
	migration := s.claim
	migration.Kind = mimiport.StepMigration
	recovered := s.recoverClaim
	largest := s.claim
	largest.Term, largest.Epoch = mimiport.MaxEpoch, mimiport.MaxEpoch
	if err := mimiport.Sign(&largest, keyOf("source")); err != nil {
		panic(err)
	}
	with := func(change func(*mimiport.LineageClaim)) *mimiport.LineageClaim {
		c := s.claim
		change(&c)
		return &c
	}
	suite.valid = append(suite.valid, named{"recover", &recovered}, named{"largest term and epoch", &largest})
	suite.firstLength = 1
	suite.more = []testCase{
		newCase("kind 0", "unknown-kind", mustMarshal(with(func(c *mimiport.LineageClaim) { c.Kind = 0 }))),
		newCase("kind 1", "unknown-kind", mustMarshal(&migration)),
		newCase("term 2^63", "epoch-too-large", mustMarshal(with(func(c *mimiport.LineageClaim) { c.Term = 1 << 63 }))),
		newCase("epoch 2^63", "epoch-too-large", mustMarshal(with(func(c *mimiport.LineageClaim) { c.Epoch = 1 << 63 }))),
		notText("domain", with(func(c *mimiport.LineageClaim) { c.DomainName = notUTF8 })),
	}
	return suite
}

func receiptSuite(s *samples) *suite {
	suite := serverSuite("commit_receipt.json", "CommitReceipt", "source", &s.receipt, "MigrationConfirmation")
	largest := func(name string, field func(*mimiport.CommitReceipt) *uint64) testCase {
		r := s.receipt
		*field(&r) = 1 << 63
		return newCase(name+" 2^63", "epoch-too-large", mustMarshal(&r))
	}
	suite.more = append(wrongLengths("hash", &s.receipt, s.receipt.CommitHash),
		largest("term", func(r *mimiport.CommitReceipt) *uint64 { return &r.Term }),
		largest("epoch", func(r *mimiport.CommitReceipt) *uint64 { return &r.Epoch }),
		largest("seq", func(r *mimiport.CommitReceipt) *uint64 { return &r.Seq }))
	return suite
}

func moveRequestSuite(s *samples) *suite {
	suite := serverSuite("move_request.json", "MoveRequest", "source", &s.moveRequest, "MigrationAbort")
	with := func(change func(*mimiport.MoveRequest)) *mimiport.MoveRequest {
		r := s.moveRequest
		change(&r)
		return &r
	}
	late := with(func(r *mimiport.MoveRequest) { r.ExpiresAt = 1 << 63 })
	many := with(func(r *mimiport.MoveRequest) {
		r.Targets = slices.Repeat([]string{targetName}, mimiport.MaxMoveTargets+1)
	})
	suite.more = []testCase{
		notText("room", with(func(r *mimiport.MoveRequest) { r.RoomID = notUTF8 })),
		notText("target", with(func(r *mimiport.MoveRequest) { r.Targets = []string{notUTF8} })),
		newCase("term 2^63", "epoch-too-large", mustMarshal(with(func(r *mimiport.MoveRequest) { r.Term = 1 << 63 }))),
		newCase("expires_at 2^63", "epoch-too-large", mustMarshal(late)),
		newCase("17 targets", "too-many", mustMarshal(many)),
	}
	return suite
}

func lineageSuite(s *samples) *suite {
	native := s.lineage
	native.Steps = nil
	foreign := s.lineage
	foreign.Preimage = nil
	twice := s.lineage
	twice.Steps = []mimiport.LineageStep{s.step, s.step}
	all := s.lineage
	all.Steps = []mimiport.LineageStep{s.step, s.reclaim, s.recover}
	unreadable := s.lineage
	unreadable.RoomID = notUTF8
	disagreeing := s.lineage
	disagreeing.CreatingServer = targetName
	flag := len(sourceName) + 1
	flagTwo := mustMarshal(&s.lineage)
	flagTwo[flag] = 2
	return &suite{
		fileName: "lineage.json", name: "Lineage",
		valid: []named{
			{"valid", &s.lineage}, {"no steps", &native}, {"no preimage", &foreign}, {"two steps", &twice},
			{"a step of each kind", &all},
		},
		more: []testCase{
			newCase("presence octet 2", "bad-optional", flagTwo),
			newCase("preimage of another server", "inconsistent", mustMarshal(&disagreeing)),
			notText("room", &unreadable),
		},
	}
}

func groupStateSuite(s *samples) *suite {
	minimal := s.state
	minimal.Welcomes, minimal.Log, minimal.Proposals = nil, nil, nil
	later := s.state
	later.Unknown = []mimiport.Section{{Type: 0x0001, Data: []byte("first")}, {Type: 0x7fff}}
	welcome, commit := s.state.Welcomes[0], []byte("Commit")
	inOrder := func(change func(*mimiport.GroupState)) []byte {
		g := s.state
		change(&g)
		return mustMarshal(&g)
	}
	sections := sectionsOf(&s.state) // welcomes, log, base, commit, proposals, lineage
	encode := func(parts ...[]mimiport.Section) []byte { return encodeSections(1, slices.Concat(parts...)) }
	one := func(t mimiport.SectionType, data ...byte) []mimiport.Section {
		return []mimiport.Section{{Type: t, Data: data}}
	}
	longBase := one(mimiport.SectionBase, append(bytes.Clone(sections[2].Data), 0)...)
	return &suite{
		fileName: "group_state.json", name: "GroupState", firstLength: 2,
		valid: []named{{"valid", &s.state}, {"only what is required", &minimal}, {"unknown optional sections", &later}},
		more: []testCase{
			newCase("version 2", "unsupported", encodeSections(2, sections)),
			newCase("unknown critical section", "unsupported", encode(sections, one(0x8005))),
			newCase("sections out of order", "bad-order", encode(sections[1:], sections[:1])),
			newCase("a section twice", "bad-order", encode(sections[:1], sections)),
			newCase("no base", "missing-section", encode(sections[:2], sections[3:])),
			newCase("no sections", "missing-section", encode()),
			newCase("empty log", "empty", encode(one(mimiport.SectionLog, 0), sections[2:])),
			newCase("bytes after the base", "trailing-bytes", encode(sections[:2], longBase, sections[3:])),
			newCase("empty proposal", "empty", inOrder(func(g *mimiport.GroupState) { g.Proposals = [][]byte{{}} })),
			newCase("no Commit", "empty", inOrder(func(g *mimiport.GroupState) { g.Commit.Commit = nil })),
			newCase("an epoch's joiners twice", "bad-order", inOrder(func(g *mimiport.GroupState) {
				g.Welcomes = []mimiport.Joiners{welcome, welcome}
			})),
			newCase("terms of the log out of order", "bad-order", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Term: 1, Seq: 1, Message: commit}, {Term: 0, Seq: 2, Message: commit}}
			})),
			newCase("a number of the log twice", "bad-order", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Term: 1, Seq: 1, Message: commit}, {Term: 1, Seq: 1, Message: commit}}
			})),
			newCase("epochs of the log out of order", "bad-order", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Seq: 1, Epoch: 5, Message: commit}, {Seq: 2, Epoch: 4, Message: commit}}
			})),
			newCase("log of term 2^63", "epoch-too-large", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Term: 1 << 63, Seq: 1, Message: commit}}
			})),
			newCase("log of number 2^63", "epoch-too-large", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Seq: 1 << 63, Message: commit}}
			})),
			newCase("log of number 0", "inconsistent", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Message: commit}}
			})),
			newCase("log of epoch 2^63", "epoch-too-large", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Seq: 1, Epoch: 1 << 63, Message: commit}}
			})),
			newCase("sender of 256 bytes", "wrong-length", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Seq: 1, Sender: strings.Repeat("u", 256), Message: commit}}
			})),
			newCase("sender is not UTF-8", "not-utf8", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Seq: 1, Sender: notUTF8, Message: commit}}
			})),
			newCase("protocol is not UTF-8", "not-utf8", inOrder(func(g *mimiport.GroupState) { g.Base.Protocol = notUTF8 })),
			newCase("receipt without a key", "inconsistent", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Seq: 1, Message: commit, Receipt: []byte("receipt")}}
			})),
			newCase("key without a receipt", "inconsistent", inOrder(func(g *mimiport.GroupState) {
				g.Log = []mimiport.LogEntry{{Seq: 1, Message: commit, ReceiptKeyID: "ed25519:a"}}
			})),
		},
	}
}

// sectionsOf splits the encoding of a group state into its sections.
func sectionsOf(g *mimiport.GroupState) (sections []mimiport.Section) {
	rest := cryptobyte.String(mustMarshal(g))
	var version uint16
	rest.ReadUint16(&version)
	wire.ReadVector(&rest, &rest)
	for !rest.Empty() {
		var s mimiport.Section
		rest.ReadUint16((*uint16)(&s.Type))
		wire.ReadOpaque(&rest, &s.Data)
		sections = append(sections, s)
	}
	return sections
}

func encodeSections(version uint16, sections []mimiport.Section) []byte {
	var b cryptobyte.Builder
	b.AddUint16(version)
	wire.AddVector(&b, func(b *cryptobyte.Builder) {
		for _, s := range sections {
			b.AddUint16(uint16(s.Type))
			wire.AddOpaque(b, s.Data)
		}
	})
	return b.BytesOrPanic()
}
