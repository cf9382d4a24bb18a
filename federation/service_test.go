package federation_test

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

// recorded is a call: its name, then its arguments.
type recorded []any

// service is a Service that answers everything with a sample, or with err.
type service struct {
	last   recorded
	err    error
	atWork bool
}

// The samples.
var (
	pre       = &delivery.Preimage{CreatingServer: target, RoomID: "!r:x", Nonce: []byte{1}}
	reserved  = &delivery.ReserveGroupResponse{GroupID: group, Preimage: *pre}
	described = &delivery.GroupResponse{
		GroupID: group, RoomID: "!r:x", Protocol: "mls10", CipherSuite: 1, Preimage: pre, CreatingServer: target, DeliveryService: target,
		State: "active", Term: 1, Epoch: 7, NextSeq: 12, GroupInfo: []byte{1}, TreeHash: []byte{2}, ConfirmedTranscriptHash: []byte{3}, Members: 4,
	}
	redirect = &delivery.MovedInfo{
		DeliveryService: source, Term: 2, MigrationResponse: []byte{4}, MigrationConfirmation: []byte{5}, KeyID: "ed25519:a",
	}
	hosted    = &delivery.HostResponse{GroupID: group, DeliveryService: source, Term: 2, Moved: redirect, Lineage: []byte{6}}
	submitted = &delivery.SubmitResponse{Term: 1, Seq: 12, Epoch: 8}
	logged    = &delivery.MessagesResponse{
		Term: 1, Next: 13, End: true, Moved: redirect,
		Messages: []delivery.LogMessage{{Seq: 12, Epoch: 7, Kind: "commit", Sender: user, Message: []byte{7}, Migration: redirect}},
	}
	offered = &delivery.MigrationOffer{MigrationID: id.String(), MigrationResponse: []byte{4}, KeyID: "ed25519:a", ExpiresAt: 1}
	status  = &delivery.MigrationStatus{
		MigrationID: id.String(), Role: "source", State: "decided", GroupID: group, RoomID: "!r:x", Source: source, Target: target, User: user,
		Term: 2, Epoch: 7, ExpiresAt: 1, DecideBy: 2, MigrationResponse: (*delivery.SignedInfo)(message), Complete: (*delivery.SignedInfo)(message),
		Confirmation: (*delivery.SignedInfo)(message), Abort: (*delivery.SignedInfo)(message), Reason: "none",
	}
)

// answer records the call and gives its answer.
func answer[A any](s *service, a A, call ...any) (A, error) {
	s.last = call
	if s.err != nil {
		var none A
		return none, s.err
	}
	return a, nil
}

func (s *service) ReserveGroup(_ context.Context, c delivery.Caller, q *delivery.ReserveGroupRequest) (*delivery.ReserveGroupResponse, error) {
	return answer(s, reserved, "ReserveGroup", c, q)
}

func (s *service) BindGroup(_ context.Context, c delivery.Caller, id []byte, q *delivery.BindGroupRequest) (*delivery.GroupResponse, error) {
	return answer(s, described, "BindGroup", c, id, q)
}

func (s *service) Group(_ context.Context, c delivery.Caller, id []byte) (*delivery.GroupResponse, error) {
	return answer(s, described, "Group", c, id)
}

func (s *service) Host(_ context.Context, c delivery.Caller, id []byte) (*delivery.HostResponse, error) {
	return answer(s, hosted, "Host", c, id)
}

func (s *service) ShowLineage(_ context.Context, c delivery.Caller, id []byte, q *delivery.LineageRequest) (*delivery.HostResponse, error) {
	return answer(s, hosted, "ShowLineage", c, id, q)
}

func (s *service) RatchetTree(_ context.Context, c delivery.Caller, id []byte, epoch uint64) ([]byte, error) {
	return answer(s, []byte("tree"), "RatchetTree", c, id, epoch)
}

func (s *service) Submit(_ context.Context, c delivery.Caller, id []byte, q *delivery.SubmitRequest) (*delivery.SubmitResponse, error) {
	return answer(s, submitted, "Submit", c, id, q)
}

func (s *service) Messages(_ context.Context, c delivery.Caller, id []byte, q delivery.MessagesQuery) (*delivery.MessagesResponse, error) {
	return answer(s, logged, "Messages", c, id, q)
}

func (s *service) RequestMigration(_ context.Context, c delivery.Caller, q *delivery.MigrationRequestRequest) (*delivery.MigrationOffer, error) {
	return answer(s, offered, "RequestMigration", c, q)
}

func (s *service) InitMigration(_ context.Context, c delivery.Caller, id mimiport.MigrationID, q *delivery.MigrationInitRequest) (*delivery.MigrationStatus, error) {
	return answer(s, status, "InitMigration", c, id, q)
}

func (s *service) Migration(_ context.Context, c delivery.Caller, id mimiport.MigrationID) (*delivery.MigrationStatus, error) {
	return answer(s, status, "Migration", c, id)
}

func (s *service) AbortMigration(_ context.Context, c delivery.Caller, id mimiport.MigrationID) (*delivery.MigrationStatus, error) {
	return answer(s, status, "AbortMigration", c, id)
}

func (s *service) ConfirmMigration(_ context.Context, c delivery.Caller, id mimiport.MigrationID, q *delivery.SignedRequest) (*delivery.MigrationStatus, error) {
	return answer(s, status, "ConfirmMigration", c, id, q)
}

func (s *service) PutContent(_ context.Context, origin string, up *delivery.ContentUpload) (*delivery.SignedRequest, error) {
	vote := message
	if s.atWork {
		vote = nil
	}
	return answer(s, vote, "PutContent", origin, up)
}

func (s *service) AbortFromSource(_ context.Context, origin string, id mimiport.MigrationID, m *delivery.SignedRequest) error {
	_, err := answer(s, 0, "AbortFromSource", origin, id, m)
	return err
}
