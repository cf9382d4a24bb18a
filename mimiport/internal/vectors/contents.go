package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// contentFile is the content of the file of whole MigrationContents. Their groups are of RFC 9420, cipher suite 1.
type contentFile struct {
	Source         string            `json:"source"`
	Target         string            `json:"target"`
	RoomID         string            `json:"room_id"`
	User           string            `json:"user"` // the user of the offer
	Offer          string            `json:"migration_response"`
	ExternalSender string            `json:"external_sender"` // the target's entry
	Live           map[string]string `json:"live"`
	Cases          []contentCase     `json:"cases"`
}

// contentCase is a content as the target receives it, and the outcome.
type contentCase struct {
	Name    string      `json:"name"`
	Outcome string      `json:"outcome"`
	Code    string      `json:"code,omitempty"`
	Rule    string      `json:"rule,omitempty"`
	KeyID   string      `json:"key_id"`
	Content string      `json:"content"`
	Staged  *stagedJSON `json:"staged,omitempty"`
}

// stagedJSON is the state that the target stages from a valid content.
type stagedJSON struct {
	ContentHash     string   `json:"migration_content_hash"`
	Term            uint64   `json:"term"`
	Epoch           uint64   `json:"epoch"`
	TreeHash        string   `json:"tree_hash"`
	Transcript      string   `json:"confirmed_transcript_hash"`
	ExternalSenders []string `json:"external_senders"`
	Members         []string `json:"members"`
	// Log is the log of former terms that the target serves until it has the receipt of the migration Commit.
	Log []entryJSON `json:"log"`
}

// entryJSON describes a message of the log, without its bytes.
type entryJSON struct {
	Term   uint64 `json:"term"`
	Seq    uint64 `json:"seq"`
	Epoch  uint64 `json:"epoch"`
	Kind   string `json:"kind"`
	Sender string `json:"sender"`
}

// The users of the group in the contents, and their room.
const (
	moverName   = "@alice:target.example"
	bobName     = "@bob:source.example:8448"
	carolName   = "@carol:third.example"
	leaverName  = "@erin:third.example"
	joinerName  = "@frank:third.example"
	contentRoom = "!room:a.example"
	auditorName = "auditor.example"
)

// handOver is a group before its migration, with all parts of its content.
type handOver struct {
	chain            *chain
	offer            mimiport.MigrationResponse
	sender           *mlstest.Client // the source, as an external sender
	start, middle    *mlstest.Commit // to epochs 6 and 7
	base             *mlstest.Group  // of epoch 7
	joiner           *mlstest.Client
	removal, joining []byte // the proposals that the migration Commit references
}

func identityOf(user string) []byte { return mlstest.Identity(user, "DEVICE") }

// targetEntry makes the target's entry for external_senders.
func targetEntry() []byte {
	engine := mls.RFC9420(mls.DefaultLimits()).(mls.ExternalSenders)
	_, entry, err := engine.Entry(1, keyOf("external sender").Seed(), []byte(targetName))
	if err != nil {
		panic(err)
	}
	return entry
}

// newHandOver makes a group that third.example created, that moved to the source at epoch 3, and that is now in epoch
// 7.
func newHandOver() *handOver {
	pre := mimiport.GroupIDPreimage{CreatingServer: thirdName, RoomID: contentRoom, Nonce: derive("content group nonce")}
	h := &handOver{
		sender: mlstest.NewClient(2, 1, []byte(sourceName)), joiner: mlstest.NewClient(3, 1, identityOf(joinerName)),
	}
	h.chain = prooftest.NewChain(pre, func(server string, m prooftest.Message) mimiport.SignedMessage {
		return signAs(server, "ed25519:a", m)
	})
	h.chain.Migrate(sourceName, 3)
	g := mlstest.New(mlstest.Options{
		Seed: 1, GroupID: h.chain.ID, Epoch: 5, Populated: true,
		Members:         [][]byte{identityOf(moverName), identityOf(bobName), identityOf(carolName)},
		ExternalSenders: []*mlstest.Client{h.sender, auditor()}, Extensions: kept,
	})
	erin := g.NewClient(identityOf(leaverName))
	h.start = g.Commit(mlstest.CommitOptions{Sender: 1, Proposals: []*mlstest.Proposal{g.Add(erin)}})
	h.middle = h.start.Next.Commit(mlstest.CommitOptions{Sender: 0, Path: true})
	h.base = h.middle.Next
	h.propose()
	h.offer = mimiport.MigrationResponse{
		Request: mimiport.MigrationRequest{SourceDomain: sourceName, TargetDomain: targetName, GroupID: h.chain.ID, Epoch: 7},
		Nonce:   derive("content offer nonce"),
	}
	if err := mimiport.Sign(&h.offer, pairOf(targetName, "ed25519:a").Key); err != nil {
		panic(err)
	}
	return h
}

