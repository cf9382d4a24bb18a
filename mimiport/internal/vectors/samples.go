package main

import (
	"crypto/ed25519"
	"crypto/sha256"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

const (
	sourceName = "source.example:8448"
	targetName = "target.example"
	roomID     = "!room:source.example:8448"
)

// derive computes a fixed value from a name. The value looks random.
func derive(name string) [32]byte { return sha256.Sum256([]byte("mimiport test vector " + name)) }

func keyOf(signer string) ed25519.PrivateKey {
	seed := derive("key " + signer)
	return ed25519.NewKeyFromSeed(seed[:])
}

// samples has one valid value of every structure. All belong to one migration.
type samples struct {
	preimage     mimiport.GroupIDPreimage
	request      mimiport.MigrationRequest
	response     mimiport.MigrationResponse
	init         mimiport.MigrationInit
	aad          mimiport.MigrationCommitAAD
	content      mimiport.MigrationContent
	complete     mimiport.TargetMigrationComplete
	vote         mimiport.MigrationVote
	confirmation mimiport.MigrationConfirmation
	abort        mimiport.MigrationAbort
	identity     mimiport.LeafIdentity
	step         mimiport.LineageStep
	claim        mimiport.LineageClaim
	receipt      mimiport.CommitReceipt
	senderOffer  mimiport.ExternalSenderOffer
	moveRequest  mimiport.MoveRequest
	direct       mimiport.DirectRequest
	recoverClaim mimiport.LineageClaim
	reclaim      mimiport.LineageStep
	recover      mimiport.LineageStep
	lineage      mimiport.Lineage
	state        mimiport.GroupState
}

func newSamples() (*samples, error) {
	s := &samples{
		preimage: mimiport.GroupIDPreimage{CreatingServer: sourceName, RoomID: roomID, Nonce: derive("group nonce")},
		aad:      mimiport.MigrationCommitAAD{TargetDomain: targetName},
		identity: mimiport.LeafIdentity{UserID: "@alice:source.example:8448", DeviceID: "ALICEPHONE"},
	}
	s.request = mimiport.MigrationRequest{
		SourceDomain: sourceName, TargetDomain: targetName, GroupID: s.preimage.GroupID(), Epoch: 7,
	}
	s.lineage = mimiport.Lineage{CreatingServer: sourceName, Preimage: &s.preimage, RoomID: roomID}
	s.state = groupState(s)
	for _, build := range []func(*samples) error{
		signResponse, signInit, signContent, signDecisions, signReceipt, recordStep, signDirect,
	} {
		if err := build(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// groupState makes a group state with text in place of MLS messages, which package mimiport does not decode.
func groupState(s *samples) mimiport.GroupState {
	return mimiport.GroupState{
		Base: mimiport.BaseState{
			Protocol: "mls10", GroupInfo: []byte("GroupInfo of epoch 7"), RatchetTree: []byte("ratchet tree of epoch 7"),
		},
		Commit:    mimiport.CommitState{Commit: []byte("migration Commit"), GroupInfo: []byte("GroupInfo of epoch 8")},
		Proposals: [][]byte{[]byte("first proposal"), []byte("second proposal")},
		Lineage:   s.lineage,
		Welcomes: []mimiport.Joiners{{
			Epoch: 6, RatchetTree: []byte("ratchet tree of epoch 6"),
			Welcome: []byte("Welcome to epoch 6"), Identities: []mimiport.LeafIdentity{s.identity},
		}},
		Log: []mimiport.LogEntry{
			{
				Term: 0, Seq: 9, Epoch: 4, Sender: s.identity.UserID, Message: []byte("migration Commit of epoch 4"),
				Receipt: []byte("receipt of epoch 5"), ReceiptKeyID: "ed25519:source",
			},
			{Term: 1, Seq: 1, Epoch: 5, Message: []byte("proposal of the Delivery Service in epoch 5")},
			{Term: 1, Seq: 4, Epoch: 5, Sender: s.identity.UserID, Message: []byte("Commit of epoch 5")},
		},
	}
}

func signResponse(s *samples) error {
	s.response = mimiport.MigrationResponse{Request: s.request, Nonce: derive("offer nonce")}
	return mimiport.Sign(&s.response, keyOf("target"))
}

func signInit(s *samples) error {
	s.init = mimiport.MigrationInit{Response: s.response}
	tbs, err := s.init.TBS()
	if err != nil {
		return err
	}
	s.init.Signature = signWith("client", mlsPrefix+mimiport.MigrationInitLabel, tbs)
	return nil
}

func signContent(s *samples) (err error) {
	s.content = mimiport.MigrationContent{Response: s.response}
	if s.content.GroupState, err = s.state.Marshal(); err != nil {
		return err
	}
	return mimiport.Sign(&s.content, keyOf("source"))
}

func signDecisions(s *samples) error {
	content, err := s.content.Marshal()
	if err != nil {
		return err
	}
	hash := sha256.Sum256(content) // cipher suite 1
	s.complete = mimiport.TargetMigrationComplete{ContentHash: hash[:]}
	s.vote = mimiport.MigrationVote{MigrationID: s.response.ID(), Term: 1, ContentHash: hash[:]}
	s.confirmation = mimiport.MigrationConfirmation{
		DomainName: targetName, Nonce: s.response.Nonce, GroupID: s.request.GroupID,
	}
	s.abort = mimiport.MigrationAbort{MigrationID: s.response.ID(), SourceDomain: sourceName}
	if err := mimiport.Sign(&s.complete, keyOf("target")); err != nil {
		return err
	}
	if err := mimiport.Sign(&s.vote, keyOf("target")); err != nil {
		return err
	}
	if err := mimiport.Sign(&s.confirmation, keyOf("source")); err != nil {
		return err
	}
	return mimiport.Sign(&s.abort, keyOf("source"))
}

// signReceipt makes the receipt of the migration Commit.
func signReceipt(s *samples) error {
	s.receipt = mimiport.CommitReceipt{
		GroupID: s.request.GroupID, Epoch: s.request.Epoch + 1, Seq: 12,
		CommitHash: sha256.Sum256(s.state.Commit.Commit),
	}
	return mimiport.Sign(&s.receipt, keyOf("source"))
}

func signDirect(s *samples) error {
	s.direct = directRequest()
	s.direct.Signature = ed25519.Sign(keyOf("client"), directContent(&s.direct))
	return nil
}

func recordStep(s *samples) (err error) {
	record := func(m interface{ Marshal() ([]byte, error) }) mimiport.SignedMessage {
		data, marshalErr := m.Marshal()
		if marshalErr != nil {
			err = marshalErr
		}
		return mimiport.SignedMessage{Message: data, KeyID: "ed25519:a", KeyObject: []byte(`{"server_name":"a stand-in"}`)}
	}
	s.step = mimiport.LineageStep{
		Kind:         mimiport.StepMigration,
		Response:     record(&s.response),
		Confirmation: record(&s.confirmation),
		Vote:         record(&s.vote),
	}
	s.claim = mimiport.LineageClaim{
		Kind: mimiport.StepReclaim, DomainName: sourceName, GroupID: s.request.GroupID, Term: 2, Epoch: s.request.Epoch + 1,
	}
	if err := mimiport.Sign(&s.claim, keyOf("source")); err != nil {
		return err
	}
	s.senderOffer = mimiport.ExternalSenderOffer{
		MigrationID: s.response.ID(), ExternalSender: []byte("a stand-in for an ExternalSender"),
	}
	if err := mimiport.Sign(&s.senderOffer, keyOf("target")); err != nil {
		return err
	}
	s.moveRequest = mimiport.MoveRequest{
		SourceDomain: sourceName, GroupID: s.request.GroupID, Term: 1, RoomID: "!room:example.org",
		UserID: "@alice:" + targetName, Targets: []string{targetName, "other.example"}, ExpiresAt: 1_700_000_000_000,
	}
	if err := mimiport.Sign(&s.moveRequest, keyOf("source")); err != nil {
		return err
	}
	s.recoverClaim = mimiport.LineageClaim{
		Kind: mimiport.StepRecover, DomainName: sourceName, GroupID: s.request.GroupID, Term: 3, Epoch: s.request.Epoch + 4,
	}
	if err := mimiport.Sign(&s.recoverClaim, keyOf("source")); err != nil {
		return err
	}
	claim, recovered := record(&s.claim), record(&s.recoverClaim)
	s.reclaim = mimiport.LineageStep{Kind: mimiport.StepReclaim, Claim: &claim}
	s.recover = mimiport.LineageStep{Kind: mimiport.StepRecover, Claim: &recovered}
	s.lineage.Steps = []mimiport.LineageStep{s.step}
	return err
}

// The prefixes of the labels of profile, section 2, and of RFC 9420, section 5.1.2.
const (
	portabilityPrefix = "MIMI Portability 1.0 "
	mlsPrefix         = "MLS 1.0 "
)

// signedContent encodes SignContent without package mimiport, so that the vectors can check that package.
func signedContent(label string, content []byte) []byte {
	var b cryptobyte.Builder
	wire.AddOpaque(&b, []byte(label))
	wire.AddOpaque(&b, content)
	return b.BytesOrPanic()
}

func signWith(signer, label string, content []byte) []byte {
	return ed25519.Sign(keyOf(signer), signedContent(label, content))
}
