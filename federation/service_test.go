package federation_test

import (
	"context"
	"encoding/json"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// recorded is a call: its name and its arguments.
type recorded []any

// service is a Service that answers every call with a sample, or with err.
type service struct {
	last   recorded
	err    error
	atWork bool
}

func (s *service) Intake(_ context.Context, origin, to, roomID string, servers []string) (*api.Intake, error) {
	return answer(s, intake, "Intake", origin, to, roomID, servers)
}

// The samples.
var (
	pre       = &api.Preimage{CreatingServer: target, RoomID: "!r:x", Nonce: []byte{1}}
	reserved  = &api.ReserveGroupResponse{GroupID: group, Preimage: *pre}
	described = &api.GroupResponse{
		GroupID: group, RoomID: "!r:x", Protocol: "mls10", CipherSuite: 1, Preimage: pre,
		CreatingServer: target, DeliveryService: target, State: "active", Term: 1, Epoch: 7, NextSeq: 12,
		GroupInfo: []byte{1}, TreeHash: []byte{2}, ConfirmedTranscriptHash: []byte{3}, Members: 4,
	}
	redirect = &api.MovedInfo{
		DeliveryService: source, Term: 2, MigrationResponse: []byte{4}, MigrationConfirmation: []byte{5}, KeyID: "ed25519:a",
	}
	hosted  = &api.HostResponse{GroupID: group, DeliveryService: source, Term: 2, Moved: redirect, Lineage: []byte{6}}
	drifted = &api.Drift{
		Epoch: 7, Unasked: []string{target}, WithoutLeaf: []string{user},
		Leaves: []api.DriftLeaf{{Leaf: 1, UserID: user, DeviceID: "D", Faults: []api.Fault{api.FaultNoKey}}},
	}
	intake = &api.Intake{
		Servers: []string{target}, Refusal: api.IntakeFull,
		Limits: api.TargetLimits{GroupStateBytes: 9, Protocols: []string{"mls10"}, Members: 5},
	}
	value   = json.RawMessage(`{"fallback":true,"key":"AAEABQ","signatures":{"@alice:s.example:8448":{"a":"AAAA"}}}`)
	claimed = &api.ClaimLastResortsResponse{
		KeyPackages: map[string]map[string]json.RawMessage{user: {"D": value}},
	}
	submitted = &api.SubmitResponse{Term: 1, Seq: 12, Epoch: 8}
	logged    = &api.MessagesResponse{
		Term: 1, Next: 13, End: true, Moved: redirect,
		Messages: []api.LogMessage{
			{Seq: 12, Epoch: 7, Kind: "commit", Sender: user, Message: []byte{7}, Migration: redirect},
		},
	}
	offered = &api.MigrationOffer{MigrationID: id.String(), MigrationResponse: []byte{4}, KeyID: "ed25519:a", ExpiresAt: 1}
	status  = &api.MigrationStatus{
		MigrationID: id.String(), Role: "source", State: "decided", GroupID: group, RoomID: "!r:x",
		Source: source, Target: target, User: user,
		Term: 2, Epoch: 7, ExpiresAt: 1, DecideBy: 2,
		MigrationResponse: &api.SignedInfo{Message: message.Message, KeyID: message.KeyID},
		Complete:          &api.SignedInfo{Message: message.Message, KeyID: message.KeyID},
		Confirmation:      &api.SignedInfo{Message: message.Message, KeyID: message.KeyID},
		Abort:             &api.SignedInfo{Message: message.Message, KeyID: message.KeyID},
		Reason:            "none",
	}
)

// answer records a call and returns its answer.
func answer[A any](s *service, a A, call ...any) (A, error) {
	s.last = call
	if s.err != nil {
		var none A
		return none, s.err
	}
	return a, nil
}

func (s *service) ReserveGroup(
	_ context.Context, c api.Caller, q *api.ReserveGroupRequest,
) (*api.ReserveGroupResponse, error) {
	return answer(s, reserved, "ReserveGroup", c, q)
}

func (s *service) RequireReserver(context.Context, api.Caller, []byte) error { return s.err }

func (s *service) BindGroup(
	_ context.Context, c api.Caller, id []byte, q *api.BindGroupRequest,
) (*api.GroupResponse, error) {
	return answer(s, described, "BindGroup", c, id, q)
}

func (s *service) Group(_ context.Context, c api.Caller, id []byte) (*api.GroupResponse, error) {
	return answer(s, described, "Group", c, id)
}

func (s *service) CloseGroup(_ context.Context, c api.Caller, id []byte) (*api.GroupResponse, error) {
	return answer(s, described, "CloseGroup", c, id)
}

func (s *service) Report(
	_ context.Context, c api.Caller, id []byte, q *api.ReportRequest,
) (*api.ReportResponse, error) {
	return answer(s, new(api.ReportResponse), "Report", c, id, q)
}

func (s *service) Host(_ context.Context, c api.Caller, id []byte) (*api.HostResponse, error) {
	return answer(s, hosted, "Host", c, id)
}

func (s *service) ShowLineage(
	_ context.Context, c api.Caller, id []byte, q *api.LineageRequest,
) (*api.HostResponse, error) {
	return answer(s, hosted, "ShowLineage", c, id, q)
}

func (s *service) Drift(_ context.Context, c api.Caller, id []byte) (*api.Drift, error) {
	return answer(s, drifted, "Drift", c, id)
}

func (s *service) RatchetTree(_ context.Context, c api.Caller, id []byte, epoch uint64) ([]byte, error) {
	return answer(s, []byte("tree"), "RatchetTree", c, id, epoch)
}

func (s *service) Submit(
	_ context.Context, c api.Caller, id []byte, q *api.SubmitRequest,
) (*api.SubmitResponse, error) {
	return answer(s, submitted, "Submit", c, id, q)
}

func (s *service) Messages(
	_ context.Context, c api.Caller, id []byte, q api.MessagesQuery,
) (*api.MessagesResponse, error) {
	return answer(s, logged, "Messages", c, id, q)
}

func (s *service) RequestMigration(
	_ context.Context, c api.Caller, q *api.MigrationRequestRequest,
) (*api.MigrationOffer, error) {
	return answer(s, offered, "RequestMigration", c, q)
}

func (s *service) InitMigration(
	_ context.Context, c api.Caller, id mimiport.MigrationID, q *api.MigrationInitRequest,
) (*api.MigrationStatus, error) {
	return answer(s, status, "InitMigration", c, id, q)
}

func (s *service) Migration(_ context.Context, c api.Caller, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	return answer(s, status, "Migration", c, id)
}

func (s *service) AbortMigration(
	_ context.Context, c api.Caller, id mimiport.MigrationID,
) (*api.MigrationStatus, error) {
	return answer(s, status, "AbortMigration", c, id)
}

func (s *service) ConfirmMigration(
	_ context.Context, c api.Caller, id mimiport.MigrationID, q *api.SignedRequest,
) (*api.MigrationStatus, error) {
	return answer(s, status, "ConfirmMigration", c, id, q)
}

func (s *service) PutLastResort(
	_ context.Context, c api.Caller, q *json.RawMessage,
) (*api.PutLastResortResponse, error) {
	return answer(s, new(api.PutLastResortResponse), "PutLastResort", c, q)
}

func (s *service) ClaimLastResorts(
	_ context.Context, c api.Caller, q *api.ClaimLastResortsRequest,
) (*api.ClaimLastResortsResponse, error) {
	return answer(s, claimed, "ClaimLastResorts", c, q)
}

func (s *service) PutContent(_ context.Context, origin string, up *api.ContentUpload) (*api.SignedRequest, error) {
	answered := vote
	if s.atWork {
		answered = nil
	}
	return answer(s, answered, "PutContent", origin, up)
}

func (s *service) AbortFromSource(
	_ context.Context, origin string, id mimiport.MigrationID, m *api.SignedRequest,
) error {
	_, err := answer(s, 0, "AbortFromSource", origin, id, m)
	return err
}