// propose makes the proposals of the base's epoch: the source proposes to remove a member who has left the room, and a
// member proposes to add a client.
func (h *handOver) propose() {
	h.removal = h.base.ProposeExternal(0, h.sender, h.base.Remove(3))
	h.joining = h.base.Propose(1, h.base.Add(h.joiner))
}

// vectors encodes a vector of vectors.
func vectors(list ...[]byte) []byte {
	var b cryptobyte.Builder
	wire.AddVector(&b, func(b *cryptobyte.Builder) {
		for _, v := range list {
			b.AddBytes(v)
		}
	})
	return b.BytesOrPanic()
}

// kept is an extension of a GREASE type, which a migration does not change.
var kept = []byte{0x2a, 0x2a, 1, 0xab}

// extensions encodes the extensions of a GroupContext: one of a GREASE type, and external_senders (type 5).
func extensions(other, senders []byte) []byte {
	b := cryptobyte.NewBuilder(append(bytes.Clone(other), 0, 5))
	wire.AddOpaque(b, senders)
	return b.BytesOrPanic()
}

// auditor makes a third external sender, which is neither source nor target.
func auditor() *mlstest.Client { return mlstest.NewClient(4, 1, []byte(auditorName)) }

// swapped encodes external_senders after the migration: the target's entry has replaced the source's.
func swapped() []byte { return vectors(targetEntry(), auditor().ExternalSender()) }

// options returns the options of the valid migration Commit.
func (h *handOver) options() mlstest.CommitOptions {
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: targetName}).Marshal()
	if err != nil {
		panic(err)
	}
	return mlstest.CommitOptions{
		Sender: 0, References: [][]byte{h.removal, h.joining}, Path: true, AuthenticatedData: aad,
		Proposals: []*mlstest.Proposal{h.base.SetExtensions(extensions(kept, swapped()))},
	}
}

// state makes the group state with a migration Commit.
func (h *handOver) state(c *mlstest.Commit) *mimiport.GroupState {
	who := func(user string) []mimiport.LeafIdentity {
		return []mimiport.LeafIdentity{{UserID: user, DeviceID: "DEVICE"}}
	}
	s := &mimiport.GroupState{
		Base: mimiport.BaseState{
			Protocol: "mls10", GroupInfo: h.base.GroupInfo(), RatchetTree: h.base.RatchetTree(),
		},
		Commit:    mimiport.CommitState{Commit: c.Message, GroupInfo: c.GroupInfo},
		Proposals: [][]byte{h.removal, h.joining},
		Lineage:   h.chain.Lineage,
		Welcomes:  []mimiport.Joiners{{Epoch: 6, Welcome: h.start.Welcome, Identities: who(leaverName)}},
		Log: []mimiport.LogEntry{
			h.accepted(1, 1, 5, bobName, h.start.Message), // its Welcome has the number 2, an application message 3
			h.accepted(1, 4, 6, moverName, h.middle.Message),
			{Term: 1, Seq: 5, Epoch: 7, Message: h.removal},
			{Term: 1, Seq: 6, Epoch: 7, Sender: bobName, Message: h.joining},
		},
	}
	if c.Welcome != nil {
		s.Welcomes = append(s.Welcomes, mimiport.Joiners{Epoch: 8, Welcome: c.Welcome, Identities: who(joinerName)})
	}
	return s
}

// accepted makes the log entry of a Commit with its receipt.
func (h *handOver) accepted(term, seq, epoch uint64, sender string, commit []byte) mimiport.LogEntry {
	receipt := signAs(sourceName, "ed25519:a", &mimiport.CommitReceipt{
		GroupID: h.chain.ID, Term: term, Epoch: epoch + 1, Seq: seq, CommitHash: sha256.Sum256(commit),
	})
	return mimiport.LogEntry{
		Term: term, Seq: seq, Epoch: epoch, Sender: sender, Message: commit,
		Receipt: receipt.Message, ReceiptKeyID: receipt.KeyID,
	}
}

