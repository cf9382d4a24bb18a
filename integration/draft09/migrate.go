package draft09

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// outcome is the outcome of a migration.
type outcome struct {
	State  string `json:"state"` // moved or aborted
	Reason string `json:"reason,omitempty"`
}

// migrate moves the group. The migration Commit also commits all pending proposals (profile, sections 5 and 6).
func (c *client) migrate(ctx context.Context, cmd *command) (any, error) {
	if err := c.catchUp(ctx); err != nil {
		return nil, err
	}
	offer, keyID, err := c.offer(ctx, cmd.Target)
	if err != nil {
		return nil, err
	}
	init, err := c.init(offer, keyID)
	if err != nil {
		return nil, err
	}
	status, err := c.decision(ctx, offer, init)
	if err != nil {
		return nil, err
	}
	if status.Confirmation == nil {
		return &outcome{"aborted", status.Reason}, nil
	}
	return &outcome{State: "moved"}, c.confirm(ctx, offer, status.Confirmation)
}

// offer asks the target for an offer.
func (c *client) offer(
	ctx context.Context, target string,
) (response *mimiport.MigrationResponse, keyID string, err error) {
	request, err := (&mimiport.MigrationRequest{
		SourceDomain: c.group.ds, TargetDomain: target, GroupID: c.group.id, Epoch: c.member.Epoch(),
	}).Marshal()
	if err != nil {
		return nil, "", err
	}
	var offer api.MigrationOffer
	body := &api.MigrationRequestRequest{MigrationRequest: request, RoomID: c.group.room}
	if err := c.ask(ctx, target, http.MethodPost, "/migrations", body, &offer); err != nil {
		return nil, "", err
	}
	response, err = c.offered(ctx, request, &offer)
	return response, offer.KeyID, err
}

// init makes the MigrationInit and the migration Commit.
func (c *client) init(offer *mimiport.MigrationResponse, keyID string) (*api.MigrationInitRequest, error) {
	init := &mimiport.MigrationInit{Response: *offer}
	tbs, err := init.TBS()
	if err != nil {
		return nil, err
	}
	if init.Signature, err = c.member.Sign(mimiport.MigrationInitLabel, tbs); err != nil {
		return nil, err
	}
	encoded, err := init.Marshal()
	if err != nil {
		return nil, err
	}
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: offer.Request.TargetDomain}).Marshal()
	if err != nil {
		return nil, err
	}
	commit, err := c.member.Commit(aad, c.group.proposals...)
	if err != nil {
		return nil, err
	}
	return &api.MigrationInitRequest{MigrationInit: encoded, KeyID: keyID, SubmitRequest: *submission(commit)}, nil
}

// decision sends the MigrationInit to the source, and waits for the source's decision.
func (c *client) decision(
	ctx context.Context, offer *mimiport.MigrationResponse, init *api.MigrationInitRequest,
) (*api.MigrationStatus, error) {
	source, status := offer.Request.SourceDomain, new(api.MigrationStatus)
	err := c.ask(ctx, source, http.MethodPut, route(offer)+"/init", init, status)
	for err == nil && status.Confirmation == nil && status.Abort == nil {
		harness.Wait(ctx, 100*time.Millisecond)
		err = c.ask(ctx, source, http.MethodGet, route(offer), nil, status)
	}
	return status, err
}

func route(offer *mimiport.MigrationResponse) string { return "/migrations/" + offer.ID().String() }

// confirm checks the source's decision, follows the group to the target, and sends the target the decision.
func (c *client) confirm(ctx context.Context, offer *mimiport.MigrationResponse, confirmation *api.SignedInfo) error {
	if err := c.confirmed(ctx, offer, confirmation); err != nil {
		return err
	}
	if err := c.catchUp(ctx); err != nil {
		return err
	}
	target := offer.Request.TargetDomain
	if c.group.ds != target {
		return fmt.Errorf("the log of %s has no migration Commit at its end", c.group.ds)
	}
	signed := &api.SignedRequest{Message: confirmation.Message, KeyID: confirmation.KeyID}
	return c.ask(ctx, target, http.MethodPut, route(offer)+"/confirmation", signed, nil)
}