// content encodes the MigrationContent of a group state, signed with a key.
func (h *handOver) content(groupState []byte, key ed25519.PrivateKey) []byte {
	m := &mimiport.MigrationContent{Response: h.offer, GroupState: groupState}
	if err := mimiport.Sign(m, key); err != nil {
		panic(err)
	}
	return mustMarshal(m)
}

// signed encodes the MigrationContent of a group state, signed with the source's key.
func (h *handOver) signed(s *mimiport.GroupState) []byte {
	return h.content(mustMarshal(s), pairOf(sourceName, "ed25519:a").Key)
}

// staged describes the state that the target stages from a content and its Commit.
func (h *handOver) staged(content []byte, c *mlstest.Commit, members ...string) *stagedJSON {
	hash := sha256.Sum256(content)
	out := &stagedJSON{ContentHash: hex.EncodeToString(hash[:]), Term: 2, Epoch: 8, Members: members}
	for _, entry := range [][]byte{targetEntry(), auditor().ExternalSender()} {
		out.ExternalSenders = append(out.ExternalSenders, hex.EncodeToString(entry))
	}
	rest := cryptobyte.String(c.Next.Context())
	var id, tree, transcript []byte
	if !rest.Skip(4) || !wire.ReadOpaque(&rest, &id) || !rest.Skip(8) || !wire.ReadOpaque(&rest, &tree) ||
		!wire.ReadOpaque(&rest, &transcript) {
		panic("not a GroupContext")
	}
	out.TreeHash, out.Transcript = hex.EncodeToString(tree), hex.EncodeToString(transcript)
	return out
}

func contents() *contentFile {
	h := newHandOver()
	f := &contentFile{
		Source: sourceName, Target: targetName, RoomID: contentRoom, User: moverName,
		Offer: hex.EncodeToString(mustMarshal(&h.offer)), ExternalSender: hex.EncodeToString(targetEntry()),
		Live: online(sourceName, targetName, thirdName),
	}
	good := h.base.Commit(h.options())
	data := h.signed(h.state(good))
	f.Cases = append(f.Cases, contentCase{
		Name: "valid", Outcome: "staged", KeyID: "ed25519:a", Content: hex.EncodeToString(data),
		Staged: h.staged(data, good, moverName, bobName, carolName, joinerName),
	})
	f.Cases[0].Staged.Log = []entryJSON{
		{1, 1, 5, "commit", bobName}, {1, 2, 6, "welcome", bobName}, {1, 4, 6, "commit", moverName},
		{1, 5, 7, "proposal", ""}, {1, 6, 7, "proposal", bobName},
		{1, 7, 7, "commit", moverName}, {1, 8, 8, "welcome", moverName},
	}
	plain, small := h.plain()
	f.Cases = append(f.Cases, contentCase{
		Name: "valid: no external senders, proposals, Welcomes and log", Outcome: "staged", KeyID: "ed25519:a",
		Content: hex.EncodeToString(plain), Staged: h.staged(plain, small, moverName, bobName),
	})
	f.Cases[1].Staged.ExternalSenders = []string{}
	f.Cases[1].Staged.Log = []entryJSON{{1, 1, 7, "commit", moverName}}
	refused := func(name, code, rule string, content []byte) {
		f.Cases = append(f.Cases, contentCase{
			Name: name, Outcome: "refused", Code: code, Rule: rule, KeyID: "ed25519:a", Content: hex.EncodeToString(content),
		})
	}
	h.envelopes(refused, data, mustMarshal(h.state(good)))
	h.states(refused, good)
	h.commits(refused)
	h.histories(refused, good)
	return f
}

// plain makes a content without any optional part, and its Commit.
func (h *handOver) plain() ([]byte, *mlstest.Commit) {
	base := mlstest.New(mlstest.Options{
		Seed: 7, GroupID: h.chain.ID, Epoch: 7, Members: [][]byte{identityOf(moverName), identityOf(bobName)},
	})
	c := base.Commit(mlstest.CommitOptions{Path: true, AuthenticatedData: h.options().AuthenticatedData})
	return h.signed(&mimiport.GroupState{
		Base:    mimiport.BaseState{Protocol: "mls10", GroupInfo: base.GroupInfo(), RatchetTree: base.RatchetTree()},
		Commit:  mimiport.CommitState{Commit: c.Message, GroupInfo: c.GroupInfo},
		Lineage: h.chain.Lineage,
	}), c
}

// refuser adds a content that the target refuses.
type refuser = func(name, code, rule string, content []byte)

// The error codes of refusals, without their prefix.
const (
	badMessage   = "M_BAD_MESSAGE"
	badSignature = "M_BAD_SIGNATURE"
	invalid      = "M_INVALID"
	unsupported  = "M_UNSUPPORTED"
)

// envelopes adds contents with an error outside the group state.
func (h *handOver) envelopes(refused refuser, data, state []byte) {
	key := pairOf(sourceName, "ed25519:a").Key
	refused("a byte missing", badMessage, "", data[:len(data)-1])
	refused("a byte more", badMessage, "", append(bytes.Clone(data), 0))
	flipped := bytes.Clone(data)
	flipped[len(flipped)-1] ^= 1
	refused("a bit of the signature flipped", badSignature, "", flipped)
	tampered := bytes.Clone(data)
	tampered[len(data)/2] ^= 1
	refused("a bit of the group state flipped", badSignature, "", tampered)
	refused("signed by another", badSignature, "", h.content(state, keyOf("stranger")))
	refused("signed by the target", badSignature, "", h.content(state, pairOf(targetName, "ed25519:a").Key))
	other := *h
	other.offer.Nonce = derive("another offer nonce")
	if err := mimiport.Sign(&other.offer, pairOf(targetName, "ed25519:a").Key); err != nil {
		panic(err)
	}
	refused("another offer", invalid, "", other.content(state, key))
	refused("another version of the group state", unsupported, "", h.content(append([]byte{0, 2}, state[2:]...), key))
	refused("a byte after the group state", badMessage, "", h.content(append(bytes.Clone(state), 0), key))
	refused("no group state", badMessage, "", h.content(nil, key))
}

// states adds contents with an invalid group state.
func (h *handOver) states(refused refuser, good *mlstest.Commit) {
	change := func(name, code, rule string, edit func(*mimiport.GroupState)) {
		s := h.state(good)
		edit(s)
		refused(name, code, rule, h.signed(s))
	}
	spoil := func(b []byte, at int) []byte {
		out := bytes.Clone(b)
		out[at] ^= 1
		return out
	}
	change("another protocol", unsupported, "", func(s *mimiport.GroupState) { s.Base.Protocol = "mls99" })
	change("the base of another epoch", invalid, "", func(s *mimiport.GroupState) {
		s.Base.GroupInfo, s.Base.RatchetTree = h.start.Next.GroupInfo(), h.start.Next.RatchetTree()
	})
	other := mlstest.New(mlstest.Options{
		Seed: 9, GroupID: []byte("another group"), Epoch: 7, Members: [][]byte{identityOf(moverName)},
	})
	change("the base of another group", invalid, "", func(s *mimiport.GroupState) {
		s.Base.GroupInfo, s.Base.RatchetTree = other.GroupInfo(), other.RatchetTree()
	})
	change("a bit of the base's signature flipped", badSignature, "group-info-signature", func(s *mimiport.GroupState) {
		s.Base.GroupInfo = spoil(s.Base.GroupInfo, len(s.Base.GroupInfo)-1)
	})
	change("a bit of the ratchet tree flipped", invalid, "tree-hash", func(s *mimiport.GroupState) {
		s.Base.RatchetTree = spoil(s.Base.RatchetTree, len(s.Base.RatchetTree)-1)
	})
	change("the ratchet tree of another epoch", invalid, "tree-hash", func(s *mimiport.GroupState) {
		s.Base.RatchetTree = h.start.Next.RatchetTree()
	})
	change("no ratchet tree", badMessage, "", func(s *mimiport.GroupState) { s.Base.RatchetTree = nil })
	change("a leaf whose signature does not verify", badSignature, "leaf-signature", func(s *mimiport.GroupState) {
		spoilt := h.base.SpoilLeaf(0)
		s.Base.GroupInfo, s.Base.RatchetTree = spoilt.GroupInfo(), spoilt.RatchetTree()
	})
	change("a parent whose hash is in no node below it", invalid, "parent-hash", func(s *mimiport.GroupState) {
		spoilt := h.start.Next.Commit(mlstest.CommitOptions{Sender: 0, Path: true, Edit: mlstest.Spoilt["parent hash"]})
		s.Base.GroupInfo, s.Base.RatchetTree = spoilt.GroupInfo, spoilt.Next.RatchetTree()
	})
	change("a proposal missing", invalid, "proposal-reference", func(s *mimiport.GroupState) {
		s.Proposals = s.Proposals[:1]
	})
	change("a bit of a proposal's signature flipped", badSignature, "ValSem010", func(s *mimiport.GroupState) {
		at := len(h.joining) - 33 - 1 // before the membership tag
		s.Proposals = [][]byte{h.removal, spoil(h.joining, at)}
	})
	change("a bit of the source's proposal's signature flipped", badSignature, "ValSem010", func(s *mimiport.GroupState) {
		s.Proposals = [][]byte{spoil(h.removal, len(h.removal)-1), h.joining}
	})
	change("the Commit in the place of a proposal", badMessage, "", func(s *mimiport.GroupState) {
		s.Proposals = append(s.Proposals, good.Message)
	})
	change("a bit of the Commit's signature flipped", badSignature, "ValSem010", func(s *mimiport.GroupState) {
		at := len(good.Message) - 33 - 33 - 1 // before the two tags
		s.Commit.Commit = spoil(good.Message, at)
	})
	const infoSignature = "group-info-signature"
	change("a bit of the next GroupInfo's signature flipped", badSignature, infoSignature, func(s *mimiport.GroupState) {
		s.Commit.GroupInfo = spoil(good.GroupInfo, len(good.GroupInfo)-1)
	})
	change("the next GroupInfo of another Commit", invalid, "group-info-context", func(s *mimiport.GroupState) {
		s.Commit.GroupInfo = h.base.Commit(h.options()).GroupInfo
	})
}

// commits adds contents with an invalid migration Commit.
func (h *handOver) commits(refused refuser) {
	with := func(name, code, rule string, edit func(*mlstest.CommitOptions)) {
		o := h.options()
		edit(&o)
		refused(name, code, rule, h.signed(h.state(h.base.Commit(o))))
	}
	for _, s := range []struct{ spoilt, name, rule string }{
		{"tree hash", "the next GroupInfo has another tree hash", "group-info-context"},
		{"transcript", "the next GroupInfo has another transcript hash", "group-info-context"},
		{"extensions", "the next GroupInfo has other extensions", "group-info-context"},
		{"epoch", "the next GroupInfo is of a later epoch", "group-info-context"},
		{"tag", "the next GroupInfo has another confirmation tag", "group-info-confirmation-tag"},
		{"parent hash", "the path's leaf has another parent hash", "path-parent-hash"},
		{"path", "the path is too short", "ValSem202"},
		{"no path", "the Commit has no path", "ValSem201"},
	} {
		with(s.name, invalid, s.rule, func(o *mlstest.CommitOptions) { o.Edit = mlstest.Spoilt[s.spoilt] })
	}
	aad := func(target string) []byte {
		b, err := (&mimiport.MigrationCommitAAD{TargetDomain: target}).Marshal()
		if err != nil {
			panic(err)
		}
		return b
	}
	const rule = "migration-commit"
	with("the Commit names no target", invalid, rule, func(o *mlstest.CommitOptions) { o.AuthenticatedData = nil })
	with("the Commit names another target", invalid, rule, func(o *mlstest.CommitOptions) {
		o.AuthenticatedData = aad(thirdName)
	})
	with("a byte after the target's name", invalid, rule, func(o *mlstest.CommitOptions) {
		o.AuthenticatedData = append(o.AuthenticatedData, 0)
	})
	with("an Add by value", invalid, rule, func(o *mlstest.CommitOptions) {
		o.References, o.Proposals = o.References[:1], append(o.Proposals, h.base.Add(h.joiner))
	})
	with("a removal of the source's left out", invalid, "pending-remove", func(o *mlstest.CommitOptions) {
		o.References = o.References[1:]
	})
	with("another credential in the path", invalid, "successor", func(o *mlstest.CommitOptions) {
		o.Edit.Owner = mlstest.NewClient(5, 1, identityOf("@mallory:target.example"))
	})
	refused("the Commit of another member", "M_FORBIDDEN", "", func() []byte {
		o := h.options()
		o.Sender = 2
		return h.signed(h.state(h.base.Commit(o)))
	}())
	source, another := h.sender.ExternalSender(), auditor().ExternalSender()
	forged := mlstest.NewClient(6, 1, []byte(targetName)).ExternalSender()
	for _, s := range []struct {
		name    string
		entries [][]byte
	}{
		{"the source's entry is kept", [][]byte{source, another}},
		{"the target's entry beside the source's", [][]byte{targetEntry(), source, another}},
		{"an entry of the target with another key", [][]byte{forged, another}},
		{"another's entry is dropped", [][]byte{targetEntry()}},
		{"the entries in another order", [][]byte{another, targetEntry()}},
		{"no entries", nil},
	} {
		with(s.name, invalid, "external-senders", func(o *mlstest.CommitOptions) {
			o.Proposals = []*mlstest.Proposal{h.base.SetExtensions(extensions(kept, vectors(s.entries...)))}
		})
	}
	for _, s := range []struct {
		name  string
		other []byte
	}{{"another extension is dropped", nil}, {"another extension is changed", []byte{0x2a, 0x2a, 1, 0xac}}} {
		with(s.name, invalid, "external-senders", func(o *mlstest.CommitOptions) {
			o.Proposals = []*mlstest.Proposal{h.base.SetExtensions(extensions(s.other, swapped()))}
		})
	}
	with("no GroupContextExtensions", invalid, "external-senders", func(o *mlstest.CommitOptions) { o.Proposals = nil })
}

// histories adds contents with an invalid lineage or log.
func (h *handOver) histories(refused refuser, good *mlstest.Commit) {
	change := func(name, code, rule string, edit func(*mimiport.GroupState)) {
		s := h.state(good)
		s.Lineage.Steps = slices.Clone(s.Lineage.Steps)
		edit(s)
		refused(name, code, rule, h.signed(s))
	}
	lineage := func(name string, edit func(*mimiport.Lineage)) {
		change(name, invalid, "lineage", func(s *mimiport.GroupState) { edit(&s.Lineage) })
	}
	lineage("the lineage of another room", func(l *mimiport.Lineage) { l.RoomID = "!another:a.example" })
	lineage("the preimage of another id", func(l *mimiport.Lineage) {
		other := *l.Preimage
		other.Nonce[0] ^= 1
		l.Preimage = &other
	})
	lineage("a lineage that does not end at the source", func(l *mimiport.Lineage) { l.Steps = nil })
	lineage("a decision that its source has not signed", func(l *mimiport.Lineage) {
		decision, err := mimiport.UnmarshalMigrationConfirmation(l.Steps[0].Confirmation.Message)
		if err != nil {
			panic(err)
		}
		l.Steps[0].Confirmation = signAs(targetName, "ed25519:a", decision)
	})
	later := *h.chain
	later.Lineage.Steps = nil
	later.Host = thirdName
	later.Migrate(sourceName, 8)
	lineage("a lineage whose last step comes after the offer", func(l *mimiport.Lineage) { l.Steps = later.Lineage.Steps })
	change("a foreign id that the room does not name", "M_FORBIDDEN", "", func(s *mimiport.GroupState) {
		s.Lineage.Preimage = nil
	})
	log := func(name string, edit func(*mimiport.GroupState)) { change(name, invalid, "", edit) }
	log("a message of the log twice", func(s *mimiport.GroupState) {
		again := s.Log[3]
		again.Seq++
		s.Log = append(s.Log, again)
	})
	log("the migration Commit in the log", func(s *mimiport.GroupState) {
		s.Log = append(s.Log, mimiport.LogEntry{Term: 1, Seq: 7, Epoch: 7, Sender: moverName, Message: good.Message})
	})
	log("an application message in the log", func(s *mimiport.GroupState) {
		s.Log = append(s.Log, mimiport.LogEntry{
			Term: 1, Seq: 7, Epoch: 7, Sender: bobName, Message: h.base.Application(nil, 40),
		})
	})
	log("a message of another epoch than the log says", func(s *mimiport.GroupState) { s.Log[2].Epoch = 6 })
	log("a log of a later term", func(s *mimiport.GroupState) { s.Log[3].Term = 2 })
	log("a receipt with another Commit", func(s *mimiport.GroupState) { s.Log[0].Receipt = s.Log[1].Receipt })
	log("a number that is not the receipt's", func(s *mimiport.GroupState) { s.Log[1].Seq = 3 })
	log("a Welcome without its Commit", func(s *mimiport.GroupState) { s.Log = s.Log[1:] })
	log("no number for a Welcome", func(s *mimiport.GroupState) {
		s.Log[1] = h.accepted(1, 2, 6, moverName, h.middle.Message)
	})
}
